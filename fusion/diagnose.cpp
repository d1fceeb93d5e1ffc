// Finding the kernel and the op whose own computation differs from eager.
#include <algorithm>
#include <cstring>
#include <utility>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/infer.h"
#include "reprise/core/ops/entries.h"
#include "reprise/fusion/plan.h"
#include "reprise/graph/interpret.h"

namespace rp {
namespace {

// While a capture is armed, what runs here is no part of it.
class Unrecorded {
 public:
  Unrecorded() = default;
  Unrecorded(const Unrecorded&) = delete;
  ~Unrecorded() { thread_state.recorder = before_; }

 private:
  Recorder* before_ = std::exchange(thread_state.recorder, nullptr);
};

// Copies of the inputs' storages, so that nothing of the caller's is touched.
class PrivateInputs {
 public:
  PrivateInputs(const Graph& g, const Frame& frame) {
    for (size_t k = 0; k < g.inputs.size(); ++k) {
      const auto owner = static_cast<size_t>(g.aliases[k]);
      Storage* s = frame.storages[k];
      if (owner == k)
        bytes_.emplace_back(s->data, s->data + s->bytes);
      else
        bytes_.emplace_back();
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

// Every computing node's value, as it was first made, by running the graph op by op.
std::vector<Tensor> reference_values(const Graph& g, const PrivateInputs& inputs, const uint64_t* parameters) {
  Tensors operands, values;
  for (size_t k = 0; k < g.inputs.size(); ++k) operands.push_back(inputs.tensor(k));
  Interpreter run(g, std::move(operands), {parameters, static_cast<size_t>(g.parameters)});
  for (const Node& n : g.nodes) {
    run.step();
    const bool computes = n.op->kind != Kind::view && n.op->kind != Kind::input && n.op->kind != Kind::control;
    const int32_t made = n.op->kind == Kind::write ? n.inputs[1] : run.next() - 1;
    values.push_back(computes ? run.value(made).clone() : Tensor());
  }
  return values;
}

}  // namespace

std::byte* Plan::address_of(const Place& place, const Frame& frame, std::byte* arena) const {
  const auto element = static_cast<int64_t>(size_of(place.layout->dtype()));
  int64_t offset = place.offset;
  for (const Place::Term& t : place.terms) offset += static_cast<int64_t>(frame.scalars[t.parameter]) * t.stride;
  std::byte* base = nullptr;
  if (graph_[place.base].op->kind == Kind::input) {
    size_t k = 0;
    while (graph_.inputs[k] != place.base) ++k;
    base = frame.inputs[k];
  } else {
    const int64_t home = home_[static_cast<size_t>(place.base)];
    base = home < 0 ? frame.outputs[-1 - home] : arena + home;
  }
  return base + offset * element;
}

namespace {

// The elements at a strided address, packed.
Tensor packed_at(const std::byte* data, const Layout* layout) {
  const Layout* flat = intern({layout->dtype(), {extent_of(*layout)}, {}});
  return alias(adopt(const_cast<std::byte*>(data), flat, nullptr, nullptr), layout, 0).clone();
}

bool differs(const Tensor& expected, const std::byte* data, const Layout* layout) {
  const Tensor want = expected.contiguous(), got = packed_at(data, layout);
  return first_differing(want.bytes(), got.bytes(), want.numel(), want.dtype()) >= 0;
}

}  // namespace

// Runs kernel by kernel, so that the first whose results differ from the reference had right operands.
std::optional<std::string> Plan::first_difference(const Frame& frame) const {
  const Unrecorded unrecorded;
  const PrivateInputs for_reference(graph_, frame), inputs(graph_, frame);
  const std::vector<Tensor> expected = reference_values(graph_, for_reference, frame.scalars);
  std::vector<std::byte> memory(arena_ + 64);
  auto* arena = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  const Frame mine{inputs.inputs(), inputs.storages(), frame.outputs, frame.scalars};
  Bindings bindings;
  resolve(mine, arena, bindings);
  for (const Step& step : steps_) {
    for (int m : step.members)
      if (const int32_t guilty = first_wrong_op(m, mine, arena, expected); guilty >= 0)
        return fmt::format("first differing op: %{} {}{}, in kernel {}", guilty, graph_[guilty].op->name,
                           source_line(graph_[guilty].loc), describe(step));
    run_step(step, bindings, arena);
  }
  return {};
}

// Runs one region on right operands with every value of it stored, and compares them in program order; -1 if all agree.
int32_t Plan::first_wrong_op(int member, const Frame& frame, std::byte* arena,
                             const std::vector<Tensor>& expected) const {
  const Draft& draft = partition_.drafts[static_cast<size_t>(member)];
  std::vector<bool> stored = stored_;
  for (int32_t i : draft.nodes) stored[static_cast<size_t>(i)] = graph_[i].op->kind != Kind::write;
  std::optional<Lowered> all = lower(graph_, draft, stored, homes_);
  if (!all) all = lower(graph_, draft, stored_, homes_);  // too many values to see them all
  Tensors results;
  std::vector<std::byte*> pointers;
  std::vector<std::pair<int32_t, size_t>> written;  // (node, operand)
  for (size_t k = 0; k < all->operands.size(); ++k) {
    const Place& place = all->operands[k];
    if (!all->region.operands[k].written) {
      pointers.push_back(address_of(place, frame, arena));
      continue;
    }
    // Results go to memory of their own: the operands must last until the region itself runs.
    const auto seen = std::find_if(written.begin(), written.end(),
                                   [&](const auto& w) { return all->operands[w.second].same_elements(place); });
    if (seen != written.end() && graph_[place.base].op->kind != Kind::input) {
      pointers.push_back(pointers[seen->second]);
      continue;
    }
    results.push_back(allocate(intern({place.layout->dtype(), {extent_of(*place.layout)}, {}})));
    pointers.push_back(results.back().bytes());
    for (int32_t i : draft.nodes)
      if (homes_.place_of(graph_, i) == place) written.push_back({i, k});
  }
  std::vector<uint64_t> scalars;
  for (const ScalarSource& s : all->scalars) scalars.push_back(s.parameter >= 0 ? frame.scalars[s.parameter] : s.bits);
  const std::vector<Storage*> storages(pointers.size(), nullptr);
  const auto kernel = compile_kernel(all->region);
  std::vector<std::byte> scratch(kernel->scratch_bytes() + 64);
  auto* aligned = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
  kernel->run({pointers.data(), scalars.data(), storages.data(), aligned});
  std::sort(written.begin(), written.end());
  for (const auto& [node, k] : written)
    if (expected[static_cast<size_t>(node)].defined() &&
        differs(expected[static_cast<size_t>(node)], pointers[k], all->operands[k].layout))
      return graph_[node].op->kind == Kind::write ? graph_[node].inputs[1] : node;
  return -1;
}

}  // namespace rp
