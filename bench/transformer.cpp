// A block of a transformer, forward and with the gradients of its input and parameters.
#include <fmt/core.h>

#include "reprise/bench/networks.h"

namespace bench {
namespace {

using rp::Tensor;
using rp::Tensors;

struct BlockSize {
  int64_t batch, steps, width, heads;
};
constexpr BlockSize small{8, 128, 256, 4}, large{8, 2048, 4096, 32}, tiny{1, 64, 256, 4};

Spec spec_of(const BlockSize& s, bool backward, rp::DType dtype) {
  Spec spec{backward ? "transformer" : "forward", "transformer", {{"heads", s.heads}}};
  spec.add("x", {s.batch, s.steps, s.width});
  if (backward) spec.add("dy", {s.batch, s.steps, s.width});
  spec = stored_as(dtype, spec);
  const EncoderBlock block(s.width, s.heads);
  rp::no_grad([&] { return block(rp::zeros({1, 1, s.width})); });  // makes the parameters
  add_parameters(block, spec);
  return spec;
}

Copy copy_of(const BlockSize& s, const Spec& spec, bool backward) {
  const EncoderBlock block(s.width, s.heads);
  rp::no_grad([&] { return block(rp::zeros({1, 1, s.width})); });
  set_parameters(block, spec, backward ? 2 : 1);
  Tensor x = tensor_of(spec.parts[0]);
  if (!backward) {
    auto step = rp::capture([block](const Tensor& in) {
      const rp::NoGrad no_grad;
      return Tensors{block(in)};
    });
    return {.call = [step, x]() mutable { return step(x); }, .report = [step] { return step.json(); }};
  }
  x.set_requires_grad();
  Tensors leaves{x};
  for (const auto& [name, t] : block.parameters()) leaves.push_back(t);
  auto step = rp::capture([block, leaves](const Tensor& dy) {
    const Tensor y = block(leaves[0]);
    Tensors results = rp::grad({y}, leaves, {.seeds = {dy}});
    results.insert(results.begin(), y.detach());
    return results;
  });
  return {[step, dy = tensor_of(spec.parts[1])]() mutable { return step(dy); }};
}

/// Layers compute in the dtype of x and dy; the parameters are f32.
Comparison comparison(const BlockSize& s, bool backward, rp::DType dtype = rp::DType::f32) {
  Comparison c{.spec = spec_of(s, backward, dtype)};
  c.make = [s, spec = c.spec, backward] { return copy_of(s, spec, backward); };
  const auto rows = static_cast<double>(s.batch * s.steps), dense = 12.0 * static_cast<double>(s.width * s.width),
             attention = 2.0 * static_cast<double>(s.steps * s.width);
  c.flops = 2 * rows * (dense + attention) * (backward ? 3 : 1);
  for (const Part& p : c.spec.parts) c.bytes += bytes_of(p) * (backward ? 2 : 1);
  c.tolerance = tolerance_of(dtype);
  c.tensor_cores = rp::is_short(dtype);
  if (backward) c.entries = learning_peers();
  return c;
}

}  // namespace

std::vector<Case> transformer_cases(const Surroundings& around) {
  if (around.on_cuda()) {
    Goal few = ratios({{1, "compiled peer", is_compiled}}, 1);
    few.text += ", 9 kernels";
    few.met = [met = few.met](const Result& r) {
      return r.more.value("kernels", 0) > 9 ? std::optional(false) : met(r);
    };
    std::vector<Case> cases{
        compared(around, "G15.transformer.f32.b1-s64-d256.forward", few, [] { return comparison(tiny, false); })};
    for (const rp::DType dtype : {rp::DType::bf16, rp::DType::f32})
      cases.push_back(compared(around, goal_id("G14", "transformer", dtype) + ".b8-s2048-d4096.train",
                               ratios({{1, "compiled peer", is_compiled}}),
                               [dtype] { return comparison(large, true, dtype); }));
    return cases;
  }
  std::vector<Case> cases;
  for (const bool backward : {false, true})
    cases.push_back(compared(around, fmt::format("transformer/b8-s128-d256-h4/{}", backward ? "train" : "forward"),
                             ratios({{1.2, "peer", is_any}}), [backward] { return comparison(small, backward); }));
  return cases;
}

}  // namespace bench
