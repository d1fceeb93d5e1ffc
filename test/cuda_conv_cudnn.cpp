// Convolutions of captured functions by cuDNN where the last bits may change, and by our own kernels where not.
#include <driver_types.h>

#include "reprise/core/switches.h"
#include "reprise/test/cuda_at_fast.h"

using namespace rp;
using namespace rp::test;
using Catch::Matchers::Contains;

namespace {

Tensor image(int64_t c = 6) { return normal({2, 9, 8, c}); }
Tensor weights(int64_t out = 7, int64_t c = 6, int64_t k = 3) { return normal({out, c, k, k}); }

}  // namespace

TEST_CASE("a convolution alone, at fast by cuDNN", "[cuda]") {
  library();
  const auto f = [](const Tensors& in) { return Tensors{conv2d(in[0], in[1], {}, nhwc)}; };
  CHECK_THAT(check(f, {image(), weights()}, 1),
             Contains("cudnn engine 5") && Contains("fast: library changes results by at most"));
  check(f, {image(1), weights(3, 1)}, 1);
  check(f, {image(), weights(4, 6, 1)}, 1);
  check(f, {image().to(DType::f64), weights().to(DType::f64)}, 1);
  const auto strided = [](const Tensors& in) {
    Conv2dOptions o = nhwc;
    o.stride_h = o.stride_w = 2;
    return Tensors{conv2d(in[0], in[1], {}, o)};
  };
  check(strided, {image(), weights()}, 1);
  const auto dilated = [](const Tensors& in) {
    Conv2dOptions o = nhwc;
    o.dilation_h = o.dilation_w = 2;
    return Tensors{conv2d(in[0], in[1], {}, o)};
  };
  check(dilated, {image(), weights()}, 1);
}

TEST_CASE("exact captures and eager ops do not ask cuDNN", "[cuda]") {
  const int64_t calls = library().calls;
  const auto f = [](const Tensors& in) { return Tensors{relu(conv2d(in[0], in[1], {}, nhwc))}; };
  const Tensors inputs{image(), weights()};
  const Ran exact = run(f, inputs, Level::exact, gpu);
  CHECK_THAT(exact.report, !Contains("cudnn engine"));
  conv2d(inputs[0].to(gpu), inputs[1].to(gpu), {}, nhwc);
  {
    const Without without({"library"});
    CHECK_THAT(run(f, inputs, Level::fast, gpu).report, !Contains("cudnn engine"));
  }
  CHECK(fake_cudnn().calls == calls);
}

TEST_CASE("what stands behind a convolution runs with it or after it", "[cuda]") {
  library();
  const Tensors inputs{image(), weights(), normal({7}), normal({2, 9, 8, 7})};
  CHECK_THAT(check([](const Tensors& in) { return Tensors{relu(conv2d(in[0], in[1], in[2], nhwc))}; }, inputs, 1),
             Contains("cudnn engine 5 with bias and relu"));
  const std::string after =
      check([](const Tensors& in) { return Tensors{tanh(conv2d(in[0], in[1], in[2], nhwc) + in[3])}; }, inputs, 1);
  CHECK_THAT(after, Contains("cudnn engine 5, cuda"));
  check([](const Tensors& in) { return Tensors{relu(conv2d(in[0], in[1], {}, nhwc) + in[3])}; }, inputs, 1);
  check([](const Tensors& in) { return Tensors{conv2d(in[0], in[1], in[2], nhwc) * 2.5f}; }, inputs, 1);
  check([](const Tensors& in) { return Tensors{maximum(conv2d(in[0], in[1], in[2], nhwc), in[3])}; }, inputs, 1);
}

TEST_CASE("what stands behind a convolution of f64 is computed in f64", "[cuda]") {
  library();
  Tensors inputs{image(), weights(), normal({7})};
  for (Tensor& t : inputs) t = t.to(DType::f64) / 3;
  const auto f = [](const Tensors& in) { return Tensors{relu(conv2d(in[0], in[1], in[2], nhwc))}; };
  const Ran fast = run(f, inputs, Level::fast, gpu);
  CHECK_THAT(fast.report, Contains("cudnn engine 5, cuda"));
  CHECK(distance(fast.results[0], run(f, inputs, Level::exact, Device::cpu()).results[0]) < 1e-12);
}

TEST_CASE("a convolution that is wanted beside what stands behind it is stored", "[cuda]") {
  library();
  const auto f = [](const Tensors& in) {
    const Tensor y = conv2d(in[0], in[1], {}, nhwc);
    return Tensors{relu(y + in[2]), y};
  };
  CHECK_THAT(check(f, {image(), weights(), normal({7})}, 1), !Contains("with bias and relu"));
}

