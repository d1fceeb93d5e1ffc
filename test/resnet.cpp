// ResNet-50 of the samples at a small image size: eager, captured whole, and with single blocks captured.
#include <cstring>

#include "reprise/samples/resnet.h"
#include "reprise/test/catch.h"

using namespace rp;
using samples::ResNet50;

namespace {

constexpr int64_t side = 32;

Tensor images(DataFormat format) {
  manual_seed(5);
  return normal(format == DataFormat::nchw ? Shape{2, 3, side, side} : Shape{2, side, side, 3});
}

ResNet50 make(DataFormat format) {
  manual_seed(1);
  ResNet50 net(format);
  NoGrad no_grad;
  net.train(false);
  net(images(format));
  net.train(true);
  return net;
}

void append(std::vector<float>& to, const Tensor& t) {
  const std::vector<float> values = t.to_vector<float>();
  to.insert(to.end(), values.begin(), values.end());
}

/// The bits of what two steps of training and an inference leave behind; `step` runs one step.
using Step = std::function<Tensor(const Tensor&, const Tensor&)>;
std::vector<float> run(const ResNet50& net, DataFormat format, const std::function<Step(Step)>& wrap) {
  const Tensor x = images(format), y = tensor({3, 7});
  Sgd opt(net, {.lr = 0.01, .momentum = 0.9});
  const Step step = wrap([&](const Tensor& in, const Tensor& labels) {
    opt.zero_grad();
    Tensor loss = cross_entropy(net(in), labels);
    loss.backward();
    opt.step();
    return loss;
  });
  std::vector<float> bits;
  for (int i = 0; i < 2; ++i) append(bits, step(x, y));
  NoGrad no_grad;
  net.train(false);
  for (int i = 0; i < 2; ++i) append(bits, wrap([&](const Tensor& in, const Tensor&) { return net(in); })(x, y));
  for (const auto& [name, p] : net.parameters()) append(bits, sum(square(p)));
  for (const auto& [name, p] : net.buffers()) append(bits, sum(p));
  return bits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

const auto as_is = [](Step step) { return step; };
const auto whole = [](Step step) { return Step(capture(step)); };

}  // namespace

TEST_CASE("ResNet-50 has 25,557,032 parameters in either format") {
  for (const DataFormat format : {DataFormat::nchw, DataFormat::nhwc}) {
    const ResNet50 net = make(format);
    int64_t count = 0;
    for (const auto& [name, p] : net.parameters()) count += p.numel();
    CHECK(count == 25557032);
    CHECK(net.summary().find("25557032") != std::string::npos);
    CHECK(net.parameters().size() == 161);
  }
}

TEST_CASE("ResNet-50 leaves the same bits eager, captured, and with any block captured") {
  for (const DataFormat format : {DataFormat::nchw, DataFormat::nhwc}) {
    INFO((format == DataFormat::nchw ? "nchw" : "nhwc"));
    const std::vector<float> eager = run(make(format), format, as_is);
    for (const float v : {eager[0], eager[1]}) CHECK((v > 0 && v < 20));
    CHECK(same_bits(eager, run(make(format), format, whole)));
    for (const auto& [stage, block] : {std::pair{0, 0}, {1, 3}, {2, 1}, {3, 2}}) {
      INFO("stage " << stage << " block " << block);
      ResNet50 net = make(format);
      auto& one = net.stages[static_cast<size_t>(stage)].blocks[static_cast<size_t>(block)];
      one = capture(one);
      CHECK(same_bits(eager, run(net, format, as_is)));
    }
    ResNet50 net = make(format);
    for (samples::Stage& stage : net.stages)
      for (auto& block : stage.blocks) block = capture(block);
    CHECK(same_bits(eager, run(net, format, as_is)));
  }
}

TEST_CASE("ResNet-50 puts nothing but its image into another order, and fuses what follows a convolution") {
  for (const DataFormat format : {DataFormat::nchw, DataFormat::nhwc}) {
    const bool nchw = format == DataFormat::nchw;
    INFO((nchw ? "nchw" : "nhwc"));
    ResNet50 net = make(format);
    const Tensor x = normal(nchw ? Shape{1, 3, 64, 64} : Shape{1, 64, 64, 3});
    NoGrad no_grad;
    net.train(false);
    auto infer = capture([&](const Tensor& in) { return net(in); });
    for (int i = 0; i < 2; ++i) infer(x);
    CHECK(infer.stats().reorders == nchw);
    CHECK(infer.stats().kernels <= 53 + 53 + 4);  // convolutions, factors of the norms, pool, mean, head
    CHECK(infer.explain().find(nchw ? " 1 reorders" : " 0 reorders") != std::string::npos);
  }
}

TEST_CASE("ResNet-50 computes the same function in both formats") {
  const ResNet50 first = make(DataFormat::nchw), last = make(DataFormat::nhwc);
  NoGrad no_grad;
  first.train(false);
  last.train(false);
  manual_seed(6);
  const Tensor x = normal({1, 3, side, side});
  const std::vector<float> a = first(x).to_vector<float>(),
                           b = last(x.permute({0, 2, 3, 1}).contiguous()).to_vector<float>();
  double worst = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    worst = std::max<double>(worst, std::abs(a[i] - b[i]));
    largest = std::max<double>(largest, std::abs(a[i]));
  }
  CHECK(worst <= 1e-4 * largest);
}
