// The public functions: promotion and broadcasting of every dtype that a user may pass, and compositions against the
// oracle of their parts.
#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "reprise/core/error.h"
#include "reprise/core/ops.h"
#include "reprise/test/catch.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

using Real = long double;
constexpr DType dtypes[] = {DType::boolean, DType::i32, DType::i64, DType::f32, DType::f64};

enum class Result { same, floating, boolean };
struct Public {
  std::string_view name;
  int operands;
  Result result;
  std::function<Tensor(const std::vector<Operand>&)> call;
};

#define RP_UNARY(f, result) {#f, 1, Result::result, [](const auto& v) { return f(*v[0].tensor); }}
#define RP_BINARY(f, result) {#f, 2, Result::result, [](const auto& v) { return f(v[0], v[1]); }}
const std::vector<Public>& publics() {
  static const std::vector<Public> list{
      RP_BINARY(add, same),
      RP_BINARY(sub, same),
      RP_BINARY(mul, same),
      RP_BINARY(div, floating),
      RP_BINARY(floor_div, same),
      RP_BINARY(remainder, same),
      RP_BINARY(pow, floating),
      RP_BINARY(maximum, same),
      RP_BINARY(minimum, same),
      RP_UNARY(neg, same),
      RP_UNARY(abs, same),
      RP_UNARY(sign, same),
      RP_UNARY(square, same),
      RP_UNARY(reciprocal, floating),
      RP_BINARY(equal, boolean),
      RP_BINARY(not_equal, boolean),
      RP_BINARY(less, boolean),
      RP_BINARY(less_equal, boolean),
      RP_BINARY(greater, boolean),
      RP_BINARY(greater_equal, boolean),
      RP_BINARY(logical_and, boolean),
      RP_BINARY(logical_or, boolean),
      RP_UNARY(logical_not, boolean),
      RP_UNARY(isnan, boolean),
      RP_UNARY(exp, floating),
      RP_UNARY(expm1, floating),
      RP_UNARY(log, floating),
      RP_UNARY(log1p, floating),
      RP_UNARY(sqrt, floating),
      RP_UNARY(rsqrt, floating),
      RP_UNARY(sin, floating),
      RP_UNARY(cos, floating),
      RP_UNARY(tan, floating),
      RP_UNARY(asin, floating),
      RP_UNARY(acos, floating),
      RP_UNARY(atan, floating),
      RP_UNARY(tanh, floating),
      RP_UNARY(sigmoid, floating),
      RP_UNARY(erf, floating),
      RP_UNARY(floor, floating),
      RP_UNARY(ceil, floating),
      RP_UNARY(round, floating),
      RP_UNARY(trunc, floating),
      RP_UNARY(relu, same),
      RP_UNARY(silu, floating),
      RP_UNARY(softplus, floating),
      RP_UNARY(gelu, floating),
      RP_UNARY(gelu_tanh, floating),
      {"leaky_relu", 1, Result::floating, [](const auto& v) { return leaky_relu(*v[0].tensor, 0.25); }},
      {"elu", 1, Result::floating, [](const auto& v) { return elu(*v[0].tensor, 0.5); }},
      {"clamp", 1, Result::same, [](const auto& v) { return clamp(*v[0].tensor, 0, 1); }},
  };
  return list;
}
#undef RP_UNARY
#undef RP_BINARY

// The dtype the operands meet in.
DType common(const Public& f, std::initializer_list<DType> given) {
  const DType d = std::max(given);
  return f.result == Result::floating && !is_floating(d) ? DType::f32 : d;
}

Input domain(const Op& op, const Shape& shape, DType d) {
  if (d == DType::boolean) return {shape, d, 0, 1};
  if (is_floating(d)) return {shape, d, op.samples.low, op.samples.high};
  return {shape, d, op.samples.low < 0 ? -2. : 1., 5};
}

