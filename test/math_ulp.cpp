// Every f32 function of core/math.cpp, run by the tile interpreter over a stride of all bit patterns, against libm in
// long double. The bounds are what core/math.cpp promises.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "reprise/backends/cpu/tile.h"
#include "reprise/core/expr.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

using Unary = Value (*)(Value);
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float denormal = 0x1p-149f;

/// Builds y = f(inputs...) over n elements and runs it.
class Runner {
 public:
  explicit Runner(Unary f) {
    ProgramBuilder b;
    const int x = b.operand(DType::f32, Access::contiguous), y = b.operand(DType::f32, Access::contiguous);
    b.store(f(b.load(x)), y);
    program_ = decode(b.program());
  }
  explicit Runner(Value (*f)(Value, Value)) {
    ProgramBuilder b;
    const int x = b.operand(DType::f32, Access::contiguous), y = b.operand(DType::f32, Access::contiguous);
    const int z = b.operand(DType::f32, Access::contiguous);
    b.store(f(b.load(x), b.load(y)), z);
    program_ = decode(b.program());
  }
  template <class... T>
  void operator()(size_t n, T*... arrays) const {
    KernelArgs args{};
    int k = 0;
    ((args.pointers[k++] = reinterpret_cast<std::byte*>(const_cast<float*>(arrays))), ...);
    args.rows = 1;
    args.columns = static_cast<int64_t>(n);
    args.context = program_.get();
    run_tile(&args);
  }
  float operator()(float x) const {
    float y = 0;
    (*this)(1, &x, &y);
    return y;
  }
  float operator()(float x, float y) const {
    float z = 0;
    (*this)(1, &x, &y, &z);
    return z;
  }

 private:
  TileProgramPtr program_;
};

/// The distance of `got` from `want` in units of the last place of the f32 numbers around `want`.
double ulp_error(float got, long double want) {
  const auto nearest = static_cast<float>(want);
  if (std::isnan(nearest) || std::isnan(got)) return std::isnan(nearest) == std::isnan(got) ? 0 : infinity;
  if (std::isinf(got) && nearest == got) return 0;
  if (std::isinf(want)) return infinity;
  int exponent;
  std::frexp(std::isinf(nearest) ? std::numeric_limits<float>::max() : nearest, &exponent);
  const long double unit = std::ldexp(1.0L, std::max(exponent, -125) - 24);
  return static_cast<double>(std::abs((std::isinf(got) ? std::copysign(0x1p128L, got) : got) - want) / unit);
}

struct Worst {
  double ulp = 0;
  float x = 0, got = 0;
};

/// f against g over every `stride`th bit pattern.
template <class G>
Worst sweep(const Runner& f, G g, uint32_t stride = 1021) {
  constexpr size_t chunk = 1 << 14;
  std::vector<float> x(chunk), y(chunk);
  Worst worst;
  for (uint64_t bits = 0; bits <= UINT32_MAX;) {
    size_t n = 0;
    for (; n < chunk && bits <= UINT32_MAX; ++n, bits += stride)
      x[n] = std::bit_cast<float>(static_cast<uint32_t>(bits));
    f(n, x.data(), y.data());
    for (size_t i = 0; i < n; ++i) {
      const double e = ulp_error(y[i], g(static_cast<long double>(x[i])));
      if (e > worst.ulp) worst = {e, x[i], y[i]};
    }
  }
  return worst;
}

using Reference = long double (*)(long double);

long double sigmoid_reference(long double x) {
  const long double e = std::exp(-std::abs(x));
  return (x < 0 ? e : 1) / (1 + e);
}

struct Case {
  const char* name;
  Unary f;
  Reference reference;
  double bound;
};

const Case cases[] = {
    {"exp", exp, std::exp, 0.85},      {"expm1", expm1, std::expm1, 1.5}, {"log", log, std::log, 0.8},
    {"log1p", log1p, std::log1p, 1.4}, {"tanh", tanh, std::tanh, 1.8},    {"sigmoid", sigmoid, sigmoid_reference, 2.1},
    {"erf", erf, std::erf, 1.1},       {"sin", sin, std::sin, 1.6},       {"cos", cos, std::cos, 1.6},
    {"tan", tan, std::tan, 3.2},       {"atan", atan, std::atan, 1.8},    {"asin", asin, std::asin, 2.3},
    {"acos", acos, std::acos, 1.3},
};

bool same_bits(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

void check_points(const char* name, Unary f, std::initializer_list<std::pair<float, float>> points) {
  const Runner run(f);
  for (auto [x, want] : points) {
    const float got = run(x);
    INFO(name << "(" << x << ") = " << got << ", expected " << want);
    CHECK(same_bits(got, want));
  }
}

}  // namespace

