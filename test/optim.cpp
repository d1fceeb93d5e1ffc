#include "reprise/nn/optim.h"

#include <cmath>
#include <functional>

#include "reprise/core/ops.h"
#include "reprise/eager/grad.h"
#include "reprise/nn/layers.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

struct Forgetful : Module {
  Dense known = child("known", Dense(3));
  Dense forgotten = Dense(1);
  Tensor operator()(const Tensor& x) const { return sum(forgotten(known(x))); }
};

Tensor leaf(std::initializer_list<float> values) {
  Tensor t = tensor(values);
  t.set_requires_grad();
  return t;
}

/// Minimises sum(c * p^2) for five steps and compares every element with `step(p, g, t)`, in double.
void follow(Optimizer& opt, const Tensor& p, const std::function<double(size_t i, double p, double g, int t)>& step) {
  Tensor c = tensor({1.f, 0.5f, -0.25f});
  std::vector<double> expected = p.to_vector<double>(), factor = c.to_vector<double>();
  for (int t = 1; t <= 5; ++t) {
    opt.zero_grad();
    sum(c * square(p)).backward();
    opt.step();
    std::vector<double> got = p.to_vector<double>();
    for (size_t i = 0; i < got.size(); ++i) {
      expected[i] = step(i, expected[i], 2 * factor[i] * expected[i], t);
      CHECK(got[i] == Approx(expected[i]).epsilon(1e-5));
    }
  }
}

}  // namespace

TEST_CASE("sgd: plain, with weight decay, momentum and Nesterov's momentum") {
  {
    Tensor p = leaf({1, -2, 3});
    Sgd opt({p}, {.lr = 0.1, .weight_decay = 0.2});
    follow(opt, p, [](size_t, double p, double g, int) { return p - 0.1 * (g + 0.2 * p); });
  }
  for (bool nesterov : {false, true}) {
    Tensor p = leaf({1, -2, 3});
    Sgd opt({p}, {.lr = 0.1, .momentum = 0.9, .nesterov = nesterov});
    std::vector<double> v(3);
    follow(opt, p, [&](size_t i, double p, double g, int) {
      v[i] = 0.9 * v[i] + g;
      return p - 0.1 * (nesterov ? g + 0.9 * v[i] : v[i]);
    });
  }
  CHECK_THROWS_AS(Sgd({leaf({1})}, {.nesterov = true}), Error);
}

TEST_CASE("adam and adamw follow their papers") {
  for (bool decoupled : {false, true}) {
    Tensor p = leaf({1, -2, 3});
    Adam adam({p}, {.lr = 0.05, .weight_decay = 0.1});
    AdamW adamw({p}, {.lr = 0.05, .weight_decay = 0.1});
    std::vector<double> m(3), v(3);
    follow(decoupled ? static_cast<Optimizer&>(adamw) : adam, p, [&](size_t i, double p, double g, int t) {
      if (decoupled)
        p *= 1 - 0.05 * 0.1;
      else
        g += 0.1 * p;
      m[i] = 0.9 * m[i] + 0.1 * g;
      v[i] = 0.999 * v[i] + 0.001 * g * g;
      return p - 0.05 * (m[i] / (1 - std::pow(0.9, t))) / (std::sqrt(v[i] / (1 - std::pow(0.999, t))) + 1e-8);
    });
  }
}

TEST_CASE("options may be changed between steps") {
  Tensor p = leaf({1});
  Sgd opt({p}, {.lr = 0.5});
  auto step = [&] {
    opt.zero_grad();
    sum(p * 3).backward();
    opt.step();
    return p.item<float>();
  };
  CHECK(step() == -0.5f);
  opt.options().lr = 1;
  CHECK(step() == -3.5f);
}

TEST_CASE("zero_grad drops gradients, and parameters without one stay as they are") {
  Tensor p = leaf({1}), q = leaf({1});
  Adam opt({p, q});
  sum(p).backward();
  opt.step();
  CHECK(p.grad().defined());
  opt.zero_grad();
  CHECK(!p.grad().defined());
  CHECK(q.item<float>() == 1);
}

TEST_CASE("layers that come into being later are trained too") {
  Sequential net{Dense(2)};
  Sgd opt(net, {.lr = 0.1, .momentum = 0.9});
  auto step = [&] {
    opt.zero_grad();
    sum(square(net(ones({1, 3})))).backward();
    opt.step();
  };
  step();
  net.add(Dense(1));
  net(ones({1, 3}));
  Tensor late = net.parameters()[2].second;
  std::vector<float> before = late.to_vector<float>();
  step();
  CHECK(late.to_vector<float>() != before);
}

TEST_CASE("a parameter that no module registered is reported, with the line of the step") {
  Forgetful net;
  Sgd opt(net);
  net(ones({1, 2})).backward();
  try {
    opt.step();
    FAIL("nothing was thrown");
  } catch (const Error& e) {
    CHECK(e.where().line() == __LINE__ - 3);
    const std::string text = e.what();
    CHECK((text.find("f32[3,1]") != std::string::npos || text.find("f32[1]") != std::string::npos));
    CHECK(text.find("2 such") != std::string::npos);
  }
  opt.allow_unregistered();
  opt.step();
}

TEST_CASE("two optimisers may share one loss") {
  Dense a(2), b(1);
  Sgd first(a), second(b);
  sum(b(a(ones({1, 3})))).backward();
  first.step();
  second.step();
}
