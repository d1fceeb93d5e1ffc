// Hostile input: every impossible call throws rp::Error that starts with the op's name and ends with the caller's line,
// and leaves the engine usable.
#include <functional>
#include <limits>

#include "reprise/core/ops.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

constexpr int64_t huge = int64_t{1} << 40;

// A call that must fail, and the line it stands in.
struct Hostile {
  std::string_view op;
  std::function<void()> call;
  uint32_t line;
  explicit Hostile(std::string_view name, std::function<void()> f, Loc loc = Loc::current())
      : op(name), call(std::move(f)), line(loc.line()) {}
};

// What is wrong with the error that a call throws; empty if nothing is.
std::string complaint(const Hostile& h) {
  try {
    h.call();
  } catch (const Error& e) {
    const std::string text = e.what(), end = " at ops_errors.cpp:" + std::to_string(h.line);
    if (!text.starts_with(std::string(h.op) + ":")) return "does not start with the op: " + text;
    if (!text.ends_with(end)) return "does not end with the line: " + text;
    return {};
  } catch (const std::exception& e) {
    return std::string("another exception: ") + e.what();
  }
  return "nothing was thrown";
}

bool usable() { return ((tensor({1.f, 2.f}) + 1) * 2).to_vector<float>() == std::vector{4.f, 6.f}; }

void check(const std::vector<Hostile>& calls) {
  for (const Hostile& h : calls) {
    INFO(h.op << " in line " << h.line);
    CHECK(complaint(h) == "");
    CHECK(usable());
  }
}

const Tensor& f23() {
  static const Tensor t = ones({2, 3});
  return t;
}
const Tensor& f4() {
  static const Tensor t = ones({4});
  return t;
}
const Tensor& mask() {
  static const Tensor t = ones({2, 3}, DType::boolean);
  return t;
}
const Tensor& image() {
  static const Tensor t = ones({1, 2, 5, 5});
  return t;
}
const Tensor& kernel() {
  static const Tensor t = ones({3, 2, 3, 3});
  return t;
}

}  // namespace

TEST_CASE("hostile shapes, axes and dtypes in pointwise ops", "[ops]") {
  check({
      Hostile("add", [] { add(f23(), f4()); }),
      Hostile("sub", [] { f23() - f4(); }),
      Hostile("mul", [] { mul(ones({2, 1, 3}), ones({3, 2})); }),
      Hostile("div", [] { div(f4(), ones({0})); }),
      Hostile("add", [] { add(1, 2); }),
      Hostile("pow", [] { rp::pow(2.0, 3.0); }),
      Hostile("equal", [] { (void)(f23() == f4()); }),
      Hostile("maximum", [] { maximum(f23(), f4()); }),
      Hostile("where", [] { where(f23(), 1, 2); }),
      Hostile("where", [] { where(mask(), f4(), 0); }),
      Hostile("where", [] { where(mask(), ones({2, 4}), f23()); }),
      Hostile("logical_and", [] { logical_and(f23(), mask()); }),
      Hostile("logical_not", [] { logical_not(f23()); }),
      Hostile("add", [] { add_(f4(), f23()); }),
      Hostile("add_", [] { ones({3}, DType::i32) += 0.5; }),
      Hostile("mul_", [] { ones({3}) *= ones({2, 3}); }),
      Hostile("div_", [] { ones({3}, DType::i64) /= 2; }),
      Hostile("sub_", [] { sub_(ones({1}), f4()); }),
  });
}

