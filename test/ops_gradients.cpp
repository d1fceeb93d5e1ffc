// Gradients and second gradients of every op of the table, and of the public compositions, against central differences.
#include <algorithm>
#include <cmath>

#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/eager/grad.h"
#include "reprise/test/catch.h"
#include "reprise/test/differences.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

bool has_gradient(const Op& op) { return op.gradient.rule || op.kind == Kind::composite; }

// Rules with a kink answer for their first operand alone: the others are numbers in the public function.
bool differentiated(const OpCase& c) {
  const Op& op = *c.op;
  if (op.name == "cast" && static_cast<DType>(c.attrs.as<CastAttrs>().dtype) != DType::f64) return false;
  int64_t elements = 0;
  for (const Input& in : c.inputs) elements += element_count(in.shape);
  if (elements > 150 || !elements) return false;
  return op.kind != Kind::pointwise || op.samples.differentiable || (c.inputs.size() == 1 && !(c.scalar_mask & 1));
}

// A case as a function of its real inputs; where a choice of values is tested, its condition and indices stay.
struct Real {
  const OpCase& c;
  Tensors inputs, all;
  std::vector<size_t> places;

  Real(const OpCase& from, Draw& draw) : c(from) {
    for (size_t i = 0; i < c.inputs.size(); ++i) {
      all.push_back(contiguous(draw.array(c.inputs[i])));
      if (c.inputs[i].dtype != DType::f64) continue;
      inputs.push_back(all.back());
      places.push_back(i);
    }
  }
  Tensor operator()(const Tensors& x) const {
    Tensors in = all;
    for (size_t i = 0; i < places.size(); ++i) in[places[i]] = x[i];
    return run(c, in);
  }
};

// The gradients of a case's inputs, real ones and others, if the result has any; the result is weighed as f32.
std::vector<std::vector<float>> gradients_of(const OpCase& c, const std::vector<ref::Array>& arrays) {
  Tensors inputs;
  for (size_t i = 0; i < arrays.size(); ++i) {
    inputs.push_back(contiguous({c.inputs[i].dtype, arrays[i].shape, arrays[i].values}));
    if (is_floating(c.inputs[i].dtype)) inputs.back().set_requires_grad();
  }
  const Tensor y = run(c, inputs);
  std::vector<std::vector<float>> gradients;
  if (!y.requires_grad()) return gradients;
  Draw weights(3);
  sum(y.to(DType::f32) * contiguous(weights.array({y.shape(), DType::f32, 0.5, 1.5}))).backward();
  for (const Tensor& x : inputs) {
    if (!x.grad().defined()) continue;
    CHECK(x.grad().dtype() == x.dtype());
    gradients.push_back(x.grad().to_vector<float>());
  }
  return gradients;
}

void check_near(const std::vector<float>& got, const std::vector<float>& want, double tolerance) {
  double most = 1e-3, off = 0;
  for (float v : want) most = std::max(most, std::abs(static_cast<double>(v)));
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i)
    off = std::max(off, std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i])));
  CHECK(off <= tolerance * most);
}

}  // namespace

TEST_CASE("gradients of every op on 16-bit floats are near those of f32", "[ops]") {
  for (const Op* op : op_table()) {
    if (!has_gradient(*op) || op->kind == Kind::control || op->kind == Kind::transfer || op->name == "cast") continue;
    for (DType d : {DType::bf16, DType::f16}) {
      const std::vector<OpCase> cases = cases_of(*op, d), wide = cases_of(*op, DType::f32);
      REQUIRE(cases.size() == wide.size());
      Draw draw(op->name.size());
      for (size_t k = 0; k < cases.size(); ++k) {
        if (!differentiated(cases[k])) continue;
        INFO(to_string(cases[k]));
        OpCase f32 = wide[k];
        f32.scalars = cases[k].scalars;
        std::vector<ref::Array> arrays;
        for (const Input& in : cases[k].inputs) arrays.push_back(draw.array(in));
        const auto got = gradients_of(cases[k], arrays), want = gradients_of(f32, arrays);
        REQUIRE(got.size() == want.size());
        for (size_t i = 0; i < got.size(); ++i) check_near(got[i], want[i], d == DType::f16 ? 0x1p-7 : 0x1p-4);
      }
    }
  }
}

TEST_CASE("gradients of every op against central differences", "[ops]") {
  for (const Op* op : op_table()) {
    if (!has_gradient(*op) || op->kind == Kind::control || op->kind == Kind::transfer) continue;
    Draw draw(op->name.size());
    int tested = 0;
    for (const OpCase& c : cases_of(*op, DType::f64)) {
      if (!differentiated(c)) continue;
      INFO(to_string(c));
      const Real f(c, draw);
      CHECK(gradient_error(f, f.inputs) == "");
      ++tested;
    }
    INFO(op->name);
    CHECK(tested);
  }
}

TEST_CASE("second gradients of every op against central differences", "[ops]") {
  for (const Op* op : op_table()) {
    if (!has_gradient(*op)) continue;
    Draw draw(op->name.size());
    for (const OpCase& c : cases_of(*op, DType::f64)) {
      int64_t elements = 0;
      for (const Input& in : c.inputs) elements += element_count(in.shape);
      if (!differentiated(c) || elements > 80) continue;
      INFO(to_string(c));
      const Real f(c, draw);
      CHECK(second_gradient_error(f, f.inputs) == "");
    }
  }
}

