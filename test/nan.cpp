// Finding the op that makes the first NaN or Inf, in every mode.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <thread>

#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using rp::Mode;
using rp::Tensor;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr Mode modes[] = {Mode::eager, Mode::graph, Mode::verify};

struct Found {
  std::string text;
  unsigned line = 0;
};

template <class F>
Found found(F f) {
  try {
    f();
  } catch (const rp::Error& e) {
    return {e.what(), e.where().line()};
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Positive numbers, then the same with a zero in place `at`: recordings are made with the first, so that the second
// call is matched and would run as a plan.
Tensor positive(int64_t rows, int64_t columns, int64_t zero_at = -1) {
  std::vector<float> v(static_cast<size_t>(rows * columns));
  for (size_t i = 0; i < v.size(); ++i) v[i] = 0.5f + static_cast<float>(i % 7);
  if (zero_at >= 0) v[static_cast<size_t>(zero_at)] = 0;
  return rp::tensor(v, {rows, columns});
}

// Calls a captured function three times on good numbers and once on bad ones; what the last call says, in each mode.
template <class F>
void check_modes(F body, const Tensor& bad, const std::string& wanted, unsigned line) {
  for (Mode mode : modes) {
    rp::ModeGuard guard(mode);
    auto f = rp::capture(body);
    for (int i = 0; i < 3; ++i) f(positive(bad.size(0), bad.size(1)));
    if (mode != Mode::eager) CHECK(f.stats().plan_runs >= 1);
    rp::NanGuard watch;
    const Found got = found([&] { f(bad); });
    INFO(got.text);
    CHECK(contains(got.text, wanted));
    CHECK(contains(got.text, "nan.cpp:" + std::to_string(line)));
    CHECK(got.line == line);
  }
}

}  // namespace

TEST_CASE("nothing is looked for by default") {
  for (Mode mode : modes) {
    rp::ModeGuard guard(mode);
    auto f = rp::capture([](const Tensor& x) { return rp::log(x) * 2; });
    for (int i = 0; i < 3; ++i) CHECK(f(positive(2, 3, 4)).to_vector<float>()[4] == -inf);
  }
}

TEST_CASE("the op that makes the first Inf is named with its operands, element and line") {
  unsigned line = 0;
  const auto body = [&](const Tensor& x) {
    Tensor y = x + 1;
    line = __LINE__ + 1;
    Tensor z = rp::log(x);
    return z * y - 1;  // fused with the logarithm, and holds Inf as well
  };
  body(positive(2, 2));
  check_modes(body, positive(32, 10, 17),
              "first Inf: log(f32[32,10]) made -inf of finite operands, in element 17 of f32[32,10]", line);
}

TEST_CASE("a NaN from finite operands is named, also in f64") {
  for (Mode mode : modes) {
    rp::ModeGuard guard(mode);
    rp::NanGuard watch;
    auto f = rp::capture([](const Tensor& x) { return rp::sqrt(x - 1.0); });
    f(rp::tensor({2.0, 3.0}));
    const Found got = found([&] { f(rp::tensor({2.0, 0.5})); });
    CHECK(contains(got.text, "first NaN: sqrt(f64[2])"));
    CHECK(contains(got.text, "element 1 of f64[2]"));
  }
}

TEST_CASE("ops that only pass a NaN on are not to blame") {
  for (Mode mode : modes) {
    rp::ModeGuard guard(mode);
    rp::NanGuard watch;
    auto f = rp::capture([](const Tensor& x) { return rp::sum(rp::exp(x) * 2, {1}); });
    for (int i = 0; i < 2; ++i) {
      CHECK(std::isnan(f(rp::tensor(std::vector<float>{1, NAN, 2, 3}, {2, 2})).to_vector<float>()[0]));
      CHECK(f(rp::tensor(std::vector<float>{1, inf, 2, 3}, {2, 2})).to_vector<float>()[0] == inf);
    }
  }
}

TEST_CASE("a number that is Inf itself puts no blame on the op that takes it") {
  rp::NanGuard watch;
  const Tensor x = positive(2, 3), masked = rp::where(x > 1, x, -inf);
  CHECK(masked.to_vector<float>()[0] == -inf);
  CHECK(rp::full({2}, inf).to_vector<float>()[1] == inf);
  CHECK(rp::softmax(masked, 1).to_vector<float>()[0] == 0);
  CHECK_FALSE(found([&] { x / 0.0; }).text.empty());
}

TEST_CASE("views, strided operands and matrix products are looked at") {
  rp::NanGuard watch;
  const Tensor x = positive(3, 4, 4);
  CHECK(contains(found([&] { rp::log(x.transpose()); }).text,
                 "log(f32[4,3]) made -inf of finite operands, in element 1"));
  CHECK(found([&] { rp::log(x.slice(0, 2, 3)); }).text.empty());
  const Tensor large = rp::full({2, 2}, 3e38f);
  CHECK(contains(found([&] { rp::matmul(large, large); }).text, "first Inf: matmul(f32[2,2], f32[2,2]) made inf"));
  CHECK(contains(found([&] { rp::sum(large); }).text, "first Inf: sum(f32[2,2])"));
  CHECK(contains(found([&] { rp::tensor({1.0, 1e300}).to(rp::DType::f32); }).text, "first Inf: cast(f64[2]) made inf"));
}

TEST_CASE("in the backward pass the line is that of the forward op") {
  unsigned line = 0;
  const auto body = [&](const Tensor& x) {
    Tensor w = x.detach();
    w.set_requires_grad();
    line = __LINE__ + 1;
    Tensor y = rp::sqrt(w);  // finite at zero, where its slope is not
    rp::sum(y).backward();
    return w.grad();
  };
  body(positive(2, 2));
  check_modes(body, positive(4, 5, 7), "in element 7 of f32[4,5]", line);
}

TEST_CASE("writes in place are looked at, whose operands they replace") {
  unsigned line = 0;
  const auto body = [&](const Tensor& x) {
    Tensor y = x.clone();
    line = __LINE__ + 1;
    y /= x;
    y += 1;
    return y;
  };
  body(positive(2, 2));
  check_modes(body, positive(4, 5, 6), "first NaN: div(f32[4,5], f32[4,5])", line);
  const Tensor y = positive(2, 2, 1);
  rp::NanGuard watch;
  CHECK(contains(found([&] { y /= y; }).text, "first NaN: div(f32[2,2], f32[2,2]) made"));
}

TEST_CASE("composites are one op, or those of their bodies under the tape") {
  rp::NanGuard watch;
  const Tensor x = rp::full({2, 2}, 3e38f);
  const std::string text = found([&] { rp::mean(x * 1); }).text;
  CHECK(contains(text, "first Inf"));
}

TEST_CASE("the engine goes on after a NaN was found") {
  rp::ModeGuard guard(Mode::graph);
  auto f = rp::capture([](const Tensor& x) { return rp::log(x) + 1; });
  for (int i = 0; i < 3; ++i) f(positive(2, 2));
  {
    rp::NanGuard watch;
    CHECK_FALSE(found([&] { f(positive(2, 2, 1)); }).text.empty());
    CHECK(f(positive(2, 2)).to_vector<float>()[0] == std::log(0.5f) + 1);
  }
  const auto before = f.stats().plan_runs;
  CHECK(f(positive(2, 2, 1)).to_vector<float>()[1] == -inf);
  CHECK(f.stats().plan_runs == before + 1);
}

TEST_CASE("a guard inside a captured function looks at what is called within it") {
  rp::ModeGuard guard(Mode::graph);
  auto f = rp::capture([](const Tensor& x) {
    Tensor y = rp::log(x);
    Tensor z;
    {
      rp::NanGuard watch;
      z = 1 / x;
    }
    return y + z;
  });
  for (int i = 0; i < 3; ++i) f(positive(2, 2));
  const Found got = found([&] { f(positive(2, 2, 3)); });
  CHECK(contains(got.text, "first Inf: div"));
  CHECK(contains(got.text, "element 3"));
}

TEST_CASE("a guard can switch the search off again") {
  rp::NanGuard watch;
  {
    rp::NanGuard off(false);
    CHECK(rp::log(positive(2, 2, 1)).to_vector<float>()[1] == -inf);
  }
  CHECK_FALSE(found([&] { rp::log(positive(2, 2, 1)); }).text.empty());
}

TEST_CASE("REPRISE_NAN=1 switches the search on for threads that start with it") {
  setenv("REPRISE_NAN", "1", 1);
  Found got;
  std::thread([&] { got = found([] { rp::log(positive(2, 2, 1)); }); }).join();
  unsetenv("REPRISE_NAN");
  CHECK(contains(got.text, "first Inf: log"));
  std::thread([&] { got = found([] { rp::log(positive(2, 2, 1)); }); }).join();
  CHECK(got.text.empty());
}
