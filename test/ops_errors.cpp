// Hostile input: every impossible call throws rp::Error that starts with the op's name and ends with the caller's line, and
// leaves the engine usable.
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
  Hostile(std::string_view name, std::function<void()> f, Loc loc = Loc::current())
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

const Tensor& f23() { static const Tensor t = ones({2, 3}); return t; }
const Tensor& f4() { static const Tensor t = ones({4}); return t; }
const Tensor& mask() { static const Tensor t = ones({2, 3}, DType::boolean); return t; }
const Tensor& image() { static const Tensor t = ones({1, 2, 5, 5}); return t; }
const Tensor& kernel() { static const Tensor t = ones({3, 2, 3, 3}); return t; }

}  // namespace

TEST_CASE("hostile shapes, axes and dtypes in pointwise ops", "[ops]") {
  check({
      {"add", [] { add(f23(), f4()); }},
      {"sub", [] { f23() - f4(); }},
      {"mul", [] { mul(ones({2, 1, 3}), ones({3, 2})); }},
      {"div", [] { div(f4(), ones({0})); }},
      {"add", [] { add(1, 2); }},
      {"pow", [] { pow(2.0, 3.0); }},
      {"equal", [] { f23() == f4(); }},
      {"maximum", [] { maximum(f23(), f4()); }},
      {"where", [] { where(f23(), 1, 2); }},
      {"where", [] { where(mask(), f4(), 0); }},
      {"where", [] { where(mask(), ones({2, 4}), f23()); }},
      {"logical_and", [] { logical_and(f23(), mask()); }},
      {"logical_or", [] { logical_or(mask(), 1); }},
      {"logical_not", [] { logical_not(f23()); }},
      {"add_", [] { add_(f4(), f23()); }},
      {"add_", [] { ones({3}, DType::i32) += 0.5; }},
      {"mul_", [] { ones({3}) *= ones({2, 3}); }},
      {"div_", [] { ones({3}, DType::i64) /= 2; }},
      {"sub_", [] { sub_(ones({1}), f4()); }},
  });
}

TEST_CASE("hostile reductions", "[ops]") {
  check({
      {"sum", [] { sum(f23(), {2}); }},
      {"sum", [] { sum(f23(), {-3}); }},
      {"sum", [] { sum(f23(), {0, 0}); }},
      {"sum", [] { sum(f23(), {1, -1}); }},
      {"mean", [] { mean(f23(), {5}); }},
      {"max", [] { max(ones({2, 0}), {1}); }},
      {"max", [] { max(ones({0})); }},
      {"min", [] { min(ones({0, 3}), {0}); }},
      {"min", [] { min(f23(), {4}); }},
      {"var", [] { var(f23(), {7}); }},
      {"argmax", [] { argmax(f23(), 2); }},
      {"argmax", [] { argmax(ones({3, 0}), 1); }},
      {"argmin", [] { argmin(ones({})); }},
      {"softmax", [] { softmax(f23(), 2); }},
      {"softmax", [] { softmax(ones({})); }},
      {"log_softmax", [] { log_softmax(f23(), -3); }},
      {"layer_norm", [] { layer_norm(f23(), f4()); }},
      {"layer_norm", [] { layer_norm(ones({})); }},
      {"layer_norm", [] { layer_norm(f23(), ones({3}), ones({2})); }},
      {"batch_norm", [] { batch_norm(f23(), ones({2}), ones({3}), {}, {}, 1); }},
      {"batch_norm", [] { batch_norm(f23(), ones({3}), ones({3}), {}, {}, 2); }},
      {"cross_entropy", [] { cross_entropy(f23(), ones({3}, DType::i64)); }},
      {"cross_entropy", [] { cross_entropy(f23(), ones({2})); }},
      {"cross_entropy", [] { cross_entropy(f4(), ones({4}, DType::i64)); }},
      {"mse_loss", [] { mse_loss(f23(), f4()); }},
  });
}

