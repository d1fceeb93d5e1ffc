// Attention and its gradients by cuDNN where the last bits may change, and by what it is composed of where not.
#include "reprise/core/engine.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/switches.h"
#include "reprise/test/cuda_at_fast.h"

using namespace rp;
using namespace rp::test;
using Catch::Matchers::Contains;

TEST_CASE("attention of 16-bit floats, at fast by cuDNN", "[cuda]") {
  library();
  for (const DType d : {DType::bf16, DType::f16})
    for (const bool causal : {false, true}) {
      const auto f = [=](const Tensors& in) {
        return Tensors{scaled_dot_product_attention(in[0], in[1], in[2], {}, {.causal = causal})};
      };
      for (const Shape& batch : {Shape{}, Shape{3}, Shape{2, 3}, Shape{2, 1, 3}}) {
        const auto matrices = [&](int64_t rows, int64_t width) {
          Shape shape = batch;
          shape.push_back(rows), shape.push_back(width);
          return normal(shape).to(d);
        };
        const Tensors inputs{matrices(10, 8), matrices(12, 8), matrices(12, 16)};
        CHECK_THAT(check(f, inputs, 1, bound_of(d)), Contains("cudnn engine"));
      }
    }
}

TEST_CASE("attention on operands that lie anywhere, with a result that does", "[cuda]") {
  library();
  const auto by_head = [](const Tensor& t) { return t.reshape({2, 6, 3, 8}).permute({0, 2, 1, 3}); };
  const auto heads = [&](const Tensors& in) {
    const Tensors parts = split(in[0], 3, 2);
    return Tensors{scaled_dot_product_attention(by_head(parts[0]), by_head(parts[1]), by_head(parts[2]))};
  };
  CHECK_THAT(check(heads, {normal({2, 6, 72}).to(DType::bf16)}, 1, 3e-2), Contains("cudnn engine"));
  const auto shifted = [](const Tensors& in) {
    const Tensor q = in[0].slice(0, 1, 81).reshape({10, 8});
    return Tensors{concat({in[0], scaled_dot_product_attention(q, q, q).flatten()}, 0)};
  };
  CHECK_THAT(check(shifted, {normal({81}).to(DType::bf16)}, 1, 3e-2), Contains("cudnn engine"));
}

TEST_CASE("attention is replayed in a CUDA graph", "[cuda]") {
  library();
  const auto f = [](const Tensor& x) {
    const Tensor y = scaled_dot_product_attention(x, x, x);
    return scaled_dot_product_attention(y, x, y) * 2;
  };
  auto captured = capture(f, {.level = Level::fast});
  const Tensor x = normal({2, 9, 16}).to(DType::bf16), here = x.to(gpu), expected = f(x);
  for (int call = 0; call < 6; ++call) {
    const int64_t runs = fake_cudnn().runs;
    const Tensor y = captured(here).to(Device::cpu());
    CHECK(distance(y, expected) < 3e-2 * max(abs(expected)).item<double>());
    if (call > 1) CHECK(fake_cudnn().runs == runs + 2);
  }
  CHECK_THAT(captured.explain(), Contains("CUDA graph of"));
}

namespace {

/// Attention with weights of its result for a loss, and the gradients. Inputs: q, k, v, weights (f32).
struct Training {
  AttentionOptions options{};
  Tensors operator()(const Tensors& in) const {
    const Tensors x{in[0].detach(), in[1].detach(), in[2].detach()};
    for (const Tensor& t : x) t.set_requires_grad();
    const Tensor y = scaled_dot_product_attention(x[0], x[1], x[2], {}, options);
    sum(y.to(DType::f32) * in[3]).backward();
    return {y, x[0].grad(), x[1].grad(), x[2].grad()};
  }
};

Tensors training_inputs(DType d, Shape batch, int64_t queries, int64_t keys, int64_t width, int64_t value_width) {
  const auto matrices = [&](int64_t rows, int64_t columns) {
    Shape shape = batch;
    shape.push_back(rows), shape.push_back(columns);
    return normal(shape);
  };
  return {matrices(queries, width).to(d), matrices(keys, width).to(d), matrices(keys, value_width).to(d),
          matrices(queries, value_width)};
}

}  // namespace

