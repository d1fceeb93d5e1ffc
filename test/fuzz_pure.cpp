// Statements that compute a new value.
#include <algorithm>
#include <array>

#include "reprise/test/fuzz.h"

namespace fuzz {
namespace {

struct Unary {
  const char* name;
  Tensor (*f)(const Tensor&);
};
#define F(name)                                        \
  Unary {                                              \
    #name, [](const Tensor& x) { return rp::name(x); } \
  }
constexpr Unary unaries[] = {
    F(neg),  F(abs),   F(sign), F(square),   F(reciprocal), F(exp),     F(expm1),     F(log),        F(log1p),
    F(sqrt), F(rsqrt), F(sin),  F(cos),      F(tan),        F(asin),    F(acos),      F(atan),       F(tanh),
    F(tanh), F(tanh),  F(erf),  F(floor),    F(ceil),       F(round),   F(trunc),     F(relu),       F(relu),
    F(elu),  F(silu),  F(gelu), F(softplus), F(sigmoid),    F(sigmoid), F(gelu_tanh), F(leaky_relu), F(isnan),
};
#undef F

struct Binary {
  const char* name;
  Tensor (*f)(const rp::Operand&, const rp::Operand&);
};
#define F(name)                                                                      \
  Binary {                                                                           \
    #name, [](const rp::Operand& a, const rp::Operand& b) { return rp::name(a, b); } \
  }
constexpr Binary binaries[] = {F(add), F(add), F(add),     F(sub),     F(sub),       F(mul),       F(mul),
                               F(mul), F(div), F(maximum), F(minimum), F(remainder), F(floor_div), F(pow)};
constexpr Binary comparisons[] = {F(less), F(less_equal), F(greater), F(greater_equal), F(equal), F(not_equal)};
#undef F

struct Reduction {
  const char* name;
  Tensor (*f)(rp::In, const rp::Dims&, bool);
};
constexpr Reduction reductions[] = {
    {"sum", rp::sum},
    {"sum", rp::sum},
    {"mean", rp::mean},
    {"mean", rp::mean},
    {"max", rp::max},
    {"min", rp::min},
    {"logsumexp", rp::logsumexp},
    {"any", rp::any},
    {"all", rp::all},
    {"var", [](rp::In x, const rp::Dims& axes, bool keep) { return rp::var(x, axes, keep, 0); }},
};

template <size_t N, class T>
const T& choose(const T (&list)[N], int k) {
  return list[wrap(k, N)];
}

void unary(const Scope& scope, const Statement& s) {
  const Unary& op = choose(unaries, s.n);
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  scope.put(s, op.f(*x), fmt::format("rp::{}({})", op.name, scope.name(*x)));
}

// A second operand that broadcasts with `x` to a shape that is not too large.
const Tensor* partner(const Scope& scope, const Tensor& x, int from) {
  return scope.pick(from, [&](const Tensor& t) {
    Shape joined;
    return join(x.shape(), t.shape(), joined) && scope.small(rp::element_count(joined));
  });
}

template <size_t N>
void two_tensors(const Scope& scope, const Statement& s, const Binary (&ops)[N]) {
  const Binary& op = choose(ops, s.n);
  const Tensor* x = scope.pick(s.a);
  const Tensor* y = x ? partner(scope, *x, s.b) : nullptr;
  if (!y) return scope.skip();
  scope.put(s, op.f(*x, *y), fmt::format("rp::{}({}, {})", op.name, scope.name(*x), scope.name(*y)));
}

void binary(const Scope& scope, const Statement& s) { two_tensors(scope, s, binaries); }
void comparison(const Scope& scope, const Statement& s) { two_tensors(scope, s, comparisons); }

// A sum of three, whose order matters.
void sum_of_three(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, is_real);
  const Tensor* y = x ? partner(scope, *x, s.b) : nullptr;
  const Tensor* z = x ? scope.pick(s.c, [&](const Tensor& t) { return t.shape() == x->shape(); }) : nullptr;
  if (!y || !z) return scope.skip();
  const std::string a = scope.name(*x), b = scope.name(*y), c = scope.name(*z);
  if (s.n % 2) return scope.put(s, *y + *x + *z, fmt::format("{} + {} + {}", b, a, c));
  scope.put(s, *x * 0.3 + *y + *z * s.x, fmt::format("{} * 0.3 + {} + {} * {}", a, b, c, s.x));
}

// A number on either side.
void with_number(const Scope& scope, const Statement& s) {
  const Binary& op = s.m % 7 == 6 ? choose(comparisons, s.n) : choose(binaries, s.n);
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  const double v = scope.number(s);
  const std::string name = scope.name(*x);
  if (s.m % 5 == 4) return scope.put(s, op.f(*x, s.m % 4), fmt::format("rp::{}({}, {})", op.name, name, s.m % 4));
  if (s.m % 3 == 0) return scope.put(s, op.f(v, *x), fmt::format("rp::{}({}, {})", op.name, v, name));
  scope.put(s, op.f(*x, v), fmt::format("rp::{}({}, {})", op.name, name, v));
}

void logical(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.dtype() == DType::boolean; });
  if (!x) return scope.skip();
  const Tensor* y =
      scope.pick(s.b, [&](const Tensor& t) { return t.dtype() == DType::boolean && t.shape() == x->shape(); });
  const std::string a = scope.name(*x), b = scope.name(*y);
  if (s.n % 3 == 0) return scope.put(s, rp::logical_not(*x), fmt::format("rp::logical_not({})", a));
  if (s.n % 3 == 1) return scope.put(s, rp::logical_and(*x, *y), fmt::format("rp::logical_and({}, {})", a, b));
  scope.put(s, rp::logical_or(*x, *y), fmt::format("rp::logical_or({}, {})", a, b));
}