TEST_CASE("hostile reductions", "[ops]") {
  check({
      Hostile("sum", [] { sum(f23(), {2}); }),
      Hostile("sum", [] { sum(f23(), {-3}); }),
      Hostile("sum", [] { sum(f23(), {0, 0}); }),
      Hostile("sum", [] { sum(f23(), {1, -1}); }),
      Hostile("mean", [] { mean(f23(), {5}); }),
      Hostile("max", [] { max(ones({2, 0}), {1}); }),
      Hostile("max", [] { max(ones({0})); }),
      Hostile("min", [] { min(ones({0, 3}), {0}); }),
      Hostile("min", [] { min(f23(), {4}); }),
      Hostile("var", [] { var(f23(), {7}); }),
      Hostile("argmax", [] { argmax(f23(), 2); }),
      Hostile("argmax", [] { argmax(ones({3, 0}), 1); }),
      Hostile("argmin", [] { argmin(ones({})); }),
      Hostile("softmax", [] { softmax(f23(), 2); }),
      Hostile("softmax", [] { softmax(ones({})); }),
      Hostile("log_softmax", [] { log_softmax(f23(), -3); }),
      Hostile("layer_norm", [] { layer_norm(f23(), f4()); }),
      Hostile("layer_norm", [] { layer_norm(ones({})); }),
      Hostile("layer_norm", [] { layer_norm(f23(), ones({3}), ones({2})); }),
      Hostile("tril", [] { tril(f4()); }),
      Hostile("triu", [] { triu(ones({})); }),
      Hostile("masked_fill", [] { masked_fill(f23(), f23(), 1); }),
      Hostile("scaled_dot_product_attention", [] { scaled_dot_product_attention(f23(), f4(), f23()); }),
      Hostile("scaled_dot_product_attention", [] { scaled_dot_product_attention(f23(), ones({2, 4}), f23()); }),
      Hostile("scaled_dot_product_attention", [] { scaled_dot_product_attention(f23(), f23(), f23(), f23()); }),
      Hostile("batch_norm", [] { batch_norm(f23(), ones({2}), ones({3}), {}, {}, 1); }),
      Hostile("batch_norm", [] { batch_norm(f23(), ones({3}), ones({3}), {}, {}, 2); }),
      Hostile("cross_entropy", [] { cross_entropy(f23(), ones({3}, DType::i64)); }),
      Hostile("cross_entropy", [] { cross_entropy(f23(), ones({2})); }),
      Hostile("cross_entropy", [] { cross_entropy(f4(), ones({4}, DType::i64)); }),
      Hostile("mse_loss", [] { mse_loss(f23(), f4()); }),
  });
}

TEST_CASE("hostile products and windows", "[ops]") {
  check({
      Hostile("matmul", [] { matmul(f23(), f23()); }),
      Hostile("matmul", [] { matmul(f23(), f4()); }),
      Hostile("matmul", [] { matmul(ones({}), f4()); }),
      Hostile("matmul", [] { matmul(ones({2, 2, 3}), ones({3, 3, 4})); }),
      Hostile("linear", [] { linear(f23(), ones({3, 4}), ones({3})); }),
      Hostile("linear", [] { linear(f23(), ones({3})); }),
      Hostile("linear", [] { linear(ones({}), ones({1, 2})); }),
      Hostile("conv2d", [] { conv2d(f23(), kernel()); }),
      Hostile("conv2d", [] { conv2d(image(), f23()); }),
      Hostile("conv2d", [] { conv2d(image(), ones({3, 1, 3, 3})); }),
      Hostile("conv2d", [] { conv2d(image(), kernel(), ones({2})); }),
      Hostile("conv2d", [] { conv2d(image(), ones({3, 2, 6, 3})); }),
      Hostile("conv2d", [] { conv2d(image(), ones({3, 2, 0, 3})); }),
      Hostile("conv2d", [] { conv2d(image(), kernel(), {}, {.stride_h = 0}); }),
      Hostile("conv2d", [] { conv2d(image(), kernel(), {}, {.dilation_w = -1}); }),
      Hostile("conv2d", [] { conv2d(image(), kernel(), {}, {.dilation_h = 3}); }),
      Hostile("conv2d", [] { conv2d(image(), kernel(), {}, {.format = DataFormat::nhwc}); }),
      Hostile("conv2d_backward_data", [] { conv2d_backward_data(image(), kernel(), {1, 2}); }),
      Hostile("conv2d_backward_data", [] { conv2d_backward_data(ones({1, 3, 5, 5}), kernel(), {1, 2, 5, 5}); }),
      Hostile("conv2d_backward_weights", [] { conv2d_backward_weights(image(), f23(), {3, 2, 3, 3}); }),
      Hostile("max_pool2d", [] { max_pool2d(f23()); }),
      Hostile("max_pool2d", [] { max_pool2d(image(), {.window_h = 6}); }),
      Hostile("max_pool2d", [] { max_pool2d(image(), {.window_h = 0}); }),
      Hostile("avg_pool2d", [] { avg_pool2d(f4()); }),
      Hostile("avg_pool2d", [] { avg_pool2d(image(), {.stride_w = -1}); }),
      Hostile("avg_pool2d", [] { avg_pool2d(image(), {.window_w = 100}); }),
  });
}

