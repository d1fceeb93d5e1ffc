#include "reprise/test/differences.h"

#include <algorithm>
#include <cmath>

#include "reprise/core/ops.h"
#include "reprise/eager/grad.h"
#include "reprise/test/op_cases.h"

namespace rp::test {
namespace {

Tensor weights(const Spec& spec, uint64_t seed) {
  Draw draw(seed);
  return contiguous(draw.array({spec.shape, DType::f64, 0.5, 1.5}));
}

Tensors leaves(const Tensors& inputs) {
  Tensors result;
  for (const Tensor& t : inputs) {
    result.push_back(t.detach().clone());
    result.back().set_requires_grad();
  }
  return result;
}

// Compares `analytic` with the differences of the scalar function g.
std::string compare(const std::function<double(const Tensors&)>& g, const Tensors& inputs, const Tensors& analytic) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (analytic[i].spec() != inputs[i].spec())
      return "input " + std::to_string(i) + ": a gradient of another shape or dtype";
    const std::vector<double> got = analytic[i].to_vector<double>(), x = inputs[i].to_vector<double>();
    for (size_t e = 0; e < x.size(); ++e) {
      const double h = 6e-6 * std::max(1.0, std::fabs(x[e]));
      const auto moved = [&](double by) {
        Tensors shifted = inputs;
        std::vector<double> values = x;
        values[e] += by;
        shifted[i] = tensor(values, inputs[i].shape());
        return g(shifted);
      };
      const double want = (moved(h) - moved(-h)) / (2 * h);
      if (!(std::fabs(got[e] - want) <= 1e-7 + 1e-5 * std::fabs(want)))
        return "input " + std::to_string(i) + ", element " + std::to_string(e) + ": " + std::to_string(got[e]) +
               " instead of " + std::to_string(want);
    }
  }
  return {};
}

}  // namespace

std::string gradient_error(const RealFunction& f, const Tensors& inputs) {
  const Tensors x = leaves(inputs);
  const Tensor y = f(x);
  const Tensor w = weights(y.spec(), 3);
  if (!y.requires_grad()) return "the result does not depend on the inputs";
  const auto g = [&](const Tensors& in) { return no_grad([&] { return sum(f(in) * w).item<double>(); }); };
  Tensors dx = grad({y}, x, {.allow_unused = true, .seeds = {w}});
  for (size_t i = 0; i < x.size(); ++i)
    if (!dx[i].defined()) dx[i] = zeros_like(x[i]);
  return compare(g, inputs, dx);
}

std::string second_gradient_error(const RealFunction& f, const Tensors& inputs) {
  const Tensor probe = no_grad([&] { return f(inputs); });
  Tensors all = inputs;
  all.push_back(weights(probe.spec(), 3));
  Tensors v;
  for (const Tensor& t : inputs) v.push_back(weights(t.spec(), 7 + v.size()));
  // The gradients' weighted sum, noted if the leaves ask for it.
  const auto first = [&](const Tensors& x) {
    const Tensors in(x.begin(), x.end() - 1);
    const Tensors dx = grad({f(in)}, in, {.create_graph = true, .allow_unused = true, .seeds = {x.back()}});
    Tensor total = zeros({}, DType::f64);
    for (size_t i = 0; i < dx.size(); ++i)
      if (dx[i].defined()) total = total + sum(dx[i] * v[i]);
    return total;
  };
  const Tensors x = leaves(all);
  const Tensor y = first(x);
  Tensors ddx(x.size());
  if (y.requires_grad()) ddx = grad({y}, x, {.allow_unused = true});
  for (size_t i = 0; i < x.size(); ++i)
    if (!ddx[i].defined()) ddx[i] = zeros_like(x[i]);
  return compare([&](const Tensors& in) { return first(leaves(in)).item<double>(); }, all, ddx);
}

}  // namespace rp::test
