// Values of every op of the table against the oracle: dtypes, layouts, scalar operands, 0-d, empty, special numbers.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/test/catch.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

using Real = long double;
constexpr DType dtypes[] = {DType::boolean, DType::i32, DType::i64, DType::bf16, DType::f16, DType::f32, DType::f64};

// Of what a dtype is computed in.
Real epsilon(DType d) { return d == DType::f64 ? 0x1p-53L : 0x1p-24L; }

// The distance to the next number of a float format, above |v|.
Real ulp(Real v, DType d) {
  const int digits = d == DType::bf16 ? 7 : d == DType::f16 ? 10 : d == DType::f32 ? 23 : 52;
  const int lowest = d == DType::f16 ? -14 : d == DType::f64 ? -1022 : -126;  // exponent of a normal number
  const Real least = std::ldexp(Real{1}, lowest - digits);
  if (v == 0 || !std::isfinite(v)) return least;
  return std::max(least, std::ldexp(Real{1}, std::ilogb(v) - digits));
}

Real rounded(Real v, DType d) {
  return visit_dtype(d, [&]<class T>(T) -> Real { return static_cast<Computed<T>>(static_cast<T>(v)); });
}

// What the last rounding to a 16-bit float adds.
Real last_rounding(Real v, DType d) { return is_short(d) ? 0.501L * ulp(v, d) : 0; }

// Where several products or terms are added, the error is relative to the sum of their magnitudes.
bool adds_up(const Op& op) {
  static const std::set<std::string_view> names{"sum",
                                                "matmul",
                                                "segmented_matmul",
                                                "conv2d",
                                                "conv2d_backward_data",
                                                "conv2d_backward_weights",
                                                "avg_pool2d",
                                                "avg_pool2d_backward",
                                                "max_pool2d_backward",
                                                "index_add",
                                                "scatter_add"};
  return names.count(op.name);
}

std::vector<Real> magnitudes(const OpCase& c, std::vector<ref::Array> inputs, const Layout& out) {
  // The maximum's place must stay what it is.
  for (size_t i = c.op->name == "max_pool2d_backward"; i < inputs.size(); ++i)
    for (Real& v : inputs[i].values) v = std::fabs(v);
  return ref::evaluate(*c.op, inputs, c.attrs, c.scalars, c.scalar_mask, out);
}

std::vector<Real> tolerances(const OpCase& c, const std::vector<ref::Array>& inputs, const std::vector<Real>& want,
                             const Layout& out) {
  std::vector<Real> allowed(want.size(), 0);
  const DType d = out.dtype();
  if (!is_floating(d)) return allowed;
  if (adds_up(*c.op)) {
    allowed = magnitudes(c, inputs, out);
    const Real terms = static_cast<Real>(inputs[0].values.size()) / std::max<Real>(1, want.size());
    for (size_t i = 0; i < want.size(); ++i)
      allowed[i] = allowed[i] * (24 + terms / 32) * epsilon(d) + last_rounding(want[i], d);
  } else if (c.op->kind == Kind::composite) {
    // A row of equal elements has no variance: layer_norm multiplies their rounding by 1 / sqrt(eps).
    const Real factor = c.op->name == "layer_norm" ? 48 * 400 : 48;
    for (size_t i = 0; i < want.size(); ++i)
      allowed[i] = factor * epsilon(d) * std::max(Real{1}, std::fabs(want[i])) + last_rounding(want[i], d);
  } else if (c.op->kind == Kind::pointwise) {
    const Real ulps = ref::rounds_once(c.op->name) ? 0.501L : c.op->samples.ulp;
    for (size_t i = 0; i < want.size(); ++i)
      allowed[i] = is_short(d) ? last_rounding(want[i], d) : ulps * ulp(want[i], d);
    if (c.op->name == "arange")
      for (Real& a : allowed) a += 2 * ulp(out.numel, d);
  }
  return allowed;
}

// The number of elements that differ by more than they may; the first one is put into `report`.
int differing(const Tensor& y, const std::vector<Real>& want, const std::vector<Real>& allowed, std::string& report) {
  const ref::Array got = array_of(y);
  int bad = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const Real w =
        is_floating(y.dtype()) && !std::isfinite(rounded(want[i], y.dtype())) ? rounded(want[i], y.dtype()) : want[i];
    const bool equal =
        std::isnan(w) ? std::isnan(got.values[i]) : got.values[i] == w || std::fabs(got.values[i] - w) <= allowed[i];
    if (!equal && !bad++)
      report = "element " + std::to_string(i) + ": " + std::to_string(static_cast<double>(got.values[i])) +
               " instead of " + std::to_string(static_cast<double>(w)) + ", off by " +
               std::to_string(static_cast<double>((got.values[i] - w) / ulp(w, y.dtype()))) + " ulp";
  }
  return bad;
}