TEST_CASE("hostile indices and assembly", "[ops]") {
  static const Tensor three = tensor({0, 1, 3}), negative = tensor({-1}), square = ones({2, 3}, DType::i64);
  check({
      Hostile("index_select", [] { index_select(ones({3, 2}), three); }),
      Hostile("index_select", [] { index_select(ones({3, 2}), negative); }),
      Hostile("index_select", [] { index_select(ones({3, 2}), three, 2); }),
      Hostile("index_select", [] { index_select(ones({3, 2}), ones({2})); }),
      Hostile("index_select", [] { index_select(ones({}), three); }),
      Hostile("gather", [] { gather(f23(), square, 2); }),
      Hostile("gather", [] { gather(f23(), square * 3); }),
      Hostile("gather", [] { gather(f23(), square * -1); }),
      Hostile("gather", [] { gather(f23(), three); }),
      Hostile("gather", [] { gather(f23(), f23()); }),
      Hostile("scatter_add", [] { scatter_add(f23(), square, {2}); }),
      Hostile("scatter_add", [] { scatter_add(f23(), square, {2, 1}); }),
      Hostile("scatter_add", [] { scatter_add(f23(), three, {2, 3}); }),
      Hostile("scatter_add", [] { scatter_add(f23(), f23(), {2, 3}); }),
      Hostile("shape", [] { scatter_add(f23(), square, {2, -3}); }),
      Hostile("one_hot", [] { one_hot(f4(), 3); }),
      Hostile("one_hot", [] { one_hot(three, -1); }),
      Hostile("concat", [] { concat({}); }),
      Hostile("concat", [] { concat({f23(), f4()}); }),
      Hostile("concat", [] { concat({f23(), ones({2, 4})}, 0); }),
      Hostile("concat", [] { concat({f23(), f23()}, 2); }),
      Hostile("concat", [] { concat({ones({}), ones({})}); }),
      Hostile("stack", [] { stack({}); }),
      Hostile("stack", [] { stack({f23(), f4()}); }),
      Hostile("pad", [] { pad(f23(), {1}, {1}); }),
      Hostile("pad", [] { pad(f23(), {-1, 0}, {0, 0}); }),
      Hostile("split", [] { split(f4(), 3); }),
      Hostile("split", [] { split(f4(), 0); }),
      Hostile("split", [] { split(f4(), 2, 1); }),
      Hostile("dropout", [] { dropout(f4(), 1.0); }),
      Hostile("dropout", [] { dropout(f4(), -0.1); }),
  });
}

TEST_CASE("hostile views, writes and reads", "[ops]") {
  static const Tensor repeated = ones({1, 3}).expand({2, 3});
  check({
      Hostile("reshape", [] { f23().reshape({4}); }),
      Hostile("reshape", [] { f23().reshape({-1, -1}); }),
      Hostile("reshape", [] { f23().reshape({-1, 4}); }),
      Hostile("reshape", [] { f23().reshape({0, -1}); }),
      Hostile("permute", [] { f23().permute({0}); }),
      Hostile("permute", [] { f23().permute({0, 0}); }),
      Hostile("permute", [] { f23().permute({0, 2}); }),
      Hostile("transpose", [] { f4().transpose(); }),
      Hostile("slice", [] { f23().slice(2, 0, 1); }),
      Hostile("slice", [] { f23().slice(1, 0, 4); }),
      Hostile("slice", [] { f23().slice(1, 2, 1); }),
      Hostile("slice", [] { f23().slice(1, -4, 3); }),
      Hostile("slice", [] { f23().slice(1, 0, 3, 0); }),
      Hostile("slice", [] { f23().slice(1, 0, 3, -1); }),
      Hostile("select", [] { f23().select(0, 2); }),
      Hostile("select", [] { f23().select(0, -3); }),
      Hostile("select", [] { ones({}).select(0, 0); }),
      Hostile("expand", [] { f23().expand({3, 3}); }),
      Hostile("expand", [] { f23().expand({3}); }),
      Hostile("expand", [] { f23().expand({0, 3}); }),
      Hostile("squeeze", [] { f23().squeeze(0); }),
      Hostile("unsqueeze", [] { f23().unsqueeze(3); }),
      Hostile("flatten", [] { f23().flatten(1, 0); }),
      Hostile("flatten", [] { f23().flatten(0, 2); }),
      Hostile("size", [] { (void)f23().size(2); }),
      Hostile("item", [] { (void)f23().item<float>(); }),
      Hostile("data", [] { (void)f23().data<double>(); }),
      Hostile("data", [] { (void)f23().transpose().data<float>(); }),
      Hostile("copy_from", [] { Tensor(ones({3})).copy_from(std::span<const float>()); }),
      Hostile("write", [] { repeated.fill_(1); }),
      Hostile("write", [] { repeated += 1; }),
      Hostile("copy_", [] { ones({3}).copy_(f4()); }),
      Hostile("copy_", [] { ones({3}).copy_(f23()); }),
  });
}

