#include "reprise/graph/control.h"

#include <algorithm>
#include <map>

#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/random.h"
#include "reprise/core/switches.h"
#include "reprise/graph/control_call.h"
#include "reprise/graph/outer_writes.h"
#include "reprise/graph/passes.h"
#include "reprise/graph/recorder.h"
#include "reprise/graph/unroll.h"

namespace rp {

Tensors call_control(const Op& op, const Tensors& inputs, const ControlAttrs& attrs, const Scalars& scalars) {
  std::vector<const Tensor*> operands;
  for (const Tensor& t : inputs) operands.push_back(&t);
  const Tensor token = apply({.op = &op, .inputs = operands, .attrs = attrs, .scalars = scalars});
  const Tensor* of[] = {&token};
  Tensors results;
  for (int64_t k = 0; k < attrs.results; ++k)
    results.push_back(apply({.op = &result_op, .inputs = of, .attrs = ResultAttrs{result_layout(op, attrs, k), k}}));
  return results;
}

namespace {

// Calls from one place in the source, for one module, share what they have recorded.
Trie& trie_of(const Loc& loc, int part) {
  using Key = std::tuple<const char*, uint32_t, uint32_t, const char*, int>;
  static thread_local std::map<Key, std::unique_ptr<Trie>> tries;
  auto& trie = tries[{loc.file_name(), loc.line(), loc.column(), At::where().module, part}];
  if (!trie) trie = std::make_unique<Trie>();
  return *trie;
}

void check_carries(std::string_view op, const Tensors& in, const Tensors& out, const detail::ControlBody& body,
                   const Loc& loc) {
  if (in.size() != out.size())
    fail("{}: the body takes {} carried tensors and returns {} (body at {})", op, in.size(), out.size(),
         line_text(loc));
  for (size_t i = 0; i < in.size(); ++i)
    if (in[i].spec() != out[i].spec()) {
      const std::string name = body.name(i);
      fail("{} carry{}{}: in {}, out {} (body at {})", op, name.empty() ? "" : " ", name, to_string(in[i].spec()),
           to_string(out[i].spec()), line_text(loc));
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
  /// The body is traced again: it takes the same positions.
  void restart() const { generator().position = first_; }
  int64_t per_step() const { return static_cast<int64_t>(generator().position - first_); }
  void reserve(int64_t draws, uint64_t steps) const {
    generator().position = first_ + static_cast<uint64_t>(draws) * steps;
  }

 private:
  uint64_t first_;
};

// While the user's body is traced: if it may be differentiated, its graph must say where histories end.
class Cutting {
 public:
  Cutting() : before_(std::exchange(thread_state.cutting, thread_state.grad)) {}
  ~Cutting() { thread_state.cutting = before_; }
  Cutting(const Cutting&) = delete;

 private:
  bool before_;
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

// A body's function with places for the tensors from outside that it writes to: it is given them at `first`, and
// returns them at `returned`.
struct Effects {
  Tensors written;
  size_t first, returned;

  BodyFunction around(const BodyFunction& body) const {
    return [this, &body](const Tensors& in) {
      Tensors mine = in;
      mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(first),
                 mine.begin() + static_cast<std::ptrdiff_t>(first + written.size()));
      Tensors out = body(mine), states;
      for (const Tensor& w : written) states.push_back(w.clone());
      out.insert(out.begin() + static_cast<std::ptrdiff_t>(returned), states.begin(), states.end());
      return out;
    };
  }

  TracedBody trace(const Loc& loc, int part, std::vector<const Layout*> layouts, const BodyFunction& body) const {
    for (size_t i = 0; i < written.size(); ++i)
      layouts.insert(layouts.begin() + static_cast<std::ptrdiff_t>(first + i), written[i].layout().packed);
    const size_t given = layouts.size();
    return without_effects(Recorder::trace(trie_of(loc, part), layouts, around(body)), given, written, first);
  }

  // What the tensors hold before: copies, because gradients may ask for them after the tensors have been written.
  Tensors states() const {
    Tensors copies;
    for (const Tensor& w : written) copies.push_back(w.clone());
    return copies;
  }

  void copy_back(const Tensors& results) const {
    for (size_t i = 0; i < written.size(); ++i) written[i].copy_(results[returned + i]);
  }
};

// The body on copies of those inputs that it writes to: a step's values are its own, whoever holds their elements.
BodyFunction on_copies(BodyFunction body, std::vector<size_t> which) {
  return [body = std::move(body), which = std::move(which)](const Tensors& in) {
    Tensors mine = in;
    for (size_t k : which) mine[k] = in[k].clone();
    return body(mine);
  };
}

// Traces a body, which then stands for one that does not write to its inputs.
TracedBody trace_pure(const Loc& loc, int part, const std::vector<const Layout*>& layouts, BodyFunction& body) {
  TracedBody traced = Recorder::trace(trie_of(loc, part), layouts, body);
  std::vector<size_t> written = own_written_by(traced, layouts.size());
  if (written.empty()) return traced;
  body = on_copies(std::move(body), std::move(written));
  return Recorder::trace(trie_of(loc, part), layouts, body);
}

// Traces a body; if it writes to tensors from outside, these become carries behind its own.
TracedBody trace_step(const Loc& loc, int part, const std::vector<const Layout*>& layouts, BodyFunction body,
                      Effects& effects) {
  TracedBody traced = trace_pure(loc, part, layouts, body);
  effects.written = written_by(traced, layouts.size());
  return effects.written.empty() ? traced : effects.trace(loc, part + 1, layouts, body);
}

Tensors without(Tensors results, const Effects& effects) {
  const auto at = results.begin() + static_cast<std::ptrdiff_t>(effects.returned);
  results.erase(at, at + static_cast<std::ptrdiff_t>(effects.written.size()));
  return results;
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
  call.xs = xs;
  std::vector<const Layout*> layouts = layouts_of(carry);
  for (const Tensor& x : xs) layouts.push_back(step_layout(&x.layout()));
  const auto split = static_cast<std::ptrdiff_t>(carry.size());
  Effects effects{{}, carry.size(), carry.size()};
  const Draws draws;
  const auto step = [&](const Tensors& in) {
    const Cutting cutting;
    draws.restart();
    Tensors outputs;
    const Tensors next = body.call({in.begin(), in.begin() + split}, {in.begin() + split, in.end()}, outputs);
    check_carries("scan", carry, next, body, loc);
    return joined(next, outputs);
  };
  TracedBody traced = trace_step(loc, 0, layouts, step, effects);
  call.draws = draws.per_step();
  draws.restart();
  call.body = traced.graph;
  call.carry = joined(carry, effects.states());
  call.closed = std::move(traced.closed);
  call.scalars = std::move(traced.scalars);
  if (call.length && !thread_state.recorder && disabled("loops")) return unrolled(carry, call, body);
  draws.reserve(call.draws, static_cast<uint64_t>(call.length));
  const Tensors results = run_scan(std::move(call));
  effects.copy_back(results);
  return without(results, effects);
}

Tensors cond(const Tensor& predicate, const std::function<Tensors()>& yes, const std::function<Tensors()>& no,
             const Loc& loc) {
  At at(loc);
  if (predicate.dtype() != DType::boolean || predicate.numel() != 1)
    fail("cond: expected a bool tensor of one element, got {}", to_string(predicate.spec()));
  const Draws draws;  // both branches take theirs, whichever runs
  const auto first = [&](const Tensors&) {
    const Cutting cutting;
    draws.restart();
    return yes();
  };
  const auto second = [&](const Tensors&) {
    const Cutting cutting;
    return no();
  };
  Effects effects{{}, 0, 0};
  TracedBody if_true = Recorder::trace(trie_of(loc, 0), {}, first),
             if_not = Recorder::trace(trie_of(loc, 2), {}, second);
  for (const TracedBody* t : {&if_true, &if_not})
    for (const Tensor& w : written_by(*t, 0))
      if (std::none_of(effects.written.begin(), effects.written.end(),
                       [&](const Tensor& o) { return o.shares_storage(w); }))
        effects.written.push_back(w);
  if (!effects.written.empty()) {
    if_true = effects.trace(loc, 1, {}, first);
    if_not = effects.trace(loc, 3, {}, second);
    const Tensors states = effects.states();
    for (TracedBody* t : {&if_true, &if_not}) t->closed.insert(t->closed.begin(), states.begin(), states.end());
  }
  const Tensors results = run_cond(predicate.contiguous(), std::move(if_true), std::move(if_not), draws.per_step());
  effects.copy_back(results);
  return without(results, effects);
}

Tensors while_loop(const std::function<Tensor(const Tensors&)>& test, const ControlBody& body, const Tensors& init,
                   const WhileOptions& options, const Loc& loc) {
  At at(loc);
  if (options.max_trips < -1) fail("while_loop: expected max_trips of at least 0, got {}", options.max_trips);
  const Tensors own = contiguous(init);
  Effects effects{{}, own.size(), own.size()};
  const Draws draws;
  const auto step = [&](const Tensors& in) {
    const Cutting cutting;
    draws.restart();
    Tensors none;
    const Tensors next = body.call(in, {}, none);
    check_carries("while_loop", own, next, body, loc);
    return next;
  };
  WhileCall call;
  call.step = trace_step(loc, 2, layouts_of(own), step, effects);
  call.carry = joined(own, effects.states());
  BodyFunction condition = [&](const Tensors& in) {
    const Cutting cutting;
    const Tensor t = test(in);
    if (t.dtype() != DType::boolean || t.numel() != 1)
      fail("while_loop: expected a condition of one bool, got {}", to_string(t.spec()));
    return Tensors{t};
  };
  const Tensors before = effects.written;
  call.test = trace_pure(loc, 0, layouts_of(own), condition);
  if (!written_by(call.test, own.size()).empty())
    fail("while_loop: the condition writes to a tensor from outside; write in the body");
  if (!before.empty()) {  // the condition may read what the body writes: it gets the states too
    const Effects reading{before, own.size(), 1};
    call.test = reading.trace(loc, 1, layouts_of(own), condition);
    Graph only = *call.test.graph;
    only.outputs.resize(1);
    call.test.graph = intern(run_passes(std::move(only)));
  }
  call.max_trips = options.max_trips;
  call.draws = draws.per_step();
  draws.reserve(call.draws, options.max_trips < 0 ? uint64_t{1} << 32 : static_cast<uint64_t>(options.max_trips));
  const Tensors results = run_while(call);
  effects.copy_back(results);
  return without(results, effects);
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

namespace {

// Trips as steps of a scan, which has a gradient: those after the last change nothing.
Tensors bounded_while(const WhileCall& w) {
  ScanCall call;
  call.length = w.max_trips;
  call.draws = w.draws;
  const DeviceScope on(w.carry[0].device());
  call.carry = joined(w.carry, Tensors{full({}, true, DType::boolean)});
  Trie trie;
  TracedBody traced = Recorder::trace(trie, layouts_of(call.carry), [&](const Tensors& in) {
    const Tensors carry(in.begin(), in.end() - 1);
    const auto outputs = [&](const TracedBody& t) {
      const Tensors values = replay(*t.graph, joined(carry, t.closed), t.scalars.bits(), nullptr);
      Tensors out;
      for (int32_t i : t.graph->outputs) out.push_back(values[static_cast<size_t>(i)]);
      return out;
    };
    const Tensor go = logical_and(in.back(), outputs(w.test)[0].reshape({}));
    const Loc here = Loc::current();
    Tensors next = detail::cond(
        go, [&] { return outputs(w.step); },
        [&] {
          Tensors same;
          for (const Tensor& t : carry) same.push_back(t.clone());
          return same;
        },
        here);
    next.push_back(go);
    return next;
  });
  call.body = traced.graph;
  call.closed = std::move(traced.closed);
  call.scalars = std::move(traced.scalars);
  Tensors results = run_scan(std::move(call));
  results.pop_back();
  return results;
}

}  // namespace

Tensors run_while(const WhileCall& w) {
  const Tensors all = joined(w.carry, w.test.closed, w.step.closed);
  const auto wanted = [](const Tensor& t) { return is_floating(t.dtype()) && wants_grad(t); };
  if (w.max_trips >= 0 && !w.carry.empty() && thread_state.grad && std::any_of(all.begin(), all.end(), wanted))
    return bounded_while(w);
  const ControlAttrs attrs{.body = w.step.graph,
                           .other = w.test.graph,
                           .length = w.max_trips,
                           .draws = w.draws,
                           .wanted = 0,
                           .carries = static_cast<int32_t>(w.carry.size()),
                           .inputs = 0,
                           .results = static_cast<int32_t>(w.carry.size()),
                           .saved = 0,
                           .reverse = 0,
                           .closed = static_cast<int32_t>(w.test.closed.size())};
  return call_control(while_op, all, attrs, joined(w.step.scalars, w.test.scalars));
}

Tensors replay_control(const Op& op, const Tensors& inputs, const ControlAttrs& a, const Scalars& scalars) {
  if (&op == &while_op) {
    const auto first = inputs.begin() + a.carries, second = first + a.closed;
    const auto bits = scalars.bits();
    const auto of_body = static_cast<size_t>(a.body->parameters);
    return run_while({.carry = {inputs.begin(), first},
                      .test = {a.other, {first, second}, Scalars(bits.subspan(of_body))},
                      .step = {a.body, {second, inputs.end()}, Scalars(bits.first(of_body))},
                      .max_trips = a.length,
                      .draws = a.draws});
  }
  if (&op == &cond_op) return call_control(op, inputs, a, scalars);
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