TEST_CASE("hostile products and windows", "[ops]") {
  check({
      {"matmul", [] { matmul(f23(), f23()); }},
      {"matmul", [] { matmul(f23(), f4()); }},
      {"matmul", [] { matmul(ones({}), f4()); }},
      {"matmul", [] { matmul(ones({2, 2, 3}), ones({3, 3, 4})); }},
      {"linear", [] { linear(f23(), ones({3, 4}), ones({3})); }},
      {"linear", [] { linear(f23(), ones({3})); }},
      {"linear", [] { linear(ones({}), ones({1, 2})); }},
      {"conv2d", [] { conv2d(f23(), kernel()); }},
      {"conv2d", [] { conv2d(image(), f23()); }},
      {"conv2d", [] { conv2d(image(), ones({3, 1, 3, 3})); }},
      {"conv2d", [] { conv2d(image(), kernel(), ones({2})); }},
      {"conv2d", [] { conv2d(image(), ones({3, 2, 6, 3})); }},
      {"conv2d", [] { conv2d(image(), ones({3, 2, 0, 3})); }},
      {"conv2d", [] { conv2d(image(), kernel(), {}, {.stride_h = 0}); }},
      {"conv2d", [] { conv2d(image(), kernel(), {}, {.dilation_w = -1}); }},
      {"conv2d", [] { conv2d(image(), kernel(), {}, {.dilation_h = 3}); }},
      {"conv2d", [] { conv2d(image(), kernel(), {}, {.format = DataFormat::nhwc}); }},
      {"conv2d_backward_data", [] { conv2d_backward_data(image(), kernel(), {1, 2}); }},
      {"conv2d_backward_data", [] { conv2d_backward_data(ones({1, 3, 5, 5}), kernel(), {1, 2, 5, 5}); }},
      {"conv2d_backward_weights", [] { conv2d_backward_weights(image(), f23(), {3, 2, 3, 3}); }},
      {"max_pool2d", [] { max_pool2d(f23()); }},
      {"max_pool2d", [] { max_pool2d(image(), {.window_h = 6}); }},
      {"max_pool2d", [] { max_pool2d(image(), {.window_h = 0}); }},
      {"avg_pool2d", [] { avg_pool2d(f4()); }},
      {"avg_pool2d", [] { avg_pool2d(image(), {.stride_w = -1}); }},
      {"avg_pool2d", [] { avg_pool2d(image(), {.window_w = 100}); }},
  });
}

TEST_CASE("hostile indices and assembly", "[ops]") {
  static const Tensor three = tensor({0, 1, 3}), negative = tensor({-1}), square = ones({2, 3}, DType::i64);
  check({
      {"index_select", [] { index_select(ones({3, 2}), three); }},
      {"index_select", [] { index_select(ones({3, 2}), negative); }},
      {"index_select", [] { index_select(ones({3, 2}), three, 2); }},
      {"index_select", [] { index_select(ones({3, 2}), ones({2})); }},
      {"index_select", [] { index_select(ones({}), three); }},
      {"gather", [] { gather(f23(), square, 2); }},
      {"gather", [] { gather(f23(), square * 3); }},
      {"gather", [] { gather(f23(), square * -1); }},
      {"gather", [] { gather(f23(), three); }},
      {"gather", [] { gather(f23(), f23()); }},
      {"scatter_add", [] { scatter_add(f23(), square, {2}); }},
      {"scatter_add", [] { scatter_add(f23(), square, {2, 1}); }},
      {"scatter_add", [] { scatter_add(f23(), three, {2, 3}); }},
      {"scatter_add", [] { scatter_add(f23(), f23(), {2, 3}); }},
      {"scatter_add", [] { scatter_add(f23(), square, {2, -3}); }},
      {"one_hot", [] { one_hot(f4(), 3); }},
      {"one_hot", [] { one_hot(three, -1); }},
      {"concat", [] { concat({}); }},
      {"concat", [] { concat({f23(), f4()}); }},
      {"concat", [] { concat({f23(), ones({2, 4})}, 0); }},
      {"concat", [] { concat({f23(), f23()}, 2); }},
      {"concat", [] { concat({ones({}), ones({})}); }},
      {"stack", [] { stack({}); }},
      {"stack", [] { stack({f23(), f4()}); }},
      {"pad", [] { pad(f23(), {1}, {1}); }},
      {"pad", [] { pad(f23(), {-1, 0}, {0, 0}); }},
      {"split", [] { split(f4(), 3); }},
      {"split", [] { split(f4(), 0); }},
      {"split", [] { split(f4(), 2, 1); }},
      {"dropout", [] { dropout(f4(), 1.0); }},
      {"dropout", [] { dropout(f4(), -0.1); }},
  });
}