DType result_dtype(const OpCase& c, DType d) {
  static const std::set<std::string_view> comparisons{"equal",   "not_equal",     "less", "less_equal",
                                                      "greater", "greater_equal", "isnan"};
  if (comparisons.count(c.op->name)) return DType::boolean;
  if (c.op->name.starts_with("arg")) return DType::i64;
  return c.op->name == "cast" ? static_cast<DType>(c.attrs.as<CastAttrs>().dtype) : d;
}

void check_value(const OpCase& c, const std::vector<ref::Array>& arrays, const Tensor& y) {
  const auto want = ref::evaluate(*c.op, arrays, c.attrs, c.scalars, c.scalar_mask, *y.layout().packed);
  REQUIRE(static_cast<int64_t>(want.size()) == y.numel());
  std::string report;
  const int bad = differing(y, want, tolerances(c, arrays, want, *y.layout().packed), report);
  if (bad) FAIL_CHECK(to_string(c) << ", " << bad << " of " << want.size() << " differ; " << report);
}

std::vector<ref::Array> draw_inputs(const OpCase& c, Lie lie, Draw& draw) {
  std::vector<ref::Array> arrays;
  for (const Input& in : c.inputs) arrays.push_back(draw.array(in, lie));
  return arrays;
}

void check_case(const OpCase& c, DType d) {
  Draw draw(c.op->name.size() * 31 + c.scalar_mask);
  for (Lie lie : all_lies) {
    if (c.inputs.empty() && lie != Lie::contiguous) continue;
    INFO(to_string(c) << ", " << test::name_of(lie));
    const auto arrays = draw_inputs(c, lie, draw);
    Tensors inputs;
    for (const ref::Array& a : arrays) inputs.push_back(placed(a, lie));
    const Tensor y = run(c, inputs);
    CHECK(y.shape() == c.out);
    CHECK(y.dtype() == result_dtype(c, d));
    check_value(c, arrays, y);
    for (size_t i = 0; i < inputs.size(); ++i) CHECK(array_of(inputs[i]).values == arrays[i].values);
  }
}

}  // namespace

TEST_CASE("every op has an oracle, or a reason for having none", "[ops]") {
  std::set<std::string_view> names;
  for (const Op* op : op_table()) {
    INFO(op->name);
    CHECK(ref::has(op->name) == ref::excuse(op->name).empty());
    CHECK(names.insert(op->name).second);
    CHECK(find_op(op->name) == op);
  }
  CHECK(!find_op("no such op"));
}

TEST_CASE("every op has cases, or a reason for having none", "[ops]") {
  for (const Op* op : op_table()) {
    INFO(op->name);
    size_t n = 0;
    for (DType d : dtypes) n += cases_of(*op, d).size();
    CHECK((n > 0) == ref::excuse(op->name).empty());
  }
}

TEST_CASE("values of every op, for every dtype and layout of its inputs", "[ops]") {
  for (const Op* op : op_table())
    for (DType d : dtypes)
      for (const OpCase& c : cases_of(*op, d)) check_case(c, d);
}

TEST_CASE("special numbers in every pointwise op", "[ops]") {
  const double specials[] = {0.,        -0., 1.,    -1.,     0.5,  -2.5,   3.,   HUGE_VAL,
                             -HUGE_VAL, NAN, 1e-40, -1e-310, 3e38, -1e300, 88.8, 710.};
  for (DType d : {DType::bf16, DType::f16, DType::f32, DType::f64})
    for (const Op* op : op_table()) {
      // A remainder by or of infinity follows from a - floor(a / b) * b, as the quotient does.
      if (op->kind != Kind::pointwise || op->name == "remainder" || op->name == "floor_div" || op->name == "cast")
        continue;
      const auto cases = cases_of(*op, d);
      if (cases.empty() || cases[0].inputs.empty()) continue;
      OpCase c = cases[0];
      const size_t n = std::size(specials), k = c.inputs.size();
      const size_t count = k == 1 ? n : n * n;
      std::vector<ref::Array> arrays;
      for (size_t i = 0; i < k; ++i) {
        ref::Array a{c.inputs[i].dtype, {static_cast<int64_t>(count)}, {}};
        for (size_t j = 0; j < count; ++j) {
          const double v = i == 0 ? specials[j % n] : i == 1 ? specials[j / n] : specials[(j / n + j + 3) % n];
          a.values.push_back(a.dtype == DType::boolean ? Real(v > 0) : rounded(v, d));
        }
        arrays.push_back(a);
      }
      Tensors inputs;
      for (const auto& a : arrays) inputs.push_back(contiguous(a));
      INFO(name_of(d));
      check_value(c, arrays, run(c, inputs));
    }
}

