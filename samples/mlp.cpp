// A multilayer perceptron learns which arm of a spiral a point belongs to.
#include <cstdio>

#include "reprise/samples/common.h"
#include "reprise/samples/data.h"
#include "reprise/samples/models.h"

using rp::Tensor;

namespace {

void train(const samples::Options& options) {
  auto data = samples::spirals(3000);
  auto loader = data.shuffle(options.seed).batch(options.batch, true);

  samples::Mlp net(3);
  rp::Sgd opt(net, {.lr = 0.1, .momentum = 0.9});
  auto step = rp::capture([&](const Tensor& x, const Tensor& y) {
    opt.zero_grad();
    Tensor loss = rp::cross_entropy(net(x), y);
    loss.backward();
    opt.step();
    return loss;
  });

  samples::LossLog log(options.losses);
  for (int i = 0; i < options.steps;) {
    for (auto [x, y] : loader) {
      Tensor loss = step(x, y);
      log.add(loss);
      if (++i % 100 == 0 || i == options.steps) std::printf("step %d: loss %.4f\n", i, loss.item<float>());
      if (i == options.steps) break;
    }
  }
  if (!options.report.empty()) step.report(options.report);
  std::printf("%s", net.summary().c_str());
  std::printf("accuracy %.1f%%\n", 100 * samples::accuracy(net, data));
}

}  // namespace

int main(int argc, char** argv) {
  return samples::run(argc, argv, "A multilayer perceptron on points of a spiral.", {.steps = 500, .batch = 100},
                      train);
}
