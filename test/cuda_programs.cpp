// Networks that train on the CPU, every product and kernel of theirs on the device as well.
#include <algorithm>

#include "reprise/samples/models.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_twin.h"

using namespace rp;
using namespace rp::test;

namespace {

/// Some steps of training, the last ones in a plan.
template <class Loss>
void train(Module& net, const Tensors& inputs, Loss&& loss_of) {
  fake::Device gpu;
  Twins twins;
  loss_of(inputs);  // makes the parameters
  Adam opt(net, {.lr = 1e-2});
  auto step = capture([&](const Tensors& in) {
    opt.zero_grad();
    Tensor loss = loss_of(in);
    loss.backward();
    opt.step();
    return Tensors{loss};
  });
  for (Mode mode : {Mode::eager, Mode::graph}) {
    ModeGuard guard(mode);
    for (int i = 0; i < 3; ++i) step(inputs);
  }
  const auto& forms = twins.compared();
  CHECK(std::any_of(forms.begin(), forms.end(), [](const auto& f) { return f.first.find("gemm") == 0; }));
}

Tensor whole_numbers(const Shape& shape, int below) { return cast(floor(uniform(shape, 0, below)), DType::i64); }

}  // namespace

TEST_CASE("a perceptron on both", "[cuda]") {
  samples::Mlp net(10, 40);
  train(net, {normal({13, 20}), whole_numbers({13}, 10)},
        [&](const Tensors& in) { return cross_entropy(net(in[0]), in[1]); });
}

TEST_CASE("a recurrent network on both", "[cuda]") {
  samples::CharRnn net(30, 24);
  train(net, {whole_numbers({5, 9}, 30), whole_numbers({5, 9}, 30)},
        [&](const Tensors& in) { return net(in[0], in[1]); });
}

TEST_CASE("a network with gates on both", "[cuda]") {
  LSTM net(16);
  train(net, {normal({6, 4, 11})}, [&](const Tensors& in) { return mean(square(net(in[0]).outputs)); });
}

TEST_CASE("attention on both", "[cuda]") {
  struct Attention : Module {
    Tensor operator()(const Tensor& x) const {
      const auto heads = [&](const Dense& d) { return d(x).reshape({2, 10, 3, 8}).permute({0, 2, 1, 3}); };
      const Tensor y = scaled_dot_product_attention(heads(q), heads(k), heads(v), {}, {.causal = true});
      return norm(y.permute({0, 2, 1, 3}).reshape({2, 10, 24}));
    }
    Dense q = child("q", Dense(24)), k = child("k", Dense(24)), v = child("v", Dense(24));
    LayerNorm norm = child("norm", LayerNorm());
  } net;
  train(net, {normal({2, 10, 24})}, [&](const Tensors& in) { return mean(square(net(in[0]) - 0.3)); });
}

TEST_CASE("a convolutional network on both", "[cuda]") {
  samples::FashionNet net;
  train(net, {uniform({2, 28, 28}), whole_numbers({2}, 10)},
        [&](const Tensors& in) { return cross_entropy(net(in[0]), in[1]); });
}