TEST_CASE("the gradients of a convolution by cuDNN", "[cuda]") {
  library();
  for (const int stride : {1, 2}) {
    Conv2dOptions o = nhwc;
    o.stride_h = o.stride_w = stride;
    const auto step = [&](const Tensors& in) {
      const Tensor x = in[0].detach(), w = in[1].detach(), b = in[2].detach();
      for (const Tensor* t : {&x, &w, &b}) t->set_requires_grad(true);
      const Tensor y = relu(conv2d(x, w, b, o));
      sum(y * y).backward();
      return Tensors{y, x.grad(), w.grad(), b.grad()};
    };
    const std::string report = check(step, {image(), weights(), normal({7})}, 3);
    CHECK_THAT(report, Contains("cudnn engine 5"));
  }
}

TEST_CASE("where cuDNN has no engine our own kernels serve; where it fails it is asked again", "[cuda]") {
  library();
  const auto f = [](const Tensors& in) { return Tensors{relu(conv2d(in[0], in[1], in[2], nhwc))}; };
  fake_cudnn().refuses_everything = true;
  CHECK_THAT(check(f, {image(11), weights(7, 11), normal({7})}, 0),
             !Contains("cudnn engine") && Contains("not the library's: cudnn"));
  fake_cudnn().refuses_everything = false;
  fake_cudnn().fail_at = fake_cudnn().calls;
  // What was refused once may be had later.
  CHECK_THAT(check(f, {image(12), weights(7, 12), normal({7})}, 1), Contains("cudnn engine"));
  CHECK(fake_cudnn().calls > fake_cudnn().fail_at);
}

TEST_CASE("images whose channels stand first", "[cuda]") {
  library();
  check(
      [](const Tensors& in) {
        return Tensors{
            max_pool2d(relu(conv2d(in[0], in[1], in[2], {.padding = Padding::same})), {.window_h = 2, .window_w = 2})};
      },
      {normal({2, 6, 9, 8}), weights(9), normal({9})}, 1);
}

TEST_CASE("convolutions of 16-bit floats read them as they lie, and give such", "[cuda]") {
  library();
  for (const DType d : {DType::bf16, DType::f16}) {
    const std::string kernel = fmt::format("cudnn engine 1 of {}", name_of(d));
    const Tensors inputs{image().to(d), weights().to(d), normal({7}).to(d)};
    const auto alone = [](const Tensors& in) { return Tensors{conv2d(in[0], in[1], {}, nhwc)}; };
    CHECK_THAT(check(alone, inputs, 1, bound_of(d) / 3), Contains(kernel + ")") && !Contains(" cast"));
    const auto layer = [](const Tensors& in) { return Tensors{relu(conv2d(in[0], in[1], in[2], nhwc))}; };
    CHECK_THAT(check(layer, inputs, 1, bound_of(d)), Contains(kernel + " with bias and relu"));
    const auto more = [](const Tensors& in) { return Tensors{tanh(conv2d(in[0], in[1], in[2], nhwc)) + 1}; };
    CHECK_THAT(check(more, inputs, 1, bound_of(d)), Contains(kernel + ", cuda"));
    const auto kept = [](const Tensors& in) {
      const Tensor y = conv2d(in[0], in[1], {}, nhwc);
      return Tensors{relu(y + in[2]), y};
    };
    CHECK_THAT(check(kept, inputs, 1, bound_of(d)), !Contains("with bias and relu"));
    const auto first = [](const Tensors& in) {
      return Tensors{relu(conv2d(in[0], in[1], {}, {.padding = Padding::same}))};
    };
    check(first, {normal({2, 6, 9, 8}).to(d), weights(9).to(d)}, 1, bound_of(d));
  }
}

TEST_CASE("gradients of convolutions of 16-bit floats", "[cuda]") {
  library();
  for (const int stride : {1, 2}) {
    Conv2dOptions o = nhwc;
    o.stride_h = o.stride_w = stride;
    // Parameters are f32, as layers have them.
    const auto step = [&](const Tensors& in) {
      const Tensor x = in[0].detach(), w = in[1].detach(), b = in[2].detach();
      for (const Tensor* t : {&x, &w, &b}) t->set_requires_grad(true);
      const Tensor y = relu(conv2d(x, cast(w, x.dtype()), cast(b, x.dtype()), o));
      sum(cast(y, DType::f32) * in[3]).backward();
      return Tensors{y, x.grad(), w.grad(), b.grad()};
    };
    const int64_t h = stride == 1 ? 9 : 5, w = 8 / stride;
    for (const DType d : {DType::bf16, DType::f16}) {
      const std::string report =
          check(step, {image().to(d), weights(), normal({7}), normal({2, h, w, 7})}, 3, bound_of(d));
      CHECK_THAT(report, Contains("cudnn engine 1 of " + std::string(name_of(d))) && !Contains("cudnn engine 5"));
    }
  }
}