TEST_CASE("f32 functions keep their ulp bounds over all bit patterns", "[math]") {
  for (const Case& c : cases) {
    const Worst w = sweep(Runner(c.f), c.reference);
    INFO(c.name << ": " << w.ulp << " ulp at " << std::hexfloat << w.x << ", got " << w.got);
    CHECK(w.ulp <= c.bound);
    if (std::getenv("RP_PRINT_ULP")) printf("%-8s %.3f ulp at %a = %.9g, got %.9g\n", c.name, w.ulp, w.x, w.x, w.got);
  }
}

TEST_CASE("f32 functions are exact at special values", "[math]") {
  const float inf = infinity, nan = not_a_number;
  check_points("exp", exp,
               {{0, 1}, {-0.0f, 1}, {inf, inf}, {-inf, 0}, {nan, nan}, {89, inf}, {-104, 0}, {denormal, 1}});
  check_points("expm1", expm1,
               {{0, 0}, {-0.0f, -0.0f}, {inf, inf}, {-inf, -1}, {nan, nan}, {-denormal, -denormal}, {-90, -1}});
  check_points("log", log,
               {{1, 0}, {0, -inf}, {-0.0f, -inf}, {-1, nan}, {-inf, nan}, {inf, inf}, {nan, nan}, {-denormal, nan}});
  check_points(
      "log1p", log1p,
      {{0, 0}, {-0.0f, -0.0f}, {-1, -inf}, {-2, nan}, {inf, inf}, {-inf, nan}, {nan, nan}, {denormal, denormal}});
  check_points("tanh", tanh,
               {{0, 0}, {-0.0f, -0.0f}, {inf, 1}, {-inf, -1}, {nan, nan}, {20, 1}, {-20, -1}, {denormal, denormal}});
  check_points("sigmoid", sigmoid, {{0, 0.5f}, {-0.0f, 0.5f}, {inf, 1}, {-inf, 0}, {nan, nan}, {20, 1}});
  check_points("erf", erf, {{0, 0}, {-0.0f, -0.0f}, {inf, 1}, {-inf, -1}, {nan, nan}, {5, 1}});
  check_points("sin", sin, {{0, 0}, {-0.0f, -0.0f}, {inf, nan}, {-inf, nan}, {nan, nan}, {denormal, denormal}});
  check_points("cos", cos, {{0, 1}, {-0.0f, 1}, {inf, nan}, {-inf, nan}, {nan, nan}, {denormal, 1}});
  check_points("tan", tan, {{0, 0}, {-0.0f, -0.0f}, {inf, nan}, {-inf, nan}, {nan, nan}, {-denormal, -denormal}});
  const float quarter = 1.57079637f;
  check_points("atan", atan,
               {{0, 0}, {-0.0f, -0.0f}, {inf, quarter}, {-inf, -quarter}, {nan, nan}, {denormal, denormal}});
  check_points("asin", asin,
               {{0, 0}, {-0.0f, -0.0f}, {1, quarter}, {-1, -quarter}, {1.0000001f, nan}, {inf, nan}, {nan, nan}});
  check_points("acos", acos, {{1, 0}, {0, quarter}, {-1, 3.14159274f}, {-1.0000001f, nan}, {inf, nan}, {nan, nan}});
}

TEST_CASE("a NaN of any payload stays a NaN", "[math]") {
  for (const Case& c : cases)
    for (uint32_t bits : {0x7F800001u, 0x7FC00001u, 0x7FFFFFFFu, 0xFF800123u, 0xFFFFFFFFu}) {
      INFO(c.name << " of " << std::hex << bits);
      CHECK(std::isnan(Runner(c.f)(std::bit_cast<float>(bits))));
    }
}

TEST_CASE("f32 functions are monotone where they should be", "[math]") {
  struct Range {
    Unary f;
    float low, high;
  };
  const Range ranges[] = {{exp, -110, 90},    {expm1, -30, 90},    {log, 0, 3e38f},
                          {log1p, -1, 3e38f}, {tanh, -12, 12},     {sigmoid, -110, 30},
                          {erf, -5, 5},       {atan, -1e9f, 1e9f}, {asin, -1, 1}};
  for (const Range& r : ranges) {
    std::vector<float> x, y;
    const int n = 200'000;
    for (int i = 0; i <= n; ++i) x.push_back(static_cast<float>(r.low + (double(r.high) - r.low) * i / n));
    y.resize(x.size());
    Runner(r.f)(x.size(), x.data(), y.data());
    size_t falls = 0;
    for (size_t i = 1; i < x.size(); ++i)
      if (y[i] < y[i - 1] && ulp_error(y[i], y[i - 1]) > 1) ++falls;
    INFO("function " << &r - ranges);
    CHECK(falls == 0);
  }
}

