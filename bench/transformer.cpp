// A block of a transformer, forward and with the gradients of its input and parameters.
#include <fmt/core.h>

#include "reprise/bench/networks.h"

namespace bench {
namespace {

using rp::Tensor;
using rp::Tensors;

constexpr int64_t batch = 8, steps = 128, width = 256, heads = 4;

Spec spec_of(bool backward) {
  Spec spec{backward ? "transformer" : "forward", "transformer", {{"heads", heads}}};
  spec.add("x", {batch, steps, width});
  if (backward) spec.add("dy", {batch, steps, width});
  const EncoderBlock block(width, heads);
  rp::no_grad([&] { return block(rp::zeros({1, 1, width})); });  // makes the parameters
  add_parameters(block, spec);
  return spec;
}

Copy copy_of(const Spec& spec, bool backward) {
  const EncoderBlock block(width, heads);
  rp::no_grad([&] { return block(rp::zeros({1, 1, width})); });
  set_parameters(block, spec, backward ? 2 : 1);
  Tensor x = tensor_of(spec.parts[0]);
  if (!backward) {
    auto step = rp::capture([block](const Tensor& in) {
      const rp::NoGrad no_grad;
      return Tensors{block(in)};
    });
    return {[step, x]() mutable { return step(x); }};
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

Comparison comparison(bool backward) {
  Comparison c{.spec = spec_of(backward)};
  c.make = [spec = c.spec, backward] { return copy_of(spec, backward); };
  constexpr double rows = batch * steps, dense = 12 * width * width, attention = 2 * steps * width;
  c.flops = 2 * rows * (dense + attention) * (backward ? 3 : 1);
  for (const Part& p : c.spec.parts) c.bytes += 4 * static_cast<double>(p.numel()) * (backward ? 2 : 1);
  if (backward) c.entries = learning_peers();
  return c;
}

}  // namespace

std::vector<Case> transformer_cases(const Surroundings& around) {
  std::vector<Case> cases;
  for (const bool backward : {false, true})
    cases.push_back(compared(around, fmt::format("transformer/b8-s128-d256-h4/{}", backward ? "train" : "forward"),
                             ratios({{1.2, "peer", is_any}}), [backward] { return comparison(backward); }));
  return cases;
}

}  // namespace bench
