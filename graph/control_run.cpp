#include "reprise/graph/control_run.h"

#include <cstring>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/trace_events.h"
#include "reprise/graph/interpret.h"

namespace rp {
namespace {

// What a token stands for.
struct Results : Attachment {
  explicit Results(Tensors v) : values(std::move(v)) {}
  Tensors values;
};

// One step of a stacked value.
Tensor step_of(const Tensor& stacked, int64_t t) {
  const Layout& layout = stacked.layout();
  return alias(stacked, step_layout(&layout), stacked.impl()->offset + t * layout.strides[0]);
}

Tensor packed_copy(const Tensor& t) {
  Tensor y = allocate(t.layout().packed);
  const Tensor* inputs[] = {&t};
  engine.run_out({.op = &copy_op, .inputs = inputs}, y);
  return y;
}

// Every result has elements of its own: copies of those that share them with one before; of all, if they are the
// caller's.
void set_apart(Tensors& results, bool all) {
  for (size_t i = 0; i < results.size(); ++i) {
    bool shared = all;
    for (size_t j = 0; j < i; ++j) shared |= results[j].shares_storage(results[i]);
    if (shared) results[i] = packed_copy(results[i]);
  }
}

Tensors run_graph(const Graph& graph, Tensors inputs, std::span<const uint64_t> scalars) {
  Interpreter run(graph, std::move(inputs), scalars);
  run.run();
  Tensors values;
  for (int32_t i : graph.outputs) values.push_back(run.value(i));
  return values;
}

Tensors run_scan(const Call& call, const BodyWatch& watch) {
  const auto& a = call.attrs.as<ControlAttrs>();
  const auto carries = static_cast<size_t>(a.carries), inputs = static_cast<size_t>(a.inputs);
  Tensors state;
  for (size_t i = 0; i < carries; ++i) state.push_back(*call.inputs[i]);
  Tensors stacks;
  for (int64_t k = a.carries; k < a.results; ++k) stacks.push_back(allocate(result_layout(*call.op, a, k)));
  StepScalars scalars(call.scalars.bits(), random_positions(*a.body), a.draws);
  for (int64_t s = 0; s < a.length; ++s) {
    const std::optional<Span> shown = span("step", "step {}", s);
    const int64_t t = a.reverse ? a.length - 1 - s : s;
    Tensors in = state;
    for (size_t i = carries; i < carries + inputs; ++i) in.push_back(step_of(*call.inputs[i], t));
    for (size_t i = carries + inputs; i < call.inputs.size(); ++i) in.push_back(*call.inputs[i]);
    const std::span<const uint64_t> numbers = scalars.at(t);
    if (watch) watch(0, in, numbers, s);
    const Tensors out = run_graph(*a.body, std::move(in), numbers);
    for (size_t k = 0; k < stacks.size(); ++k)
      if (const Tensor& y = out[carries + k]; y.numel())
        engine.backend(y.device()).copy(step_of(stacks[k], t).bytes(), y.bytes(), y.layout().bytes());
    state.assign(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(carries));
  }
  set_apart(state, a.length == 0);
  state.insert(state.end(), stacks.begin(), stacks.end());
  return state;
}

bool is_true(const Tensor& t) {
  bool value;
  std::memcpy(&value, HostBytes(t).data(), 1);
  return value;
}

Tensors run_cond(const Call& call, const BodyWatch& watch) {
  const auto& a = call.attrs.as<ControlAttrs>();
  Tensors inputs;
  for (size_t i = 1; i < call.inputs.size(); ++i) inputs.push_back(*call.inputs[i]);
  const auto all = call.scalars.bits();
  const auto first = static_cast<size_t>(a.body->parameters);
  const bool yes = is_true(*call.inputs[0]);
  const std::span<const uint64_t> numbers = yes ? all.first(first) : all.subspan(first);
  if (watch) watch(yes ? 0 : 1, inputs, numbers, 0);
  const std::optional<Span> shown = span("step", "{}", yes ? "if true" : "if not");
  Tensors out = run_graph(yes ? *a.body : *a.other, std::move(inputs), numbers);
  set_apart(out, false);
  return out;
}

Tensors run_while(const Call& call, const BodyWatch& watch) {
  const auto& a = call.attrs.as<ControlAttrs>();
  const auto carries = static_cast<size_t>(a.carries), closed = static_cast<size_t>(a.closed);
  const auto of_body = static_cast<size_t>(a.body->parameters);
  const auto with = [&](Tensors state, size_t first, size_t count) {
    for (size_t i = first; i < first + count; ++i) state.push_back(*call.inputs[i]);
    return state;
  };
  StepScalars body_scalars(call.scalars.bits().first(of_body), random_positions(*a.body), a.draws);
  StepScalars test_scalars(call.scalars.bits().subspan(of_body), random_positions(*a.other), a.draws);
  Tensors state;
  for (size_t i = 0; i < carries; ++i) state.push_back(*call.inputs[i]);
  int64_t t = 0;
  for (; a.length < 0 || t < a.length; ++t) {
    const std::optional<Span> shown = span("step", "trip {}", t);
    const Tensors asked = with(state, carries, closed);
    if (watch) watch(0, asked, test_scalars.at(t), t);
    if (!is_true(run_graph(*a.other, asked, test_scalars.at(t))[0])) break;
    const size_t rest = carries + closed;
    const Tensors in = with(state, rest, call.inputs.size() - rest);
    if (watch) watch(1, in, body_scalars.at(t), t);
    state = run_graph(*a.body, in, body_scalars.at(t));
  }
  set_apart(state, t == 0);
  return state;
}

}  // namespace

std::span<const uint64_t> StepScalars::at(int64_t step) {
  for (int32_t p : positions_) {
    const auto k = static_cast<size_t>(p);
    const uint64_t position = (first_[k] | first_[k + 1] << 32) + static_cast<uint64_t>(step * draws_);
    now_[k] = position & 0xffffffffu;
    now_[k + 1] = position >> 32;
  }
  return now_;
}

Tensors watch_control(const Call& call, const BodyWatch& watch) {
  if (call.op == &scan_op) return run_scan(call, watch);
  return call.op == &cond_op ? run_cond(call, watch) : run_while(call, watch);
}

void run_control(const Call& call, const Tensor& token) {
  attach(*token.impl()->storage, std::make_unique<Results>(watch_control(call, nullptr)));
}

Tensor result_of(const Tensor& token, int64_t index) {
  for (const Attachment* at = token.impl()->storage->attached.get(); at; at = at->next.get())
    if (const auto* results = dynamic_cast<const Results*>(at)) return results->values[static_cast<size_t>(index)];
  fail("result: the control op was never computed, because an op before it failed");
}

}  // namespace rp