void choice(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a);
  const Tensor* y = x ? partner(scope, *x, s.b) : nullptr;
  if (!y) return scope.skip();
  const double v = scope.number(s);
  const std::string a = scope.name(*x), b = scope.name(*y);
  const Tensor condition = rp::greater(*x, 0.25);
  if (s.m % 3 == 0)
    return scope.put(s, rp::where(condition, *y, v), fmt::format("rp::where({} > 0.25, {}, {})", a, b, v));
  if (s.m % 3 == 1)
    return scope.put(s, rp::where(condition, v, *y), fmt::format("rp::where({} > 0.25, {}, {})", a, v, b));
  scope.put(s, rp::where(condition, *x, *y), fmt::format("rp::where({} > 0.25, {}, {})", a, a, b));
}

void clamp(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  const double v = scope.number(s);
  scope.put(s, rp::clamp(*x, -1, v), fmt::format("rp::clamp({}, -1, {})", scope.name(*x), v));
}

void cast(const Scope& scope, const Statement& s) {
  static constexpr DType types[] = {DType::f32,     DType::f64, DType::i32,  DType::i64,
                                    DType::boolean, DType::f32, DType::bf16, DType::f16};
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  const DType to = choose(types, s.n);
  scope.put(s, rp::cast(*x, to), fmt::format("rp::cast({}, rp::DType::{})", scope.name(*x), rp::name_of(to)));
}

void reduce(const Scope& scope, const Statement& s) {
  const Reduction& op = choose(reductions, s.n);
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.rank() > 0; });
  if (!x) return scope.skip();
  rp::Dims axes;
  for (int i = 0; i < x->rank(); ++i)
    if (s.m >> i & 1) axes.push_back(i);
  const bool keep = s.m & 32;
  scope.put(s, op.f(*x, axes, keep),
            fmt::format("rp::{}({}, {}, {})", op.name, scope.name(*x), rp::to_string(axes), keep));
}

void arg_reduce(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.rank() > 0; });
  if (!x) return scope.skip();
  const int axis = wrap(s.m, x->rank());
  const std::string name = scope.name(*x);
  if (s.n % 2) return scope.put(s, rp::argmax(*x, axis), fmt::format("rp::argmax({}, {})", name, axis));
  scope.put(s, rp::argmin(*x, axis, true), fmt::format("rp::argmin({}, {}, true)", name, axis));
}

// ---- matrices and norms ----

bool batches_join(const Tensor& x, const Tensor& y) {
  Shape a = x.shape(), b = y.shape(), out;
  for (Shape* shape : {&a, &b})
    for (int i = 0; i < 2 && shape->rank(); ++i) shape->erase(shape->rank() - 1);
  return join(a, b, out);
}

