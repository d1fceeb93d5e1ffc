// Finding the kernel and the op whose own computation differs from eager.
#include <cstring>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/infer.h"
#include "reprise/core/ops/entries.h"
#include "reprise/fusion/plan.h"

namespace rp {
namespace {

// Copies of the inputs' storages, so that nothing of the caller's is touched.
class PrivateInputs {
 public:
  PrivateInputs(const Graph& g, const Frame& frame) {
    for (size_t k = 0; k < g.inputs.size(); ++k) {
      const auto owner = static_cast<size_t>(g.aliases[k]);
      Storage* s = frame.storages[k];
      if (owner == k) bytes_.emplace_back(s->data, s->data + s->bytes);
      else bytes_.emplace_back();
      inputs_.push_back(bytes_[owner].data() + (frame.inputs[k] - s->data));
      layouts_.push_back(g[g.inputs[k]].layout);
    }
    storages_.assign(inputs_.size(), nullptr);
  }
  std::byte* const* inputs() const { return inputs_.data(); }
  Tensor tensor(size_t k) const {
    Tensor whole = adopt(inputs_[k], intern({layouts_[k]->dtype(), {extent_of(*layouts_[k])}, {}}), nullptr, nullptr);
    return alias(whole, layouts_[k], 0);
  }
  Storage* const* storages() const { return storages_.data(); }

 private:
  std::vector<std::vector<std::byte>> bytes_;
  std::vector<std::byte*> inputs_;
  std::vector<const Layout*> layouts_;
  std::vector<Storage*> storages_;
};

// Every node's value by running the graph op by op. Values of computing nodes are kept as they were first made.
std::vector<Tensor> reference_values(const Graph& g, const PrivateInputs& inputs, const uint64_t* parameters) {
  std::vector<Tensor> live, values;
  size_t input = 0;
  for (const Node& n : g.nodes) {
    if (n.op->kind == Kind::input) {
      live.push_back(inputs.tensor(input++));
      values.push_back(Tensor());
      continue;
    }
    std::vector<const Tensor*> operands;
    for (int32_t in : n.inputs) operands.push_back(&live[static_cast<size_t>(in)]);
    Call call{.op = n.op, .inputs = operands, .attrs = n.attrs, .scalar_mask = n.scalar_mask};
    for (const ScalarSource& s : n.scalars)
      call.scalars.bits[call.scalars.count++] = s.parameter >= 0 ? parameters[s.parameter] : s.bits;
    if (n.op == &after_op) {
      live.push_back(*operands[0]);
      values.push_back(Tensor());
    } else if (n.op == &write_op) {
      call.inputs = call.inputs.first(2);
      live.push_back(engine.run(call, n.layout));
      values.push_back(operands[1]->clone());
    } else {
      live.push_back(run_now(call));
      values.push_back(n.op->kind == Kind::view ? Tensor() : live.back().clone());
    }
  }
  return values;
}

}  // namespace

std::optional<std::string> Plan::first_difference(const Frame& frame) const {
  const PrivateInputs for_reference(graph_, frame), inputs(graph_, frame);
  const std::vector<Tensor> expected = reference_values(graph_, for_reference, frame.scalars);
  std::vector<std::byte> arena(arena_ + 64);
  auto* aligned = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(arena.data()) + 63) / 64 * 64);
  const Frame mine{inputs.inputs(), inputs.storages(), frame.outputs, frame.scalars};
  Addresses addresses;
  resolve(mine, aligned, addresses);
  for (const Step& step : steps_) {
    run_step(step, addresses);
    size_t at = static_cast<size_t>(step.first_operand);
    for (int m : step.members) {
      const Lowered& l = lowered_[static_cast<size_t>(m)];
      for (size_t k = 0; k < l.operands.size(); ++k, ++at) {
        if (!l.region.operands[k].written) continue;
        if (std::optional<std::string> why = compare_operand(step, l, k, addresses.pointers[at], expected)) return why;
      }
    }
  }
  return {};
}

// Compares what a step has written with the reference; names the first op of the region that may be at fault.
std::optional<std::string> Plan::compare_operand(const Step& step, const Lowered& l, size_t operand, const std::byte* actual,
                                                 const std::vector<Tensor>& expected) const {
  const Place& place = l.operands[operand];
  for (int32_t i : nodes_of(step)) {
    const Node& n = graph_[i];
    const bool here = n.op == &write_op ? place_of(graph_, i) == place : i == place.base;
    if (!here || !expected[static_cast<size_t>(i)].defined()) continue;
    const Tensor got = alias(adopt(const_cast<std::byte*>(actual), intern({n.layout->dtype(), {extent_of(*place.layout)}, {}}), nullptr, nullptr),
                             place.layout, 0).clone();
    const Tensor want = expected[static_cast<size_t>(i)].contiguous();
    if (first_differing(want.bytes(), got.bytes(), want.numel(), want.dtype()) < 0) return {};
    // The product's buffer holds the epilogue's result by then.
    if (n.op->kind == Kind::contract && nodes_of(step).size() > 1) return {};
    const int32_t guilty = n.op == &write_op ? n.inputs[1] : i;
    return fmt::format("first differing op: %{} {}{}, in kernel {}", guilty, graph_[guilty].op->name,
                       source_line(graph_[guilty].loc), describe(step));
  }
  return {};
}

}  // namespace rp
