// A residual network with 50 layers learns to tell ten kinds of clothes apart.
#include <chrono>
#include <cstdio>

#include "reprise/samples/common.h"
#include "reprise/samples/data.h"
#include "reprise/samples/resnet.h"

using rp::Tensor;

namespace {

/// Grey images [n, 28, 28] as coloured ones of twice the size, in either order of axes.
Tensor enlarge(const Tensor& images, rp::DataFormat format) {
  const int64_t n = images.size(0), side = 28;
  if (format == rp::DataFormat::nchw)
    return images.reshape({n, 1, side, 1, side, 1}).expand({n, 3, side, 2, side, 2}).reshape({n, 3, 56, 56});
  return images.reshape({n, side, 1, side, 1, 1}).expand({n, side, 2, side, 2, 3}).reshape({n, 56, 56, 3});
}

void infer(const samples::ResNet50& net, const rp::Dataset<2>& data, rp::DataFormat format, samples::LossLog& log) {
  rp::NoGrad no_grad;
  net.train(false);
  auto classify = rp::capture([&](const Tensor& x) { return rp::argmax(net(x)); });
  constexpr int64_t batch = 8, batches = 4;
  int64_t right = 0, done = 0;
  const auto start = std::chrono::steady_clock::now();
  for (auto [images, y] : data.batch(batch)) {
    right += rp::sum(classify(enlarge(images, format)) == y).item<int64_t>();
    if (++done == batches) break;
  }
  const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
  log.add(rp::scalar(right));
  std::printf("%lld of %lld new images are told right, %.1f ms each\n", static_cast<long long>(right),
              static_cast<long long>(done * batch), spent.count() / static_cast<double>(done * batch));
}

void train(const samples::Options& options) {
  const auto format = options.format == "nhwc" ? rp::DataFormat::nhwc : rp::DataFormat::nchw;
  auto loader = samples::fashion_mnist(options.data, true).shuffle(options.seed).batch(options.batch, true).prefetch(2);

  samples::ResNet50 net(format);
  rp::Sgd opt(net, {.lr = 0.02, .momentum = 0.9});
  auto step = rp::capture([&](const Tensor& images, const Tensor& y) {
    opt.zero_grad();
    Tensor loss = rp::cross_entropy(net(enlarge(images, format)), y);
    loss.backward();
    opt.step();
    return loss;
  });

  samples::LossLog log(options.losses);
  int done = 0;
  for (auto [x, y] : loader) {
    const Tensor loss = step(x, y);
    log.add(loss);
    if (++done % 10 == 0 || done == options.steps) std::printf("step %d: loss %.4f\n", done, loss.item<float>());
    if (done == options.steps) break;
  }
  if (!options.report.empty()) step.report(options.report);
  std::printf("%s", net.summary().c_str());
  infer(net, samples::fashion_mnist(options.data, false), format, log);
}

}  // namespace

int main(int argc, char** argv) {
  return samples::run(argc, argv, "ResNet-50 on enlarged images of Fashion-MNIST.",
                      {.steps = 100, .batch = 16, .format = "nchw", .data = "/usr/share/datasets/fashion-mnist"},
                      train);
}
