// What an op costs beside its arithmetic: run at once, noted on the tape, recorded, matched, planned, replayed,
// compiled.
#include <fmt/core.h>

#include "reprise/backends/cpu/jit.h"
#include "reprise/bench/chain_plan.h"
#include "reprise/bench/compare.h"
#include "reprise/core/expr.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::Tensor;
using rp::Tensors;

constexpr int chain_ops = 100;
constexpr int64_t tiny = 8;

/// `chain_ops` ops, additions and multiplications in turn, on 8 elements.
Tensor chain(const Tensor& x, const Tensor& y) {
  Tensor v = x;
  for (int i = 0; i < chain_ops; i += 2) v = (v + y) * x;
  return v;
}

Tensor tiny_tensor() { return rp::uniform({tiny}, 0.25, 0.75); }

/// A result in ns an op from times of whole chains.
Result per_op(const std::optional<Times>& eager, const std::optional<Times>& captured, const Timing& timing,
              double ops = chain_ops) {
  Result result;
  if (eager) result.eager_ns = median(*eager) / ops;
  if (captured) result.captured_ns = median(*captured) / ops;
  result.spread = spread(captured ? *captured : *eager);
  result.system_calls = timing.system_calls;
  return result;
}

/// A thousand additions on 1024 floats, one behind the other, as a CUDA device gets them.
Comparison eager_adds() {
  constexpr int ops = 1000;
  Comparison c{.spec = {"op", "adds", {{"ops", ops}}}};
  for (const char* name : {"x", "y"}) c.spec.add(name, {1024}, 0.25, 0.5);
  c.make = [spec = c.spec]() -> Copy {
    return {[in = tensors_of(spec)]() -> Tensors {
      Tensor v = in[0];
      for (int i = 0; i < ops; ++i) v = v + in[1];
      return {v};
    }};
  };
  c.entries = {{"torch"}};
  c.parts = ops;
  c.captured = false;
  return c;
}

/// The chain op by op, beside libraries that run it so too.
Comparison eager_op(bool tape) {
  Comparison c{.spec = {"op", tape ? "tape" : "plain", {{"ops", chain_ops}}}};
  for (const char* name : {"x", "y"}) c.spec.add(name, {tiny}, 0.25, 0.5);
  c.make = [spec = c.spec, tape]() -> Copy {
    Tensors in = tensors_of(spec);
    if (tape) in[0].set_requires_grad();
    return {[in]() -> Tensors { return {chain(in[0], in[1])}; }};
  };
  c.entries = {{"libtorch"}, {"torch"}};
  c.parts = chain_ops;
  c.captured = false;
  return c;
}

Result eager_scalar_op() {
  Tensor x = tiny_tensor();
  const Timing timing = interleave({{rp::Mode::eager, [&] {
                                       Tensor v = x;
                                       for (int i = 0; i < chain_ops; i += 2) v = (v + 0.25f) * 0.5f;
                                     }}});
  return per_op(timing.of[0], {}, timing);
}

/// A captured call without what its plan takes.
Result match(bool tape) {
  Tensor x = tiny_tensor(), y = tiny_tensor();
  const ChainPlan plan(x, y, chain_ops, true);
  if (tape) x.set_requires_grad();
  auto captured = rp::capture([&] { return chain(x, y).detach(); });
  const Timing timing = interleave({{rp::Mode::eager, [&] { captured(); }},
                                    {rp::Mode::graph, [&] { captured(); }},
                                    {rp::Mode::eager, [&] { plan.run(); }}});
  return per_op(timing.of[0], difference(timing.of[1], timing.of[2]), timing);
}

/// Plans whose nodes are kernels of their own.
Result replay() {
  const Tensor x = tiny_tensor(), y = tiny_tensor();
  const ChainPlan plan(x, y, chain_ops, false);
  const Timing timing = interleave({{rp::Mode::eager, [&] { chain(x, y); }}, {rp::Mode::eager, [&] { plan.run(); }}});
  Result result = per_op(timing.of[0], timing.of[1], timing);
  *result.captured_ns *= static_cast<double>(chain_ops) / plan.kernels();
  return result;
}

/// The first call of a capture without what eager takes for the same.
Result record() {
  const Tensor x = tiny_tensor(), y = tiny_tensor();
  auto captured = rp::capture([&] { return chain(x, y); });
  const Timing timing = interleave(
      {{rp::Mode::eager, [&] { captured(); }}, {rp::Mode::graph, [&] { captured(); }, [&] { captured.reset(); }}});
  return per_op(timing.of[0], difference(timing.of[1], timing.of[0]), timing);
}

