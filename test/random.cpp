// Random ops: positions and seeds, moments, distributions, and bits that depend on nothing else.
#include "reprise/core/random.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <thread>

#include "reprise/core/ops.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/op_cases.h"

using namespace rp;

namespace {

using test::same_bits;

constexpr int64_t count = 200000;

struct Moments {
  double mean = 0, variance = 0, skew = 0, kurtosis = 0;
};
Moments moments(const std::vector<double>& v) {
  Moments m;
  const auto n = static_cast<double>(v.size());
  for (double x : v) m.mean += x / n;
  for (double x : v) m.variance += (x - m.mean) * (x - m.mean) / n;
  for (double x : v) {
    const double z = (x - m.mean) / std::sqrt(m.variance);
    m.skew += z * z * z / n;
    m.kurtosis += z * z * z * z / n;
  }
  return m;
}

// The largest distance between the empirical and the given distribution function, times sqrt(n) (Kolmogorov, Smirnov).
double distance(std::vector<double> v, const std::function<double(double)>& cumulative) {
  std::sort(v.begin(), v.end());
  const auto n = static_cast<double>(v.size());
  double d = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    const double f = cumulative(v[i]), k = static_cast<double>(i);
    d = std::max({d, f - k / n, (k + 1) / n - f});
  }
  return d * std::sqrt(n);
}
constexpr double unlikely = 1.95;  // one in a thousand lies beyond

}  // namespace

TEST_CASE("uniform numbers", "[random]") {
  manual_seed(1);
  for (DType d : {DType::f32, DType::f64}) {
    const auto v = uniform({count}, -1, 3, d).to_vector<double>();
    const Moments m = moments(v);
    CHECK(m.mean == Approx(1).margin(0.013));
    CHECK(m.variance == Approx(16 / 12.).margin(0.012));
    CHECK(m.kurtosis == Approx(1.8).margin(0.015));
    CHECK(distance(v, [](double x) { return (x + 1) / 4; }) < unlikely);
    CHECK(*std::min_element(v.begin(), v.end()) >= -1);
    CHECK(*std::max_element(v.begin(), v.end()) < 3);
  }
  CHECK(uniform({5}, 2, 2).to_vector<float>() == std::vector<float>(5, 2.f));
  const auto narrow = uniform({10000}, 1, std::nextafter(1.f, 2.f)).to_vector<float>();
  CHECK(std::all_of(narrow.begin(), narrow.end(), [](float x) { return x == 1.f; }));
}

TEST_CASE("normal numbers", "[random]") {
  manual_seed(2);
  for (DType d : {DType::f32, DType::f64}) {
    const auto v = normal({count}, 3, 2, d).to_vector<double>();
    const Moments m = moments(v);
    CHECK(m.mean == Approx(3).margin(0.02));
    CHECK(m.variance == Approx(4).margin(0.06));
    CHECK(m.skew == Approx(0).margin(0.025));
    CHECK(m.kurtosis == Approx(3).margin(0.05));
    CHECK(distance(v, [](double x) { return 0.5 * std::erfc(-(x - 3) / std::sqrt(8.)); }) < unlikely);
    CHECK(std::all_of(v.begin(), v.end(), [](double x) { return std::isfinite(x); }));
  }
}

TEST_CASE("random integers and bits", "[random]") {
  manual_seed(3);
  for (DType d : {DType::i32, DType::i64}) {
    std::vector<double> hits(7, 0);
    for (int64_t x : randint({70000}, -3, 4, d).to_vector<int64_t>()) {
      REQUIRE(x >= -3);
      REQUIRE(x < 4);
      ++hits[static_cast<size_t>(x + 3)];
    }
    double chi = 0;
    for (double h : hits) chi += (h - 10000) * (h - 10000) / 10000;
    CHECK(chi < 22.5);  // one in a thousand, six degrees of freedom
  }
  CHECK(randint({3}, 5, 6).to_vector<int64_t>() == std::vector<int64_t>{5, 5, 5});
  const auto far = randint({1000}, int64_t{1} << 40, (int64_t{1} << 40) + (int64_t{1} << 32)).to_vector<int64_t>();
  const auto [low, high] = std::minmax_element(far.begin(), far.end());
  CHECK(*low >= int64_t{1} << 40);
  CHECK(*high - *low > int64_t{1} << 31);
  const auto wide = randint({1000}, -2147483648LL, 2147483648LL, DType::i32).to_vector<int64_t>();
  CHECK(*std::min_element(wide.begin(), wide.end()) < -2000000000);
  CHECK(*std::max_element(wide.begin(), wide.end()) > 2000000000);
  for (double p : {0.0, 0.25, 1.0})
    CHECK(mean(bernoulli({count}, p)).item<double>() == Approx(p).margin(p == 0.25 ? 0.005 : 0));
}

