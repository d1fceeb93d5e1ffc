// rp::verify on sound programs: it agrees, compares what it promises, and leaves everything as it was.
#include <fmt/core.h>

#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

Tensor leaf(const Shape& shape) {
  Tensor t = normal(shape);
  t.set_requires_grad();
  return t;
}

void agrees(const VerifyReport& report) {
  INFO(report.text);
  CHECK(report.ok);
  CHECK(report.rewrite.empty());
}

}  // namespace

TEST_CASE("verify agrees on a layer, its gradients and its loss", "[verify]") {
  manual_seed(1);
  const Tensor w = leaf({6, 5}), b = leaf({5}), x = normal({4, 6});
  const auto before = w.to_vector<float>();
  agrees(verify([&](const Tensor& in) { return std::pair(relu(matmul(in, w) + b), sum(in)); }, x));
  CHECK(w.to_vector<float>() == before);
  CHECK(!w.grad().defined());
}

TEST_CASE("verify puts written state, grad() and the generator back", "[verify]") {
  manual_seed(2);
  const Tensor w = leaf({3}), counter = full({}, 0), x = normal({3});
  const auto step = [&](const Tensor& in) {
    sum(square(in * w) * uniform({3})).backward();
    no_grad([&] { w.copy_(w - w.grad() * 0.1); });
    counter.copy_(counter + 1);
    return counter * 2;
  };
  const auto before = w.to_vector<float>(), elements = x.to_vector<float>();
  const Generator position = generator();
  agrees(verify(step, x));
  CHECK(w.to_vector<float>() == before);
  CHECK(x.to_vector<float>() == elements);
  CHECK(counter.item<float>() == 0);
  CHECK(!w.grad().defined());
  CHECK(generator() == position);
}

TEST_CASE("verify agrees on loops, branches and reads", "[verify]") {
  manual_seed(3);
  const Tensor w = leaf({4, 4}), xs = normal({5, 3, 4}), h = normal({3, 4});
  agrees(verify(
      [&](const Tensor& first, const Tensor& steps) {
        return scan([&](const Tensor& c, const Tensor& x) { return std::pair(tanh(matmul(c, w) + x), c); }, first,
                    steps);
      },
      h, xs));
  agrees(verify(
      [&](const Tensor& in) {
        const Tensor y = in * 2;
        return sum(y).item<float>() > 0 ? y + 1 : y - 1;
      },
      h));
  agrees(verify([&](const Tensor& in) { return cond(sum(in) > 0, [&] { return in * 2; }, [&] { return in - w[0]; }); },
                h));
}

TEST_CASE("verify reports a program whose results depend on what it cannot put back", "[verify]") {
  int calls = 0;
  const Tensor x = full({2}, 1);
  const VerifyReport report = verify([&](const Tensor& in) { return in * ++calls; }, x);
  CHECK(!report.ok);
  CHECK(report.difference.find("call 1: result") == 0);
  calls = 0;
  CHECK_THROWS_AS(verify(VerifyOptions{.throws = true}, [&](const Tensor& in) { return in * ++calls; }, x), Error);
}

TEST_CASE("verify compares errors too", "[verify]") {
  const Tensor x = full({2}, 1), y = full({3}, 1);
  agrees(verify([&](const Tensor& in) { return in + y; }, x));
  CHECK_THROWS_AS(verify(VerifyOptions{.calls = 1}, [&](const Tensor& in) { return in; }, x), Error);
}
