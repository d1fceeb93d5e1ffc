// Products of captured functions by cuBLASLt where the last bits may change, and by our own kernels where not.
#include "reprise/core/switches.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/cublas_lt_fake.h"
#include "reprise/test/cuda_engine.h"

using namespace rp;
using namespace rp::test;
using Catch::Matchers::Contains;

namespace {

FakeLt& library() {
  device();
  static auto* const used = new UsesFakeLt;
  static_cast<void>(used);
  return fake_lt();
}

constexpr int64_t n = 256;  // a product of so many rows, columns and terms is large enough

Tensor matrix(DType dtype = DType::f32) { return uniform({n, n}, -1, 1).to(dtype); }

struct Ran {
  std::string report;
  int64_t kernels;
  std::vector<FakeLtProduct> products;  // of one call
};

/// At `fast` on the device; the CPU says what is right, within `tolerance` of the largest element.
template <class F>
Ran check(F&& f, const Tensors& inputs, size_t products, double tolerance = 0) {
  library();
  Tensors placed;
  for (const Tensor& t : inputs) placed.push_back(t.to(gpu));
  auto captured = capture([&](const Tensors& in) { return f(in); }, {.level = Level::fast});
  Tensors results;
  for (int i = 0; i < 6; ++i) {  // recorded, compiled, launched one by one, as a graph
    rp::cuda::synchronize();
    library().products.clear();
    results.clear();
    results = captured(placed);
  }
  rp::cuda::synchronize();
  const Ran ran{captured.explain(), captured.stats().kernels, library().products};
  CHECK(ran.products.size() == products);
  const Tensors expected = f(inputs);
  for (size_t i = 0; i < expected.size(); ++i) {
    const Tensor a = expected[i].to(DType::f64), b = results[i].to(Device::cpu()).to(DType::f64);
    CHECK(max(abs(a - b)).item<double>() <= tolerance * max(abs(a)).item<double>());
  }
  return ran;
}

}  // namespace

TEST_CASE("products alone and with what stands behind them, at fast by cuBLASLt", "[cuda]") {
  const Tensors inputs{matrix(), matrix(), normal({n}), matrix()};
  const Ran whole = check([](const Tensors& in) { return Tensors{relu(matmul(in[0], in[1]) + in[2])}; }, inputs, 1);
  CHECK_THAT(whole.report, Contains("cuBLASLt with bias and relu") && Contains("fast: library changes no result"));
  CHECK(whole.products[0].epilogue == CUBLASLT_EPILOGUE_RELU_BIAS);
  CHECK(whole.kernels == 1);
  const Ran after =
      check([](const Tensors& in) { return Tensors{(matmul(in[0], in[1]) + in[2]) * in[3]}; }, inputs, 1, 1e-6);
  CHECK_THAT(after.report, Contains("cuBLASLt, cuda"));
  CHECK(after.products[0].epilogue == CUBLASLT_EPILOGUE_DEFAULT);
  check([](const Tensors& in) { return Tensors{matmul(in[0].transpose(), in[1])}; }, inputs, 1);
  // What is wanted beside the sum is stored.
  check(
      [](const Tensors& in) {
        const Tensor y = matmul(in[0], in[1]);
        return Tensors{y + in[2], y};
      },
      inputs, 1);
}

TEST_CASE("exact captures and eager ops do not ask cuBLASLt", "[cuda]") {
  library();
  const Tensor x = matrix(DType::bf16).to(gpu), y = matrix(DType::bf16).to(gpu);
  for (const Level level : {Level::exact, Level::fast}) {
    const Without without(level == Level::fast ? std::vector<std::string_view>{"library"}
                                               : std::vector<std::string_view>{});
    library().products.clear();
    auto f = capture([](const Tensor& a, const Tensor& b) { return matmul(a, b); }, {.level = level});
    for (int i = 0; i < 3; ++i) f(x, y);
    matmul(x, y);
    rp::cuda::synchronize();
    CHECK(library().products.empty());
    CHECK_THAT(f.explain(), !Contains("cuBLASLt"));
  }
}

TEST_CASE("small products say why they are not the library's", "[cuda]") {
  const Ran ran =
      check([](const Tensors& in) { return Tensors{matmul(in[0], in[1])}; }, {uniform({16, 16}), uniform({16, 16})}, 0);
  CHECK_THAT(ran.report, Contains("not cuBLASLt: fewer than 16777216 multiplications"));
}