// x @ y, or x @ y^T where only that fits
void matmul(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.rank() > 0; });
  if (!x) return scope.skip();
  const int64_t k = x->shape().back();
  auto fits = [&](const Tensor& t, int axis) {
    return t.dtype() == x->dtype() && t.rank() >= 2 && t.size(axis) == k && batches_join(*x, t) &&
           scope.small(x->numel() * t.numel() / std::max<int64_t>(k, 1));
  };
  const bool straight_first = s.n % 2;
  const Tensor* straight = scope.pick(s.b, [&](const Tensor& t) { return fits(t, -2); });
  const Tensor* turned = scope.pick(s.b, [&](const Tensor& t) { return fits(t, -1); });
  const std::string a = scope.name(*x);
  if (straight && (straight_first || !turned))
    return scope.put(s, rp::matmul(*x, *straight), fmt::format("rp::matmul({}, {})", a, scope.name(*straight)));
  if (!turned) return scope.skip();
  scope.put(s, rp::matmul(*x, turned->transpose()),
            fmt::format("rp::matmul({}, {}.transpose())", a, scope.name(*turned)));
}

void linear(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.rank() > 1; });
  if (!x) return scope.skip();
  const Tensor* w = scope.pick(s.b, [&](const Tensor& t) {
    return t.dtype() == x->dtype() && t.rank() == 2 && t.size(0) == x->shape().back() &&
           scope.small(x->numel() * t.size(1));
  });
  if (!w) return scope.skip();
  const Tensor* b =
      scope.pick(s.c, [&](const Tensor& t) { return t.dtype() == x->dtype() && t.shape() == Shape{w->size(1)}; });
  scope.put(s, rp::linear(*x, *w, b ? *b : Tensor()),
            fmt::format("rp::linear({}, {}, {})", scope.name(*x), scope.name(*w), b ? scope.name(*b) : "{}"));
}

void softmax(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.rank() > 0; });
  if (!x) return scope.skip();
  const int axis = s.m % 3 ? -1 : wrap(s.m, x->rank());
  const std::string name = scope.name(*x);
  if (s.n % 2) return scope.put(s, rp::softmax(*x, axis), fmt::format("rp::softmax({}, {})", name, axis));
  scope.put(s, rp::log_softmax(*x, axis), fmt::format("rp::log_softmax({}, {})", name, axis));
}

void layer_norm(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.rank() > 0; });
  if (!x) return scope.skip();
  const Tensor* scale = scope.pick(
      s.b, [&](const Tensor& t) { return t.dtype() == x->dtype() && t.shape() == Shape{x->shape().back()}; });
  const std::string name = scope.name(*x);
  if (!scale || s.n % 3 == 0) return scope.put(s, rp::layer_norm(*x), fmt::format("rp::layer_norm({})", name));
  scope.put(s, rp::layer_norm(*x, *scale, *scale),
            fmt::format("rp::layer_norm({}, {}, {})", name, scope.name(*scale), scope.name(*scale)));
}

void loss(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.rank() == 2 && t.numel(); });
  if (!x) return scope.skip();
  const Tensor* y = scope.pick(s.b, [&](const Tensor& t) { return t.spec() == x->spec(); });
  const std::string name = scope.name(*x);
  if (s.n % 2) return scope.put(s, rp::mse_loss(*x, *y), fmt::format("rp::mse_loss({}, {})", name, scope.name(*y)));
  const Tensor labels = rp::remainder(rp::arange(x->size(0)) + s.m, x->size(1));
  scope.put(s, rp::cross_entropy(*x, labels),
            fmt::format("rp::cross_entropy({}, (arange({}) + {}) % {})", name, x->size(0), s.m, x->size(1)));
}

// ---- windows ----

void conv2d(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.rank() == 4 && t.numel(); });
  if (!x) return scope.skip();
  rp::Conv2dOptions options;
  if (s.m % 3 == 1) options.format = rp::DataFormat::nhwc;
  const bool nhwc = options.format == rp::DataFormat::nhwc;
  const int channels = nhwc ? 3 : 1, rows = nhwc ? 1 : 2;
  const Tensor* w = scope.pick(s.b, [&](const Tensor& t) {
    return t.dtype() == x->dtype() && t.rank() == 4 && t.numel() && &t != x && t.size(1) == x->size(channels) &&
           t.size(2) <= x->size(rows) && t.size(3) <= x->size(rows + 1);
  });
  if (!w) return scope.skip();
  if (s.n % 2) options.padding = rp::Padding::same;
  if (s.n % 3 == 2) options.stride_h = options.stride_w = 2;
  const Tensor* b =
      scope.pick(s.c, [&](const Tensor& t) { return t.dtype() == x->dtype() && t.shape() == Shape{w->size(0)}; });
  scope.put(
      s, rp::conv2d(*x, *w, b ? *b : Tensor(), options),
      fmt::format("rp::conv2d({}, {}, {}, {{.stride_h = {}, .stride_w = {}, .padding = rp::Padding::{}, .format = "
                  "rp::DataFormat::{}}})",
                  scope.name(*x), scope.name(*w), b ? scope.name(*b) : "{}", options.stride_h, options.stride_w,
                  s.n % 2 ? "same" : "valid", nhwc ? "nhwc" : "nchw"));
}