TEST_CASE("ops without a gradient cut the tape", "[ops]") {
  for (const Op* op : op_table()) {
    if (has_gradient(*op) || !ref::excuse(op->name).empty()) continue;
    for (const OpCase& c : cases_of(*op, DType::f64)) {
      Tensors in;
      Draw draw(1);
      for (const Input& i : c.inputs) {
        in.push_back(contiguous(draw.array(i)));
        if (i.dtype == DType::f64) in.back().set_requires_grad();
      }
      INFO(to_string(c));
      CHECK(!run(c, in).requires_grad());
    }
  }
}

TEST_CASE("gradients through views of every layout", "[ops]") {
  Draw draw(4);
  const Tensor x = contiguous(draw.array({{4, 6}, DType::f64}));
  const RealFunction functions[] = {
      [](const Tensors& v) { return exp(v[0].transpose()) * v[0].reshape({6, 4}); },
      [](const Tensors& v) { return sin(v[0].slice(1, 1, 6, 2)) + v[0].slice(1, 0, 3); },
      [](const Tensors& v) { return square(v[0].select(0, 1).expand({3, 6})) * v[0].slice(0, 1, 4); },
      [](const Tensors& v) { return matmul(v[0], v[0].transpose()); },
      [](const Tensors& v) { return sum(v[0].permute({1, 0}), {0}) * max(v[0], {1}); },
      [](const Tensors& v) {
        return concat({v[0].slice(0, 0, 2), v[0].unsqueeze(0).squeeze(0).flatten().reshape({4, 6})});
      },
      [](const Tensors& v) { return as_strided(v[0].contiguous(), intern({DType::f64, {3, 3}, {}}, {7, 2}), 4); },
  };
  for (const RealFunction& f : functions) {
    CHECK(gradient_error(f, {x}) == "");
    CHECK(second_gradient_error(f, {x}) == "");
  }
}

TEST_CASE("gradients of the public compositions", "[ops]") {
  Draw draw(8);
  const auto real = [&](const Shape& s, double low = -2, double high = 2) {
    return contiguous(draw.array({s, DType::f64, low, high}));
  };
  const auto check = [](const RealFunction& f, const Tensors& inputs) {
    CHECK(gradient_error(f, inputs) == "");
    CHECK(second_gradient_error(f, inputs) == "");
  };
  const Tensor labels = tensor({2, 0, 1});
  check([](const Tensors& v) { return mean(v[0], {0}); }, {real({3, 4})});
  check([](const Tensors& v) { return var(v[0], {1}); }, {real({3, 4})});
  check([](const Tensors& v) { return logsumexp(v[0], {1}); }, {real({3, 4})});
  check([](const Tensors& v) { return linear(v[0], v[1], v[2]); }, {real({2, 3, 4}), real({4, 2}), real({2})});
  check([](const Tensors& v) { return matmul(v[0], v[1]); }, {real({4}), real({3, 4, 2})});
  check([](const Tensors& v) { return matmul(v[0], v[1]); }, {real({2, 1, 3, 4}), real({2, 4, 2})});
  check([&](const Tensors& v) { return cross_entropy(v[0], labels); }, {real({3, 4})});
  check([](const Tensors& v) { return mse_loss(v[0], v[1]); }, {real({3, 4}), real({3, 4})});
  check([](const Tensors& v) { return layer_norm(v[0], v[1], v[2]); }, {real({3, 4}), real({4}), real({4})});
  check([](const Tensors& v) { return tril(v[0], 1) * triu(v[0], -1) + masked_fill(v[0], v[0] > 0, 2); },
        {real({3, 4})});
  const Tensor seen = tensor({1, 0, 1, 1, 1, 1}).to(DType::boolean).reshape({2, 3});
  check([&](const Tensors& v) { return scaled_dot_product_attention(v[0], v[1], v[2], seen, {.causal = true}); },
        {real({2, 2, 3}), real({3, 3}), real({2, 3, 2})});
  check([](const Tensors& v) { return batch_norm(v[0], v[1], v[2], v[3], v[4], 1); },
        {real({2, 3, 2}), real({3}), real({3}, 0.5, 2), real({3}), real({3})});
  check([](const Tensors& v) { return softplus(v[0]) * sigmoid(v[1]); }, {real({3, 1}), real({2})});
  check([](const Tensors& v) { return pad(v[0], {1, 0}, {0, 2}); }, {real({2, 3})});
  check([](const Tensors& v) { return stack({v[0], v[1] * v[0]}, 1); }, {real({2, 3}), real({2, 3})});
  check([](const Tensors& v) { return split(v[0], 2, 1)[1] * split(v[0], 2, 1)[0]; }, {real({2, 4})});
  check([](const Tensors& v) { return where(v[0] > 0, v[0] * v[1], 0); }, {real({5}), real({1})});
  check([](const Tensors& v) { return clamp(v[0], -1, 1) * leaky_relu(v[0], 0.1) * elu(v[0], 0.7); }, {real({9})});
  const Conv2dOptions same{.stride_h = 2, .padding = Padding::same};
  check([&](const Tensors& v) { return conv2d(v[0], v[1], v[2], same); },
        {real({1, 2, 4, 3}), real({2, 2, 3, 3}), real({2})});
  const Pool2dOptions pool{.window_h = 3, .stride_h = 2, .padding = Padding::same};
  check([&](const Tensors& v) { return max_pool2d(v[0], pool) + avg_pool2d(v[0], pool); }, {real({1, 2, 5, 4})});
}
