#include "reprise/core/ops/define.h"

namespace rp {
namespace {

using V = Value;

constexpr double sqrt_half = 0.7071067811865476, inverse_sqrt_2pi = 0.3989422804014327;
constexpr double sqrt_2_by_pi = 0.7978845608028654, gelu_cubic = 0.044715;

Tensors relu_gradient(const GradCall& c) { return {where(c.output() > 0, c.dy(), 0)}; }
Tensors leaky_gradient(const GradCall& c) { return {where(c.input(0) > 0, c.dy(), c.dy() * c.operand(1))}; }
Tensors elu_gradient(const GradCall& c) {
  return {where(c.input(0) > 0, c.dy(), c.dy() * (exp(minimum(c.input(0), 0)) * c.operand(1)))};
}
Tensors silu_gradient(const GradCall& c) {
  const Tensor x = c.input(0), s = sigmoid(x);
  return {c.dy() * (s * (1 + x * (1 - s)))};
}
Tensors gelu_gradient(const GradCall& c) {
  const Tensor x = c.input(0);
  return {c.dy() * ((erf(x * sqrt_half) + 1) * 0.5 + x * exp(square(x) * -0.5) * inverse_sqrt_2pi)};
}
Tensors gelu_tanh_gradient(const GradCall& c) {
  const Tensor x = c.input(0);
  const Tensor t = tanh((x + square(x) * x * gelu_cubic) * sqrt_2_by_pi);
  const Tensor du = (square(x) * (3 * gelu_cubic) + 1) * sqrt_2_by_pi;
  return {c.dy() * ((t + 1) * 0.5 + x * 0.5 * (1 - square(t)) * du)};
}

constinit const Op relu_op = pointwise<1>("relu", [](V x) { return max(x, 0.0); }, {relu_gradient, Needs::output},
                                          {.booleans = true, .differentiable = false});
constinit const Op leaky_relu_op =
    pointwise<2>("leaky_relu", [](V x, V slope) { return select(x > 0.0, x, x * slope); },
                 {leaky_gradient, Needs::inputs}, {.integers = false, .differentiable = false});
constinit const Op elu_op =
    pointwise<2>("elu", [](V x, V alpha) { return select(x > 0.0, x, expm1(min(x, 0.0)) * alpha); },
                 {elu_gradient, Needs::inputs}, {.integers = false, .differentiable = false});
constinit const Op silu_op = pointwise<1>("silu", [](V x) { return x * sigmoid(x); }, {silu_gradient, Needs::inputs});
constinit const Op softplus_op = pointwise<1>(
    "softplus", [](V x) { return max(x, 0.0) + log1p(exp(-abs(x))); },
    {[](const GradCall& c) { return Tensors{c.dy() * sigmoid(c.input(0))}; }, Needs::inputs}, {.low = -30, .high = 30});
constinit const Op gelu_op = pointwise<1>("gelu", [](V x) { return x * ((erf(x * sqrt_half) + 1.0) * 0.5); },
                                          {gelu_gradient, Needs::inputs}, {.ulp = 64});
constinit const Op gelu_tanh_op =
    pointwise<1>("gelu_tanh", [](V x) { return x * 0.5 * (tanh((x + x * x * x * gelu_cubic) * sqrt_2_by_pi) + 1.0); },
                 {gelu_tanh_gradient, Needs::inputs}, {.ulp = 64});

}  // namespace

Entries activation_entries() {
  static constexpr const Op* entries[] = {&relu_op,     &leaky_relu_op, &elu_op,      &silu_op,
                                          &softplus_op, &gelu_op,       &gelu_tanh_op};
  return entries;
}

Tensor relu(In x) { return unary(relu_op, x, Promote::same); }
const Tensor& relu_(In x) {
  const Operand a(x);
  elementwise_into(x, relu_op, {&a}, Promote::same);
  return x;
}

Tensor leaky_relu(In x, double slope) {
  const Operand a(x), b(slope, x.loc);
  return elementwise(leaky_relu_op, {&a, &b}, Promote::floating);
}

Tensor elu(In x, double alpha) {
  const Operand a(x), b(alpha, x.loc);
  return elementwise(elu_op, {&a, &b}, Promote::floating);
}

Tensor silu(In x) { return unary(silu_op, x, Promote::floating); }
Tensor softplus(In x) { return unary(softplus_op, x, Promote::floating); }
Tensor gelu(In x) { return unary(gelu_op, x, Promote::floating); }
Tensor gelu_tanh(In x) { return unary(gelu_tanh_op, x, Promote::floating); }

}  // namespace rp
