// The decoder of the samples: the same bits in every mode, and what it may look at.
#include <cmath>
#include <cstring>

#include "reprise/samples/transformer.h"
#include "reprise/test/catch.h"

using namespace rp;
using samples::Decoder;

namespace {

Decoder make(bool tied) {
  manual_seed(3);
  return Decoder({.tokens = 11, .steps = 12, .width = 16, .heads = 2, .blocks = 2, .tied = tied});
}

/// Losses of some steps of training on one text that repeats itself, then logits.
std::vector<float> run(const Decoder& net, bool captured) {
  const Tensor all = remainder(arange(60, 0, 1, DType::i32), 5).reshape({5, 12});
  const Tensor text = all.slice(1, 0, 11), next = all.slice(1, 1, 12);
  Adam opt(net, {.lr = 3e-3});
  std::function<Tensor(const Tensor&, const Tensor&)> step = [&](const Tensor& x, const Tensor& y) {
    opt.zero_grad();
    Tensor loss = net.loss(x, y);
    loss.backward();
    opt.step();
    return loss;
  };
  if (captured) step = capture(step);
  std::vector<float> values;
  for (int i = 0; i < 30; ++i) values.push_back(step(text, next).item<float>());
  NoGrad no_grad;
  std::function<Tensor(const Tensor&)> predict = [&](const Tensor& x) { return net(x); };
  if (captured) predict = capture(predict);
  for (int i = 0; i < 2; ++i) {
    const std::vector<float> logits = predict(text).to_vector<float>();
    values.insert(values.end(), logits.begin(), logits.end());
  }
  return values;
}

}  // namespace

TEST_CASE("a decoder learns, with the same bits eager and captured, tied or not, whole or by blocks") {
  for (const bool tied : {true, false}) {
    INFO("tied " << tied);
    const std::vector<float> eager = run(make(tied), false), captured = run(make(tied), true);
    REQUIRE(eager.size() == captured.size());
    CHECK(!std::memcmp(eager.data(), captured.data(), eager.size() * sizeof(float)));
    CHECK(eager[29] < 0.7 * eager[0]);
    Decoder net = make(tied);
    for (auto& block : net.blocks) block = capture(block);
    const std::vector<float> blocks = run(net, false);
    CHECK(!std::memcmp(eager.data(), blocks.data(), eager.size() * sizeof(float)));
    const ModeGuard verify(Mode::verify);
    CHECK(run(make(tied), true).size() == eager.size());
  }
}

TEST_CASE("a decoder sees no later position, and all earlier ones") {
  const Decoder net = make(true);
  NoGrad no_grad;
  const Tensor text = tensor({1, 2, 3, 4, 5, 6}).reshape({1, 6}), other = tensor({1, 2, 3, 9, 5, 6}).reshape({1, 6});
  const std::vector<float> a = net(text).to_vector<float>(), b = net(other).to_vector<float>();
  CHECK(!std::memcmp(a.data(), b.data(), 3 * 11 * sizeof(float)));
  for (size_t i = 3; i < 6; ++i) CHECK(std::memcmp(a.data() + i * 11, b.data() + i * 11, 11 * sizeof(float)) != 0);
}
