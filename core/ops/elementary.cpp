// Elementary functions: their meanings are primitives of the expression language.
#include "reprise/core/ops/define.h"

namespace rp {
namespace {

using V = Value;

// A gradient rule that is dy times a factor computed from the input or from the output.
template <class F>
constexpr Gradient by_input(F) {
  return {[](const GradCall& c) { return Tensors{c.dy() * F{}(c.input(0))}; }, Needs::inputs};
}
template <class F>
constexpr Gradient by_output(F) {
  return {[](const GradCall& c) { return Tensors{c.dy() * F{}(c.output())}; }, Needs::output};
}
using T = const Tensor&;

constexpr double two_by_sqrt_pi = 1.1283791670955126;

constinit const Op exp_op = pointwise<1>("exp", [](V x) { return exp(x); }, by_output([](T y) { return y; }));
constinit const Op expm1_op = pointwise<1>("expm1", [](V x) { return expm1(x); }, by_output([](T y) { return y + 1; }));
constinit const Op log_op = pointwise<1>(
    "log", [](V x) { return log(x); }, {[](const GradCall& c) { return Tensors{c.dy() / c.input(0)}; }, Needs::inputs},
    {.low = 0.1, .high = 5});
constinit const Op log1p_op = pointwise<1>(
    "log1p", [](V x) { return log1p(x); },
    {[](const GradCall& c) { return Tensors{c.dy() / (c.input(0) + 1)}; }, Needs::inputs}, {.low = -0.8, .high = 4});
constinit const Op sqrt_op =
    pointwise<1>("sqrt", [](V x) { return sqrt(x); },
                 {[](const GradCall& c) { return Tensors{c.dy() / (c.output() * 2)}; }, Needs::output},
                 {.low = 0.1, .high = 4, .integers = false});
constinit const Op rsqrt_op =
    pointwise<1>("rsqrt", [](V x) { return 1.0 / sqrt(x); },
                 {[](const GradCall& c) { return Tensors{c.dy() * (c.output() / c.input(0) * -0.5)}; }, Needs::both},
                 {.low = 0.2, .high = 4, .integers = false});
constinit const Op sin_op = pointwise<1>("sin", [](V x) { return sin(x); }, by_input([](T x) { return cos(x); }));
constinit const Op cos_op = pointwise<1>("cos", [](V x) { return cos(x); }, by_input([](T x) { return -sin(x); }));
constinit const Op tan_op = pointwise<1>("tan", [](V x) { return tan(x); },
                                         by_output([](T y) { return square(y) + 1; }), {.low = -1, .high = 1});
constinit const Op asin_op =
    pointwise<1>("asin", [](V x) { return asin(x); }, by_input([](T x) { return rsqrt(1 - square(x)); }),
                 {.low = -0.9, .high = 0.9});
constinit const Op acos_op =
    pointwise<1>("acos", [](V x) { return acos(x); }, by_input([](T x) { return -rsqrt(1 - square(x)); }),
                 {.low = -0.9, .high = 0.9});
constinit const Op atan_op =
    pointwise<1>("atan", [](V x) { return atan(x); }, by_input([](T x) { return reciprocal(square(x) + 1); }));
constinit const Op tanh_op =
    pointwise<1>("tanh", [](V x) { return tanh(x); }, by_output([](T y) { return 1 - square(y); }));
constinit const Op sigmoid_op =
    pointwise<1>("sigmoid", [](V x) { return sigmoid(x); }, by_output([](T y) { return y * (1 - y); }));
constinit const Op erf_op =
    pointwise<1>("erf", [](V x) { return erf(x); }, by_input([](T x) { return exp(-square(x)) * two_by_sqrt_pi; }));

constexpr Gradient flat{[](const GradCall& c) { return Tensors{zeros_like(c.dy())}; }};
constexpr Samples steps{.integers = false, .differentiable = false};
constinit const Op floor_op = pointwise<1>("floor", [](V x) { return floor(x); }, flat, steps);
constinit const Op ceil_op = pointwise<1>("ceil", [](V x) { return ceil(x); }, flat, steps);
constinit const Op round_op = pointwise<1>("round", [](V x) { return nearest(x); }, flat, steps);
constinit const Op trunc_op = pointwise<1>("trunc", [](V x) { return trunc(x); }, flat, steps);

}  // namespace

Entries elementary_entries() {
  static constexpr const Op* entries[] = {&exp_op, &expm1_op, &log_op,  &log1p_op, &sqrt_op, &rsqrt_op, &sin_op,
                                          &cos_op, &tan_op,   &asin_op, &acos_op,  &atan_op, &tanh_op,  &sigmoid_op,
                                          &erf_op, &floor_op, &ceil_op, &round_op, &trunc_op};
  return entries;
}

Tensor exp(In x) { return unary(exp_op, x, Promote::floating); }
Tensor expm1(In x) { return unary(expm1_op, x, Promote::floating); }
Tensor log(In x) { return unary(log_op, x, Promote::floating); }
Tensor log1p(In x) { return unary(log1p_op, x, Promote::floating); }
Tensor sqrt(In x) { return unary(sqrt_op, x, Promote::floating); }
Tensor rsqrt(In x) { return unary(rsqrt_op, x, Promote::floating); }
Tensor sin(In x) { return unary(sin_op, x, Promote::floating); }
Tensor cos(In x) { return unary(cos_op, x, Promote::floating); }
Tensor tan(In x) { return unary(tan_op, x, Promote::floating); }
Tensor asin(In x) { return unary(asin_op, x, Promote::floating); }
Tensor acos(In x) { return unary(acos_op, x, Promote::floating); }
Tensor atan(In x) { return unary(atan_op, x, Promote::floating); }
Tensor tanh(In x) { return unary(tanh_op, x, Promote::floating); }
Tensor sigmoid(In x) { return unary(sigmoid_op, x, Promote::floating); }
Tensor erf(In x) { return unary(erf_op, x, Promote::floating); }
Tensor floor(In x) { return unary(floor_op, x, Promote::floating); }
Tensor ceil(In x) { return unary(ceil_op, x, Promote::floating); }
Tensor round(In x) { return unary(round_op, x, Promote::floating); }
Tensor trunc(In x) { return unary(trunc_op, x, Promote::floating); }

}  // namespace rp