TEST_CASE("products of 16-bit floats read them as they lie, and give such", "[cuda]") {
  for (DType dtype : {DType::f16, DType::bf16}) {
    const Tensors inputs{matrix(dtype), matrix(dtype), normal({n}).to(dtype)};
    const double tolerance = dtype == DType::f16 ? 2e-3 : 1.6e-2;
    const Ran alone = check([](const Tensors& in) { return Tensors{matmul(in[0], in[1])}; }, inputs, 1);
    CHECK(alone.kernels == 1);
    CHECK(alone.products[0].factors == (dtype == DType::f16 ? CUDA_R_16F : CUDA_R_16BF));
    CHECK(alone.products[0].result == alone.products[0].factors);
    const Ran layer =
        check([](const Tensors& in) { return Tensors{relu(matmul(in[0], in[1]) + in[2])}; }, inputs, 1, tolerance);
    CHECK(layer.kernels == 1);
    CHECK_THAT(layer.report, Contains(fmt::format("cuBLASLt of {} with bias and relu", name_of(dtype))));
  }
}

TEST_CASE("gradients of products of 16-bit floats", "[cuda]") {
  const auto step = [](const Tensors& in) {
    const Tensor x = in[0].detach(), w = in[1].detach(), b = in[2].detach();
    for (const Tensor* t : {&x, &w, &b}) t->set_requires_grad(true);
    const Tensor y = relu(matmul(x, w) + b);
    sum(y * y).backward();
    return Tensors{y, x.grad(), w.grad(), b.grad()};
  };
  const Tensors inputs{matrix(DType::bf16), matrix(DType::bf16), normal({n}).to(DType::bf16)};
  const Ran ran = check(step, inputs, 3, 3e-2);
  for (const FakeLtProduct& p : ran.products) CHECK(p.factors == CUDA_R_16BF);
  CHECK_THAT(ran.report, Contains("replayed as a CUDA graph"));
}

TEST_CASE("what is cast and then written is read as it was", "[cuda]") {
  const auto f = [](const Tensors& in) {
    Tensor x = in[0] * 1, wide = cast(x, DType::f32);
    x.copy_(x * 2);
    return Tensors{matmul(wide, cast(in[1], DType::f32)), x};
  };
  const Ran ran = check(f, {matrix(DType::bf16), matrix(DType::bf16)}, 1);
  CHECK(ran.products[0].factors == CUDA_R_32F);
}

TEST_CASE("a product of 16-bit floats that is wanted in f64 is added up in f32", "[cuda]") {
  const auto f = [](const Tensors& in) {
    return Tensors{cast(matmul(cast(in[0], DType::f32), cast(in[1], DType::f32)), DType::f64)};
  };
  const Ran ran = check(f, {matrix(DType::bf16), matrix(DType::bf16)}, 1, 1e-6);
  CHECK(ran.products[0].factors == CUDA_R_16BF);
  CHECK(ran.products[0].result == CUDA_R_32F);
}

TEST_CASE("operands at odd addresses are for our own kernels", "[cuda]") {
  library();
  const Tensor flat = uniform({n * n + 1}, -1, 1), other = matrix();
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Tensor there = flat.to(dtype).to(gpu), w = other.to(dtype).to(gpu);
    auto f = capture([](const Tensor& a, const Tensor& b) { return matmul(a, b); }, {.level = Level::fast});
    for (int64_t start : {0, 1}) {
      const auto part = [&](const Tensor& t) { return t.slice(0, start, n * n + start).reshape({n, n}); };
      for (int i = 0; i < 3; ++i) {
        rp::cuda::synchronize();
        library().products.clear();
        const Tensor got = f(part(there), w);
        rp::cuda::synchronize();
        const Tensor expected = matmul(part(flat.to(dtype)), other.to(dtype));
        CHECK(max(abs(got.to(Device::cpu()) - expected)).item<float>() == 0);
      }
      CHECK(library().products.size() == (start ? 0 : 1));
    }
  }
}

TEST_CASE("products in graphs are told of new addresses, and launched one by one where that fails", "[cuda]") {
  library();
  const Tensor x = matrix(), w = matrix(), y = matrix();
  const auto f = [](const Tensor& a, const Tensor& b, const Tensor& c) {
    return Tensors{matmul(a, b) + c, sum(a), softmax(c)};
  };
  const Tensors expected = f(x, w, y);
  Tensors held, there;
  for (const Tensor& t : {x, w, y}) there.push_back(t.to(gpu));
  for (const std::string_view fails : {"", "cudaGraphExecChildGraphNodeSetParams", "cudaGraphAddChildGraphNode"}) {
    auto captured = capture(f, {.level = Level::fast});
    if (!fails.empty()) device().fail(fails, 1, cudaErrorGraphExecUpdateFailure);
    for (int i = 0; i < 6; ++i) {
      const Tensors results = captured(there[0], there[1], there[2]);
      held.insert(held.end(), results.begin(), results.end());
      for (size_t k = 0; k < results.size(); ++k)
        CHECK(max(abs(results[k].to(Device::cpu()) - expected[k])).item<float>() < 1e-3f);
    }
    CHECK(device().failed() == !fails.empty());
    device().fail("", 0, 0);
    CHECK_THAT(captured.explain(),
               Contains(fails.empty() ? "replayed as a CUDA graph" : "launched one by one: " + std::string(fails)));
  }
  CHECK(device().count("cudaGraphExecChildGraphNodeSetParams") > 2);
}