TEST_CASE("a block of a residual network in bf16, whose batch norms write between a cast and its readers", "[cuda]") {
  library();
  struct Block : Module {
    Conv2D a = child("a", Conv2D(8, 3, {.padding = Padding::same}, false));
    BatchNorm norm = child("norm", BatchNorm({.axis = 1}));
    Conv2D b = child("b", Conv2D(8, 1, {}, false));
  };
  const Tensor x = normal({2, 8, 6, 5}).to(DType::bf16);
  const auto train = [&](Device device, Level level, std::string* report) {
    manual_seed(3);
    Block net;
    net.to(device);
    auto step = capture(
        [&](const Tensor& in) {
          const Tensor y = relu(net.b(relu(net.norm(net.a(in)))) + in);
          const Tensor loss = mean(square(cast(y, DType::f32)));
          for (const auto& [name, p] : net.parameters()) p.set_grad({});
          loss.backward();
          Tensors results{loss};
          for (const auto& [name, p] : net.parameters()) results.push_back(p.grad());
          return results;
        },
        {.level = level});
    const Tensor in = x.to(device);
    Tensors last;
    for (int i = 0; i < 4; ++i) last = step(in);
    if (report) *report = step.explain();
    for (Tensor& t : last) t = t.to(Device::cpu());
    return last;
  };
  std::string report;
  const Tensors expected = train(Device::cpu(), Level::exact, nullptr), got = train(gpu, Level::fast, &report);
  for (size_t i = 0; i < expected.size(); ++i)
    CHECK(distance(got[i], expected[i]) < 4e-2 * max(abs(expected[i])).item<double>());
  INFO(report);
  // Only where it enters is the image put into another order, and where the loss adds up.
  CHECK_THAT(report, !Contains("cudnn engine 5") && !Contains("reads f32 copies") && Contains(" 2 reorders"));
  train(gpu, Level::exact, &report);
  CHECK_THAT(report, !Contains("cudnn engine"));
}

TEST_CASE("at exact, convolutions of 16-bit floats have eager's bits", "[cuda]") {
  library();
  for (const DType d : {DType::bf16, DType::f16}) {
    const auto f = [](const Tensors& in) { return Tensors{relu(conv2d(in[0], in[1], in[2], nhwc))}; };
    const Tensors inputs{image().to(d), weights().to(d), normal({7}).to(d)};
    Tensors placed;
    for (const Tensor& t : inputs) placed.push_back(t.to(gpu));
    const Tensor eager = f(placed)[0].to(Device::cpu()), exact = run(f, inputs, Level::exact, gpu).results[0];
    CHECK(distance(eager, exact) == 0);
    CHECK_THAT(run(f, inputs, Level::fast, gpu).report, Contains("fast: library changes"));
  }
}

TEST_CASE("operands of 16 bits that lie at odd addresses, or not in rows, are moved", "[cuda]") {
  library();
  const auto f = [](const Tensors& in) {
    const Tensor x = in[0].slice(0, 1, 865).reshape({2, 9, 8, 6}), w = in[1].slice(0, 3, 381).reshape({7, 6, 3, 3});
    return Tensors{concat({in[0].slice(0, 0, 1), conv2d(x, w, {}, nhwc).flatten()}, 0)};
  };
  CHECK_THAT(check(f, {normal({865}).to(DType::bf16), normal({381}).to(DType::bf16)}, 1, 1e-2),
             Contains("cudnn engine 1 of bf16"));
  const auto part = [](const Tensors& in) {
    return Tensors{conv2d(in[0].slice(2, 1, 9), in[1].permute({0, 3, 1, 2}), {}, nhwc)};
  };
  CHECK_THAT(check(part, {normal({2, 9, 10, 6}).to(DType::bf16), normal({7, 3, 3, 6}).to(DType::bf16)}, 1, 1e-2),
             Contains("cudnn engine 1 of bf16"));
}

