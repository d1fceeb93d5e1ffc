// Control ops at the edges: bodies that write to what they are given, no units, and one line with many bodies.
#include "reprise/test/capture_cases.h"

using namespace rp;

namespace {

constexpr DType f64 = DType::f64;

Tensor draw(const Shape& shape) { return uniform(shape, -1, 1, f64); }

void check_same(const Tensor& a, const Tensor& b) {
  CHECK(a.spec() == b.spec());
  CHECK(a.to_vector<double>() == b.to_vector<double>());
}

// A function that scans and calls itself, with another body for every v.
Tensor nested(bool by_scan, int depth, const Tensor& a, int v) {
  const auto step = [&](const Tensor& s) {
    Tensor n = s;
    for (int i = 0; i < v % 9; ++i) n = n + i;
    for (int i = 0; i < v / 9; ++i) n = tanh(n);
    for (int k = 1; depth > 0 && k <= 3; ++k) n = nested(by_scan, depth - 1, n, v * 3 % 70 + k);
    return n * 0.9 + a;
  };
  return by_scan ? scan(step, a, {.length = 2}) : step(step(a));
}

}  // namespace

TEST_CASE("a body may write to its carries and inputs, which are the step's own", "[control]") {
  cases::agree([](cases::Log& log) {
    const Tensor a = draw({3, 4}), xs = draw({3, 5, 4}).transpose(0, 1), before = a.clone(), all = xs.clone();
    auto f = capture([&] {
      const auto [c, y] = scan(
          [](const Tensor& s, const Tensor& x) {
            const Tensor old = s.clone();
            s += x;
            x.select(0, 1).copy_(s.select(0, 2));
            return std::pair(s, old * x);
          },
          a, xs);
      const Tensor z = while_loop(
          [](const Tensor& s) {
            s += 1;
            return sum(s * s) < 50;
          },
          [](const Tensor& s) {
            s *= 2;
            return s;
          },
          a, {.max_trips = 9});
      return Tensors{c, y, z};
    });
    for (int i = 0; i < 4; ++i) log.add(f());
    check_same(a, before);
    check_same(xs, all);
    Tensor h = before;
    for (int t = 0; t < 5; ++t) h = h + all.select(0, t);
    check_same(f()[0], h);
  });
}

TEST_CASE("gradients pass through a body that writes to its carry", "[control]") {
  const Tensor a = draw({3}).set_requires_grad(), w = draw({3}).set_requires_grad();
  const Tensor c = scan(
      [&](const Tensor& s) {
        s *= w;
        return s;
      },
      a, {.length = 3});
  const Tensors g = grad({sum(c)}, {a, w}), expected = grad({sum(a * w * w * w)}, {a, w});
  for (size_t i = 0; i < 2; ++i) CHECK(max(abs(g[i] - expected[i])).item<double>() <= 1e-12);
}

TEST_CASE("a recurrent layer without units has gradients without elements", "[control]") {
  const Tensor u = draw({0, 0}).set_requires_grad(), w = draw({3, 0}).set_requires_grad();
  for (int64_t steps : {0, 4}) {
    const Tensor h = scan([&](const Tensor& s, const Tensor& x) { return tanh(matmul(s, u) + matmul(x, w)); },
                          draw({2, 0}), draw({steps, 2, 3}));
    const Tensors g = grad({sum(h)}, {u, w}, {.allow_unused = true});
    CHECK(g[0].shape() == u.shape());
    CHECK(g[1].shape() == w.shape());
  }
}

TEST_CASE("one line may trace many bodies within each other", "[control]") {
  const Tensor a = draw({3});
  for (int v = 1; v < 40; ++v) check_same(nested(true, 2, a, v), nested(false, 2, a, v));
}

TEST_CASE("weights that every step of a loop transposes have their gradients summed by one product", "[control]") {
  cases::agree([](cases::Log& log) {
    const Tensor w = uniform({8, 6}, -1, 1).set_requires_grad(), u = uniform({8, 8}, -1, 1).set_requires_grad();
    auto step = capture([&](const Tensor& x, bool every_step) {
      const Tensor w_once = w.transpose(), u_once = u.transpose();
      Tensor h = zeros({4, 8}), loss = scalar(0);
      for (int64_t t = 0; t < x.size(0); ++t) {
        h = tanh(matmul(x.select(0, t), every_step ? w.transpose() : w_once) +
                 matmul(h, every_step ? u.transpose() : u_once));
        loss = loss + mean(h * h);
      }
      return grad({loss}, {w, u});
    });
    for (bool every_step : {false, true})
      for (int i = 0; i < 4; ++i) log.add(step(uniform({6, 4, 6}, -1, 1), every_step));
    if (log.mode != Mode::graph) return;
    const std::string dump = step.dump();
    int sums = 0;
    for (size_t at = 0; (at = dump.find(" = segmented_matmul(", at)) != std::string::npos; ++at) ++sums;
    CHECK(sums == 4);
  });
}
