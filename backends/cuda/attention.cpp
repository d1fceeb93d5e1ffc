#include "reprise/backends/cuda/attention.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/backends/cuda/cudnn_plan.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

constexpr size_t alignment = 16;  // of what cuDNN reads and writes
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

/// What cuDNN cannot read or write where it lies is moved through the scratch.
class AttentionKernel final : public RegionKernel {
 public:
  explicit AttentionKernel(const Region& region) {
    const Layout &q = layout(region, 0), &k = layout(region, 1), &v = layout(region, 2);
    const DnnAttention of = attention_of(region.attrs, q, k, v);
    const std::vector<const DnnPlan*> plans = plans_of(*region.op, of);
    for (const DnnPlan* plan : plans) bytes_ = std::max(bytes_, round_up(plan->workspace_bytes()));
    for (int i = 0; i < 4; ++i) add({.operand = i, .bytes = layout(region, i).bytes()});
    if (plans.size() == 1) {
      parts_[3].written = true;
      steps_ = {{plans[0], {0, 1, 2, 3}}};
      return;
    }
    add({.bytes = layout(region, 3).bytes()});  // 4: the forward pass's result; 5: its statistics
    add({.bytes = static_cast<size_t>(of.batch * of.heads * of.queries) * sizeof(float)});
    size_t start = 0;
    for (const Layout* l : {&q, &k, &v}) {  // 6, 7, 8: their gradients
      add({.operand = 4, .start = start, .bytes = l->bytes(), .written = true});
      start += l->bytes();
    }
    steps_ = {{plans[0], {0, 1, 2, 4, 5}}, {plans[1], {0, 1, 2, 4, 3, 5, 6, 7, 8}}};
  }

  void run(const RegionCall& call) const override {
    std::vector<std::byte*> at;
    for (const Part& p : parts_) {
      at.push_back(is_inside(p, call) ? call.scratch + p.place : outside(p, call));
      if (p.operand >= 0 && !p.written && is_inside(p, call))
        copy(at.back(), outside(p, call), p.bytes, Direction::on_device);
    }
    for (const Step& step : steps_) {
      std::vector<std::byte*> operands;
      for (const size_t i : step.parts) operands.push_back(at[i]);
      step.plan->run(operands, call.scratch);
    }
    for (size_t i = 0; i < parts_.size(); ++i)
      if (parts_[i].written && is_inside(parts_[i], call))
        copy(outside(parts_[i], call), at[i], parts_[i].bytes, Direction::on_device);
  }

  std::string form() const override {
    std::string text;
    for (const Step& step : steps_) text += (text.empty() ? "" : ", ") + step.plan->form();
    return text;
  }
  size_t scratch_bytes() const override { return bytes_; }

 private:
  /// A tensor of cuDNN's: a part of an operand, or, of operand -1, something that lies in the scratch only.
  struct Part {
    int operand = -1;
    size_t start = 0, bytes = 0;
    bool written = false;
    size_t place = 0;  // in the scratch
  };
  struct Step {
    const DnnPlan* plan;
    std::vector<size_t> parts;
  };

  static const Layout& layout(const Region& region, int operand) {
    return *region.operands[static_cast<size_t>(operand)].layout;
  }
  static std::byte* outside(const Part& p, const RegionCall& call) { return call.pointers[p.operand] + p.start; }
  static bool is_inside(const Part& p, const RegionCall& call) {
    return p.operand < 0 || reinterpret_cast<uintptr_t>(outside(p, call)) % alignment != 0;
  }

  void add(Part part) {
    part.place = bytes_;
    bytes_ += round_up(part.bytes);
    parts_.push_back(part);
  }

  std::vector<Part> parts_;
  std::vector<Step> steps_;
  size_t bytes_ = 0;
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