// As the oracle takes it: `shape` broadcast, in the common dtype.
ref::Array broadcast(const ref::Array& a, const Shape& to, DType d) {
  ref::Array b{d, to, {}};
  for (int64_t n = 0; n < element_count(to); ++n) {
    int64_t rest = n, at = 0, step = 1;
    for (int i = to.rank() - 1, j = a.shape.rank() - 1; i >= 0; --i, --j) {
      const int64_t place = rest % to[i];
      rest /= to[i];
      if (j < 0) continue;
      if (a.shape[j] > 1) at += place * step;
      step *= a.shape[j];
    }
    b.values.push_back(a.values[static_cast<size_t>(at)]);
  }
  return b;
}

std::vector<Real> wanted(const Public& f, std::vector<ref::Array> in, DType d, const Layout& out) {
  Scalars scalars;
  uint8_t mask = 0;
  if (f.name == "leaky_relu" || f.name == "elu") {
    mask = 2;
    test::add_scalar(scalars, f.name == "elu" ? 0.5 : 0.25, d);
  } else if (f.name == "clamp") {
    mask = 6;
    test::add_scalar(scalars, 0, d);
    test::add_scalar(scalars, 1, d);
  }
  for (ref::Array& a : in) a.dtype = d;
  return ref::evaluate(*find_op(f.name), in, {}, scalars, mask, out);
}

bool close(const Tensor& y, const std::vector<Real>& want, double ulps) {
  const ref::Array got = array_of(y);
  const Real eps = !is_floating(y.dtype()) ? 0 : y.dtype() == DType::f32 ? 0x1p-23L : 0x1p-52L;
  bool same = got.values.size() == want.size();
  for (size_t i = 0; same && i < want.size(); ++i)
    same = std::isnan(want[i])
               ? std::isnan(got.values[i])
               : got.values[i] == want[i] || std::fabs(got.values[i] - want[i]) <= ulps * eps * std::fabs(want[i]);
  return same;
}

// Runs f, or explains by an Error why bools mean nothing for it.
void check(const Public& f, const Tensors& tensors, DType d, const Shape& shape) {
  const Op& op = *find_op(f.name);
  Tensor y;
  try {
    std::vector<Operand> operands(tensors.begin(), tensors.end());
    y = f.call(operands);
  } catch (const Error& e) {
    const bool logical = !op.samples.floats && !op.samples.integers;
    CHECK((logical ? d != DType::boolean : d == DType::boolean && !op.samples.booleans));
    CHECK(std::string_view(e.what()).starts_with(std::string(f.name) + ":"));
    return;
  }
  CHECK(y.shape() == shape);
  CHECK(y.dtype() == (f.result == Result::boolean ? DType::boolean : d));
  std::vector<ref::Array> arrays;
  for (const Tensor& t : tensors) arrays.push_back(broadcast(array_of(t), shape, d));
  CHECK(close(y, wanted(f, arrays, d, *y.layout().packed), std::max(4.0, op.samples.ulp)));
}

}  // namespace

TEST_CASE("every pointwise op has a public function that is tested", "[ops]") {
  std::set<std::string_view> names{"full", "copy", "cast", "arange", "where"};  // tested below, or by the views' tests
  for (const Public& f : publics()) names.insert(f.name);
  for (const Op* op : op_table())
    if (op->kind == Kind::pointwise && !op->random) {
      INFO(op->name);
      CHECK(names.count(op->name));
    }
}

TEST_CASE("public functions take every pair of dtypes", "[ops]") {
  Draw draw(11);
  for (const Public& f : publics()) {
    const Op& op = *find_op(f.name);
    for (DType a : dtypes)
      for (DType b : dtypes) {
        if (f.operands == 1 && a != b) continue;
        INFO(f.name << " " << rp::name_of(a) << " " << rp::name_of(b));
        Tensors in;
        for (int k = 0; k < f.operands; ++k) in.push_back(contiguous(draw.array(domain(op, {3, 4}, k ? b : a))));
        check(f, in, common(f, {a, b}), {3, 4});
      }
  }
}