TEST_CASE("integers wrap, and division by zero gives zero", "[ops]") {
  const int32_t low = std::numeric_limits<int32_t>::min(), high = std::numeric_limits<int32_t>::max();
  const int64_t low64 = std::numeric_limits<int64_t>::min(), high64 = std::numeric_limits<int64_t>::max();
  const Tensor a = tensor({low, high, low, 7}), b = tensor({-1, 1, 1, 0});
  const auto ints = [](const Tensor& t) { return t.to_vector<int32_t>(); };
  CHECK(ints(a + b) == std::vector{high, low, low + 1, 7});
  CHECK(ints(a - b) == std::vector{low + 1, high - 1, high, 7});
  CHECK(ints(a * 2) == std::vector{0, -2, 0, 14});
  CHECK(ints(-a) == std::vector{low, -high, low, -7});
  CHECK(ints(floor_div(a, b)) == std::vector{low, high, low, 0});
  CHECK(ints(remainder(a, b)) == std::vector{0, 0, 0, 0});
  CHECK(ints(square(tensor({1 << 16, 46341}))) == std::vector{0, -2147479015});
  const Tensor c = tensor({low64, high64});
  const auto longs = [](const Tensor& t) { return t.to_vector<int64_t>(); };
  CHECK(longs(c + c) == std::vector<int64_t>{0, -2});
  CHECK(longs(c * high64) == std::vector<int64_t>{low64, 1});
  CHECK(longs(floor_div(c, -1)) == std::vector<int64_t>{low64, -high64});
  CHECK(longs(maximum(c, 0)) == std::vector<int64_t>{0, high64});
  CHECK(longs(max(c)) == std::vector<int64_t>{high64});
  CHECK(equal(c, c - 1).to_vector<bool>() == std::vector<bool>{false, false});
}

TEST_CASE("reductions meet NaN, infinities and ties", "[ops]") {
  const Tensor x = tensor({1.f, NAN, 3.f, 3.f, INFINITY, -INFINITY}).reshape({3, 2});
  CHECK(std::isnan(max(x).item<float>()));
  CHECK(std::isnan(min(x).item<float>()));
  CHECK(std::isnan(sum(x).item<float>()));
  CHECK(argmax(x.flatten()).item<int64_t>() == 1);
  CHECK(argmin(x.flatten()).item<int64_t>() == 1);
  CHECK(argmax(x, 1).to_vector<int64_t>() == std::vector<int64_t>{1, 0, 0});
  CHECK(max(x, {1}).to_vector<float>()[1] == 3.f);
  CHECK(max(x, {1}).to_vector<float>()[2] == INFINITY);
  CHECK(logsumexp(tensor({-INFINITY, -INFINITY})).item<float>() == -INFINITY);
  CHECK(logsumexp(tensor({1000.f, 1000.f})).item<float>() == Approx(1000.6931f));
  CHECK(softmax(tensor({1000.f, 1000.f, -1000.f})).to_vector<float>() == std::vector{0.5f, 0.5f, 0.f});
  CHECK(sum(zeros({0, 3}), {0}).to_vector<float>() == std::vector<float>(3, 0.f));
  CHECK(std::isnan(mean(zeros({0})).item<float>()));
}

TEST_CASE("sums do not depend on strides or on the size of the batch", "[ops]") {
  Draw draw(5);
  const ref::Array a = draw.array({{40, 1003}, DType::f32});
  const Tensor plain = contiguous(a);
  const Tensor rows = sum(plain, {1});
  for (Lie lie : {Lie::transposed, Lie::stepped, Lie::offset}) CHECK(same_bits(sum(placed(a, lie), {1}), rows));
  CHECK(same_bits(sum(plain.slice(0, 3, 4), {1}), rows.slice(0, 3, 4)));
  const Tensor w = contiguous(draw.array({{1003, 17}, DType::f32}));
  const Tensor y = matmul(plain, w);
  for (int64_t i : {0, 7, 39}) CHECK(same_bits(matmul(plain.slice(0, i, i + 1), w), y.slice(0, i, i + 1)));
  CHECK(same_bits(matmul(placed(a, Lie::transposed), w), y));
}
