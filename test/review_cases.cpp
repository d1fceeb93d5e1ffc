// Programs that once went wrong, each with what must happen.
#include <thread>

#include "reprise/backends/cpu/memory.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

using Floats = std::vector<float>;

Tensor leaf(const Floats& values) { return tensor(values, {static_cast<int64_t>(values.size())}).set_requires_grad(); }

}  // namespace

TEST_CASE("computing with a value that a failed op left behind is an error", "[capture]") {
  const Tensor table = ones({4, 2});
  Tensor kept;
  auto f = capture([&](const Tensor& indices) {
    kept = table * 2;
    return index_select(table, indices) + kept[0];
  });
  const Tensor good = tensor({int64_t{0}, int64_t{1}}), bad = tensor({int64_t{9}, int64_t{1}});
  for (int i = 0; i < 3; ++i) f(good);
  CHECK_THROWS_AS(f(bad), Error);
  CHECK_THROWS_AS(kept + 1, Error);
  CHECK(f(good).to_vector<float>() == Floats{3, 3, 3, 3});
}

TEST_CASE("writing to a frozen tensor leaves it frozen", "[grad]") {
  const Tensor w = leaf({1, 2});
  w.set_requires_grad(false);
  auto f = capture([&] { w.copy_(w * 0.5); });
  for (int i = 0; i < 4; ++i) f();
  CHECK(!w.requires_grad());
  w.set_requires_grad();
  CHECK(w.to_vector<float>() == Floats{0.0625f, 0.125f});
}

TEST_CASE("a tape built on two threads in turn", "[grad]") {
  const Tensor w = leaf({1, 2}), y = zeros({2});
  y.copy_(w * 2);
  std::thread([&] { y.copy_(w * 10); }).join();
  sum(y).backward();
  CHECK(w.grad().to_vector<float>() == Floats{10, 10});
}

TEST_CASE("elements that the host replaces have no history", "[grad]") {
  const Tensor w = leaf({1, 2});
  Tensor y = w * 2;
  const Floats values{5, 6};
  y.copy_from(std::span(values));
  sum(y * w).backward();
  CHECK(w.grad().to_vector<float>() == values);
}

TEST_CASE("a long recording is cut and taken down", "[capture]") {
  const Tensor one = scalar(1);
  auto f = capture([&](const Tensor& x) {
    Tensor y = x;
    for (int i = 0; i < 40000; ++i) y = y + one;
    return y;
  });
  for (int i = 0; i < 3; ++i) CHECK(f(scalar(0)).item<float>() == 40000);
  CHECK(f.stats().recordings <= 6);
}

TEST_CASE("empty handles are errors in gradients too", "[grad]") {
  const Tensor w = leaf({1, 2});
  CHECK_THROWS_AS(grad({sum(w)}, {w, Tensor()}), Error);
  CHECK_THROWS_AS(implicit_gradients([] { return Tensor(); }), Error);
  CHECK_THROWS_AS(Tensor().set_grad({}), Error);
  CHECK_THROWS_AS(Tensor().set_requires_grad(false), Error);
}

TEST_CASE("a captured function may return a reference", "[capture]") {
  const Tensor w = zeros({2});
  auto f = capture([&]() -> const Tensor& { return add_(w, 1); });
  for (int i = 0; i < 3; ++i) f();
  CHECK(f().to_vector<float>() == Floats{4, 4});
}

TEST_CASE("a shape error that the body catches leaves the recording whole", "[capture]") {
  const Tensor a = ones({2}), image = ones({1, 1, 1, 1});
  auto f = capture([&](bool wrong) {
    Tensor y = a * 2;
    if (wrong) CHECK_THROWS_AS(max_pool2d(image), Error);
    return y + a;
  });
  for (int i = 0; i < 30; ++i) CHECK(f(i % 2 == 1).to_vector<float>() == Floats{3, 3});
  CHECK(f.stats().divergences == 0);
}

