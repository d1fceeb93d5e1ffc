// Arithmetic, comparison and choice.
#include <cmath>

#include "reprise/core/ops/define.h"

namespace rp {
namespace {

using V = Value;

// `wanted ? expression : undefined`, without computing what nobody asked for.
#define RP_WANTED(k, expression) (c.wanted(k) ? (expression) : Tensor())

Tensors add_gradient(const GradCall& c) { return {c.dy(), c.dy()}; }
Tensors sub_gradient(const GradCall& c) { return {c.dy(), RP_WANTED(1, -c.dy())}; }
Tensors mul_gradient(const GradCall& c) {
  return {RP_WANTED(0, c.dy() * c.operand(1)), RP_WANTED(1, c.dy() * c.operand(0))};
}
Tensors div_gradient(const GradCall& c) {
  return {RP_WANTED(0, c.dy() / c.operand(1)), RP_WANTED(1, -(c.dy() * c.output() / c.operand(1)))};
}
Tensors pow_gradient(const GradCall& c) {
  const Operand x = c.operand(0), y = c.operand(1);
  const double base = x.scalar.f, exponent = y.scalar.f;
  Tensor dx, dexponent;
  if (c.wanted(0) && y.tensor)
    dx = where(y == 0, 0, c.dy() * y * pow(x, y - 1));
  else if (c.wanted(0))
    dx = exponent == 0 ? zeros_like(c.dy()) : c.dy() * exponent * pow(x, exponent - 1);
  // log(0) * 0^y counts as 0 for y > 0
  if (c.wanted(1) && x.tensor)
    dexponent = c.dy() * c.output() * log(where(x > 0, x, 1) + (x * 0));
  else if (c.wanted(1))
    dexponent = c.dy() * c.output() * std::log((base > 0 ? base : 1) + base * 0);
  return {dx, dexponent};
}
// The gradient goes to the operand that was taken, to the first of equals.
Tensors maximum_gradient(const GradCall& c) {
  const Tensor first = c.operand(0) >= c.operand(1);
  return {RP_WANTED(0, where(first, c.dy(), 0)), RP_WANTED(1, where(first, 0, c.dy()))};
}
Tensors minimum_gradient(const GradCall& c) {
  const Tensor first = c.operand(0) <= c.operand(1);
  return {RP_WANTED(0, where(first, c.dy(), 0)), RP_WANTED(1, where(first, 0, c.dy()))};
}
Tensors where_gradient(const GradCall& c) {
  const Operand condition = c.operand(0);
  return {{}, RP_WANTED(1, where(*condition.tensor, c.dy(), 0)), RP_WANTED(2, where(*condition.tensor, 0, c.dy()))};
}
Tensors clamp_gradient(const GradCall& c) {
  const Operand x = c.operand(0);
  return {where(logical_and(x >= c.operand(1), x <= c.operand(2)), c.dy(), 0)};
}

Value sign_of(V x) { return select(x > 0, 1.0, select(x < 0, -1.0, x)); }

bool floating(V x) { return x.type == Type::f32 || x.type == Type::f64; }

Value floor_quotient(V a, V b) {
  if (floating(a)) return floor(a / b);
  const V q = a / b, r = rem(a, b);
  const V zero = a.builder->constant(0, a.type);
  const V inexact = (r != zero) & ((r < zero) ^ (b < zero));
  return select(inexact, q - 1, q);
}

Value floor_remainder(V a, V b) {
  // One rounding leaves no cancellation; a quotient that was rounded up to an integer leaves a rest of the wrong sign.
  const V r = floating(a) ? fma(-floor(a / b), b, a) : rem(a, b), zero = a.builder->constant(0, a.type);
  return select((r != zero) & ((r < zero) ^ (b < zero)), r + b, r);
}

constexpr Samples kinked{.differentiable = false};

}  // namespace

constinit const Op add_op = pointwise<2>("add", [](V a, V b) { return a + b; }, {add_gradient});
constinit const Op mul_op = pointwise<2>("mul", [](V a, V b) { return a * b; }, {mul_gradient, Needs::inputs});

namespace {

constinit const Op sub_op = pointwise<2>("sub", [](V a, V b) { return a - b; }, {sub_gradient});
constinit const Op div_op =
    pointwise<2>("div", [](V a, V b) { return a / b; }, {div_gradient, Needs::both}, {.low = 0.2, .high = 3});
constinit const Op floor_div_op = pointwise<2>("floor_div", [](V a, V b) { return floor_quotient(a, b); }, {}, kinked);
constinit const Op remainder_op =
    pointwise<2>("remainder", [](V a, V b) { return floor_remainder(a, b); },
                 {[](const GradCall& c) -> Tensors {
                    return {c.dy(), RP_WANTED(1, -(c.dy() * floor_div(c.operand(0), c.operand(1))))};
                  },
                  Needs::inputs},
                 {.low = 0.3, .high = 4, .differentiable = false});
constinit const Op pow_op = pointwise<2>("pow", [](V a, V b) { return pow(a, b); }, {pow_gradient, Needs::both},
                                         {.low = 0.2, .high = 3, .integers = false});
constinit const Op maximum_op =
    pointwise<2>("maximum", [](V a, V b) { return max(a, b); }, {maximum_gradient, Needs::inputs}, {.booleans = true});
constinit const Op minimum_op =
    pointwise<2>("minimum", [](V a, V b) { return min(a, b); }, {minimum_gradient, Needs::inputs}, {.booleans = true});
constinit const Op neg_op =
    pointwise<1>("neg", [](V x) { return -x; }, {[](const GradCall& c) { return Tensors{-c.dy()}; }});
constinit const Op abs_op = pointwise<1>(
    "abs", [](V x) { return abs(x); },
    {[](const GradCall& c) { return Tensors{c.dy() * sign(c.input(0))}; }, Needs::inputs}, {.low = 0.1, .high = 2});
constinit const Op sign_op =
    pointwise<1>("sign", [](V x) { return sign_of(x); }, {}, {.booleans = true, .differentiable = false});
constinit const Op square_op =
    pointwise<1>("square", [](V x) { return x * x; },
                 {[](const GradCall& c) { return Tensors{c.dy() * (c.input(0) * 2)}; }, Needs::inputs});
constinit const Op reciprocal_op =
    pointwise<1>("reciprocal", [](V x) { return 1.0 / x; },
                 {[](const GradCall& c) { return Tensors{-(c.dy() * square(c.output()))}; }, Needs::output},
                 {.low = 0.2, .high = 3});
constinit const Op clamp_op =
    pointwise<3>("clamp", [](V x, V low, V high) { return min(max(x, low), high); }, {clamp_gradient, Needs::inputs},
                 {.booleans = true, .differentiable = false});

constinit const Op equal_op =
    pointwise<2>("equal", [](V a, V b) { return a == b; }, {}, {.booleans = true}, bool_as_input);
constinit const Op not_equal_op =
    pointwise<2>("not_equal", [](V a, V b) { return a != b; }, {}, {.booleans = true}, bool_as_input);
constinit const Op less_op =
    pointwise<2>("less", [](V a, V b) { return a < b; }, {}, {.booleans = true}, bool_as_input);
constinit const Op less_equal_op =
    pointwise<2>("less_equal", [](V a, V b) { return a <= b; }, {}, {.booleans = true}, bool_as_input);
constinit const Op greater_op =
    pointwise<2>("greater", [](V a, V b) { return a > b; }, {}, {.booleans = true}, bool_as_input);
constinit const Op greater_equal_op =
    pointwise<2>("greater_equal", [](V a, V b) { return a >= b; }, {}, {.booleans = true}, bool_as_input);
constexpr Samples logical{.floats = false, .integers = false, .booleans = true};
constinit const Op and_op = pointwise<2>("logical_and", [](V a, V b) { return a & b; }, {}, logical);
constinit const Op or_op = pointwise<2>("logical_or", [](V a, V b) { return a | b; }, {}, logical);
constinit const Op not_op = pointwise<1>("logical_not", [](V x) { return !x; }, {}, logical);
constinit const Op isnan_op = pointwise<1>("isnan", [](V x) { return x != x; }, {}, {.booleans = true}, bool_as_input);

// The dtype is that of the choices; `where` makes a tensor of one if both are numbers.
const Layout* where_shape(const ShapeCall& c) {
  if (c.inputs.size() > 1) return c.inputs.back()->packed;
  fail("where: expected a tensor among the choices");
}
constinit const Op where_op = pointwise<3>(
    "where", [](V m, V a, V b) { return select(m, a, b); }, {where_gradient, Needs::inputs}, {.booleans = true},
    where_shape);

}  // namespace

Entries arithmetic_entries() {
  static constexpr const Op* entries[] = {
      &add_op,     &sub_op,     &mul_op,       &div_op,   &floor_div_op,  &remainder_op, &pow_op,
      &maximum_op, &minimum_op, &neg_op,       &abs_op,   &sign_op,       &square_op,    &reciprocal_op,
      &clamp_op,   &equal_op,   &not_equal_op, &less_op,  &less_equal_op, &greater_op,   &greater_equal_op,
      &and_op,     &or_op,      &not_op,       &isnan_op, &where_op};
  return entries;
}

Tensor add(const Operand& a, const Operand& b) { return elementwise(add_op, {&a, &b}, Promote::same); }
Tensor sub(const Operand& a, const Operand& b) { return elementwise(sub_op, {&a, &b}, Promote::same); }
Tensor mul(const Operand& a, const Operand& b) { return elementwise(mul_op, {&a, &b}, Promote::same); }
Tensor div(const Operand& a, const Operand& b) { return elementwise(div_op, {&a, &b}, Promote::floating); }
Tensor floor_div(const Operand& a, const Operand& b) { return elementwise(floor_div_op, {&a, &b}, Promote::same); }
Tensor remainder(const Operand& a, const Operand& b) { return elementwise(remainder_op, {&a, &b}, Promote::same); }
Tensor pow(const Operand& a, const Operand& b) { return elementwise(pow_op, {&a, &b}, Promote::floating); }
Tensor maximum(const Operand& a, const Operand& b) { return elementwise(maximum_op, {&a, &b}, Promote::same); }
Tensor minimum(const Operand& a, const Operand& b) { return elementwise(minimum_op, {&a, &b}, Promote::same); }
Tensor neg(In x) { return unary(neg_op, x, Promote::same); }
Tensor abs(In x) { return unary(abs_op, x, Promote::same); }
Tensor sign(In x) { return unary(sign_op, x, Promote::same); }
Tensor square(In x) { return unary(square_op, x, Promote::same); }
Tensor reciprocal(In x) { return unary(reciprocal_op, x, Promote::floating); }

Tensor clamp(In x, Scalar low, Scalar high) {
  const Operand a(x), b(low, x.loc), c(high, x.loc);
  return elementwise(clamp_op, {&a, &b, &c}, Promote::same);
}

Tensor equal(const Operand& a, const Operand& b) { return elementwise(equal_op, {&a, &b}, Promote::same); }
Tensor not_equal(const Operand& a, const Operand& b) { return elementwise(not_equal_op, {&a, &b}, Promote::same); }
Tensor less(const Operand& a, const Operand& b) { return elementwise(less_op, {&a, &b}, Promote::same); }
Tensor less_equal(const Operand& a, const Operand& b) { return elementwise(less_equal_op, {&a, &b}, Promote::same); }
Tensor greater(const Operand& a, const Operand& b) { return elementwise(greater_op, {&a, &b}, Promote::same); }
Tensor greater_equal(const Operand& a, const Operand& b) {
  return elementwise(greater_equal_op, {&a, &b}, Promote::same);
}
Tensor logical_and(const Operand& a, const Operand& b) { return elementwise(and_op, {&a, &b}, Promote::boolean); }
Tensor logical_or(const Operand& a, const Operand& b) { return elementwise(or_op, {&a, &b}, Promote::boolean); }
Tensor logical_not(In x) { return unary(not_op, x, Promote::boolean); }
Tensor isnan(In x) { return unary(isnan_op, x, Promote::same); }

Tensor masked_fill(In x, In mask, Scalar value) {
  At at(x.loc);
  if (mask->dtype() != DType::boolean) fail("masked_fill: expected a bool mask, got {}", to_string(mask->spec()));
  return where(mask, Operand(value, x.loc), Operand(x));
}

Tensor where(In condition, const Operand& a, const Operand& b) {
  At at(condition.loc);
  if (condition->dtype() != DType::boolean)
    fail("where: expected a bool condition, got {}", to_string(condition->spec()));
  const Operand m(condition);
  if (!a.tensor && !b.tensor) {  // two numbers: the first becomes a tensor of the dtype that holds both
    using K = Scalar::Kind;
    const DType dtype = a.scalar.kind == K::real || b.scalar.kind == K::real         ? DType::f32
                        : a.scalar.kind == K::integer || b.scalar.kind == K::integer ? DType::i64
                                                                                     : DType::boolean;
    const DeviceScope on(condition->device());
    const Tensor first = full({}, a.scalar, dtype);
    const Operand choice(first, condition.loc);
    return elementwise(where_op, {&m, &choice, &b}, Promote::same);
  }
  return elementwise(where_op, {&m, &a, &b}, Promote::same);
}

const Tensor& add_(In x, const Operand& y) {
  const Operand a(x);
  elementwise_into(x, add_op, {&a, &y}, Promote::same);
  return x;
}
const Tensor& sub_(In x, const Operand& y) {
  const Operand a(x);
  elementwise_into(x, sub_op, {&a, &y}, Promote::same);
  return x;
}
const Tensor& mul_(In x, const Operand& y) {
  const Operand a(x);
  elementwise_into(x, mul_op, {&a, &y}, Promote::same);
  return x;
}
const Tensor& div_(In x, const Operand& y) {
  const Operand a(x);
  elementwise_into(x, div_op, {&a, &y}, Promote::floating);
  return x;
}
const Tensor& clamp_(In x, Scalar low, Scalar high) {
  const Operand a(x), b(low, x.loc), c(high, x.loc);
  elementwise_into(x, clamp_op, {&a, &b, &c}, Promote::same);
  return x;
}

}  // namespace rp
