// A convolutional network learns to tell ten kinds of clothes apart.
#include <cstdio>

#include "reprise/samples/common.h"
#include "reprise/samples/data.h"
#include "reprise/samples/models.h"

using rp::Tensor;

namespace {

void train(const samples::Options& options) {
  auto training = samples::fashion_mnist(options.data, true);
  auto held_out = samples::fashion_mnist(options.data, false);
  auto loader = training.shuffle(options.seed).batch(options.batch, true).prefetch(2);

  samples::FashionNet net(options.format == "nhwc" ? rp::DataFormat::nhwc : rp::DataFormat::nchw);
  rp::Adam opt(net, {.lr = 1e-3});
  auto step = rp::capture([&](const Tensor& x, const Tensor& y) {
    opt.zero_grad();
    Tensor loss = rp::cross_entropy(net(x), y);
    loss.backward();
    opt.step();
    return loss;
  });

  samples::LossLog log(options.losses);
  rp::Progress progress("train", options.steps);
  for (int i = 0; i < options.steps;) {
    for (auto [x, y] : loader) {
      Tensor loss = step(x, y);
      log.add(loss);
      progress.step([&] { return "loss " + std::to_string(loss.item<float>()); });
      if (++i % 100 == 0 || i == options.steps) {
        progress.clear();
        std::printf("step %d: loss %.4f\n", i, loss.item<float>());
      }
      if (i == options.steps) break;
    }
  }
  progress.clear();
  if (!options.report.empty()) step.report(options.report);
  std::printf("%s", net.summary().c_str());
  std::printf("accuracy on new images %.2f%%\n", 100 * samples::accuracy(net, held_out));
}

}  // namespace

int main(int argc, char** argv) {
  return samples::run(argc, argv, "A convolutional network on Fashion-MNIST.",
                      {.steps = 938, .batch = 64, .format = "nchw", .data = "/usr/share/datasets/fashion-mnist"},
                      train);
}
