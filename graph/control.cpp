#include "reprise/graph/control.h"

#include <algorithm>
#include <map>

#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/random.h"
#include "reprise/graph/control_call.h"
#include "reprise/graph/recorder.h"

namespace rp {

Tensors call_control(const Op& op, const Tensors& inputs, const ControlAttrs& attrs, const Scalars& scalars) {
  std::vector<const Tensor*> operands;
  for (const Tensor& t : inputs) operands.push_back(&t);
  const Tensor token = apply({.op = &op, .inputs = operands, .attrs = attrs, .scalars = scalars});
  const Tensor* of[] = {&token};
  Tensors results;
  for (int64_t k = 0; k < attrs.results; ++k) {
    const Layout* layout = (*attrs.body)[attrs.body->outputs[static_cast<size_t>(k)]].layout->packed;
    if (op.name == scan_op.name && k >= attrs.carries) layout = stacked_layout(layout, attrs.length);
    results.push_back(apply({.op = &result_op, .inputs = of, .attrs = ResultAttrs{layout, k}}));
  }
  return results;
}

const Layout* stacked_layout(const Layout* step, int64_t length) {
  Spec spec = step->spec;
  spec.shape.insert(0, length);
  return intern(spec);
}

namespace {

// Calls from one place in the source share what they have recorded.
Trie& trie_of(const Loc& loc, int part) {
  static thread_local std::map<std::tuple<const char*, uint32_t, uint32_t, int>, std::unique_ptr<Trie>> tries;
  auto& trie = tries[{loc.file_name(), loc.line(), loc.column(), part}];
  if (!trie) trie = std::make_unique<Trie>();
  return *trie;
}

std::string line_of(const Loc& loc) {
  const std::string_view file = loc.file_name();
  return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), loc.line());
}

void check_carries(std::string_view op, const Tensors& in, const Tensors& out, const detail::ControlBody& body,
                   const Loc& loc) {
  if (in.size() != out.size())
    fail("{}: the body takes {} carried tensors and returns {} (body at {})", op, in.size(), out.size(), line_of(loc));
  for (size_t i = 0; i < in.size(); ++i)
    if (in[i].spec() != out[i].spec()) {
      const std::string name = body.name(i);
      fail("{} carry{}{}: in {}, out {} (body at {})", op, name.empty() ? "" : " ", name, to_string(in[i].spec()),
           to_string(out[i].spec()), line_of(loc));
    }
}

int64_t steps_of(const Tensors& xs, const ScanOptions& options) {
  int64_t length = options.length;
  for (const Tensor& x : xs) {
    if (!x.rank()) fail("scan: expected inputs with an axis of steps in front, got {}", to_string(x.spec()));
    if (length < 0) length = x.shape()[0];
    if (x.shape()[0] != length) fail("scan: expected inputs of {} steps, got {}", length, to_string(x.spec()));
  }
  if (length < 0) fail("scan: expected inputs, or the number of steps in `length`");
  return length;
}

// The positions of the generator that a body took while it was traced stand for all steps.
class Draws {
 public:
  Draws() : first_(generator().position) {}
  int64_t per_step() const { return static_cast<int64_t>(generator().position - first_); }
  void reserve(int64_t draws, uint64_t steps) const {
    generator().position = first_ + static_cast<uint64_t>(draws) * steps;
  }

 private:
  uint64_t first_;
};

template <class... Lists>
Tensors joined(const Lists&... lists) {
  Tensors all;
  (all.insert(all.end(), lists.begin(), lists.end()), ...);
  return all;
}

Scalars joined(const Scalars& a, const Scalars& b) {
  Scalars all = a;
  for (uint64_t bits : b.bits()) all.add_bits(bits);
  return all;
}

Tensors contiguous(Tensors list) {
  for (Tensor& t : list) t = t.contiguous();
  return list;
}

std::vector<const Layout*> layouts_of(const Tensors& list) {
  std::vector<const Layout*> layouts;
  for (const Tensor& t : list) layouts.push_back(&t.layout());
  return layouts;
}

}  // namespace