TEST_CASE("hostile creation", "[ops]") {
  check({
      Hostile("shape", [] { zeros({-1}); }),
      Hostile("shape", [] { zeros({huge, huge}); }),
      Hostile("shape", [] { full({huge, 3, huge}, 1.0); }),
      Hostile("shape", [] { ones({1, 1, 1, 1, 1, 1, 1, 1}).unsqueeze(0); }),
      Hostile("tensor", [] { tensor(std::vector<float>{1, 2}, {3}); }),
      Hostile("arange", [] { arange(-1); }),
      Hostile("arange", [] { arange(3, 0, 1, DType::boolean); }),
      Hostile("arange", [] { arange(huge); }),
      Hostile("from_blob", [] { from_blob<float>(nullptr, {2}); }),
      Hostile("uniform", [] { uniform({2}, 1, 0); }),
      Hostile("uniform", [] { uniform({2}, 0, 1, DType::i32); }),
      Hostile("uniform", [] { uniform({huge}); }),
      Hostile("normal", [] { normal({2}, 0, 1, DType::i64); }),
      Hostile("randint", [] { randint({2}, 3, 3); }),
      Hostile("randint", [] { randint({2}, 0, huge); }),
      Hostile("randint", [] { randint({2}, 0, 3, DType::f32); }),
      Hostile("bernoulli", [] { bernoulli({2}, 1.5); }),
      Hostile("bernoulli", [] { bernoulli({2}, std::numeric_limits<double>::quiet_NaN()); }),
  });
}

TEST_CASE("more memory than there is", "[ops]") {
  CHECK_THROWS(zeros({huge, 1024}));
  CHECK(usable());
}

TEST_CASE("undefined tensors", "[ops]") {
  static const Tensor none;
  check({
      Hostile("tensor", [] { add(none, f4()); }),
      Hostile("tensor", [] { add(f4(), none); }),
      Hostile("tensor", [] { exp(none); }),
      Hostile("tensor", [] { where(none, f4(), f4()); }),
      Hostile("tensor", [] { where(mask(), f23(), none); }),
      Hostile("tensor", [] { sum(none); }),
      Hostile("tensor", [] { max(none); }),
      Hostile("tensor", [] { argmax(none); }),
      Hostile("tensor", [] { matmul(f23(), none); }),
      Hostile("tensor", [] { matmul(none, f23()); }),
      Hostile("tensor", [] { linear(f23(), none); }),
      Hostile("tensor", [] { softmax(none); }),
      Hostile("tensor", [] { layer_norm(none); }),
      Hostile("tensor", [] { cross_entropy(none, f4()); }),
      Hostile("tensor", [] { conv2d(none, kernel()); }),
      Hostile("tensor", [] { conv2d(image(), none); }),
      Hostile("tensor", [] { max_pool2d(none); }),
      Hostile("tensor", [] { index_select(f4(), none); }),
      Hostile("tensor", [] { gather(none, arange(4)); }),
      Hostile("tensor", [] { concat({f4(), none}); }),
      Hostile("tensor", [] { stack({none, none}); }),
      Hostile("tensor", [] { none.reshape({1}); }),
      Hostile("tensor", [] { none.permute({}); }),
      Hostile("tensor", [] { none.slice(0, 0, 1); }),
      Hostile("tensor", [] { none.clone(); }),
      Hostile("tensor", [] { none.contiguous(); }),
      Hostile("tensor", [] { none.to(DType::f64); }),
      Hostile("tensor", [] { none.detach(); }),
      Hostile("tensor", [] { none.fill_(1); }),
      Hostile("tensor", [] { none.copy_(f4()); }),
      Hostile("tensor", [] { f4().copy_(none); }),
      Hostile("tensor", [] { none += 1; }),
      Hostile("tensor", [] { none.set_requires_grad(); }),
      Hostile("tensor", [] { none.set_grad(f4()); }),
      Hostile("tensor", [] { none.backward(); }),
      Hostile("tensor", [] { (void)none.item<float>(); }),
      Hostile("tensor", [] { (void)none.to_vector<float>(); }),
      Hostile("tensor", [] { (void)none.data<float>(); }),
      Hostile("tensor", [] { (void)none.size(0); }),
  });
  CHECK_THROWS_AS(none.is_contiguous(), Error);
  CHECK(!to_string(none).empty());
  CHECK(!none.requires_grad());
  CHECK(!none.grad().defined());
  CHECK(!none.pending());
}