TEST_CASE("operands broadcast as in NumPy", "[ops]") {
  struct Shapes {
    Shape a, b, out;
  };
  const Shapes list[] = {{{3, 1}, {4}, {3, 4}},
                         {{}, {2, 3}, {2, 3}},
                         {{2, 3}, {}, {2, 3}},
                         {{1}, {5}, {5}},
                         {{2, 1, 4}, {3, 1}, {2, 3, 4}},
                         {{1, 1}, {1}, {1, 1}},
                         {{0}, {1}, {0}},
                         {{2, 0}, {1, 1}, {2, 0}},
                         {{1, 3}, {0, 1}, {0, 3}},
                         {{}, {}, {}},
                         {{1, 2, 1, 2, 1, 2, 1, 2}, {2, 1}, {1, 2, 1, 2, 1, 2, 2, 2}}};
  Draw draw(12);
  for (const Public& f : publics()) {
    const Op& op = *find_op(f.name);
    if (f.operands != 2) continue;
    for (const Shapes& s : list)
      for (DType d : dtypes) {
        INFO(f.name << " " << rp::to_string(s.a) << " " << rp::to_string(s.b) << " " << rp::name_of(d));
        check(f, {contiguous(draw.array(domain(op, s.a, d))), contiguous(draw.array(domain(op, s.b, d)))},
              common(f, {d}), s.out);
      }
  }
}

TEST_CASE("numbers adapt to the tensors they meet", "[ops]") {
  const Tensor b = tensor({true, false}), i = tensor({1, 2}), l = tensor({int64_t{1}, int64_t{2}}),
               f = tensor({1.f, 2.f}), d = tensor({1., 2.});
  const auto type = [](const Tensor& t) { return t.dtype(); };
  CHECK(type(b + 1) == DType::i64);
  CHECK(type(b + 1.5) == DType::f32);
  CHECK(type(i + 1) == DType::i32);
  CHECK(type(i + 1.5) == DType::f32);
  CHECK(type(i + true) == DType::i32);
  CHECK(type(l * 2) == DType::i64);
  CHECK(type(l * 0.5) == DType::f32);
  CHECK(type(f * 2) == DType::f32);
  CHECK(type(f * 2.0) == DType::f32);
  CHECK(type(d * 2.f) == DType::f64);
  CHECK(type(1 / i) == DType::f32);
  CHECK(type(2 / d) == DType::f64);
  CHECK((3 - i).to_vector<int32_t>() == std::vector{2, 1});
  CHECK((3 < l).to_vector<bool>() == std::vector<bool>{false, false});
  CHECK((0.1 + d).to_vector<double>() == std::vector{1.1, 2.1});
  CHECK((l + (int64_t{1} << 62)).to_vector<int64_t>()[1] == (int64_t{1} << 62) + 2);
}

TEST_CASE("where takes tensors, numbers and any dtype", "[ops]") {
  const Tensor m = tensor({true, false, true});
  for (DType a : dtypes)
    for (DType b : dtypes) {
      const Tensor x = tensor({1, 0, 1}).to(a), y = tensor({0, 1, 0}).to(b), z = where(m, x, y);
      CHECK(z.dtype() == std::max(a, b));
      CHECK(z.to_vector<int32_t>() == std::vector{1, 1, 1});
    }
  CHECK(where(m, 1.5, 2).to_vector<float>() == std::vector{1.5f, 2.f, 1.5f});
  CHECK(where(m, 1, 2).dtype() == DType::i64);
  CHECK(where(m, true, false).dtype() == DType::boolean);
  CHECK(where(m, tensor({7}), 2).to_vector<int32_t>() == std::vector{7, 2, 7});
  CHECK(where(m.reshape({3, 1}), tensor({1., 2.}), 0).shape() == Shape{3, 2});
}

