#pragma once
// The networks that the samples train, for the benchmarks too.
#include "reprise/reprise.h"

namespace samples {

/// A multilayer perceptron. x: [n, features] -> [n, classes]
struct Mlp : rp::Module {
  explicit Mlp(int64_t classes, int64_t units = 128) : classes(classes), units(units) {}
  rp::Tensor operator()(const rp::Tensor& x) const { return layers(x); }

  int64_t classes, units;
  rp::Sequential layers =
      child("layers", rp::Sequential(rp::Dense(units), rp::relu, rp::Dense(units), rp::relu, rp::Dense(classes)));
};

/// A convolutional network for grey images of 28 x 28 pixels, 1,111,946 parameters. x: [n, 28, 28] -> [n, 10]
struct FashionNet : rp::Module {
  explicit FashionNet(rp::DataFormat format = rp::DataFormat::nchw) : format(format) {}

  rp::Tensor operator()(const rp::Tensor& images) const {
    rp::Tensor x = images.unsqueeze(format == rp::DataFormat::nchw ? 1 : 3);
    x = pool(rp::relu(conv1(x)));
    x = pool(rp::relu(conv2(x)));
    x = rp::relu(hidden(x.flatten(1)));
    return out(dropout(x));
  }

  rp::DataFormat format;
  rp::Conv2D conv1 = child("conv1", rp::Conv2D(32, 5, {.format = format}));
  rp::Conv2D conv2 = child("conv2", rp::Conv2D(64, 5, {.format = format}));
  rp::MaxPool pool = child("pool", rp::MaxPool(2, {.padding = rp::Padding::same, .format = format}));
  rp::Dense hidden = child("hidden", rp::Dense(1024));
  rp::Dropout dropout = child("dropout", rp::Dropout(0.5));
  rp::Dense out = child("out", rp::Dense(10));
};

/// A recurrent cell written by hand: nothing in the library knows it. x: [n, inputs], h: [n, units] -> [n, units]
struct Cell : rp::Module {
  Cell(int64_t inputs, int64_t units) : inputs(inputs), units(units) {}

  rp::Tensor operator()(const rp::Tensor& x, const rp::Tensor& h) const {
    return rp::tanh(rp::matmul(x, W) + rp::matmul(h, U) + b);
  }

  int64_t inputs, units;
  rp::Tensor W = param("W", {inputs, units});
  rp::Tensor U = param("U", {units, units}, rp::init::orthogonal());
  rp::Tensor b = param("b", {units});
};

/// Predicts each next character of a text from those before it, step by step in an ordinary loop.
struct CharRnn : rp::Module {
  explicit CharRnn(int64_t characters, int64_t units = 256) : characters(characters), units(units) {}

  /// The mean cross entropy, in nats per character. text, next: [n, steps] integers
  rp::Tensor operator()(const rp::Tensor& text, const rp::Tensor& next) const {
    rp::Tensor h = rp::zeros({text.size(0), units}), loss = rp::scalar(0);
    for (int64_t t = 0; t < text.size(1); ++t) {
      h = cell(embed(text.select(1, t)), h);
      loss = loss + rp::cross_entropy(head(h), next.select(1, t));
    }
    return loss / text.size(1);
  }

  int64_t characters, units;
  rp::Embedding embed = child("embed", rp::Embedding(characters, 64));
  Cell cell = child("cell", Cell(64, units));
  rp::Dense head = child("head", rp::Dense(characters));
};

/// A recurrent cell with two memories, one that changes at every step and one that a gate lets change slowly. x: [n,
/// inputs], fast, slow: [n, units]
///
///     fast' = tanh(x · W + fast · U + slow · V + b)
///     slow' = z * slow + (1 - z) * fast',  z = sigmoid(x · G + fast' · R + c)
struct TwoSpeedCell : rp::Module {
  struct State {
    rp::Tensor fast, slow;
  };

  TwoSpeedCell(int64_t inputs, int64_t units) : inputs(inputs), units(units) {}

  State initial_state(int64_t batch) const { return {rp::zeros({batch, units}), rp::zeros({batch, units})}; }

  State operator()(const rp::Tensor& x, const State& s) const {
    const rp::Tensor fast = rp::tanh(rp::matmul(x, W) + rp::matmul(s.fast, U) + rp::matmul(s.slow, V) + b);
    const rp::Tensor z = rp::sigmoid(rp::matmul(x, G) + rp::matmul(fast, R) + c);
    return {fast, z * s.slow + (1 - z) * fast};
  }

  int64_t inputs, units;
  rp::Tensor W = param("W", {inputs, units}), G = param("G", {inputs, units});
  rp::Tensor U = param("U", {units, units}, rp::init::orthogonal());
  rp::Tensor V = param("V", {units, units}), R = param("R", {units, units});
  rp::Tensor b = param("b", {units}), c = param("c", {units}, rp::init::ones());
};

/// Predicts each next character of a text from those before it by a scan of a cell that the library does not know.
struct TextModel : rp::Module {
  explicit TextModel(int64_t characters, int64_t units = 192) : characters(characters), units(units) {}

  /// The mean cross entropy, in nats per character. text, next: [n, steps] integers
  rp::Tensor operator()(const rp::Tensor& text, const rp::Tensor& next) const {
    const auto step = [&](const TwoSpeedCell::State& before, const rp::Tensor& x) {
      const TwoSpeedCell::State after = cell(x, before);
      return std::pair(after, rp::concat({after.fast, after.slow}, 1));
    };
    const auto [last, read] = rp::scan(step, cell.initial_state(text.size(0)), embed(text.transpose()));
    return rp::cross_entropy(head(read).flatten(0, 1), next.transpose().flatten());
  }

  int64_t characters, units;
  rp::Embedding embed = child("embed", rp::Embedding(characters, 48));
  TwoSpeedCell cell = child("cell", TwoSpeedCell(48, units));
  rp::Dense head = child("head", rp::Dense(characters));
};

/// The fraction of samples whose largest output is that of their label.
template <class Net>
double accuracy(const Net& net, const rp::Dataset<2>& data) {
  rp::NoGrad no_grad;
  net.train(false);
  int64_t right = 0;
  for (auto [x, y] : data.batch(1000)) right += rp::sum(rp::argmax(net(x)) == y).template item<int64_t>();
  net.train(true);
  return static_cast<double>(right) / static_cast<double>(data.samples());
}

}  // namespace samples