TEST_CASE("the gradients of attention, at fast by cuDNN", "[cuda]") {
  library();
  for (const DType d : {DType::bf16, DType::f16})
    for (const bool causal : {false, true})
      for (const Shape& batch : {Shape{}, Shape{2, 3}}) {
        const Tensors in = training_inputs(d, batch, 10, 12, 8, 16);
        CHECK_THAT(check(Training{{.causal = causal}}, in, 3, bound_of(d)),
                   Contains("cudnn engine 1, cudnn engine 1") && Contains("fast: library changes results by at most"));
      }
  // Gradients that begin at any multiple of 8 bytes.
  CHECK_THAT(check(Training{{.scale = 0.3f}}, training_inputs(DType::f16, {3}, 5, 7, 4, 12), 3, bound_of(DType::f16)),
             Contains("cudnn engine 1, cudnn engine 1"));
}

TEST_CASE("gradients of attention on parts of one tensor", "[cuda]") {
  library();
  const auto by_head = [](const Tensor& t) { return t.reshape({2, 6, 3, 8}).permute({0, 2, 1, 3}); };
  const auto step = [&](const Tensors& in) {
    const Tensor x = in[0].detach();
    x.set_requires_grad();
    const Tensors parts = split(x, 3, 2);
    const Tensor y = scaled_dot_product_attention(by_head(parts[0]), by_head(parts[1]), by_head(parts[2]));
    sum(square(y.permute({0, 2, 1, 3}).reshape({2, 6, 24}))).backward();
    return Tensors{y, x.grad()};
  };
  CHECK_THAT(check(step, {normal({2, 6, 72}).to(DType::bf16)}, 3, 3e-2), Contains("cudnn engine 1, cudnn engine 1"));
  const auto same = [](const Tensors& in) {
    const Tensor x = in[0].detach();
    x.set_requires_grad();
    sum(square(scaled_dot_product_attention(x, x, x))).backward();
    return Tensors{x.grad()};
  };
  CHECK_THAT(check(same, {normal({2, 9, 8}).to(DType::f16)}, 3, 1e-2), Contains("cudnn engine 1, cudnn engine 1"));
}

TEST_CASE("exact gradients of attention have one set of bits, and weights are computed once", "[cuda]") {
  const int64_t calls = library().calls;
  for (const DType d : {DType::bf16, DType::f32}) {
    const Training f{{.causal = true}};
    const Tensors in = training_inputs(d, {2}, 9, 9, 8, 6);
    const Ran here = run(f, in, Level::exact, Device::cpu()), there = run(f, in, Level::exact, Device::cuda());
    Tensors placed;
    for (const Tensor& t : in) placed.push_back(t.to(Device::cuda()));
    const Tensors eager = f(placed);
    for (size_t i = 0; i < eager.size(); ++i) {
      CHECK(distance(there.results[i], eager[i]) == 0);
      CHECK(distance(there.results[i], here.results[i]) == 0);
    }
    const auto count = [](const std::string& text, std::string_view word) {
      int n = 0;
      for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
      return n;
    };
    CHECK(count(here.report, "] gemm (") == 6);
    CHECK(count(there.report, "] gemm (") == 6);
    CHECK(count(there.report, "] rows (") == count(here.report, "] rows ("));
  }
  CHECK(fake_cudnn().calls == calls);
}

TEST_CASE("second gradients of attention go through what it is composed of", "[cuda]") {
  library();
  const auto f = [](const Tensors& in) {
    const Tensors x{in[0].detach(), in[1].detach(), in[2].detach()};
    for (const Tensor& t : x) t.set_requires_grad();
    const Tensor y = scaled_dot_product_attention(x[0], x[1], x[2], {}, {.causal = true});
    const Tensors first = grad({sum(y.to(DType::f32) * in[3])}, x, {.create_graph = true});
    Tensor all = sum(square(y.to(DType::f32)));
    for (const Tensor& t : first) all = all + sum(square(t.to(DType::f32)));
    Tensors results = grad({all}, x);
    results.insert(results.end(), first.begin(), first.end());
    return results;
  };
  CHECK_THAT(check(f, training_inputs(DType::f16, {2}, 6, 6, 8, 8), 3, 2e-2),
             Contains("cudnn engine 1, cudnn engine 1"));
}

TEST_CASE("training with attention is replayed in a CUDA graph", "[cuda]") {
  library();
  auto captured = capture([](const Tensors& in) { return Training{}(in); }, {.level = Level::fast});
  const Tensors in = training_inputs(DType::bf16, {2}, 9, 9, 16, 16), expected = Training{}(in);
  Tensors placed;
  for (const Tensor& t : in) placed.push_back(t.to(Device::cuda()));
  for (int call = 0; call < 6; ++call) {
    const int64_t runs = fake_cudnn().runs;
    const Tensors got = captured(placed);
    for (size_t i = 0; i < got.size(); ++i)
      CHECK(distance(got[i], expected[i]) < 3e-2 * max(abs(expected[i])).item<double>());
    if (call > 1) CHECK(fake_cudnn().runs == runs + 3);
  }
  CHECK_THAT(captured.explain(), Contains("CUDA graph of"));
}