TEST_CASE("triangles, filled masks and attention", "[ops]") {
  const Tensor x = arange(6, 1).reshape({2, 3});
  CHECK(tril(x).to_vector<int>() == std::vector{1, 0, 0, 4, 5, 0});
  CHECK(triu(x, 1).to_vector<int>() == std::vector{0, 2, 3, 0, 0, 6});
  CHECK(tril(x, -5).to_vector<int>() == std::vector<int>(6));
  CHECK(tril(ones({2, 2}, DType::boolean)).to_vector<bool>() == std::vector<bool>{true, false, true, true});
  CHECK(triu(zeros({0, 3})).shape() == Shape{0, 3});
  CHECK(masked_fill(x, x > 3, -1).to_vector<int>() == std::vector{1, 2, 3, -1, -1, -1});
  CHECK(masked_fill(x, x > 3, 0.5).dtype() == DType::f32);
  // Equal scores: the mean of the values that are seen.
  const Tensor q = zeros({3, 4}), v = tensor({1.f, 2.f, 6.f}).unsqueeze(1);
  CHECK(scaled_dot_product_attention(q, q, v, {}, {.causal = true}).to_vector<float>() == std::vector{1.f, 1.5f, 3.f});
  const Tensor mask = tensor({0, 1, 1}) == 1;
  CHECK(scaled_dot_product_attention(q, q, v, mask).to_vector<float>() == std::vector{4.f, 4.f, 4.f});
  CHECK(scaled_dot_product_attention(q.unsqueeze(0).expand({2, 3, 4}), q, v).shape() == Shape{2, 3, 1});
  CHECK(scaled_dot_product_attention(zeros({0, 4}), q, v).shape() == Shape{0, 1});
}

TEST_CASE("reductions of every dtype", "[ops]") {
  for (DType d : dtypes) {
    INFO(rp::name_of(d));
    const Tensor x = tensor({0, 1, 1, 1, 0, 0}).reshape({2, 3}).to(d);
    const DType real = is_floating(d) ? d : DType::f32;
    CHECK(sum(x).item<int64_t>() == 3);
    CHECK(sum(x).dtype() == std::max(d, DType::i64));
    CHECK(mean(x, {1}).to_vector<float>() == std::vector{2 / 3.f, 1 / 3.f});
    CHECK(mean(x).dtype() == real);
    CHECK(max(x, {0}).to_vector<int32_t>() == std::vector{1, 1, 1});
    CHECK(max(x).dtype() == d);
    CHECK(min(x, {0}, true).to_vector<int32_t>() == std::vector{0, 0, 0});
    CHECK(min(x, {0}, true).shape() == Shape{1, 3});
    CHECK(argmax(x, 1).to_vector<int64_t>() == std::vector<int64_t>{1, 0});
    CHECK(argmin(x).to_vector<int64_t>() == std::vector<int64_t>{0, 1});
    CHECK(any(x, {0}).to_vector<bool>() == std::vector<bool>{true, true, true});
    CHECK(all(x, {0}).to_vector<bool>() == std::vector<bool>{false, false, false});
    CHECK(all(x).dtype() == DType::boolean);
    CHECK(var(x).item<double>() == Approx(0.3));
    CHECK(var(x, {1}, false, 0).to_vector<double>()[0] == Approx(2 / 9.));
    CHECK(logsumexp(x).item<double>() == Approx(std::log(3 + 3 * std::exp(1.))));
    CHECK(softmax(x).to_vector<double>()[0] == Approx(1 / (1 + 2 * std::exp(1.))));
    CHECK(softmax(x, 0).dtype() == real);
    CHECK(layer_norm(x).dtype() == real);
    CHECK(sum(x, {-1, 0}).shape() == Shape{});
    CHECK(sum(x[0][1]).item<int32_t>() == 1);
  }
}
