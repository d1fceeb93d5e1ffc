// Gradients of control ops.
#include <algorithm>

#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/control_call.h"
#include "reprise/graph/control_run.h"
#include "reprise/graph/derive.h"
#include "reprise/graph/hoist.h"

namespace rp {
namespace {

bool any_wanted(const Tensors& list) {
  return thread_state.grad && std::any_of(list.begin(), list.end(), [](const Tensor& t) { return wants_grad(t); });
}

Tensors all_of(const ScanCall& call) {
  Tensors all = call.carry;
  all.insert(all.end(), call.xs.begin(), call.xs.end());
  all.insert(all.end(), call.closed.begin(), call.closed.end());
  return all;
}

int64_t wanted_mask(const Tensors& list) {
  int64_t mask = 0;
  for (size_t i = 0; i < list.size(); ++i)
    if (is_floating(list[i].dtype()) && wants_grad(list[i]))
      mask = static_cast<int64_t>(static_cast<uint64_t>(mask) | uint64_t{1} << std::min<size_t>(i, 63));
  return mask;
}

ControlAttrs attrs_of(const ScanCall& call, const Graph* body, size_t saved, int64_t wanted) {
  return {.body = body,
          .other = call.body,
          .length = call.length,
          .draws = call.draws,
          .wanted = wanted,
          .carries = static_cast<int32_t>(call.carry.size()),
          .inputs = static_cast<int32_t>(call.xs.size()),
          .results = static_cast<int32_t>(body->outputs.size()),
          .saved = static_cast<int32_t>(saved),
          .reverse = call.reverse,
          .closed = static_cast<int32_t>(call.closed.size())};
}

// A step that is zero everywhere, as often as there are steps.
Tensor zero_stack(const Layout* step, int64_t length) {
  Shape shape = step->shape();
  shape.insert(0, length);
  return zeros(step->shape(), step->dtype()).expand(shape);
}

// One product over all steps: the sum of left_t^T dz_t.
Tensor factor_gradient(const Tensor& left, const Tensor& dz) {
  const int64_t rows = left.shape()[0] * left.shape()[1];
  return matmul(left.reshape({rows, left.shape().back()}).transpose(0, 1), dz.reshape({rows, dz.shape().back()}));
}

}  // namespace

Tensors run_scan(ScanCall given) {
  const ScanCall call = hoist(std::move(given));
  const Tensors all = all_of(call);
  if (!any_wanted(all)) return call_control(scan_op, all, attrs_of(call, call.body, 0, 0), call.scalars);
  const int64_t wanted = wanted_mask(all);
  const auto d = derive(call.body, call.carry.size(), call.xs.size(), wanted, call.scalars.bits());
  Tensors results = call_control(scan_op, all, attrs_of(call, d->forward, d->saved.size(), wanted), call.scalars);
  results.resize(call.body->outputs.size());
  return results;
}

namespace {

// The gradient of a scan, given all its operands, the stacked values its derivative asks for, and the gradients of its
// results.
Tensors reverse_scan(const ScanCall& f, const Derivative& d, const Tensors& saved, const Tensors& dy) {
  const Graph& g = *f.body;
  const auto carries = f.carry.size(), inputs = f.xs.size();
  const auto operand = [&](int32_t k) {
    const auto i = static_cast<size_t>(k);
    return i < carries ? f.carry[i] : i < carries + inputs ? f.xs[i - carries] : f.closed[i - carries - inputs];
  };
  ScanCall r;
  r.body = d.backward;
  r.length = f.length;
  r.reverse = f.reverse == planted(Defect::saved_step);
  r.draws = f.draws;
  r.scalars = d.scalars;
  for (int32_t c : d.carries) {
    const Layout* l = g[g.inputs[static_cast<size_t>(c)]].layout;
    const Tensor& given = dy[static_cast<size_t>(c)];
    r.carry.push_back(given.defined() ? given.contiguous() : zeros(l->shape(), l->dtype()));
  }
  for (int32_t k : d.summed) r.carry.push_back(zeros(operand(k).shape(), operand(k).dtype()));
  for (int32_t k : d.seeds) {
    const Tensor& given = dy[static_cast<size_t>(k)];
    r.xs.push_back(given.defined() ? given.contiguous()
                                   : zero_stack(g[g.outputs[static_cast<size_t>(k)]].layout, f.length));
  }
  r.xs.insert(r.xs.end(), saved.begin(), saved.end());
  for (int32_t k : d.inputs) r.xs.push_back(operand(k));
  for (int32_t k : d.closed) r.closed.push_back(operand(k));
  const size_t summed_at = d.carries.size(), stacks_at = summed_at + d.summed.size();
  const Tensors results = run_scan(std::move(r));
  const auto stack = [&](int32_t output) { return results[stacks_at + static_cast<size_t>(output)]; };

  Tensors dx(carries + inputs + f.closed.size());
  const auto contribute = [&](int32_t input, const Tensor& t) {
    Tensor& sum = dx[static_cast<size_t>(input)];
    sum = sum.defined() ? sum + t : planted(Defect::twice) ? t + t : t;
  };
  for (size_t i = 0; i < d.carries.size(); ++i) contribute(d.carries[i], results[i]);
  for (size_t i = 0; i < d.summed.size(); ++i) contribute(d.summed[i], results[summed_at + i]);
  for (const auto& [input, output] : d.of_input) contribute(input, stack(output));
  for (const auto& [input, output] : d.of_closed) contribute(input, sum(stack(output), {0}));
  for (const auto& [factor, output] : d.of_factor) {
    const auto at = std::find(g.inputs.begin(), g.inputs.end(), factor.left);
    const auto k = static_cast<size_t>(at - g.inputs.begin());
    Tensor left;
    if (k >= carries && k < carries + inputs) {
      left = f.xs[k - carries];
    } else {
      const bool carry = k < carries;
      for (size_t s = 0; s < d.saved.size() && !left.defined(); ++s) {
        const Node& n = (*d.forward)[d.saved[s]];
        if (carry ? d.saved[s] >= g.size() && n.inputs[0] == factor.left : d.saved[s] == factor.left) left = saved[s];
      }
    }
    contribute(static_cast<int32_t>(factor.input), factor_gradient(left, stack(output)));
  }
  return dx;
}

}  // namespace

Tensors scan_gradient(const GradCall& c) {
  const auto& a = c.attrs().as<ControlAttrs>();
  ScanCall f;
  f.length = a.length;
  f.reverse = a.reverse;
  f.draws = a.draws;
  f.scalars = c.scalars();
  for (int i = 0; i < c.inputs(); ++i)
    (i < a.carries ? f.carry : i < a.carries + a.inputs ? f.xs : f.closed).push_back(c.input(i));
  Tensors dy;
  bool of_saved = false;
  for (int32_t k = 0; k < a.results; ++k) {
    dy.push_back(c.dy(k));
    of_saved |= k >= a.results - a.saved && dy.back().defined();
  }
  // Where gradients of saved values come in, as in second derivatives, these are results like any other.
  f.body = of_saved ? a.body : a.other;
  const auto d = derive(f.body, f.carry.size(), f.xs.size(), a.wanted, f.scalars.bits());
  const auto results = f.body->outputs.size();
  dy.resize(results);
  Tensors saved;
  if (!of_saved && d->saved.size() == static_cast<size_t>(a.saved)) {
    for (int32_t k = a.results - a.saved; k < a.results; ++k) saved.push_back(c.output(k));
  } else {
    const Tensors again =
        call_control(scan_op, all_of(f), attrs_of(f, d->forward, d->saved.size(), a.wanted), f.scalars);
    saved.assign(again.begin() + static_cast<std::ptrdiff_t>(results), again.end());
  }
  Tensors dx = reverse_scan(f, *d, saved, dy);
  for (int i = 0; i < c.inputs(); ++i)
    if (!c.wanted(i)) dx[static_cast<size_t>(i)] = {};
  return dx;
}

namespace {

// A branch's gradient: of the wanted operands, given them all and the gradients of the results.
TracedBody branch_gradient(const Graph& branch, const Tensors& operands, const std::vector<bool>& wanted,
                           const Tensors& dy, std::span<const uint64_t> scalars) {
  std::vector<const Layout*> layouts;
  for (const auto* list : {&operands, &dy})
    for (const Tensor& t : *list) layouts.push_back(&t.layout());
  Trie trie;
  return Recorder::trace(trie, layouts, [&](const Tensors& in) {
    const GradScope noted(true);
    Tensors mine(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(operands.size())), targets, outputs, seeds;
    for (size_t i = 0; i < mine.size(); ++i)
      if (wanted[i]) targets.push_back(mine[i].set_requires_grad());
    const Tensors values = replay(branch, mine, scalars, nullptr);
    size_t seed = operands.size();
    for (int32_t k : branch.outputs) {
      const Tensor& y = values[static_cast<size_t>(k)];
      if (!is_floating(y.dtype())) continue;
      outputs.push_back(y);
      seeds.push_back(in[seed++]);
    }
    Tensors grads = gradients_of(outputs, seeds, targets);
    for (size_t i = 0; i < grads.size(); ++i)
      if (!grads[i].defined()) grads[i] = zeros(targets[i].shape(), targets[i].dtype());
    return grads;
  });
}

}  // namespace

Tensors cond_gradient(const GradCall& c) {
  const auto& a = c.attrs().as<ControlAttrs>();
  const Tensor predicate = c.input(0);
  Tensors operands, dy, dx(static_cast<size_t>(c.inputs()));
  std::vector<bool> wanted;
  for (int i = 1; i < c.inputs(); ++i) {
    operands.push_back(c.input(i));
    wanted.push_back(c.wanted(i) && is_floating(operands.back().dtype()));
  }
  for (int32_t k = 0; k < a.results; ++k) {
    const Layout* l = (*a.body)[a.body->outputs[static_cast<size_t>(k)]].layout;
    if (is_floating(l->dtype())) dy.push_back(c.dy(k).defined() ? c.dy(k).contiguous() : zeros(l->shape(), l->dtype()));
  }
  const auto all = c.scalars().bits();
  const auto first = static_cast<size_t>(a.body->parameters);
  TracedBody yes = branch_gradient(*a.body, operands, wanted, dy, all.first(first));
  TracedBody no = branch_gradient(*a.other, operands, wanted, dy, all.subspan(first));
  for (TracedBody* t : {&yes, &no}) t->closed.insert(t->closed.begin(), dy.begin(), dy.end());
  for (TracedBody* t : {&yes, &no}) t->closed.insert(t->closed.begin(), operands.begin(), operands.end());
  const Tensors grads = run_cond(predicate, std::move(yes), std::move(no), a.draws);
  size_t next = 0;
  for (size_t i = 0; i < wanted.size(); ++i)
    if (wanted[i]) dx[i + 1] = grads[next++];
  return dx;
}

}  // namespace rp
