// Chains of pointwise ops, which a capture makes one kernel of.
#include <fmt/core.h>

#include <tuple>

#include "reprise/bench/compare.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::Tensor;
using rp::Tensors;

/// The gates of an LSTM cell: 9 ops, 5 tensors in, 2 out.
Tensors lstm_gates(const Tensors& in) {
  Tensor c = rp::sigmoid(in[0]) * in[4] + rp::sigmoid(in[1]) * rp::tanh(in[2]);
  Tensor h = rp::sigmoid(in[3]) * rp::tanh(c);
  return {c, h};
}

/// Bias, GELU by tanh, scale, residual: 12 ops, 3 tensors in, 1 out.
Tensors gelu_chain(const Tensors& in) {
  Tensor x = in[0] + in[1];
  Tensor t = rp::tanh((x + x * x * x * 0.044715f) * 0.7978846f);
  return {(t + 1) * 0.5f * x * 1.5f + in[2]};
}

/// relu(a * b + c) * s - a: 5 ops, 3 tensors in, 1 out.
Tensors cheap_chain(const Tensors& in) { return {rp::relu(in[0] * in[1] + in[2]) * 1.5f - in[0]}; }

/// Ten cheap ops, 3 tensors in, 1 out.
Tensors ten_ops(const Tensors& in) {
  const Tensor y = rp::relu(in[0] * in[1] + in[2]) * 1.5f - in[0];
  return {(rp::abs(y) + in[1]) * in[2] * 0.5f - in[1]};
}

struct Chain {
  const char* name;
  Tensors (*run)(const Tensors&);
  int inputs, outputs;
};
constexpr Chain chains[] = {
    {"lstm_gates", lstm_gates, 5, 2}, {"gelu12", gelu_chain, 3, 1}, {"cheap5", cheap_chain, 3, 1}};

/// The limit is moving the bytes, or the time that the fused kernel takes for as many elements where nothing waits for
/// memory: on a few hundred of them that lie in the innermost cache.
Comparison comparison(const Chain& chain, int64_t numel) {
  Comparison c{.spec = {"chain", chain.name}};
  for (int i = 0; i < chain.inputs; ++i) c.spec.add(fmt::format("x{}", i), {numel});
  c.make = [chain, spec = c.spec]() -> Copy {
    return {[in = tensors_of(spec), step = rp::capture(chain.run)]() mutable { return step(in); }};
  };
  c.bytes = 4.0 * static_cast<double>(numel) * (chain.inputs + chain.outputs);
  c.arithmetic_ns = static_cast<double>(numel) * element_ns(chain.run, chain.inputs);
  return c;
}

// ---- on a CUDA device ----

enum class Lie : uint8_t { contiguous, broadcast, strided };

/// 64 MB of f32 for each tensor: all whole, the second a row for all rows, or the first half of the columns of one
/// twice as wide.
Comparison ten_ops_comparison(Lie lie, rp::DType dtype) {
  constexpr int64_t rows = 4096, columns = 4096;
  Comparison c{.spec = {"chain", "ten_ops", {{"halved", lie == Lie::strided}}}};
  c.spec.add("x0", {rows, lie == Lie::strided ? 2 * columns : columns});
  c.spec.add("x1", lie == Lie::broadcast ? std::vector<int64_t>{columns} : std::vector<int64_t>{rows, columns});
  c.spec.add("x2", {rows, columns});
  c.spec = stored_as(dtype, c.spec);
  c.make = [lie, spec = c.spec]() -> Copy {
    Tensors in = tensors_of(spec);
    if (lie == Lie::strided) in[0] = in[0].slice(1, 0, columns);
    return {[in, step = rp::capture(ten_ops)]() mutable { return step(in); }};
  };
  c.bytes = static_cast<double>(rp::size_of(dtype)) * rows * columns * (lie == Lie::broadcast ? 3 : 4);
  c.tolerance = tolerance_of(dtype);
  c.entries = learning_peers();
  return c;
}

std::vector<Case> cuda_chain_cases(const Surroundings& around) {
  std::vector<Case> cases;
  for (const rp::DType dtype : {rp::DType::f32, rp::DType::bf16})
    for (const auto& [name, lie, limit] : {std::tuple("contiguous", Lie::contiguous, 0.92),
                                           {"broadcast", Lie::broadcast, 0.8},
                                           {"strided", Lie::strided, 0.8}})
      cases.push_back(compared(around, fmt::format("G5.chain10.{}.{}", name_of(dtype), name), ratios({}, limit),
                               [lie = lie, dtype] { return ten_ops_comparison(lie, dtype); }));
  return cases;
}

// ---- rows ----

constexpr double goal_of_limit = 0.85;

/// Short: what the kernel takes is the call without what a call takes on next to no elements.
Result measure_short(const Chain& chain, int64_t numel, const Surroundings& around) {
  constexpr int64_t next_to_none = 8;
  Result r = compare(comparison(chain, numel), around);
  const Comparison c = comparison(chain, numel), empty = comparison(chain, next_to_none);
  const Copy full_copy = c.make(), empty_copy = empty.make();
  const Timing timing =
      interleave({{rp::Mode::graph, [&] { full_copy.call(); }}, {rp::Mode::graph, [&] { empty_copy.call(); }}});
  const double share = static_cast<double>(numel) / static_cast<double>(numel - next_to_none);
  const double kernel = median(difference(timing.of[0], timing.of[1])) * share, match = median(timing.of[1]);
  r.met = *r.limit_ns / kernel >= goal_of_limit;
  r.more.update({{"kernel_ns", kernel}, {"match_ns", match}, {"kernel_fraction_of_limit", *r.limit_ns / kernel}});
  r.note = fmt::format("kernel {}, {:.0f}% of the limit; matching {}", time_text(kernel), 100 * *r.limit_ns / kernel,
                       time_text(match));
  return r;
}

}  // namespace

std::vector<Case> chain_cases(const Surroundings& around) {
  if (around.on_cuda()) return cuda_chain_cases(around);
  const Goal goal = ratios({{6, "eager peer", is_eager}, {1.2, "compiled peer", is_compiled}}, goal_of_limit);
  std::vector<Case> cases;
  for (const Chain& chain : chains) {
    const auto id = [&](const char* size) { return fmt::format("chain/{}/{}", chain.name, size); };
    cases.push_back({id("1k"), stated("kernel 85% of limit"), [&] { return measure_short(chain, 1 << 10, around); }});
    for (const auto& [size, numel] : {std::pair("64k", int64_t{1} << 16), {"4M", int64_t{1} << 22}})
      cases.push_back(compared(around, id(size), goal, [&chain, numel = numel] { return comparison(chain, numel); }));
  }
  return cases;
}

}  // namespace bench