void pool(const Scope& scope, const Statement& s) {
  const Tensor* x =
      scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.rank() == 4 && t.size(2) > 1 && t.size(3) > 1; });
  if (!x) return scope.skip();
  rp::Pool2dOptions options;
  if (s.m % 2) options.padding = rp::Padding::same, options.stride_h = options.stride_w = 1;
  const std::string name = scope.name(*x);
  const char* text = s.m % 2 ? ", {.stride_h = 1, .stride_w = 1, .padding = rp::Padding::same}" : "";
  if (s.n % 2) return scope.put(s, rp::max_pool2d(*x, options), fmt::format("rp::max_pool2d({}{})", name, text));
  scope.put(s, rp::avg_pool2d(*x, options), fmt::format("rp::avg_pool2d({}{})", name, text));
}

// ---- indexing and assembly ----

// Integers within [0, extent), from a register or at random.
Tensor indices(const Scope& scope, const Statement& s, const Shape& shape, int64_t extent, std::string& text) {
  const Tensor* i = scope.pick(s.b, [&](const Tensor& t) { return is_index(t) && t.shape() == shape; });
  text = fmt::format("{} % {}", i ? scope.name(*i) : "randint", extent);
  return i ? rp::remainder(*i, extent) : rp::randint(shape, 0, extent, s.m % 2 ? DType::i64 : DType::i32);
}

const Tensor* indexed(const Scope& scope, const Statement& s) {
  return scope.pick(s.a, [](const Tensor& t) { return t.rank() > 0 && t.numel(); });
}

void index_select(const Scope& scope, const Statement& s) {
  const Tensor* x = indexed(scope, s);
  if (!x) return scope.skip();
  const int axis = wrap(s.m, x->rank());
  std::string text;
  const Tensor i = indices(scope, s, {1 + wrap(s.n, 5)}, x->size(axis), text);
  scope.put(s, rp::index_select(*x, i, axis), fmt::format("rp::index_select({}, {}, {})", scope.name(*x), text, axis));
}

void gather(const Scope& scope, const Statement& s) {
  const Tensor* x = indexed(scope, s);
  if (!x) return scope.skip();
  const int axis = wrap(s.m, x->rank());
  Shape shape = x->shape();
  shape[axis] = 1 + wrap(s.n, 4);
  std::string text;
  const Tensor i = indices(scope, s, shape, x->size(axis), text);
  const Tensor y = rp::gather(*x, i, axis);
  if (s.c % 2) return scope.put(s, y, fmt::format("rp::gather({}, {}, {})", scope.name(*x), text, axis));
  scope.put(s, rp::scatter_add(y, i, x->shape(), axis),
            fmt::format("rp::scatter_add(rp::gather({}, i, {}), i = {}, {}, {})", scope.name(*x), axis, text,
                        rp::to_string(x->shape()), axis));
}

void one_hot(const Scope& scope, const Statement& s) {
  const Tensor* x =
      scope.pick(s.a, [&](const Tensor& t) { return is_index(t) && scope.small(t.numel() * 5) && t.rank() < 5; });
  if (!x) return scope.skip();
  scope.put(s, rp::one_hot(*x, 5), fmt::format("rp::one_hot({}, 5)", scope.name(*x)));
}