TEST_CASE("what was cast and then written, or is wanted in f32, is convolved in f32", "[cuda]") {
  library();
  const auto written = [](const Tensors& in) {
    Tensor x = in[0] * 1, wide = cast(x, DType::f32);
    x.copy_(x * 2);
    return Tensors{cast(conv2d(wide, cast(in[1], DType::f32), {}, nhwc), DType::bf16), x};
  };
  const Tensors inputs{image().to(DType::bf16), weights().to(DType::bf16)};
  CHECK_THAT(check(written, inputs, 1, 1e-2), Contains("cudnn engine 5") && !Contains("of bf16"));
  const auto wide = [](const Tensors& in) {
    const Tensor y = conv2d(cast(in[0], DType::f32), cast(in[1], DType::f32), {}, nhwc);
    return Tensors{y, cast(y, DType::bf16)};
  };
  CHECK_THAT(check(wide, inputs, 1, 1e-2), Contains("cudnn engine 5"));
  const auto written_later = [](const Tensors& in) {
    Tensor y = conv2d(in[0], in[1], {}, nhwc);
    const Tensor before = y * 2;
    y.copy_(y + 1);
    return Tensors{before, y};
  };
  CHECK_THAT(check(written_later, inputs, 1, 1e-2), Contains("cudnn engine 1 of bf16"));
}

TEST_CASE("where cuDNN has no engine for 16 bits, a convolution reads f32 copies, and says why", "[cuda]") {
  library();
  const auto f = [](const Tensors& in) { return Tensors{conv2d(in[0], in[1], {}, nhwc)}; };
  const Tensors inputs{image(13).to(DType::bf16), weights(7, 13).to(DType::bf16)};
  fake_cudnn().refuses_everything = true;
  CHECK_THAT(check(f, inputs, 0, 1e-2), Contains("conv2d") &&
                                            Contains("reads f32 copies of bf16: cudnn: convolution") &&
                                            Contains("not the library's: cudnn"));
  fake_cudnn().refuses_everything = false;
  CHECK_THAT(check(f, inputs, 1, 1e-2), Contains("cudnn engine 1 of bf16"));
  // Whichever call fails while a plan is made, an f32 convolution or our own kernel serves.
  int served = 0;
  for (int64_t at = 0; at < 200; at += 7) {
    const Tensors others{image(14 + at).to(DType::bf16), weights(2, 14 + at).to(DType::bf16)};
    const Tensor expected = f(others)[0];
    auto captured = capture([&](const Tensors& in) { return f(in); }, {.level = Level::fast});
    const Tensors placed{others[0].to(gpu), others[1].to(gpu)};
    captured(placed);
    fake_cudnn().calls = 0, fake_cudnn().fail_at = at;
    Tensor got;
    try {
      captured(placed);
      got = captured(placed)[0].to(Device::cpu());
    } catch (const Error& e) {
      CHECK_THAT(e.what(), Contains("planted"));
      continue;
    }
    CHECK(distance(got, expected) < 1e-2 * max(abs(expected)).item<double>());
    served += fake_cudnn().calls > at;
  }
  fake_cudnn().fail_at = -1;
  CHECK(served > 10);
}

TEST_CASE("convolutions of 16-bit floats are replayed in a CUDA graph", "[cuda]") {
  library();
  auto f = capture([](const Tensor& x, const Tensor& w) { return softmax(exp(conv2d(x, w, {}, nhwc)), 3) * 2; },
                   {.level = Level::fast});
  const Tensor x = image(5).to(DType::bf16), w = weights(5, 5).to(DType::bf16) / 8;
  const Tensor expected = softmax(exp(conv2d(x, w, {}, nhwc)), 3) * 2, there = x.to(gpu), filter = w.to(gpu);
  Tensors held;
  for (int i = 0; i < 5; ++i) {
    held.push_back(f(there, filter));
    CHECK(distance(held.back(), expected) < 3e-2 * max(abs(expected)).item<double>());
  }
  CHECK_THAT(f.explain(), Contains("replayed as a CUDA graph") && Contains("cudnn engine 1 of bf16"));
}

TEST_CASE("a graph that cannot be made once, with a library's work in it, is made the next time", "[cuda]") {
  library();
  auto f = capture([](const Tensor& x, const Tensor& w) { return softmax(exp(conv2d(x, w, {}, nhwc)), 3) * 2; },
                   {.level = Level::fast});
  const Tensor x = image(3).to(gpu), w = weights(5, 3).to(gpu);
  f(x, w);
  device().fail("cudaGraphInstantiate", 1, cudaErrorMemoryAllocation);
  const auto calls = [&] {
    for (int i = 0; i < 4; ++i) f(x, w);
  };
  CHECK_THROWS_WITH(calls(), Contains("cudaGraphInstantiate"));
  calls();
  CHECK_THAT(f.explain(), Contains("replayed as a CUDA graph") && Contains("cudnn engine"));
}