TEST_CASE("hostile views, writes and reads", "[ops]") {
  static const Tensor repeated = ones({1, 3}).expand({2, 3});
  check({
      {"reshape", [] { f23().reshape({4}); }},
      {"reshape", [] { f23().reshape({-1, -1}); }},
      {"reshape", [] { f23().reshape({-1, 4}); }},
      {"reshape", [] { f23().reshape({0, -1}); }},
      {"permute", [] { f23().permute({0}); }},
      {"permute", [] { f23().permute({0, 0}); }},
      {"permute", [] { f23().permute({0, 2}); }},
      {"transpose", [] { f4().transpose(); }},
      {"slice", [] { f23().slice(2, 0, 1); }},
      {"slice", [] { f23().slice(1, 0, 4); }},
      {"slice", [] { f23().slice(1, 2, 1); }},
      {"slice", [] { f23().slice(1, -4, 3); }},
      {"slice", [] { f23().slice(1, 0, 3, 0); }},
      {"slice", [] { f23().slice(1, 0, 3, -1); }},
      {"select", [] { f23().select(0, 2); }},
      {"select", [] { f23().select(0, -3); }},
      {"select", [] { ones({})[0]; }},
      {"expand", [] { f23().expand({3, 3}); }},
      {"expand", [] { f23().expand({3}); }},
      {"expand", [] { f23().expand({0, 3}); }},
      {"squeeze", [] { f23().squeeze(0); }},
      {"unsqueeze", [] { f23().unsqueeze(3); }},
      {"flatten", [] { f23().flatten(1, 0); }},
      {"flatten", [] { f23().flatten(0, 2); }},
      {"size", [] { (void)f23().size(2); }},
      {"item", [] { (void)f23().item<float>(); }},
      {"data", [] { (void)f23().data<double>(); }},
      {"data", [] { (void)f23().transpose().data<float>(); }},
      {"copy_from", [] { Tensor(ones({3})).copy_from(std::span<const float>()); }},
      {"write", [] { repeated.fill_(1); }},
      {"write", [] { repeated += 1; }},
      {"copy_", [] { ones({3}).copy_(f4()); }},
      {"copy_", [] { ones({3}).copy_(f23()); }},
  });
}

TEST_CASE("hostile creation", "[ops]") {
  check({
      {"shape", [] { zeros({-1}); }},
      {"shape", [] { zeros({huge, huge}); }},
      {"shape", [] { full({huge, 3, huge}, 1.0); }},
      {"shape", [] { ones({1, 1, 1}).unsqueeze(0).unsqueeze(0).unsqueeze(0).unsqueeze(0).unsqueeze(0).unsqueeze(0); }},
      {"tensor", [] { tensor(std::vector<float>{1, 2}, {3}); }},
      {"arange", [] { arange(-1); }},
      {"arange", [] { arange(3, 0, 1, DType::boolean); }},
      {"arange", [] { arange(huge); }},
      {"from_blob", [] { from_blob<float>(nullptr, {2}); }},
      {"uniform", [] { uniform({2}, 1, 0); }},
      {"uniform", [] { uniform({2}, 0, 1, DType::i32); }},
      {"uniform", [] { uniform({huge}); }},
      {"normal", [] { normal({2}, 0, 1, DType::i64); }},
      {"randint", [] { randint({2}, 3, 3); }},
      {"randint", [] { randint({2}, 0, huge); }},
      {"randint", [] { randint({2}, 0, 3, DType::f32); }},
      {"bernoulli", [] { bernoulli({2}, 1.5); }},
      {"bernoulli", [] { bernoulli({2}, std::numeric_limits<double>::quiet_NaN()); }},
  });
}

TEST_CASE("more memory than there is", "[ops]") {
  CHECK_THROWS(zeros({huge, 1024}));
  CHECK(usable());
}

