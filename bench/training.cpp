// Whole networks: what capture gains where programs are written as usual.
#include <fmt/core.h>

#include "reprise/bench/cases.h"
#include "reprise/bench/contest.h"
#include "reprise/samples/models.h"

namespace bench {
namespace {

using rp::Tensor;

enum class Update { sgd, adam };

const auto classify = [](const auto& net, const Tensor& x, const Tensor& y) { return rp::cross_entropy(net(x), y); };

/// A training step of `net` on one batch, over and over.
template <class Net, class Loss>
std::function<void()> train_step(Net net, Update update, Loss loss, const Tensor& x, const Tensor& y) {
  const auto step = [&] {
    if (update == Update::adam)
      return make_trainee(net, std::make_shared<rp::Adam>(net, rp::AdamOptions{.lr = 1e-4}), loss).step;
    return make_trainee(net, std::make_shared<rp::Sgd>(net, rp::SgdOptions{.lr = 1e-3, .momentum = 0.9}), loss).step;
  }();
  return [step, x, y] { step(x, y); };
}

rp::Sequential layers(int64_t first, int64_t second, int64_t classes) {
  return rp::Sequential(rp::Dense(first), rp::relu, rp::Dense(second), rp::relu, rp::Dense(classes));
}

Make mlp_step(int64_t batch, Update update) {
  return [=] {
    return train_step(layers(512, 256, 10), update, classify, rp::normal({batch, 784}), rp::randint({batch}, 0, 10));
  };
}

Make mlp_forward(int64_t batch) {
  return [=]() -> std::function<void()> {
    auto step = rp::capture([net = layers(512, 256, 10)](const Tensor& x) {
      rp::NoGrad no_grad;
      return net(x);
    });
    return [step, x = rp::normal({batch, 784})]() mutable { step(x); };
  };
}

/// 8-16-4 on four samples: all of it overhead.
Make tiny_step() {
  return [] {
    const rp::Sequential net(rp::Dense(16), rp::relu, rp::Dense(4));
    return train_step(net, Update::sgd, classify, rp::normal({4, 8}), rp::randint({4}, 0, 4));
  };
}

/// One step in time of a cell written by hand, without gradients.
Make cell(int64_t batch, int64_t inputs, int64_t units) {
  return [=]() -> std::function<void()> {
    auto step = rp::capture([cell = samples::Cell(inputs, units)](const Tensor& x, const Tensor& h) {
      rp::NoGrad no_grad;
      return cell(x, h);
    });
    return [step, x = rp::normal({batch, inputs}), h = rp::normal({batch, units})]() mutable { step(x, h); };
  };
}

Make rnn_step(int64_t batch, int64_t steps, int64_t units) {
  return [=] {
    const auto loss = [](const auto& net, const Tensor& x, const Tensor& y) { return net(x, y); };
    const Tensor x = rp::randint({batch, steps}, 0, 256, rp::DType::i32);
    const Tensor y = rp::randint({batch, steps}, 0, 256, rp::DType::i32);
    return train_step(samples::CharRnn(256, units), Update::adam, loss, x, y);
  };
}

Make fashion_step(int64_t batch) {
  return [=] {
    const Tensor x = rp::uniform({batch, 28, 28}), y = rp::randint({batch}, 0, 10, rp::DType::i32);
    return train_step(samples::FashionNet(), Update::adam, classify, x, y);
  };
}

}  // namespace

std::vector<Case> training_cases() {
  const auto captured = [](double ns) { return Goal{Goal::Of::captured, ns}; };
  const Goal faster{Goal::Of::faster}, not_slower{Goal::Of::not_slower};
  return {
      paired("train/tiny_mlp/4", captured(1500), tiny_step()),
      paired("forward/mlp/32", captured(400e3), mlp_forward(32)),
      paired("forward/mlp/128", captured(1.52e6), mlp_forward(128)),
      paired("train/mlp_sgd/32", captured(1.3e6), mlp_step(32, Update::sgd)),
      paired("train/mlp_sgd/128", captured(3.8e6), mlp_step(128, Update::sgd)),
      paired("train/mlp_adam/32", captured(1.5e6), mlp_step(32, Update::adam)),
      paired("train/mlp_adam/128", captured(4.0e6), mlp_step(128, Update::adam)),
      paired("rnn/cell/1x32", faster, cell(1, 32, 32)),
      paired("rnn/cell/32x256", faster, cell(32, 64, 256)),
      paired("train/rnn/32x32x256", faster, rnn_step(32, 32, 256)),
      paired("train/fashion/128", not_slower, fashion_step(128)),
  };
}

}  // namespace bench
