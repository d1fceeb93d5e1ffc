#include "reprise/backends/cuda/attention.h"

#include <bit>

#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/backends/cuda/cudnn_plan.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

constexpr size_t operand_count = 4;  // q, k, v, result

DnnAttention attention_of(const Attrs& attrs, const Layout& q, const Layout& k, const Layout& v) {
  const auto& a = attrs.as<AttentionAttrs>();
  const int rank = q.rank();
  DnnAttention of{.batch = 1,
                  .heads = rank > 2 ? q.shape()[rank - 3] : 1,
                  .queries = q.shape()[rank - 2],
                  .keys = k.shape()[rank - 2],
                  .width = q.shape()[rank - 1],
                  .value_width = v.shape()[rank - 1],
                  .type = q.dtype() == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF,
                  .causal = a.causal != 0,
                  .scale = static_cast<float>(std::bit_cast<double>(a.scale_bits))};
  for (int axis = 0; axis + 3 < rank; ++axis) of.batch *= q.shape()[axis];
  return of;
}

class AttentionKernel final : public RegionKernel {
 public:
  explicit AttentionKernel(const Region& region)
      : plan_(dnn_plan(attention_graph(attention_of(region.attrs, *region.operands[0].layout,
                                                    *region.operands[1].layout, *region.operands[2].layout)))) {}

  void run(const RegionCall& call) const override { plan_.run({call.pointers, operand_count}, call.scratch); }
  std::string form() const override { return plan_.form(); }
  size_t scratch_bytes() const override { return plan_.workspace_bytes(); }

 private:
  const DnnPlan& plan_;
};

}  // namespace

bool takes_attention(const Op& op, const Attrs& attrs, std::span<const Layout* const> in) {
  if (&op != &attention_op || in.size() != operand_count - 1 || disabled("library")) return false;
  for (const Layout* l : in)
    if (!is_short(l->dtype()) || l->dtype() != in[0]->dtype()) return false;
  try {
    dnn_plan(attention_graph(attention_of(attrs, *in[0], *in[1], *in[2])));
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::unique_ptr<RegionKernel> compile_attention(const Region& region) {
  return std::make_unique<AttentionKernel>(region);
}

}  // namespace rp::cuda