TEST_CASE("undefined tensors", "[ops]") {
  static const Tensor none;
  check({
      {"tensor", [] { add(none, f4()); }},
      {"tensor", [] { add(f4(), none); }},
      {"tensor", [] { exp(none); }},
      {"tensor", [] { where(none, f4(), f4()); }},
      {"tensor", [] { where(mask(), f23(), none); }},
      {"tensor", [] { sum(none); }},
      {"tensor", [] { max(none); }},
      {"tensor", [] { argmax(none); }},
      {"tensor", [] { matmul(f23(), none); }},
      {"tensor", [] { matmul(none, f23()); }},
      {"tensor", [] { linear(f23(), none); }},
      {"tensor", [] { softmax(none); }},
      {"tensor", [] { layer_norm(none); }},
      {"tensor", [] { cross_entropy(none, f4()); }},
      {"tensor", [] { conv2d(none, kernel()); }},
      {"tensor", [] { conv2d(image(), none); }},
      {"tensor", [] { max_pool2d(none); }},
      {"tensor", [] { index_select(f4(), none); }},
      {"tensor", [] { gather(none, f4()); }},
      {"tensor", [] { concat({f4(), none}); }},
      {"tensor", [] { stack({none, none}); }},
      {"tensor", [] { none.reshape({1}); }},
      {"tensor", [] { none.permute({}); }},
      {"tensor", [] { none.slice(0, 0, 1); }},
      {"tensor", [] { none.clone(); }},
      {"tensor", [] { none.contiguous(); }},
      {"tensor", [] { none.to(DType::f64); }},
      {"tensor", [] { none.detach(); }},
      {"tensor", [] { none.fill_(1); }},
      {"tensor", [] { none.copy_(f4()); }},
      {"tensor", [] { f4().copy_(none); }},
      {"tensor", [] { none += 1; }},
      {"tensor", [] { none.set_requires_grad(); }},
      {"tensor", [] { none.set_grad(f4()); }},
      {"tensor", [] { none.backward(); }},
      {"tensor", [] { (void)none.item<float>(); }},
      {"tensor", [] { (void)none.to_vector<float>(); }},
      {"tensor", [] { (void)none.data<float>(); }},
      {"tensor", [] { (void)to_string(none); }},
      {"tensor", [] { (void)none.size(0); }},
      {"tensor", [] { (void)none.is_contiguous(); }},
  });
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
    if (fail) CHECK_THROWS_AS(f(f4()), Error);
    else CHECK(f(f4()).to_vector<float>() == std::vector<float>(4, 3.f));
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
      [](auto& a, auto& b) { a + b; }, [](auto& a, auto& b) { floor_div(a, b); }, [](auto& a, auto& b) { a == b; },
      [](auto& a, auto& b) { matmul(a, b); }, [](auto& a, auto& b) { linear(a, b, b); }, [](auto& a, auto&) { softmax(a, 1); },
      [](auto& a, auto& b) { where(a == a, a, b); }, [](auto& a, auto& b) { concat({a, b}, 1); },
      [](auto& a, auto& b) { stack({a, b}, -1); }, [](auto& a, auto&) { max(a, {-1}); }, [](auto& a, auto&) { argmin(a, 1); },
      [](auto& a, auto& b) { conv2d(a, b); }, [](auto& a, auto&) { max_pool2d(a); }, [](auto& a, auto&) { avg_pool2d(a); },
      [](auto& a, auto& b) { index_select(a, b.to(DType::i64), 1); }, [](auto& a, auto& b) { gather(a, b.to(DType::i32)); },
      [](auto& a, auto& b) { layer_norm(a, b); }, [](auto& a, auto& b) { cross_entropy(a, b.to(DType::i64)); },
      [](auto& a, auto& b) { scatter_add(a, b.to(DType::i64), a.shape()); }, [](auto& a, auto& b) { a.expand(b.shape()); },
      [](auto& a, auto& b) { a.reshape(b.shape()); }, [](auto& a, auto& b) { a.clone() += b; }, [](auto& a, auto& b) { a.clone().copy_(b); },
      [](auto& a, auto& b) { pad(a, b.shape(), b.shape()); }, [](auto& a, auto&) { a.transpose(); }, [](auto& a, auto&) { var(a, {0}); },
      [](auto& a, auto& b) { batch_norm(a, b, b, b, b, 1); }, [](auto& a, auto& b) { mse_loss(a, b); },
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
