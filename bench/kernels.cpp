// Fused chains, reductions along rows, matrix products.
#include <fmt/core.h>

#include "reprise/bench/cases.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::Tensor;

Goal captured(double ns) { return {Goal::Of::captured, ns}; }

/// Runs `body` on `count` random tensors of `shape`, captured.
template <class Body>
Make on_random(const rp::Shape& shape, int count, Body body) {
  return [=]() -> std::function<void()> {
    rp::Tensors in;
    for (int i = 0; i < count; ++i) in.push_back(rp::uniform(shape, -1, 1));
    return [in, step = rp::capture(body)]() mutable { step(in); };
  };
}

/// The gates of an LSTM cell: 9 ops, 5 tensors in, 2 out.
rp::Tensors lstm_gates(const rp::Tensors& in) {
  Tensor c = rp::sigmoid(in[0]) * in[4] + rp::sigmoid(in[1]) * rp::tanh(in[2]);
  Tensor h = rp::sigmoid(in[3]) * rp::tanh(c);
  return {c, h};
}

/// Bias, GELU by tanh, scale, residual: 12 ops, 3 tensors in, 1 out.
Tensor gelu_chain(const rp::Tensors& in) {
  Tensor x = in[0] + in[1];
  Tensor t = rp::tanh((x + x * x * x * 0.044715f) * 0.7978846f);
  return (t + 1) * 0.5f * x * 1.5f + in[2];
}

/// relu(a * b + c) * s - a: 5 ops, 3 tensors in, 1 out.
Tensor cheap_chain(const rp::Tensors& in) { return rp::relu(in[0] * in[1] + in[2]) * 1.5f - in[0]; }

void add_chains(std::vector<Case>& cases) {
  struct Size {
    const char* name;
    int64_t numel;
    double lstm_ns, gelu_ns, cheap_ns;
  };
  constexpr Size sizes[] = {
      {"1k", 1 << 10, 2200, 700, 150}, {"64k", 1 << 16, 150e3, 45e3, 20e3}, {"4M", 1 << 22, 10e6, 3.6e6, 2.8e6}};
  for (const Size& s : sizes) {
    const std::string end = std::string("/") + s.name;
    cases.push_back(paired("chain/lstm_gates" + end, captured(s.lstm_ns), on_random({s.numel}, 5, lstm_gates)));
    cases.push_back(paired("chain/gelu12" + end, captured(s.gelu_ns), on_random({s.numel}, 3, gelu_chain)));
    cases.push_back(paired("chain/cheap5" + end, captured(s.cheap_ns), on_random({s.numel}, 3, cheap_chain)));
  }
}

void add_rows(std::vector<Case>& cases) {
  const auto softmax = [](const rp::Tensors& in) { return rp::softmax(in[0]); };
  const auto layer_norm = [](const rp::Tensors& in) { return rp::layer_norm(in[0]); };
  cases.push_back(paired("rows/softmax/128x128", captured(9e3), on_random({128, 128}, 1, softmax)));
  cases.push_back(paired("rows/softmax/4096x1024", captured(3.1e6), on_random({4096, 1024}, 1, softmax)));
  cases.push_back(paired("rows/layer_norm/128x128", captured(5e3), on_random({128, 128}, 1, layer_norm)));
  cases.push_back(paired("rows/layer_norm/4096x1024", captured(2.6e6), on_random({4096, 1024}, 1, layer_norm)));
}

void add_products(std::vector<Case>& cases) {
  constexpr int64_t sizes[][3] = {{1, 128, 512}, {32, 128, 512}, {128, 784, 512}, {512, 512, 512}, {256, 1024, 256}};
  for (const auto& [m, k, n] : sizes) {
    const auto make = [m = m, k = k, n = n]() -> std::function<void()> {
      Tensor a = rp::uniform({m, k}, -1, 1), b = rp::uniform({k, n}, -1, 1);
      return [a, b, step = rp::capture([](const Tensor& x, const Tensor& y) { return rp::matmul(x, y); })]() mutable {
        step(a, b);
      };
    };
    cases.push_back(paired(fmt::format("matmul/{}x{}x{}", m, k, n), {Goal::Of::not_slower}, make,
                           2.0 * static_cast<double>(m * k * n)));
  }
}

/// What a loop of 32 steps adds up for a weight's gradient, as one product and, for comparison, in steps: the first
/// belongs beside the plain product of the same size.
void add_sums_of_products(std::vector<Case>& cases) {
  constexpr int64_t m = 256, k = 1024, n = 256, steps = 32;
  const auto segmented = [](const rp::Tensors& in) {
    const Tensor a = in[0].transpose();
    const Tensor* inputs[] = {&a, &in[1]};
    return rp::apply({.op = &rp::segmented_matmul_op, .inputs = inputs, .attrs = rp::SegmentAttrs{k / steps}});
  };
  const auto in_steps = [](const rp::Tensors& in) {
    Tensor sum;
    for (int64_t t = 0; t < k; t += k / steps) {
      const auto rows = [&](size_t i) { return in[i].slice(0, t, t + k / steps); };
      const Tensor product = rp::matmul(rows(0).transpose(), rows(1));
      sum = t ? sum + product : product;
    }
    return sum;
  };
  constexpr double flops = 2.0 * static_cast<double>(m * k * n);
  cases.push_back(paired("matmul/segmented", {Goal::Of::not_slower}, on_random({k, m}, 2, segmented), flops));
  cases.push_back(paired("matmul/sum_of_32", {Goal::Of::faster}, on_random({k, m}, 2, in_steps), flops));
}

}  // namespace

std::vector<Case> kernel_cases() {
  std::vector<Case> cases;
  add_chains(cases);
  add_rows(cases);
  add_products(cases);
  add_sums_of_products(cases);
  return cases;
}

}  // namespace bench
