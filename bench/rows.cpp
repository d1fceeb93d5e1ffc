// Softmax and layer norm, forward and with the gradient.
#include <fmt/core.h>

#include <tuple>

#include "reprise/bench/compare.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::Tensor;
using rp::Tensors;

using Norm = Tensor (*)(const Tensor&);

Tensor softmax(const Tensor& x) { return rp::softmax(x); }
Tensor layer_norm(const Tensor& x) { return rp::layer_norm(x); }
Tensor rms_norm(const Tensor& x) { return x * rp::rsqrt(rp::mean(x * x, {-1}, true) + 1e-5f); }

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

// ---- on a CUDA device ----

/// With the gradients of scale and shift, which are sums over all rows.
Comparison affine_norm(int64_t rows, int64_t columns) {
  Comparison c{.spec = {"rows", "affine_norm", {{"backward", true}}}};
  c.spec.add("x", {rows, columns});
  c.spec.add("scale", {columns}, 0.1, 1);
  c.spec.add("shift", {columns}, 0.1);
  c.spec.add("dy", {rows, columns});
  c.make = [spec = c.spec]() -> Copy {
    Tensors in = tensors_of(spec);
    for (size_t i = 0; i < 3; ++i) in[i].set_requires_grad();
    const auto run = [](const Tensors& t) {
      const Tensor y = rp::layer_norm(t[0], t[1], t[2]);
      Tensors all = rp::grad({y}, {t[0], t[1], t[2]}, {.seeds = {t[3]}});
      all.insert(all.begin(), y.detach());
      return all;
    };
    return {[in, step = rp::capture(run)]() mutable { return step(in); }};
  };
  c.bytes = 4.0 * static_cast<double>(rows * columns) * 4;
  c.entries = learning_peers();
  return c;
}

/// The loss, and the gradient of the logits in the same pass.
Comparison cross_entropy(int64_t rows, int64_t classes) {
  Comparison c{.spec = {"rows", "cross_entropy", {{"backward", true}}}};
  c.spec.add("x", {rows, classes});
  c.spec.add("y", {rows}).classes = classes;
  c.make = [spec = c.spec]() -> Copy {
    Tensors in = tensors_of(spec);
    in[0].set_requires_grad();
    const auto run = [](const Tensors& t) {
      const Tensor loss = rp::cross_entropy(t[0], t[1]);
      return Tensors{loss.detach(), rp::grad({loss}, {t[0]})[0]};
    };
    return {[in, step = rp::capture(run)]() mutable { return step(in); }};
  };
  c.bytes = 4.0 * static_cast<double>(rows * classes) * 2;
  c.entries = learning_peers();
  return c;
}

/// 128 MB in, 128 MB out.
std::vector<Case> cuda_row_cases(const Surroundings& around) {
  std::vector<Case> cases;
  for (const int64_t columns : {4096, 128, 1024, 16384})
    for (const auto& [name, kind, norm] : {std::tuple("softmax", "softmax", &softmax),
                                           {"layernorm", "layer_norm", &layer_norm},
                                           {"rmsnorm", "rms_norm", &rms_norm}}) {
      const int64_t rows = (int64_t{1} << 25) / columns;
      cases.push_back(compared(around, fmt::format("G6.{}.f32.{}x{}", name, rows, columns), ratios({}, 0.88),
                               [=, kind = kind, norm = norm] { return comparison(kind, norm, rows, columns, false); }));
    }
  cases.push_back(
      compared(around, "G7.layernorm_backward.f32.8192x4096", ratios({}, 0.8), [] { return affine_norm(8192, 4096); }));
  cases.push_back(
      compared(around, "G7.cross_entropy.f32.2048x50000", ratios({}, 0.8), [] { return cross_entropy(2048, 50'000); }));
  return cases;
}

}  // namespace

std::vector<Case> row_cases(const Surroundings& around) {
  if (around.on_cuda()) return cuda_row_cases(around);
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
