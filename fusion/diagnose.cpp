// Finding the kernel and the op whose own computation differs from eager.
#include <algorithm>
#include <cstring>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/infer.h"
#include "reprise/core/ops/entries.h"
#include "reprise/fusion/plan.h"
#include "reprise/graph/control_run.h"
#include "reprise/graph/interpret.h"
#include "reprise/graph/private_inputs.h"

namespace rp {

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
  const Layout* flat = intern({layout->dtype(), {extent_of(*layout)}, layout->spec.device});
  return alias(adopt(const_cast<std::byte*>(data), flat, nullptr, nullptr), layout, 0).clone();
}

bool differs(const Tensor& expected, const std::byte* data, const Layout* layout) {
  const Tensor want = expected.contiguous(), got = packed_at(data, layout);
  return first_differing(want, got) >= 0;
}

}  // namespace

// Runs kernel by kernel, so that the first whose results differ from the reference had right operands.
std::optional<Difference> Plan::first_difference(const Frame& frame) const {
  const Unarmed unarmed;
  const PrivateInputs for_reference(graph_, frame), inputs(graph_, frame), untouched(graph_, frame);
  const std::vector<Tensor> expected =
      values_of(graph_, for_reference.tensors(), {frame.scalars, static_cast<size_t>(graph_.parameters)});
  const Tensor memory = allocate_bytes_on(device_of(graph_), arena_);
  std::byte* const arena = memory.bytes();
  const Frame mine{inputs.inputs(), inputs.storages(), frame.outputs, frame.scalars};
  Bindings bindings;
  resolve(mine, arena, bindings);
  for (const Step& step : steps_) {
    for (int m : step.members)
      if (const int32_t guilty = first_wrong_op(m, mine, arena, expected); guilty >= 0) {
        if (const std::optional<Difference> inner = inside_control(step, mine, arena)) return inner;
        return Difference{std::string(graph_[guilty].op->name),
                          graph_[guilty].loc,
                          describe(step),
                          {},
                          operands_right(m, mine, arena, expected, untouched)};
      }
    run_step(step, bindings, arena);
  }
  return {};
}

// The first op that is wrong in a body, each step beginning with right values; none if `step` runs no bodies.
std::optional<Difference> Plan::inside_control(const Step& step, const Frame& frame, std::byte* arena) const {
  const std::vector<RegionKernel::Body> bodies = step.kernel->bodies();
  if (bodies.empty()) return {};
  const Lowered& lowered = lowered_[static_cast<size_t>(step.members[0])];
  const Region& region = lowered.region;
  Tensors operands;
  for (size_t k = 0; k < region.operands.size() - region.results.size(); ++k)
    operands.push_back(packed_at(address_of(lowered.operands[k], frame, arena), region.operands[k].layout));
  std::vector<const Tensor*> inputs;
  for (const Tensor& t : operands) inputs.push_back(&t);
  Scalars scalars;
  for (const ScalarSource& s : lowered.scalars)
    scalars.add_bits(s.parameter >= 0 ? frame.scalars[s.parameter] : s.bits);
  std::optional<Difference> found;
  const auto look = [&](size_t body, const Tensors& in, std::span<const uint64_t> given, int64_t number) {
    if (found) return;
    const Executable& plan = *bodies[body].plan;
    Tensors results;
    std::vector<std::byte*> pointers, outputs;
    std::vector<Storage*> storages;
    for (const Tensor& t : in) pointers.push_back(t.bytes()), storages.push_back(t.impl()->storage);
    for (size_t j = 0; j < plan.graph().outputs.size(); ++j) results.push_back(allocate(plan.output_layout(j)->packed));
    for (const Tensor& t : results) outputs.push_back(t.bytes());
    found = plan.first_difference({pointers.data(), storages.data(), outputs.data(), given.data()});
    if (found && found->inside.empty())
      found->inside =
          fmt::format("{} {} of the {}{}", bodies[body].role, number, region.op->name, source_line(step.loc));
  };
  watch_control({.op = region.op, .inputs = inputs, .attrs = region.attrs, .scalars = scalars}, look);
  return found;
}

// Whether what a region reads, as far as nothing was meant to have written it, is as it was made.
bool Plan::operands_right(int member, const Frame& frame, std::byte* arena, const std::vector<Tensor>& expected,
                          const PrivateInputs& untouched) const {
  const Lowered& lowered = lowered_[static_cast<size_t>(member)];
  for (size_t k = 0; k < lowered.operands.size(); ++k) {
    const Place& place = lowered.operands[k];
    if (lowered.region.operands[k].written || place.version >= 0) continue;
    const auto input = std::find(graph_.inputs.begin(), graph_.inputs.end(), place.base) - graph_.inputs.begin();
    Frame before = frame;
    before.inputs = untouched.inputs();
    const bool given = input < static_cast<std::ptrdiff_t>(graph_.inputs.size());
    const Place whole{.base = place.base, .layout = graph_[place.base].layout};
    const Tensor want =
        given ? packed_at(address_of(place, before, arena), place.layout) : expected[static_cast<size_t>(place.base)];
    const Place& at = given ? place : whole;
    if (want.defined() && differs(want, address_of(at, frame, arena), at.layout)) return false;
  }
  return true;
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
    results.push_back(allocate(intern({place.layout->dtype(), {extent_of(*place.layout)}, place.layout->spec.device})));
    pointers.push_back(results.back().bytes());
    for (int32_t i : draft.nodes)
      if (homes_.place_of(graph_, i) == place) written.push_back({i, k});
  }
  std::vector<uint64_t> scalars;
  for (const ScalarSource& s : all->scalars) scalars.push_back(s.parameter >= 0 ? frame.scalars[s.parameter] : s.bits);
  const std::vector<Storage*> storages(pointers.size(), nullptr);
  const auto kernel = compile_kernel(all->region);
  const Tensor scratch = allocate_bytes_on(device_of(graph_), kernel->scratch_bytes());
  kernel->run({pointers.data(), scalars.data(), storages.data(), scratch.bytes()});
  std::sort(written.begin(), written.end());
  for (const auto& [node, k] : written)
    if (expected[static_cast<size_t>(node)].defined() &&
        differs(expected[static_cast<size_t>(node)], pointers[k], all->operands[k].layout))
      return graph_[node].op->kind == Kind::write ? graph_[node].inputs[1] : node;
  return -1;
}

}  // namespace rp