namespace detail {

Tensors scan(const Tensors& init, const Tensors& xs, const ScanOptions& options, const ControlBody& body,
             const Loc& loc) {
  At at(loc);
  const Tensors carry = contiguous(init);
  ScanCall call;
  call.length = steps_of(xs, options);
  call.reverse = options.reverse;
  call.carry = carry;
  call.xs = xs;
  std::vector<const Layout*> layouts = layouts_of(carry);
  for (const Tensor& x : xs) layouts.push_back(step_layout(&x.layout()));
  const Draws draws;
  const auto split = static_cast<std::ptrdiff_t>(carry.size());
  TracedBody traced = Recorder::trace(trie_of(loc, 0), layouts, [&](const Tensors& in) {
    Tensors outputs;
    const Tensors next = body.call({in.begin(), in.begin() + split}, {in.begin() + split, in.end()}, outputs);
    check_carries("scan", carry, next, body, loc);
    return joined(next, outputs);
  });
  call.draws = draws.per_step();
  draws.reserve(call.draws, static_cast<uint64_t>(call.length));
  call.body = traced.graph;
  call.closed = std::move(traced.closed);
  call.scalars = std::move(traced.scalars);
  return run_scan(std::move(call));
}

Tensors cond(const Tensor& predicate, const std::function<Tensors()>& yes, const std::function<Tensors()>& no,
             const Loc& loc) {
  At at(loc);
  if (predicate.dtype() != DType::boolean || predicate.numel() != 1)
    fail("cond: expected a bool tensor of one element, got {}", to_string(predicate.spec()));
  const Draws draws;  // both branches take theirs, whichever runs
  const auto trace = [&](const auto& branch, const std::vector<const Layout*>& layouts, int part) {
    return Recorder::trace(trie_of(loc, part), layouts, [&](const Tensors&) { return branch(); });
  };
  TracedBody first = trace(yes, {}, 0), second = trace(no, {}, 1);
  return run_cond(predicate.contiguous(), std::move(first), std::move(second), draws.per_step());
}

Tensors while_loop(const std::function<Tensor(const Tensors&)>& test, const ControlBody& body, const Tensors& init,
                   const WhileOptions& options, const Loc& loc) {
  At at(loc);
  if (options.max_trips < -1) fail("while_loop: expected max_trips of at least 0, got {}", options.max_trips);
  const Tensors carry = contiguous(init);
  const std::vector<const Layout*> layouts = layouts_of(carry);
  const Draws draws;
  const TracedBody condition = Recorder::trace(trie_of(loc, 0), layouts, [&](const Tensors& in) {
    const Tensor t = test(in);
    if (t.dtype() != DType::boolean || t.numel() != 1)
      fail("while_loop: expected a condition of one bool, got {}", to_string(t.spec()));
    return Tensors{t};
  });
  const TracedBody step = Recorder::trace(trie_of(loc, 1), layouts, [&](const Tensors& in) {
    Tensors none;
    const Tensors next = body.call(in, {}, none);
    check_carries("while_loop", carry, next, body, loc);
    return next;
  });
  const int64_t per_trip = draws.per_step();
  draws.reserve(per_trip, options.max_trips < 0 ? uint64_t{1} << 32 : static_cast<uint64_t>(options.max_trips));
  const ControlAttrs attrs{.body = step.graph,
                           .other = condition.graph,
                           .length = options.max_trips,
                           .draws = per_trip,
                           .wanted = 0,
                           .carries = static_cast<int32_t>(carry.size()),
                           .inputs = 0,
                           .results = static_cast<int32_t>(carry.size()),
                           .saved = 0,
                           .reverse = 0,
                           .closed = static_cast<int32_t>(condition.closed.size())};
  return call_control(while_op, joined(carry, condition.closed, step.closed), attrs,
                      joined(step.scalars, condition.scalars));
}

}  // namespace detail

// The same graph among further inputs, which it does not use.
const Graph* widened(const Graph& g, const std::vector<const Layout*>& before,
                     const std::vector<const Layout*>& after) {
  GraphBuilder builder;
  for (const Layout* l : before) builder.input(l, -1);
  std::vector<int32_t> map(g.nodes.size());
  for (int32_t i : g.inputs) map[static_cast<size_t>(i)] = builder.input(g[i].layout, -1);
  for (const Layout* l : after) builder.input(l, -1);
  for (int32_t i = 0; i < g.size(); ++i) {
    if (g[i].op->kind == Kind::input) continue;
    Node n = g[i];
    for (int32_t& in : n.inputs) in = map[static_cast<size_t>(in)];
    map[static_cast<size_t>(i)] = builder.add(std::move(n));
  }
  builder.graph().parameters = g.parameters;
  for (int32_t i : g.outputs) builder.graph().outputs.push_back(map[static_cast<size_t>(i)]);
  return intern(builder.take());
}

void check_branches(const Graph& yes, const Graph& no) {
  const auto list = [](const Graph& g) {
    std::string text;
    for (int32_t i : g.outputs) text += (text.empty() ? "" : ", ") + to_string(g[i].layout->spec);
    return "(" + text + ")";
  };
  const bool alike = std::equal(yes.outputs.begin(), yes.outputs.end(), no.outputs.begin(), no.outputs.end(),
                                [&](int32_t a, int32_t b) { return yes[a].layout->spec == no[b].layout->spec; });
  if (!alike) fail("cond: the branches differ: {} if true, {} if not", list(yes), list(no));
}

Tensors run_cond(const Tensor& predicate, TracedBody yes, TracedBody no, int64_t draws) {
  check_branches(*yes.graph, *no.graph);
  const ControlAttrs attrs{.body = widened(*yes.graph, {}, layouts_of(no.closed)),
                           .other = widened(*no.graph, layouts_of(yes.closed), {}),
                           .length = 0,
                           .draws = draws,
                           .wanted = 0,
                           .carries = 0,
                           .inputs = 0,
                           .results = static_cast<int32_t>(yes.graph->outputs.size()),
                           .saved = 0,
                           .reverse = 0,
                           .closed = 0};
  return call_control(cond_op, joined(Tensors{predicate}, yes.closed, no.closed), attrs,
                      joined(yes.scalars, no.scalars));
}

Tensors replay_control(const Op& op, const Tensors& inputs, const ControlAttrs& a, const Scalars& scalars) {
  if (&op != &scan_op) return call_control(op, inputs, a, scalars);
  const auto xs = inputs.begin() + a.carries, closed = xs + a.inputs;
  return run_scan({.body = a.body,
                   .length = a.length,
                   .reverse = a.reverse != 0,
                   .draws = a.draws,
                   .carry = {inputs.begin(), xs},
                   .xs = {xs, closed},
                   .closed = {closed, inputs.end()},
                   .scalars = scalars});
}

}  // namespace rp
