#include "reprise/backends/ref/ref.h"

#include <cmath>
#include <map>

#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"

namespace rp::ref {
namespace {

using Real = long double;
using Args = const Real*;
constexpr Real pi = 3.14159265358979323846264338327950288L;

struct Meaning {
  Real (*f)(Args v, bool floating);  // `floating`: whether the operands are real numbers
  bool once = false;
};

Real larger(Real a, Real b) { return std::isnan(a) || std::isnan(b) ? NAN : a < b ? b : a; }
Real smaller(Real a, Real b) { return std::isnan(a) || std::isnan(b) ? NAN : b < a ? b : a; }
Real floor_quotient(Real a, Real b, bool floating) { return !floating && b == 0 ? 0 : std::floor(a / b); }
Real floor_rest(Real a, Real b, bool floating) {
  if (!floating && b == 0) return 0;
  const Real r = std::fmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
Real logistic(Real x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }
Real half_even(Real x) {
  const Real below = std::floor(x), rest = x - below;
  if (rest != 0.5L) return std::floor(x + 0.5L);
  return std::fmod(below, 2) == 0 ? below : below + 1;
}

const std::map<std::string_view, Meaning>& arithmetic() {
  static const std::map<std::string_view, Meaning> table{
      {"copy", {[](Args v, bool) { return v[0]; }, true}},
      {"cast", {[](Args v, bool) { return v[0]; }, true}},
      {"full", {[](Args v, bool) { return v[0]; }, true}},
      {"add", {[](Args v, bool) { return v[0] + v[1]; }, true}},
      {"sub", {[](Args v, bool) { return v[0] - v[1]; }, true}},
      {"mul", {[](Args v, bool) { return v[0] * v[1]; }, true}},
      {"div", {[](Args v, bool) { return v[0] / v[1]; }, true}},
      {"floor_div", {[](Args v, bool floating) { return floor_quotient(v[0], v[1], floating); }}},
      {"remainder", {[](Args v, bool floating) { return floor_rest(v[0], v[1], floating); }}},
      {"pow", {[](Args v, bool) { return std::pow(v[0], v[1]); }}},
      {"maximum", {[](Args v, bool) { return larger(v[0], v[1]); }, true}},
      {"minimum", {[](Args v, bool) { return smaller(v[0], v[1]); }, true}},
      {"neg", {[](Args v, bool) { return -v[0]; }, true}},
      {"abs", {[](Args v, bool) { return std::fabs(v[0]); }, true}},
      {"sign", {[](Args v, bool) { return v[0] > 0   ? Real{1}
                                          : v[0] < 0 ? Real{-1}
                                                     : v[0]; }, true}},
      {"square", {[](Args v, bool) { return v[0] * v[0]; }, true}},
      {"reciprocal", {[](Args v, bool) { return 1 / v[0]; }, true}},
      {"clamp", {[](Args v, bool) { return smaller(larger(v[0], v[1]), v[2]); }, true}},
      {"equal", {[](Args v, bool) { return Real(v[0] == v[1]); }}},
      {"not_equal", {[](Args v, bool) { return Real(v[0] != v[1]); }}},
      {"less", {[](Args v, bool) { return Real(v[0] < v[1]); }}},
      {"less_equal", {[](Args v, bool) { return Real(v[0] <= v[1]); }}},
      {"greater", {[](Args v, bool) { return Real(v[0] > v[1]); }}},
      {"greater_equal", {[](Args v, bool) { return Real(v[0] >= v[1]); }}},
      {"logical_and", {[](Args v, bool) { return Real(v[0] != 0 && v[1] != 0); }}},
      {"logical_or", {[](Args v, bool) { return Real(v[0] != 0 || v[1] != 0); }}},
      {"logical_not", {[](Args v, bool) { return Real(v[0] == 0); }}},
      {"isnan", {[](Args v, bool) { return Real(std::isnan(v[0])); }}},
      {"where", {[](Args v, bool) { return v[0] != 0 ? v[1] : v[2]; }, true}},
  };
  return table;
}

const std::map<std::string_view, Meaning>& functions() {
  static const std::map<std::string_view, Meaning> table{
      {"exp", {[](Args v, bool) { return std::exp(v[0]); }}},
      {"expm1", {[](Args v, bool) { return std::expm1(v[0]); }}},
      {"log", {[](Args v, bool) { return std::log(v[0]); }}},
      {"log1p", {[](Args v, bool) { return std::log1p(v[0]); }}},
      {"sqrt", {[](Args v, bool) { return std::sqrt(v[0]); }, true}},
      {"rsqrt", {[](Args v, bool) { return 1 / std::sqrt(v[0]); }}},
      {"sin", {[](Args v, bool) { return std::sin(v[0]); }}},
      {"cos", {[](Args v, bool) { return std::cos(v[0]); }}},
      {"tan", {[](Args v, bool) { return std::tan(v[0]); }}},
      {"asin", {[](Args v, bool) { return std::asin(v[0]); }}},
      {"acos", {[](Args v, bool) { return std::acos(v[0]); }}},
      {"atan", {[](Args v, bool) { return std::atan(v[0]); }}},
      {"tanh", {[](Args v, bool) { return std::tanh(v[0]); }}},
      {"sigmoid", {[](Args v, bool) { return logistic(v[0]); }}},
      {"erf", {[](Args v, bool) { return std::erf(v[0]); }}},
      {"floor", {[](Args v, bool) { return std::floor(v[0]); }, true}},
      {"ceil", {[](Args v, bool) { return std::ceil(v[0]); }, true}},
      {"round", {[](Args v, bool) { return half_even(v[0]); }, true}},
      {"trunc", {[](Args v, bool) { return std::trunc(v[0]); }, true}},
      {"relu", {[](Args v, bool) { return larger(v[0], 0); }, true}},
      {"leaky_relu", {[](Args v, bool) { return v[0] > 0 ? v[0] : v[0] * v[1]; }, true}},
      {"elu", {[](Args v, bool) { return v[0] > 0 ? v[0] : std::expm1(v[0]) * v[1]; }}},
      {"silu", {[](Args v, bool) { return v[0] * logistic(v[0]); }}},
      {"softplus",
       {[](Args v, bool) { return v[0] > 0 ? v[0] + std::log1p(std::exp(-v[0])) : std::log1p(std::exp(v[0])); }}},
      {"gelu", {[](Args v, bool) { return v[0] * std::erfc(-v[0] / std::sqrt(Real{2})) / 2; }}},
      {"gelu_tanh", {[](Args v, bool) {
         const Real u = std::sqrt(2 / pi) * (v[0] + 0.044715L * v[0] * v[0] * v[0]);
         return v[0] * logistic(2 * u);
       }}},
  };
  return table;
}

const Meaning* find_meaning(std::string_view op) {
  for (const auto* table : {&arithmetic(), &functions()})
    if (const auto it = table->find(op); it != table->end()) return &it->second;
  return nullptr;
}

// What conversion to a dtype leaves of a number, but for rounding to a float format.
Real stored(Real v, DType dtype) {
  if (dtype == DType::boolean) return v != 0;
  if (is_floating(dtype)) return v;
  const Real limit = dtype == DType::i32 ? 0x1p31L : 0x1p63L;
  v = std::trunc(v);
  if (v >= -limit && v < limit) return v;
  return -limit;  // also for NaN
}

Real scalar_value(const Scalars& scalars, int i, DType dtype) {
  switch (dtype) {
    case DType::boolean:
    case DType::i32:
      return scalars.get<int32_t>(i);
    case DType::i64:
      return static_cast<Real>(scalars.get<int64_t>(i));
    case DType::bf16:
    case DType::f16:
    case DType::f32:
      return scalars.get<float>(i);
    case DType::f64:
      break;
  }
  return scalars.get<double>(i);
}

std::vector<Real> arange(const Scalars& scalars, const Layout& out) {
  std::vector<Real> values;
  for (int64_t i = 0; i < out.numel; ++i)
    values.push_back(scalar_value(scalars, 0, out.dtype()) +
                     scalar_value(scalars, 1, out.dtype()) * static_cast<Real>(i));
  return values;
}

std::vector<Real> pointwise(const Op& op, const Meaning& meaning, std::span<const Array> inputs, const Scalars& scalars,
                            uint8_t mask, const Layout& out) {
  // The last tensor has the operands' common dtype: only the condition of a choice, which stands first, may differ.
  const DType dtype = inputs.empty() ? out.dtype() : inputs.back().dtype;
  std::vector<Real> values(static_cast<size_t>(out.numel));
  for (size_t i = 0; i < values.size(); ++i) {
    Real v[8];
    int tensor = 0, scalar = 0;
    for (int k = 0; k < op.operands; ++k)
      v[k] = mask >> k & 1 ? scalar_value(scalars, scalar++, dtype) : inputs[static_cast<size_t>(tensor++)].values[i];
    values[i] = stored(meaning.f(v, is_floating(dtype)), out.dtype());
  }
  return values;
}

}  // namespace

bool has(std::string_view op) { return op == "arange" || find_meaning(op) || find_loop(op) || find_window_loop(op); }

std::string_view excuse(std::string_view op) {
  static const std::map<std::string_view, std::string_view> reasons{
      {"input", "a graph's parameter: nothing is computed"},
      {"write", "a change of memory: tested by views and in-place forms"},
      {"after", "a name for written memory: nothing is computed"},
      {"uniform", "random: tested by its statistics"},
      {"normal", "random: tested by its statistics"},
      {"randint", "random: tested by its statistics"},
      {"bernoulli", "random: tested by its statistics"},
      {"scan", "runs a graph: tested against the loop it stands for"},
      {"cond", "runs a graph: tested against the branch taken"},
      {"while_loop", "runs a graph: tested against the loop it stands for"},
      {"transfer", "copies between devices: tested where there are two"},
      {"result", "names a result of a control op: nothing is computed"},
  };
  const auto it = reasons.find(op);
  return it == reasons.end() ? std::string_view() : it->second;
}

bool rounds_once(std::string_view op) {
  const Meaning* meaning = find_meaning(op);
  return meaning && meaning->once;
}

std::vector<Real> evaluate(const Op& op, std::span<const Array> inputs, const Attrs& attrs, const Scalars& scalars,
                           uint8_t scalar_mask, const Layout& out) {
  if (op.name == "arange") return arange(scalars, out);
  if (const Meaning* meaning = find_meaning(op.name)) return pointwise(op, *meaning, inputs, scalars, scalar_mask, out);
  Loop loop = find_loop(op.name);
  if (!loop) loop = find_window_loop(op.name);
  if (!loop) fail("{}: the oracle does not know this op", op.name);
  return loop({inputs, attrs, scalars, out});
}

}  // namespace rp::ref