/// The second call, which plans, without what a later one takes. Machine code is there already.
Result first_plan() {
  const Tensor x = tiny_tensor(), y = tiny_tensor();
  const auto body = [&] { return chain(x, y); };
  auto fresh = rp::capture(body), steady = rp::capture(body);
  const auto record = [&] {
    fresh.reset();
    fresh();
  };
  const Timing timing = interleave({{rp::Mode::graph, [&] { steady(); }}, {rp::Mode::graph, [&] { fresh(); }, record}});
  return per_op({}, difference(timing.of[1], timing.of[0]), timing);
}

/// Machine code for one program, made anew each time.
Result compile(const rp::Program& program) {
  std::string why;
  const Timing timing = interleave({{rp::Mode::eager, [&] { rp::jit_compile(program, &why); }}});
  return per_op({}, timing.of[0], timing, 1);
}

rp::Program lstm_program() {
  rp::ProgramBuilder b;
  rp::Value in[5];
  for (rp::Value& v : in) v = b.load(b.operand(rp::DType::f32, rp::Access::contiguous));
  const int c_out = b.operand(rp::DType::f32, rp::Access::contiguous, true);
  const int h_out = b.operand(rp::DType::f32, rp::Access::contiguous, true);
  const rp::Value c = sigmoid(in[0]) * in[4] + sigmoid(in[1]) * tanh(in[2]);
  b.store(c, c_out);
  b.store(sigmoid(in[3]) * tanh(c), h_out);
  return b.take();
}

rp::Program cheap_program() {
  rp::ProgramBuilder b;
  rp::Value in[3];
  for (rp::Value& v : in) v = b.load(b.operand(rp::DType::f32, rp::Access::contiguous));
  const int out = b.operand(rp::DType::f32, rp::Access::contiguous, true);
  b.store(max(in[0] * in[1] + in[2], 0.0) * 1.5 - in[0], out);
  return b.take();
}

/// Making the plan of a training step of about 200 ops, a network of 3 layers, with no machine code there at first.
Result compile_step() {
  const rp::Sequential net = [] {
    rp::Sequential layers;
    for (int i = 0; i < 3; ++i) {
      layers.add(rp::Dense(24));
      layers.add(rp::gelu_tanh);
    }
    return layers;
  }();
  const Tensor x = rp::normal({4, 24});
  auto optimizer = std::make_shared<rp::Adam>(net);
  auto step = rp::capture([=] {
    optimizer->zero_grad();
    mean(square(net(x))).backward();
    optimizer->step();
  });
  const rp::ModeGuard guard(rp::Mode::graph);
  step();
  const int64_t ops = step.stats().ops;
  for (int call = 0; call < 4; ++call) step();
  const double ms = step.stats().compile_ms;
  Result result;
  result.met = ms <= 5;
  result.more = {{"ops", ops}, {"compile_ms", ms}, {"plan_builds", step.stats().plan_builds}};
  result.note = fmt::format("{:.2f} ms for {} ops, {} plans", ms, ops, step.stats().plan_builds);
  return result;
}

}  // namespace

double match_ns_per_op() { return *match(true).captured_ns; }
double record_ns_per_op() { return *record().captured_ns; }

std::vector<Case> dispatch_cases(const Surroundings& around) {
  if (around.on_cuda())
    return {compared(around, "G1.eager.add.f32.1000x1024",
                     both(eager_at_most(2500), ratios({{2, "torch", is_eager, true}}, 1)), eager_adds)};
  const auto beside_peers = [](double ns) { return both(eager_at_most(ns), ratios({{10, "peer", is_eager}}, 1)); };
  std::vector<Case> cases{
      compared(around, "dispatch/tiny_op", beside_peers(50), [] { return eager_op(false); }),
      {"dispatch/tiny_op_scalar", eager_at_most(50), eager_scalar_op},
      compared(around, "dispatch/tiny_op_tape", beside_peers(80), [] { return eager_op(true); }),
      {"dispatch/match_op", captured_at_most(30), [] { return match(false); }},
      {"dispatch/match_op_tape", captured_at_most(60), [] { return match(true); }},
      {"dispatch/replay_node", captured_at_most(15), replay},
      {"dispatch/record_op", {}, record},
      {"dispatch/plan_op", captured_at_most(25000), first_plan},
  };
  std::string why;
  if (rp::jit_compile(cheap_program(), &why)) {
    cases.push_back({"capture/compile_lstm", captured_at_most(50000), [] { return compile(lstm_program()); }});
    cases.push_back({"capture/compile_cheap", captured_at_most(50000), [] { return compile(cheap_program()); }});
  }
  cases.push_back({"capture/compile_200_ops", stated("<= 5 ms"), compile_step});
  return cases;
}

}  // namespace bench
