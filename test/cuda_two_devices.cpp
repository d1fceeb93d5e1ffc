// Programs that use the CPU and a CUDA device side by side.
#include "reprise/reprise.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda_engine.h"

using namespace rp;
using namespace rp::test;

TEST_CASE("batches arrive on the device", "[cuda]") {
  device();
  const Tensor samples = arange(40).reshape({10, 4});
  for (const int ahead : {0, 2}) {
    auto loader = Dataset(samples).batch(3).prefetch(ahead).to(gpu);
    int64_t row = 0;
    for (auto [x] : loader) {
      CHECK(x.device() == gpu);
      CHECK(alike(x, samples.slice(0, row, row + x.size(0))));
      row += x.size(0);
    }
    CHECK(row == 10);
  }
}

TEST_CASE("a capture may work on both devices", "[cuda]") {
  device();
  auto f = capture([](const Tensor& x) {
    const Tensor there = exp(x * 2).to(gpu);
    const Tensor y = tanh(there) + there;
    return sum(y.to(Device::cpu()) * x);
  });
  const Tensor x = normal({50});
  Tensor want;
  {
    const ModeGuard eager(Mode::eager);
    want = f(x);
  }
  for (int i = 0; i < 5; ++i) CHECK(alike(f(x), want));
}

TEST_CASE("a segment is planned for the device of its ops, not for that of an op which comes after or failed",
          "[cuda]") {
  device();
  const Tensor w = arange(4).to(DType::f32), there = w.to(gpu);
  auto drawn = capture([&] {
    const Tensor n = uniform({4}) * 2;
    return std::pair{n + 1, there * 3};
  });
  auto failed = capture([&](const Tensor& x) {
    CHECK_THROWS_AS(there + x, Error);
    return x * 2 + 1;
  });
  for (int i = 0; i < 4; ++i) {
    const auto [n, scaled] = drawn();
    CHECK(n.device() == Device::cpu());
    CHECK(n.to_vector<float>()[0] >= 1);
    CHECK(scaled.to(Device::cpu()).to_vector<float>() == std::vector<float>{0, 3, 6, 9});
    CHECK(failed(w).to_vector<float>() == std::vector<float>{1, 3, 5, 7});
  }
}

TEST_CASE("what had a raw pointer can move", "[cuda]") {
  device();
  struct Layer : Module {
    Tensor w = param("w", {4}),
           turned = param("turned", {3, 4}, [](const Shape&) { return normal({4, 3}).transpose(); });
    Tensor both = buffer("both", w);
  } net;
  net.w.unsafe_data<float>()[0] = 7;
  const std::vector<float> before = values<float>(net.turned);
  net.to(gpu);
  auto f = capture([&](const Tensor& x) { return (net.w + x) * 2; });
  const Tensor x = ones({4}).to(gpu);
  for (int i = 0; i < 4; ++i) CHECK(values<float>(f(x))[0] == 16);
  CHECK(values<float>(net.turned) == before);
  net.to(Device::cpu());
  CHECK(values<float>(net.turned) == before);
  CHECK(net.w.to_vector<float>()[0] == 7);
  CHECK(net.both.is(net.w));
}

TEST_CASE("maps of batches make their tensors where the batches are", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  for (const int ahead : {0, 2}) {
    const auto noisy = [](const Tensor& x) { return x + uniform(x.shape()); };
    for (auto [x] : Dataset(zeros({6, 2}).to(Device::cpu())).map(noisy).batch(3).prefetch(ahead)) {
      CHECK(x.device() == gpu);
      CHECK(max(x).to(Device::cpu()).item<float>() > 0);
    }
  }
}

TEST_CASE("the first state of a cell lies where its weights do", "[cuda]") {
  device();
  GRUCell cell(4);
  const Tensor x = normal({2, 3});
  cell(x, cell.initial_state(2));
  cell.to(gpu);
  CHECK(cell(x.to(gpu), cell.initial_state(2)).device() == gpu);
}
