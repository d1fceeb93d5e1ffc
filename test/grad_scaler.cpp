#include "reprise/nn/grad_scaler.h"

#include <algorithm>
#include <cmath>

#include "reprise/core/ops.h"
#include "reprise/graph/capture.h"
#include "reprise/nn/optim.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

Tensor leaf(std::initializer_list<float> values) {
  Tensor t = tensor(values);
  t.set_requires_grad();
  return t;
}

// Trains with f16 inside; every fifth input makes the gradients overflow.
struct Training {
  Tensor w = leaf({0.5f, -1.f, 2.f});
  Adam adam{{w}, {.lr = 0.1}};
  GradScaler scaler{{.scale = 1024, .interval = 3}};
  std::vector<bool> stepped;
  std::vector<double> scales;

  Tensor step(const Tensor& x) {
    adam.zero_grad();
    const Tensor loss = mean(square(w.to(DType::f16) * x.to(DType::f16)).to(DType::f32));
    scaler.scale(loss).backward();
    stepped.push_back(scaler.step(adam));
    scaler.update();
    scales.push_back(scaler.scale());
    return loss;
  }

  std::vector<float> run(Mode mode) {
    const ModeGuard guard(mode);
    auto captured = capture([this](const Tensor& x) { return step(x); });
    std::vector<float> seen;
    for (int i = 0; i < 20; ++i) {
      const Tensor x = tensor({1.f, 2.f, i % 5 == 4 ? 250.f : 3.f});
      seen.push_back(captured(x).item<float>());
    }
    const std::vector<float> weights = w.to_vector<float>();
    seen.insert(seen.end(), weights.begin(), weights.end());
    return seen;
  }
};

}  // namespace

TEST_CASE("a scaled loss gives the same step as one that is not") {
  Tensor p = leaf({1, -2, 3}), q = leaf({1, -2, 3});
  Sgd plain({p}, {.lr = 0.1}), scaled({q}, {.lr = 0.1});
  GradScaler scaler({.scale = 4096});
  for (int i = 0; i < 4; ++i) {
    plain.zero_grad(), scaled.zero_grad();
    sum(square(p)).backward();
    plain.step();
    const Tensor loss = scaler.scale(sum(square(q)));
    loss.backward();
    CHECK(q.grad().to_vector<float>()[0] == 4096 * p.grad().to_vector<float>()[0]);
    CHECK(scaler.step(scaled));
    CHECK(q.grad().to_vector<float>() == p.grad().to_vector<float>());
    scaler.update();
    CHECK(q.to_vector<float>() == p.to_vector<float>());
  }
  CHECK(scaler.scale() == 4096);
  CHECK(scaler.good_updates() == 4);
}

TEST_CASE("an infinite or undefined gradient is left out and makes the scale smaller; many good ones make it larger") {
  Tensor p = leaf({1, 2});
  Sgd sgd({p}, {.lr = 0.5});
  sgd.allow_unregistered();
  GradScaler scaler({.scale = 8, .growth = 4, .backoff = 0.25, .interval = 2});
  const auto step = [&](float a, float b) {
    p.set_grad(tensor({a, b}));
    const bool done = scaler.step(sgd);
    scaler.update();
    return done;
  };
  CHECK(step(8, 16));
  CHECK(p.to_vector<float>() == std::vector<float>{0.5f, 1});
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    const double before = scaler.scale();
    CHECK(!step(1, bad));
    CHECK(scaler.scale() == before / 4);
    CHECK(scaler.good_updates() == 0);
  }
  CHECK(p.to_vector<float>() == std::vector<float>{0.5f, 1});
  CHECK(scaler.scale() == 0.125);
  CHECK(step(0, 0));
  CHECK(scaler.scale() == 0.125);
  CHECK(step(0, 0));
  CHECK(scaler.scale() == 0.5);
  CHECK(scaler.good_updates() == 0);
}

TEST_CASE("one optimiser's bad gradient leaves the other's step alone") {
  Tensor p = leaf({1}), q = leaf({1});
  Sgd a({p}, {.lr = 1}), b({q}, {.lr = 1});
  a.allow_unregistered(), b.allow_unregistered();
  GradScaler scaler({.scale = 2});
  p.set_grad(tensor({NAN}));
  q.set_grad(tensor({1.f}));
  CHECK(!scaler.step(a));
  CHECK(scaler.step(b));
  scaler.update();
  CHECK(q.item<float>() == 0.5f);
  CHECK(scaler.scale() == 1);
}

TEST_CASE("gradients may be divided before the step, once") {
  Tensor p = leaf({1, 2});
  Sgd sgd({p}, {.lr = 1});
  sgd.allow_unregistered();
  GradScaler scaler({.scale = 16});
  p.set_grad(tensor({16.f, 32.f}));
  scaler.unscale(sgd);
  CHECK(p.grad().to_vector<float>() == std::vector<float>{1, 2});
  CHECK_THROWS_AS(scaler.unscale(sgd), Error);
  p.set_grad(p.grad() * 0.5);
  CHECK(scaler.step(sgd));
  CHECK(p.to_vector<float>() == std::vector<float>{0.5f, 1});
  CHECK_THROWS_AS(scaler.step(sgd), Error);
  scaler.update();
  CHECK_THROWS_AS(scaler.update(), Error);
  CHECK_THROWS_AS(GradScaler({.scale = 0}), Error);
  CHECK_THROWS_AS(GradScaler({.growth = 1}), Error);
  CHECK_THROWS_AS(GradScaler({.backoff = 1}), Error);
  CHECK_THROWS_AS(GradScaler({.interval = 0}), Error);
  Tensor h = ones({2}, DType::f16);
  h.set_requires_grad();
  Sgd halves({h}, {.lr = 1});
  h.set_grad(ones({2}, DType::f16));
  CHECK_THROWS_AS(scaler.step(halves), Error);
}

TEST_CASE("scaling is the same in a captured step, which is left out where the eager one is") {
  Training eager;
  const std::vector<float> want = eager.run(Mode::eager);
  CHECK(std::count(eager.stepped.begin(), eager.stepped.end(), false) > 0);
  CHECK(std::count(eager.stepped.begin(), eager.stepped.end(), true) > 5);
  for (Mode mode : {Mode::graph, Mode::verify}) {
    Training captured;
    CHECK(captured.run(mode) == want);
    CHECK(captured.stepped == eager.stepped);
    CHECK(captured.scales == eager.scales);
  }
}