TEST_CASE("where cuDNN does not compute attention the reason is told", "[cuda]") {
  library();
  const Tensor x = normal({3, 10, 8});
  const auto plain = [](const Tensors& in) { return Tensors{scaled_dot_product_attention(in[0], in[0], in[0])}; };
  CHECK_THAT(check(plain, {x}, 0),
             !Contains("cudnn engine") && Contains("not cuDNN's: f32[3,10,8]@cuda:0 is not of 16-bit floats"));
  CHECK_THAT(run(plain, {x.to(DType::f16)}, Level::exact, Device::cuda()).report, !Contains("cuDNN"));
  const auto masked = [](const Tensors& in) {
    return Tensors{scaled_dot_product_attention(in[0], in[0], in[0], in[1] > 0)};
  };
  CHECK_THAT(check(masked, {x.to(DType::f16), tril(ones({10, 10}))}, 0, 4e-3),
             Contains("scaled_dot_product_attention cuda_attention.cpp:") && Contains("not cuDNN's: there is a mask"));
  CHECK_THAT(run(Training{}, training_inputs(DType::f16, {3}, 13, 11, 8, 8), Level::exact, gpu).report,
             !Contains("cudnn engine"));
  fake_cudnn().refuses_everything = true;
  CHECK_THAT(check(Training{}, training_inputs(DType::f16, {3}, 13, 11, 8, 8), 0, 4e-3),
             Contains("scaled_dot_product_attention cuda_attention.cpp:") &&
                 Contains("attention_gradient cuda_attention.cpp:") && Contains("not cuDNN's: cudnn"));
  fake_cudnn().refuses_everything = false;
  CHECK_THAT(check(Training{}, training_inputs(DType::f32, {3}, 13, 11, 8, 8), 0), !Contains("cudnn engine"));
}

TEST_CASE("attention is one op on the tape where cuDNN may compute it, and nowhere else", "[cuda]") {
  library();
  const auto kept = [](Device device, DType dtype, size_t operands) {
    const std::vector<const Layout*> in(operands, intern({dtype, {4, 8}, device}));
    return engine.backend(device).keeps_whole(attention_op, in);
  };
  CHECK(kept(Device::cuda(), DType::bf16, 3));
  CHECK_FALSE(kept(Device::cuda(), DType::bf16, 4));
  CHECK_FALSE(kept(Device::cuda(), DType::f32, 3));
  CHECK_FALSE(kept(Device::cpu(), DType::bf16, 3));
}

TEST_CASE("failures in training with attention are told, and the next call is right", "[cuda]") {
  library();
  const auto step = [](const Tensors& in) { return Training{}(in); };
  const auto on_device = [](const Tensors& in) {
    Tensors placed;
    for (const Tensor& t : in) placed.push_back(t.to(Device::cuda()));
    return placed;
  };
  // Whether call number `after` to the library, if there is one, failed, and what comes then is right.
  const auto survives = [&](auto& captured, const Tensors& in, const Tensors& placed, int64_t after, int& thrown) {
    fake_cudnn().fail_at = fake_cudnn().calls + after;
    for (int call = 0; call < 3; ++call) try {
        captured(placed);
      } catch (const Error& error) {
        CHECK_THAT(error.what(), Contains("cudnn"));
        ++thrown;
      }
    const bool failed = fake_cudnn().calls > fake_cudnn().fail_at;
    fake_cudnn().fail_at = -1;
    const Tensors got = captured(placed), expected = step(in);
    for (size_t i = 0; i < got.size(); ++i)
      CHECK(distance(got[i], expected[i]) < 4e-3 * max(abs(expected[i])).template item<double>());
    return failed;
  };
  int building = 0, running = 0;
  int64_t queries = 20;
  for (bool failed = true; failed; ++queries) {  // each with plans of its own
    const Tensors in = training_inputs(DType::f16, {}, queries, 5, 8, 8);
    auto captured = capture(step, {.level = Level::fast});
    failed = survives(captured, in, on_device(in), 173 * (queries - 20), building);
  }
  CHECK(queries > 25);
  const Tensors in = training_inputs(DType::f16, {}, queries, 5, 8, 8), placed = on_device(in);
  auto captured = capture(step, {.level = Level::fast});
  for (int i = 0; i < 3; ++i) captured(placed);
  for (int64_t after = 0; survives(captured, in, placed, after, running);) after += 5;
  CHECK(running > 2);
}