TEST_CASE("dropout keeps the mean", "[random]") {
  manual_seed(4);
  const Tensor x = ones({count}), y = dropout(x, 0.3);
  CHECK(mean(y).item<double>() == Approx(1).margin(0.008));
  CHECK(mean(y == 0).item<double>() == Approx(0.3).margin(0.005));
  CHECK(same_bits(dropout(x, 0.3, false), x));
  CHECK(same_bits(dropout(x, 0), x));
  x.set_requires_grad();
  const Tensor z = dropout(x, 0.5);
  sum(z).backward();
  CHECK(same_bits(x.grad(), z.detach()));
}

TEST_CASE("every random op takes one position", "[random]") {
  manual_seed(7);
  CHECK(generator() == Generator{7, 0});
  uniform({3});
  normal({1000}, 0, 1, DType::f64);
  randint({0}, 0, 9);
  bernoulli({}, 0.5);
  CHECK(generator() == Generator{7, 4});
  dropout(ones({2}), 0.5);
  dropout(ones({2}), 0.5, false);
  CHECK(generator() == Generator{7, 5});
  CHECK_THROWS(uniform({2}, 1, 0));
  CHECK(generator() == Generator{7, 5});
}

TEST_CASE("the state is saved and restored", "[random]") {
  manual_seed(8);
  uniform({5});
  const Generator state = generator();
  const Tensor a = normal({9}), b = uniform({2, 3});
  generator() = state;
  CHECK(same_bits(normal({9}), a));
  CHECK(same_bits(uniform({2, 3}), b));
  CHECK(!same_bits(uniform({2, 3}), b));
  manual_seed(9);
  uniform({5});
  CHECK(!same_bits(normal({9}), a));
  std::thread([] { CHECK(generator() == Generator{}); }).join();
}

TEST_CASE("element i depends on seed, position and i alone", "[random]") {
  const auto draw = [](const Shape& shape, DType d) {
    manual_seed(0x123456789abcdef);
    generator().position = (uint64_t{1} << 33) + 5;
    return uniform(shape, 0, 1, d);
  };
  for (DType d : {DType::f32, DType::f64}) {
    const Tensor large = draw({100000}, d);
    CHECK(same_bits(draw({10, 100, 100}, d).flatten(), large));
    CHECK(same_bits(draw({37}, d), large.slice(0, 0, 37).clone()));
    CHECK(same_bits(draw({3, 1, 7}, d).flatten(), large.slice(0, 0, 21).clone()));
    const auto v = large.to_vector<double>();
    CHECK(std::set<double>(v.begin(), v.end()).size() > (d == DType::f64 ? 99990u : 99000u));
    Tensor elsewhere;
    std::thread([&] { elsewhere = draw({100000}, d); }).join();
    CHECK(same_bits(elsewhere, large));
  }
}

TEST_CASE("random numbers are the same among fused ops and into strided targets", "[random]") {
  const auto draw = [] {
    manual_seed(5);
    return normal({40, 50});
  };
  const Tensor plain = draw();
  const Tensor target = zeros({50, 40});
  target.transpose().copy_(draw());
  CHECK(same_bits(target.transpose().clone(), plain));
  auto fused = capture([&] { return exp(draw() * 0.5).slice(1, 3, 50, 2) + 1; });
  const Tensor want = exp(plain * 0.5).slice(1, 3, 50, 2) + 1;
  for (int call = 0; call < 3; ++call) CHECK(same_bits(fused(), want));
}
