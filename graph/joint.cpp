// Tracing a body together with its gradient.
#include "reprise/graph/joint.h"

#include <algorithm>
#include <functional>
#include <map>

#include "reprise/core/infer.h"
#include "reprise/core/ops/entries.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/control_call.h"

namespace rp {

bool computes(const Node& n) {
  return n.op->kind != Kind::input && n.op->kind != Kind::view && n.op->kind != Kind::write &&
         n.op->kind != Kind::control;
}

namespace {

bool wants(int64_t mask, size_t i) { return mask >> std::min<size_t>(i, 63) & 1; }

// Products that take part: rank 2, right operand wanted, left operand one that can be stacked.
std::vector<Factor> factors_of(const Graph& g, int64_t wanted, size_t carries_and_inputs) {
  std::vector<Factor> factors;
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    if (n.op != &matmul_op || n.layout->rank() != 2 || !is_floating(n.layout->dtype())) continue;
    const auto at = std::find(g.inputs.begin(), g.inputs.end(), n.inputs[1]);
    const auto k = static_cast<size_t>(at - g.inputs.begin());
    const Node& left = g[n.inputs[0]];
    const bool stackable = computes(left) || (left.op->kind == Kind::input && left.layout->contiguous);
    const auto l = static_cast<size_t>(std::find(g.inputs.begin(), g.inputs.end(), n.inputs[0]) - g.inputs.begin());
    const bool varies = l < carries_and_inputs || l == g.inputs.size();
    if (at != g.inputs.end() && k >= carries_and_inputs && wants(wanted, k) && stackable && varies && !left.own)
      factors.push_back({i, n.inputs[0], k});
  }
  return factors;
}

// The results of a joint trace: every value that the body computes, then the gradients that there are.
Tensors joint_results(const Graph& g, const Joint& joint, size_t carries, int64_t wanted, const Tensors& in,
                      std::span<const uint64_t> scalars, std::vector<bool>& defined) {
  const auto inputs = g.inputs.size();
  Tensors targets(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(inputs)), outputs, seeds, results;
  for (size_t i = 0; i < inputs; ++i)
    if (is_floating(targets[i].dtype()) && (i < carries || wants(wanted, i))) targets[i].set_requires_grad();
  const Tensors values = replay(g, targets, scalars, [&](int32_t node) {
    return std::any_of(joint.factors.begin(), joint.factors.end(), [&](const Factor& f) { return f.node == node; });
  });
  for (const Factor& f : joint.factors) targets.push_back(values[static_cast<size_t>(f.node)]);
  for (size_t k = 0; k < g.outputs.size(); ++k) {
    if (joint.seeds[k] < 0) continue;
    outputs.push_back(values[static_cast<size_t>(g.outputs[k])]);
    seeds.push_back(in[static_cast<size_t>(joint.seeds[k])]);
  }
  for (int32_t i = 0; i < g.size(); ++i)
    if (computes(g[i])) results.push_back(values[static_cast<size_t>(i)]);
  for (const Tensor& t : gradients_of(outputs, seeds, targets)) {
    defined.push_back(t.defined());
    if (t.defined()) results.push_back(t);
  }
  return results;
}

}  // namespace

Tensors gradients_of(const Tensors& outputs, const Tensors& seeds, const Tensors& targets) {
  Tensors from, with, to, all(targets.size());
  for (size_t k = 0; k < outputs.size(); ++k)
    if (outputs[k].requires_grad()) {
      from.push_back(outputs[k]);
      with.push_back(seeds[k]);
    }
  std::vector<size_t> which;
  for (size_t i = 0; i < targets.size(); ++i)
    if (targets[i].requires_grad()) {
      to.push_back(targets[i]);
      which.push_back(i);
    }
  if (from.empty() || to.empty()) return all;
  const Tensors found = grad(from, to, {.allow_unused = true, .seeds = with});
  for (size_t i = 0; i < found.size(); ++i) all[which[i]] = found[i];
  return all;
}

Joint trace_joint(const Graph& g, size_t carries, size_t inputs, int64_t wanted, std::span<const uint64_t> scalars) {
  Joint joint;
  joint.factors = factors_of(g, wanted, carries + inputs);
  std::vector<const Layout*> layouts;
  for (int32_t i : g.inputs) layouts.push_back(g[i].layout);
  for (int32_t i : g.outputs) {
    const bool seeded = is_floating(g[i].layout->dtype());
    joint.seeds.push_back(seeded ? static_cast<int32_t>(layouts.size()) : -1);
    if (seeded) layouts.push_back(g[i].layout->packed);
  }
  std::vector<bool> defined;
  Trie trie;
  TracedBody traced = Recorder::trace(trie, layouts, [&](const Tensors& in) {
    const GradScope noted(true);
    return joint_results(g, joint, carries, wanted, in, scalars, defined);
  });
  joint.graph = traced.graph;
  joint.scalars = std::move(traced.scalars);
  size_t at = 0;
  for (int32_t i = 0; i < g.size(); ++i) joint.value.push_back(computes(g[i]) ? traced.graph->outputs[at++] : -1);
  for (size_t i = 0; i < defined.size(); ++i)
    (i < g.inputs.size() ? joint.of_input : joint.of_factor).push_back(defined[i] ? traced.graph->outputs[at++] : -1);
  return joint;
}

Tensors replay(const Graph& g, const Tensors& inputs, std::span<const uint64_t> scalars,
               const std::function<bool(int32_t)>& detached) {
  Tensors values;
  std::map<int32_t, Tensors> results;
  size_t input = 0;
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    AtForward at(n.loc);
    Tensors in;
    for (int32_t k : n.inputs) in.push_back(values[static_cast<size_t>(k)]);
    Scalars s;
    for (const ScalarSource& source : n.scalars)
      s.add_bits(source.parameter >= 0 ? scalars[static_cast<size_t>(source.parameter)] : source.bits);
    if (n.op->kind == Kind::input) {
      values.push_back(inputs[input++]);
    } else if (n.op == &after_op) {
      values.push_back(in[0]);
    } else if (n.op->kind == Kind::write) {
      write(in[0], in[1]);
      values.push_back(in[0]);
    } else if (n.op->kind == Kind::control) {
      results[i] = replay_control(*n.op, in, n.attrs.as<ControlAttrs>(), s);
      values.push_back(Tensor());
    } else if (n.op->kind == Kind::result) {
      values.push_back(results.at(n.inputs[0])[static_cast<size_t>(n.attrs.as<ResultAttrs>().index)]);
    } else {
      if (detached && detached(i)) in[1] = in[1].detach();
      std::vector<const Tensor*> operands;
      for (const Tensor& t : in) operands.push_back(&t);
      values.push_back(
          apply({.op = n.op, .inputs = operands, .attrs = n.attrs, .scalars = s, .scalar_mask = n.scalar_mask}));
      // The product of an operand without a gradient is a leaf too: the detached weight was its only way to one.
      if (detached && detached(i) && !values.back().requires_grad()) values.back().set_requires_grad();
    }
  }
  return values;
}

}  // namespace rp
