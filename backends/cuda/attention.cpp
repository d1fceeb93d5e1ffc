#include "reprise/backends/cuda/attention.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/backends/cuda/cudnn_plan.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

constexpr size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

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

/// The plans of an op, in the order in which they run: the gradient runs the forward pass again, for its result and
/// statistics.
std::vector<const DnnPlan*> plans_of(const Op& op, DnnAttention of) {
  of.statistics = &op == &attention_gradient_op;
  std::vector<const DnnPlan*> plans{&dnn_plan(attention_graph(of))};
  if (of.statistics) plans.push_back(&dnn_plan(attention_gradient_graph(of)));
  return plans;
}

class AttentionKernel final : public RegionKernel {
 public:
  explicit AttentionKernel(const Region& region) {
    const auto layout = [&](size_t operand) -> const Layout& { return *region.operands[operand].layout; };
    const DnnAttention of = attention_of(region.attrs, layout(0), layout(1), layout(2));
    plans_ = plans_of(*region.op, of);
    for (const DnnPlan* plan : plans_) bytes_ = std::max(bytes_, round_up(plan->workspace_bytes()));
    if (plans_.size() == 1) return;
    result_ = bytes_;
    statistics_ = result_ + round_up(layout(3).bytes());
    bytes_ = statistics_ + round_up(static_cast<size_t>(of.batch * of.heads * of.queries) * sizeof(float));
    dk_ = layout(0).bytes();
    dv_ = dk_ + layout(1).bytes();
  }

  void run(const RegionCall& call) const override {
    std::byte* const* const in = call.pointers;
    if (plans_.size() == 1) return plans_[0]->run({in, 4}, call.scratch);
    std::byte *const y = call.scratch + result_, *const statistics = call.scratch + statistics_, *const dq = in[4];
    plans_[0]->run(std::array{in[0], in[1], in[2], y, statistics}, call.scratch);
    plans_[1]->run(std::array{in[0], in[1], in[2], y, in[3], statistics, dq, dq + dk_, dq + dv_}, call.scratch);
  }

  std::string form() const override {
    std::string text;
    for (const DnnPlan* plan : plans_) text += (text.empty() ? "" : ", ") + plan->form();
    return text;
  }
  size_t scratch_bytes() const override { return bytes_; }

 private:
  std::vector<const DnnPlan*> plans_;
  size_t bytes_ = 0, result_ = 0, statistics_ = 0;  // of the scratch, and what the forward pass leaves there
  size_t dk_ = 0, dv_ = 0;                          // where the gradients of k and v begin, behind that of q
};

/// Why the operands forbid it; empty if they do not.
std::string objection(std::span<const Layout* const> in, size_t operands) {
  if (in.size() != operands) return "there is a mask";
  for (const Layout* l : in)
    if (!is_short(l->dtype()) || l->dtype() != in[0]->dtype())
      return fmt::format("{} is not of 16-bit floats", to_string(l->spec));
  return {};
}

}  // namespace

bool takes_attention(const Op& op, const Attrs& attrs, std::span<const Layout* const> in, std::string* why) {
  if ((&op != &attention_op && &op != &attention_gradient_op) || disabled("library")) return false;
  std::string reason = objection(in, &op == &attention_op ? 3 : 4);
  if (reason.empty()) try {
      plans_of(op, attention_of(attrs, *in[0], *in[1], *in[2]));
      return true;
    } catch (const Error& error) {
      reason = error.what();
    }
  *why = "not cuDNN's: " + reason;
  return false;
}

bool may_take_attention(const Op& op, std::span<const Layout* const> in) {
  return &op == &attention_op && objection(in, 3).empty();
}

std::unique_ptr<RegionKernel> compile_attention(const Region& region) {
  return std::make_unique<AttentionKernel>(region);
}

}  // namespace rp::cuda