TEST_CASE("sin and cos stay right for huge arguments", "[math]") {
  std::mt19937 random(7);
  const Runner s(sin), c(cos), t(tan);
  double worst[3] = {};
  for (int i = 0; i < 100'000; ++i) {
    const uint32_t bits = 0x47000000 + random() % (0x7F800000 - 0x47000000);
    const float x = std::bit_cast<float>(bits);
    worst[0] = std::max(worst[0], ulp_error(s(x), std::sin(static_cast<long double>(x))));
    worst[1] = std::max(worst[1], ulp_error(c(-x), std::cos(static_cast<long double>(x))));
    worst[2] = std::max(worst[2], ulp_error(t(x), std::tan(static_cast<long double>(x))));
  }
  CHECK(worst[0] <= 1.6);
  CHECK(worst[1] <= 1.6);
  CHECK(worst[2] <= 3.2);
}

TEST_CASE("pow keeps its ulp bound", "[math]") {
  std::mt19937 random(11);
  const Runner run(static_cast<Value (*)(Value, Value)>(pow));
  constexpr size_t n = 1 << 20;
  std::vector<float> x(n), y(n), z(n);
  std::uniform_real_distribution<float> exponent(-160, 130);
  for (size_t i = 0; i < n; ++i) {
    x[i] = std::bit_cast<float>(static_cast<uint32_t>(random() % 0x7F800000));
    if (i % 4 == 1) x[i] = 1 + (static_cast<int>(random() % 2001) - 1000) * 0x1p-23f * (i % 16 == 1 ? 1 : 1000);
    y[i] = exponent(random) / std::log2(x[i]);
    if (i % 4 == 2) y[i] = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (i % 4 == 3) y[i] = static_cast<float>(static_cast<int>(random() % 41) - 20), x[i] *= i % 8 == 3 ? -1.0f : 1.0f;
  }
  run(n, x.data(), y.data(), z.data());
  Worst worst;
  float at = 0;
  for (size_t i = 0; i < n; ++i) {
    const double e = ulp_error(z[i], std::pow(static_cast<long double>(x[i]), static_cast<long double>(y[i])));
    if (e > worst.ulp) worst = {e, x[i], z[i]}, at = y[i];
  }
  INFO(worst.ulp << " ulp at " << worst.x << ", " << at << ", got " << worst.got);
  CHECK(worst.ulp <= 0.9);
  if (std::getenv("RP_PRINT_ULP")) printf("pow      %.3f ulp at %a, %a, got %a\n", worst.ulp, worst.x, at, worst.got);
}

TEST_CASE("pow has the special cases of C", "[math]") {
  const Runner run(static_cast<Value (*)(Value, Value)>(pow));
  const float values[] = {0,         -0.0f,       1,        -1,        0.5f,      -0.5f,  2,           -2,
                          3,         -3,          2.5f,     -2.5f,     1e10f,     -1e10f, 16777215.0f, -16777215.0f,
                          1e-30f,    -1e-30f,     denormal, -denormal, 0x1p-126f, 3e38f,  -3e38f,      infinity,
                          -infinity, not_a_number};
  for (float x : values)
    for (float y : values) {
      const float got = run(x, y),
                  want = static_cast<float>(std::pow(static_cast<long double>(x), static_cast<long double>(y)));
      INFO("pow(" << x << ", " << y << ") = " << got << ", expected " << want);
      const bool edge = want == 0 || std::isnan(want) || std::isinf(want) || want == 1;
      if (edge)
        CHECK(same_bits(got, want));
      else
        CHECK(ulp_error(got, want) <= 4);
    }
}

TEST_CASE("f64 functions are those of the C library", "[math]") {
  ProgramBuilder b;
  const int x = b.operand(DType::f64, Access::contiguous);
  Unary functions[] = {exp, expm1, log, log1p, tanh, erf, sin, cos, tan, atan, asin, acos, sigmoid};
  for (Unary f : functions) b.store(f(b.load(x)), b.operand(DType::f64, Access::contiguous));
  const Value two = b.constant(2.5, Type::f64);
  b.store(pow(b.load(x), two), b.operand(DType::f64, Access::contiguous));
  const TileProgramPtr program = decode(b.program());
  double in[3] = {0.25, -0.75, 0.5}, out[14][3];
  KernelArgs args{};
  args.pointers[0] = reinterpret_cast<std::byte*>(in);
  for (int k = 0; k < 14; ++k) args.pointers[k + 1] = reinterpret_cast<std::byte*>(out[k]);
  args.rows = 1, args.columns = 3, args.context = program.get();
  run_tile(&args);
  double (*expected[])(double) = {std::exp, std::expm1, std::log, std::log1p, std::tanh, std::erf,
                                  std::sin, std::cos,   std::tan, std::atan,  std::asin, std::acos};
  for (int k = 0; k < 12; ++k)
    for (int i = 0; i < 3; ++i) CHECK((out[k][i] == expected[k](in[i]) || std::isnan(expected[k](in[i]))));
  CHECK(out[12][0] == Approx(1 / (1 + std::exp(-0.25))).epsilon(1e-15));
  CHECK(out[13][2] == std::pow(0.5, 2.5));
}
