// What gradients can do: derivatives of any order, a gradient of your own, and loops that depend on values.
#include <cmath>
#include <cstdio>

#include "reprise/samples/common.h"

using rp::Tensor;
using rp::Tensors;

namespace {

/// d/dx f as a function that can be differentiated again.
auto derivative(std::function<Tensor(const Tensor&)> f) {
  return [f](const Tensor& at) {
    Tensor x = at.requires_grad() ? at : at.detach();
    x.set_requires_grad();
    return rp::grad({f(x)}, {x}, {.create_graph = true})[0];
  };
}

void any_order(samples::LossLog& log) {
  std::printf("tanh and its derivatives at 0, 0.5 and 1\n");
  std::function<Tensor(const Tensor&)> f = [](const Tensor& x) { return rp::tanh(x); };
  for (int order = 0; order <= 4; ++order) {
    auto captured = rp::capture(f);
    std::printf("  order %d:", order);
    for (float at : {0.f, 0.5f, 1.f}) {
      Tensor value = captured(rp::scalar(at));
      log.add(value);
      std::printf(" %10.6f", value.item<float>());
    }
    std::printf("\n");
    f = derivative(f);
  }
}

void own_gradient(samples::LossLog& log) {
  auto log1pexp = [](const Tensor& x) { return rp::log(1 + rp::exp(x)); };
  // The gradient by the rules is exp(x) / (1 + exp(x)): at 100 one infinity over another. This form has none.
  rp::CustomGradient stable{
      .forward = [=](const Tensors& in) { return log1pexp(in[0]); },
      .backward = [](const Tensors& in, const Tensor&,
                     const Tensor& dy) { return Tensors{dy * (1 - 1 / (1 + rp::exp(in[0])))}; },
  };
  auto stable_log1pexp = [=](const Tensor& x) { return stable({x}); };
  std::printf("the gradient of log(1 + e^x)\n");
  auto by_rules = rp::capture(derivative(log1pexp));
  auto by_own = rp::capture(derivative(stable_log1pexp));
  for (float at : {0.f, 1.f, 100.f}) {
    Tensor x = rp::scalar(at), plain = by_rules(x), own = by_own(x);
    log.add(own);
    const std::string rules = std::isnan(plain.item<float>()) ? "not a number" : std::to_string(plain.item<float>());
    std::printf("  at %g: %s by the rules, %f by our own\n", at, rules.c_str(), own.item<float>());
  }
}

void loop_on_values(samples::LossLog& log) {
  // Doubles x until its norm passes 1000: the number of rounds depends on x, and so does the gradient.
  auto grown = rp::capture([](const Tensor& x) {
    Tensor y = x * 2;
    while (rp::sqrt(rp::sum(rp::square(y))).item<float>() < 1000) y = y * 2;
    return rp::grad({rp::sum(y)}, {x})[0];
  });
  std::printf("the gradient through a loop that doubles x until |x| > 1000\n");
  for (float start : {1.f, 1.f, 30.f, 1.f}) {
    Tensor x = rp::full({3}, start);
    x.set_requires_grad();
    Tensor slope = grown(x).select(0, 0);
    log.add(slope);
    std::printf("  from %g: %g\n", start, slope.item<float>());
  }
}

/// Newton's method needs two derivatives of a function, whatever it is.
void newton(samples::LossLog& log) {
  std::function<Tensor(const Tensor&)> f = [](const Tensor& x) { return rp::exp(x) - 3 * x; };
  auto step = rp::capture([first = derivative(f), second = derivative(derivative(f))](const Tensor& x) {
    return x - (first(x) / second(x)).detach();
  });
  Tensor x = rp::scalar(0);
  for (float last = 1; std::fabs(x.item<float>() - last) > 1e-6f;) {
    last = x.item<float>();
    x = step(x).detach();
    log.add(x);
  }
  std::printf("e^x - 3x is smallest at %.6f; log(3) is %.6f\n", x.item<float>(), std::log(3.f));
}

void tour(const samples::Options& options) {
  samples::LossLog log(options.losses);
  any_order(log);
  own_gradient(log);
  loop_on_values(log);
  newton(log);
}

}  // namespace

int main(int argc, char** argv) { return samples::run(argc, argv, "What gradients can do.", {}, tour); }