void assemble(const Scope& scope, const Statement& s) {
  const Tensor* x =
      scope.pick(s.a, [&](const Tensor& t) { return t.rank() > 0 && t.rank() < 5 && scope.small(3 * t.numel()); });
  if (!x) return scope.skip();
  const Tensor* y = scope.pick(s.b, [&](const Tensor& t) { return t.shape() == x->shape(); });
  const int axis = wrap(s.m, x->rank());
  const std::string a = scope.name(*x), b = scope.name(*y);
  if (s.n % 4 == 0 && x->dtype() == y->dtype())
    return scope.put(s, rp::stack({*x, *y}, axis), fmt::format("rp::stack({{{}, {}}}, {})", a, b, axis));
  if (s.n % 4 == 1) {
    rp::Dims before, after;
    for (int i = 0; i < x->rank(); ++i) before.push_back(i == axis), after.push_back(i == 0);
    return scope.put(s, rp::pad(*x, before, after, s.x),
                     fmt::format("rp::pad({}, {}, {}, {})", a, rp::to_string(before), rp::to_string(after), s.x));
  }
  if (s.n % 4 == 2 && x->size(axis) > 1) {  // a buffer that moves on by one
    const Tensor moved = rp::concat({x->slice(axis, 1, x->size(axis)), y->slice(axis, 0, 1)}, axis);
    return scope.put(s, moved,
                     fmt::format("rp::concat({{{}.slice({}, 1, {}), {}.slice({}, 0, 1)}}, {})", a, axis, x->size(axis),
                                 b, axis, axis));
  }
  scope.put(s, rp::concat({*x, *y, *x}, axis), fmt::format("rp::concat({{{}, {}, {}}}, {})", a, b, a, axis));
}

void split(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.rank() > 0 && t.shape().back() % 2 == 0; });
  if (!x) return scope.skip();
  const Tensors parts = rp::split(*x, 2, -1);
  scope.put(s, parts[static_cast<size_t>(wrap(s.n, 2))],
            fmt::format("rp::split({}, 2, -1)[{}]", scope.name(*x), wrap(s.n, 2)));
}

// ---- from nothing, and at random ----

void create(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  const std::string shape = rp::to_string(x->shape());
  const double v = scope.number(s);
  switch (wrap(s.n, 4)) {
    case 0:
      return scope.put(s, rp::full(x->shape(), v), fmt::format("rp::full({}, {})", shape, v));
    case 1:
      return scope.put(s, rp::zeros_like(*x), fmt::format("rp::zeros_like({})", scope.name(*x)));
    case 2:
      return scope.put(s, rp::arange(x->numel(), 1, 2, DType::f32),
                       fmt::format("rp::arange({}, 1, 2, f32)", x->numel()));
    default:
      return scope.put(s, rp::full_like(*x, v), fmt::format("rp::full_like({}, {})", scope.name(*x), v));
  }
}

void random(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  ++scope.machine.coverage.randoms;
  const Shape& shape = x->shape();
  const std::string text = rp::to_string(shape);
  switch (wrap(s.n, 6)) {
    case 0:
      return scope.put(s, rp::normal(shape, 0, 1), fmt::format("rp::normal({})", text));
    case 1:
      return scope.put(s, rp::bernoulli(shape, 0.3), fmt::format("rp::bernoulli({}, 0.3)", text));
    case 2:
      return scope.put(s, rp::randint(shape, -3, 9), fmt::format("rp::randint({}, -3, 9)", text));
    case 3:
      return scope.put(s, rp::uniform(shape, -1, 1, DType::f64), fmt::format("rp::uniform({}, -1, 1, f64)", text));
    case 4:
      return scope.put(s, rp::uniform(shape, -1, s.x + 2), fmt::format("rp::uniform({}, -1, {})", text, s.x + 2));
    default:
      return scope.put(s, rp::dropout(*x, 0.4, scope.machine.flag),
                       fmt::format("rp::dropout({}, 0.4, {})", scope.name(*x), scope.machine.flag));
  }
}

}  // namespace

std::span<const Action> pure_actions() {
  static constexpr Action list[] = {
      {"unary", 40, unary},
      {"binary", 45, binary},
      {"sum_of_three", 8, sum_of_three},
      {"number", 30, with_number},
      {"compare", 6, comparison},
      {"logical", 3, logical},
      {"where", 10, choice},
      {"clamp", 4, clamp},
      {"cast", 10, cast},
      {"reduce", 25, reduce},
      {"arg", 4, arg_reduce},
      {"matmul", 25, matmul},
      {"linear", 10, linear},
      {"softmax", 8, softmax},
      {"layer_norm", 5, layer_norm},
      {"loss", 8, loss},
      {"conv2d", 12, conv2d},
      {"pool", 8, pool},
      {"index_select", 5, index_select},
      {"gather", 6, gather},
      {"one_hot", 2, one_hot},
      {"assemble", 12, assemble},
      {"split", 4, split},
      {"create", 6, create},
      {"random", 16, random},
  };
  return list;
}

}  // namespace fuzz
