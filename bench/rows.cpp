// Softmax and layer norm, forward and with the gradient.
#include <fmt/core.h>

#include "reprise/bench/compare.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::Tensor;
using rp::Tensors;

using Norm = Tensor (*)(const Tensor&);

Tensor softmax(const Tensor& x) { return rp::softmax(x); }
Tensor layer_norm(const Tensor& x) { return rp::layer_norm(x); }

Copy copy_of(const Spec& spec, Norm norm, bool backward) {
  Tensors in = tensors_of(spec);
  if (backward) in[0].set_requires_grad();
  const auto run = [=](const Tensors& t) -> Tensors {
    if (!backward) return {norm(t[0])};
    const Tensor y = norm(t[0]);
    return {y.detach(), rp::grad({y}, {t[0]}, {.seeds = {t[1]}})[0]};
  };
  return {[in, step = rp::capture(run)]() mutable { return step(in); }};
}

/// x comes in and y goes out; with the gradient dy comes in and dx goes out too. A softmax takes the time of its exp at
/// least, as the innermost cache allows it.
Comparison comparison(const char* name, Norm norm, int64_t rows, int64_t columns, bool backward) {
  Comparison c{.spec = {"rows", name, {{"backward", backward}}}};
  c.spec.add("x", {rows, columns});
  if (backward) c.spec.add("dy", {rows, columns});
  c.make = [=, spec = c.spec] { return copy_of(spec, norm, backward); };
  const auto numel = static_cast<double>(rows * columns);
  c.bytes = 4 * numel * (backward ? 4 : 2);
  if (backward) c.entries = learning_peers();
  if (norm == softmax) c.arithmetic_ns = numel * element_ns([](const Tensors& t) { return Tensors{rp::exp(t[0])}; }, 1);
  return c;
}

}  // namespace

std::vector<Case> row_cases(const Surroundings& around) {
  std::vector<Case> cases;
  for (const auto& [name, norm] : {std::pair("softmax", &softmax), {"layer_norm", &layer_norm}})
    for (const auto& [rows, columns] : {std::pair(128, 128), {4096, 1024}})
      for (const bool backward : {false, true})
        cases.push_back(compared(
            around, fmt::format("rows/{}/{}x{}/{}", name, rows, columns, backward ? "train" : "forward"),
            ratios({{1.4, "peer", is_any}}, 0.7), [=, name = name, norm = norm, rows = rows, columns = columns] {
              return comparison(name, norm, rows, columns, backward);
            }));
  return cases;
}

}  // namespace bench