TEST_CASE("verify compares a plan that reads a large weight before it writes it", "[capture]") {
  const Tensor w = ones({64, 64});
  auto f = capture([&](const Tensor& x) {
    const Tensor y = matmul(x, w);
    w[63].fill_(0.125);
    return matmul(matmul(y, w), w);
  });
  ModeGuard guard(Mode::verify);
  for (int i = 0; i < 4; ++i) {
    w.copy_(w + 0.01);
    f(ones({1, 64}));
  }
  CHECK(f.stats().verified == 3);
}

TEST_CASE("layer_norm promotes its operands", "[ops]") {
  const Tensor x = normal({4, 256}), scale = uniform({256}, 1, 2, DType::f64), shift = ones({256});
  const Tensor want = layer_norm(x.to(DType::f64), scale, shift.to(DType::f64)), y = layer_norm(x, scale, shift);
  CHECK(y.dtype() == DType::f64);
  CHECK(y.to_vector<double>() == want.to_vector<double>());
  CHECK(layer_norm(x.to(DType::f16), {}, shift).dtype() == DType::f32);
  CHECK(layer_norm(x.to(DType::bf16), scale, shift).dtype() == DType::f64);
}

TEST_CASE("a loop that carries nothing may be bounded where gradients are wanted", "[control]") {
  const Tensor w = leaf({1, 2});
  int traced = 0;
  const auto stop = [&](const Tensors&) { return sum(w) < 0; };
  const auto nothing = [&](const Tensors& in) {
    ++traced;
    return in;
  };
  CHECK(while_loop(stop, nothing, Tensors{}, {.max_trips = 3}).empty());
  CHECK(traced > 0);
}

TEST_CASE("results that are too large for the caches are the same bits", "[capture]") {
  const int64_t n = 9'000'001;  // of three arrays together
  const Tensor x = normal({n}), y = normal({n});
  auto f = capture([](const Tensor& a, const Tensor& b) { return (a + b) * a - 1; });
  for (int i = 0; i < 3; ++i) {
    const Tensor whole = f(x, y), odd = f(x.slice(0, 1, n), y.slice(0, 1, n));
    for (const int64_t at : {int64_t{0}, n / 2, n - 1000}) {
      const ModeGuard eager(Mode::eager);
      const Tensor a = x.slice(0, at, at + 1000), b = y.slice(0, at, at + 1000), want = (a + b) * a - 1;
      CHECK(whole.slice(0, at, at + 1000).to_vector<float>() == want.to_vector<float>());
      if (at) CHECK(odd.slice(0, at - 1, at + 999).to_vector<float>() == want.to_vector<float>());
    }
  }
  const Tensor wide = normal({9000, 1024}), rows = softmax(wide);
  CHECK(rows[8999].to_vector<float>() == softmax(wide.slice(0, 8999, 9000))[0].to_vector<float>());
}

TEST_CASE("what runs op by op for want of a plan holds no more than it needs", "[capture]") {
  auto f = capture(
      [](const Tensor& x) {
        Tensor y = x;
        for (int i = 0; i < 50; ++i) y = sum(tanh(y * 2), {0}, true) * x + y;
        return y;
      },
      {.compile_budget_ms = 0});
  const Tensor x = normal({1 << 20, 1});
  f(x);
  reset_memory_peak();
  const size_t before = memory_stats().in_use;
  f(x);
  CHECK(memory_stats().peak < before + 10 * x.numel() * sizeof(float));
}

TEST_CASE("reductions of elements of different sizes in one pass", "[capture]") {
  const Tensor x = normal({5, 250});
  const auto f = [](const Tensor& in) {
    const Tensor wide = in.to(DType::f64), whole = (in * 1000).to(DType::i64);
    return Tensors{sum(in, {1}), sum(wide * wide, {1}), max(whole, {1}), min(in, {1}), sum(whole, {1})};
  };
  auto captured = capture(f);
  Tensors want;
  {
    const ModeGuard eager(Mode::eager);
    want = f(x);
  }
  for (int i = 0; i < 3; ++i) {
    const Tensors got = captured(x);
    for (size_t k = 0; k < got.size(); ++k) CHECK(got[k].to_vector<double>() == want[k].to_vector<double>());
  }
}