TEST_CASE("a capture survives a failing op", "[ops]") {
  bool fail = false;
  auto f = capture([&](const Tensor& x) {
    const Tensor y = x * 2;
    if (fail) index_select(y, tensor({9}));
    return y + 1;
  });
  for (int call = 0; call < 6; ++call) {
    fail = call == 1 || call == 4;
    if (fail)
      CHECK_THROWS_AS(f(f4()), Error);
    else
      CHECK(f(f4()).to_vector<float>() == std::vector<float>(4, 3.f));
  }
}

TEST_CASE("every op of the table refuses inputs of random shapes, or computes", "[ops]") {
  Draw draw(77);
  const auto shape = [&] {
    Shape s;
    for (int n = static_cast<int>(draw.next() * 5); n > 0; --n) s.push_back(static_cast<int64_t>(draw.next() * 4));
    return s;
  };
  const std::function<void(const Tensor&, const Tensor&)> calls[] = {
      [](auto& a, auto& b) { a + b; },
      [](auto& a, auto& b) { floor_div(a, b); },
      [](auto& a, auto& b) { (void)(a == b); },
      [](auto& a, auto& b) { matmul(a, b); },
      [](auto& a, auto& b) { linear(a, b, b); },
      [](auto& a, auto&) { softmax(a, 1); },
      [](auto& a, auto& b) { where(a == a, a, b); },
      [](auto& a, auto& b) { concat({a, b}, 1); },
      [](auto& a, auto& b) { stack({a, b}, -1); },
      [](auto& a, auto&) { max(a, {-1}); },
      [](auto& a, auto&) { argmin(a, 1); },
      [](auto& a, auto& b) { conv2d(a, b); },
      [](auto& a, auto&) { max_pool2d(a); },
      [](auto& a, auto&) { avg_pool2d(a); },
      [](auto& a, auto& b) { index_select(a, b.to(DType::i64), 1); },
      [](auto& a, auto& b) { gather(a, b.to(DType::i32)); },
      [](auto& a, auto& b) { layer_norm(a, b); },
      [](auto& a, auto& b) { cross_entropy(a, b.to(DType::i64)); },
      [](auto& a, auto& b) { scatter_add(a, b.to(DType::i64), a.shape()); },
      [](auto& a, auto& b) { a.expand(b.shape()); },
      [](auto& a, auto& b) { a.reshape(b.shape()); },
      [](auto& a, auto& b) { a.clone() += b; },
      [](auto& a, auto& b) { a.clone().copy_(b); },
      [](auto& a, auto& b) { pad(a, b.shape(), b.shape()); },
      [](auto& a, auto&) { a.transpose(); },
      [](auto& a, auto&) { var(a, {0}); },
      [](auto& a, auto& b) { batch_norm(a, b, b, b, b, 1); },
      [](auto& a, auto& b) { mse_loss(a, b); },
  };
  int done = 0, refused = 0;
  for (int i = 0; i < 200; ++i)
    for (const auto& call : calls) {
      const DType d = static_cast<DType>(draw.next() * dtype_count);
      const Tensor a = ones(shape(), d), b = ones(shape(), static_cast<DType>(draw.next() * dtype_count));
      try {
        call(a, b);
        ++done;
      } catch (const Error&) {
        ++refused;
      }
    }
  CHECK(done > 500);
  CHECK(refused > 500);
  CHECK(usable());
}
