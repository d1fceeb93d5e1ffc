// Plans of cuDNN at work: on a fake library, which runs graphs on the processor, and on the device if there is one.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "reprise/backends/cpu/kernels.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/backends/cuda/cudnn_plan.h"
#include "reprise/backends/cuda/replay.h"
#include "reprise/bench/h200.h"
#include "reprise/core/switches.h"
#include "reprise/reprise.h"
#include "reprise/test/cuda/cudnn_fake.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_kernels.h"
#include "reprise/test/kernel_call.h"

using namespace rp;
using namespace rp::cuda;
using namespace rp::test;
using Catch::Matchers::Contains;
using cpu::ConvPass;
using cpu::ConvShape;

namespace {

ConvShape shape(ConvPass pass, int stride = 1, int dilation = 1, int before = 1, int after = 1) {
  const auto extent = [&](int e) { return (e + before + after - 2 * dilation - 1) / stride + 1; };
  return {2,      5,      9,      8,     7,     3,        3,        extent(9), extent(8), stride,
          stride, before, before, after, after, dilation, dilation, 1,         pass};
}

std::vector<float> numbers(int64_t count) {
  const Array a = random(DType::f32, {count});
  return {reinterpret_cast<const float*>(a.bytes.data()), reinterpret_cast<const float*>(a.bytes.data()) + count};
}

/// [out, c, taps] as [out, taps, c], or back.
std::vector<float> moved(const std::vector<float>& w, int64_t out, int64_t rows, int64_t columns) {
  std::vector<float> to(w.size());
  for (int64_t o = 0; o < out; ++o)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        to[static_cast<size_t>((o * columns + c) * rows + r)] = w[static_cast<size_t>((o * rows + r) * columns + c)];
  return to;
}

Array array(const Shape& s, const std::vector<float>& values) {
  Array a(DType::f32, s);
  std::memcpy(a.bytes.data(), values.data(), a.bytes.size());
  return a;
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

/// Runs a plan on operands of the host; the last `results` of them are its results.
template <class T>
void run_plan(const DnnPlan& plan, std::vector<std::vector<T>>& operands, size_t results = 1) {
  std::vector<std::unique_ptr<cuda::Buffer<T>>> buffers;
  std::vector<std::byte*> pointers;
  for (const auto& o : operands) {
    buffers.push_back(std::make_unique<cuda::Buffer<T>>(o));
    pointers.push_back(buffers.back()->bytes());
  }
  const cuda::Buffer<std::byte> workspace(plan.workspace_bytes() + 1);
  plan.run(pointers, workspace.bytes());
  for (size_t i = operands.size() - results; i < operands.size(); ++i) operands[i] = buffers[i]->read();
}

/// What the CPU's convolution leaves, with the weights' channels last.
std::vector<float> on_cpu(const ConvShape& s, const std::vector<float>& a, const std::vector<float>& b) {
  const Shape x{s.n, s.h, s.w, s.c}, y{s.n, s.oh, s.ow, s.out}, w{s.out, s.c, s.kh, s.kw};
  const int64_t taps = s.kh * s.kw;
  const auto last_first = [&](const std::vector<float>& weights) { return array(w, moved(weights, s.out, taps, s.c)); };
  const ConvAttrs attrs{s.stride_h,   s.stride_w,   s.top, s.left, s.bottom, s.right,
                        s.dilation_h, s.dilation_w, 1,     1,      nullptr};
  const bool forward = s.pass == ConvPass::forward, weights = s.pass == ConvPass::backward_weights;
  Array first = array(forward || weights ? x : y, a), second = weights ? array(y, b) : last_first(b);
  const Kernel kernel = forward ? cpu::conv2d : weights ? cpu::conv2d_backward_weights : cpu::conv2d_backward_data;
  Array r = run(kernel, {&first, &second}, DType::f32, forward ? y : weights ? w : x, attrs);
  std::vector<float> values(r.as<float>(), r.as<float>() + r.size());
  return weights ? moved(values, s.out, s.c, taps) : values;
}

std::vector<std::vector<float>> operands_of(const ConvShape& s) {
  const int64_t x = s.n * s.x_image(), y = s.n * s.y_image(), w = s.weights();
  switch (s.pass) {
    case ConvPass::forward:
      return {numbers(x), numbers(w), numbers(y)};
    case ConvPass::backward_data:
      return {numbers(y), numbers(w), numbers(x)};
    default:
      return {numbers(x), numbers(y), numbers(w)};
  }
}

void check_convolution(const ConvShape& s) {
  auto operands = operands_of(s);
  const auto expected = on_cpu(s, operands[0], operands[1]);
  run_plan(dnn_plan(convolution_graph({s})), operands);
  CHECK(distance(operands[2], expected) < 3e-5);
}

const DnnGraph& some_graph() {
  static const DnnGraph graph = convolution_graph({shape(ConvPass::forward)});
  return graph;
}

}  // namespace

TEST_CASE("the first engine is taken that nothing speaks against and that supports the graph", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  const ConvShape s = shape(ConvPass::forward);
  CHECK(dnn_plan(convolution_graph({s})).form() == "cudnn engine 5");
  CHECK(dnn_plan(convolution_graph({s, CUDNN_DATA_BFLOAT16})).form() == "cudnn engine 1");
  fake_cudnn().refuses_everything = true;
  CHECK_THROWS_WITH(dnn_plan(convolution_graph({shape(ConvPass::backward_data)})),
                    Contains("no engine; engine 1: CUDNN_NUMERICAL_NOTE_TENSOR_CORE; engine 2: "
                             "CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC; engine 3: CUDNN_NUMERICAL_NOTE_WINOGRAD; engine "
                             "4: FAKE_NOT_SUPPORTED: this engine supports nothing; engine 5: ") &&
                        Contains("; engine 0: FAKE_NOT_SUPPORTED"));
}

TEST_CASE("plans of convolutions compute what the CPU computes", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  for (const ConvPass pass : {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weights}) {
    check_convolution(shape(pass));
    check_convolution(shape(pass, 2, 1, 0, 1));
    check_convolution(shape(pass, 1, 2, 2, 2));
  }
  CHECK(fake_cudnn().runs == 9);
}

TEST_CASE("what stands behind a forward pass runs with it", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  const ConvShape s = shape(ConvPass::forward);
  for (const DnnAfter after : {DnnAfter::bias_relu, DnnAfter::sum_bias_relu, DnnAfter::scale_bias_sum_relu}) {
    auto operands = operands_of(s);
    auto expected = on_cpu(s, operands[0], operands[1]);
    const auto bias = numbers(s.out), scale = numbers(s.out), z = numbers(static_cast<int64_t>(expected.size()));
    const bool scales = after == DnnAfter::scale_bias_sum_relu, sums = after != DnnAfter::bias_relu;
    for (size_t i = 0; i < expected.size(); ++i) {
      const size_t c = i % static_cast<size_t>(s.out);
      expected[i] = std::max(0.0f, expected[i] * (scales ? scale[c] : 1) + (sums ? z[i] : 0) + bias[c]);
    }
    const std::vector<float> result = operands.back();
    operands.pop_back();
    if (scales) operands.push_back(scale);
    if (!scales && sums) operands.push_back(z);
    operands.push_back(bias);
    if (scales) operands.push_back(z);
    operands.push_back(result);
    run_plan(dnn_plan(convolution_graph({s, CUDNN_DATA_FLOAT, after})), operands);
    CHECK(distance(operands.back(), expected) < 3e-5);
  }
}

namespace {

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
std::vector<uint16_t> to_bf16(const Tensor& t) {
  std::vector<uint16_t> list;
  for (const float x : t.data<float>()) list.push_back(to_bf16(x));
  return list;
}
/// Numbers that bf16 holds.
Tensor rounded(const Shape& shape) { return floor(normal(shape) * 16.0f) / 16.0f; }
double largest_difference(const std::vector<uint16_t>& got, const Tensor& expected) {
  double worst = 0;
  const auto values = expected.data<float>();
  REQUIRE(got.size() == values.size());
  for (size_t i = 0; i < got.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(from_bf16(got[i])) - values[i]));
  return worst;
}

void check_attention(bool causal) {
  DnnAttention a{2, 3, 5, 7, 8, 16, CUDNN_DATA_BFLOAT16, causal, false, false, 0.25f};
  Tensor q = rounded({2, 3, 5, 8}), k = rounded({2, 3, 7, 8}), v = rounded({2, 3, 7, 16});
  for (Tensor* t : {&q, &k, &v}) t->set_requires_grad(true);
  const Tensor o = scaled_dot_product_attention(q, k, v, {}, {.causal = causal, .scale = 0.25f});
  const Tensor d_o = rounded({2, 3, 5, 16});
  sum(o * d_o).backward();
  std::vector<std::vector<uint16_t>> operands{to_bf16(q), to_bf16(k), to_bf16(v), to_bf16(zeros({2, 3, 5, 16}))};
  run_plan(dnn_plan(attention_graph(a)), operands);
  CHECK(largest_difference(operands[3], o) < 2e-2);

  // Statistics are f32, each in two of these words.
  operands.back() = to_bf16(zeros({2, 3, 5, 16}));
  operands.push_back(std::vector<uint16_t>(2 * 30));
  a.statistics = true;
  run_plan(dnn_plan(attention_graph(a)), operands, 2);
  CHECK(largest_difference(operands[3], o) < 2e-2);
  const std::vector<uint16_t> stats = operands.back();
  operands.back() = to_bf16(d_o);
  operands.push_back(stats);
  for (const Tensor* t : {&q, &k, &v}) operands.push_back(to_bf16(zeros(t->shape())));
  run_plan(dnn_plan(attention_gradient_graph(a)), operands, 3);
  CHECK(largest_difference(operands[6], q.grad()) < 6e-2);
  CHECK(largest_difference(operands[7], k.grad()) < 6e-2);
  CHECK(largest_difference(operands[8], v.grad()) < 6e-2);
}

}  // namespace

TEST_CASE("attention and its gradients", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  check_attention(false);
  check_attention(true);
  CHECK(fake_cudnn().runs == 6);
}

TEST_CASE("plans are made once, kept on disk, and made anew if what is there is no plan", "[cuda]") {
  const auto folder = std::filesystem::temp_directory_path() / "reprise-cudnn-plans";
  std::filesystem::remove_all(folder);
  const auto files = [&] {
    std::vector<std::filesystem::path> list;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) list.push_back(entry.path());
    return list;
  };
  {
    const fake::Device gpu({.cache = folder.string()});
    const UsesFakeCudnn fake;
    const DnnPlan* const plan = &dnn_plan(some_graph());
    CHECK(&dnn_plan(some_graph()) == plan);
    CHECK(fake_cudnn().choices == 1);
    CHECK(files().size() == 1);
    forget_everything();
    const DnnPlan& again = dnn_plan(some_graph());
    CHECK(again.form() == "cudnn engine 5");
    CHECK(again.workspace_bytes() == 500);
    CHECK(fake_cudnn().choices == 1);
    check_convolution(shape(ConvPass::forward));
    CHECK(fake_cudnn().choices == 1);
  }
  std::ofstream(files().at(0), std::ios::app) << "more";
  {
    const fake::Device gpu({.cache = folder.string()});
    const UsesFakeCudnn fake;
    check_convolution(shape(ConvPass::forward));
    CHECK(fake_cudnn().choices == 1);
    dnn_plan(convolution_graph({shape(ConvPass::forward, 2)}));
    CHECK(fake_cudnn().choices == 2);
    CHECK(files().size() == 2);
  }
  std::filesystem::remove_all(folder);
}

TEST_CASE("each call of cuDNN that fails is an error that says which, and leaves nothing behind", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  const ConvShape s = shape(ConvPass::forward);
  auto operands = operands_of(s);
  const auto expected = on_cpu(s, operands[0], operands[1]);
  int64_t failures = 0;
  for (bool done = false; !done;) {
    forget_everything();
    std::filesystem::remove_all(switch_value("REPRISE_CUDA_CACHE"));
    CHECK(fake_cudnn().live == 0);
    fake_cudnn().calls = 0;
    fake_cudnn().fail_at = failures;
    try {
      run_plan(dnn_plan(some_graph()), operands);
      done = true;
    } catch (const Error& e) {
      ++failures;
      CHECK_THAT(e.what(), Contains("cudnn") && Contains("FAKE_ERROR: planted"));
    }
  }
  CHECK(failures == fake_cudnn().calls);
  CHECK(failures > 100);
  CHECK(distance(operands[2], expected) < 3e-5);
}

TEST_CASE("an engine that turns out not to be supported is passed over, wherever that shows", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  fake_cudnn().fail_with = CUDNN_STATUS_NOT_SUPPORTED;
  dnn_plan(some_graph());
  const int64_t calls = fake_cudnn().calls;
  int64_t passed = 0;
  for (int64_t at = 0; at < calls; ++at) {
    forget_everything();
    std::filesystem::remove_all(switch_value("REPRISE_CUDA_CACHE"));
    fake_cudnn().calls = 0;
    fake_cudnn().fail_at = at;
    try {
      passed += dnn_plan(some_graph()).form() == "cudnn engine 0";
    } catch (const Error& e) {
      CHECK_THAT(e.what(), Contains("planted"));
    }
  }
  CHECK(passed == 2);  // the heuristics of mode A, and the plan of the engine that is taken otherwise
}

TEST_CASE("plans check what they are given", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  const DnnPlan& plan = dnn_plan(some_graph());
  const cuda::Buffer<std::byte> memory(4096);
  std::byte* const p = memory.bytes();
  CHECK_THROWS_WITH(plan.run(std::vector<std::byte*>{p, p}, p), Contains("expected 3 operands, got 2"));
  CHECK_THROWS_WITH(plan.run(std::vector<std::byte*>{p, p + 2, p}, p), Contains("aligned to 4 bytes"));
}

TEST_CASE("a plan is replayed as a part of a graph, which is told where its operands move", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  const ConvShape s = shape(ConvPass::forward);
  auto operands = operands_of(s);
  const cuda::Buffer<float> x(operands[0]), w(operands[1]), y(operands[2]), other(operands[2]);
  const DnnPlan& plan = dnn_plan(some_graph());
  const cuda::Buffer<std::byte> workspace(plan.workspace_bytes());
  const std::unique_ptr<Replay> replay = make_replay();
  const auto step = [&](const cuda::Buffer<float>& result) {
    operands[0] = numbers(static_cast<int64_t>(operands[0].size()));
    x.write(operands[0]);
    std::vector<std::byte*> pointers{x.bytes(), w.bytes(), result.bytes()};
    replay->run(pointers, {}, 0, [&] {
      fill(result.bytes(), std::byte{7}, operands[2].size() * sizeof(float));
      plan.run(pointers, workspace.bytes());
      fill(workspace.bytes(), std::byte{7}, plan.workspace_bytes());
    });
    CHECK(distance(result.read(), on_cpu(s, operands[0], operands[1])) < 3e-5);
  };
  for (int i = 0; i < 4; ++i) step(y);
  CHECK(replay->form() == "replayed as a CUDA graph of 3 nodes");
  CHECK(gpu.count("cudaGraphLaunch") == 3);
  CHECK(gpu.count("cudaGraphInstantiate") == 1);
  for (int i = 0; i < 3; ++i) step(other);
  CHECK(gpu.count("cudaGraphInstantiate") == 1);
  CHECK(gpu.count("cudaGraphExecChildGraphNodeSetParams") == 1);
  CHECK(gpu.count("cudaGraphLaunch") == 6);
  CHECK(fake_cudnn().runs == 7);
}

TEST_CASE("a library that cannot be captured is launched piece by piece", "[cuda]") {
  const fake::Device gpu;
  const UsesFakeCudnn fake;
  const ConvShape s = shape(ConvPass::forward);
  auto operands = operands_of(s);
  const cuda::Buffer<float> x(operands[0]), w(operands[1]), y(operands[2]);
  const DnnPlan& plan = dnn_plan(some_graph());
  const cuda::Buffer<std::byte> workspace(plan.workspace_bytes());
  const std::unique_ptr<Replay> replay = make_replay();
  std::vector<std::byte*> pointers{x.bytes(), w.bytes(), y.bytes()};
  for (int i = 0; i < 3; ++i) {
    y.write(operands[2]);
    if (i == 1) fake_cudnn().fail_at = fake_cudnn().calls;
    replay->run(pointers, {}, 0, [&] {
      for (int k = 0; k < 3; ++k) plan.run(pointers, workspace.bytes());
    });
    CHECK(distance(y.read(), on_cpu(s, operands[0], operands[1])) < 3e-5);
  }
  CHECK_THAT(replay->form(), Contains("launched one by one: cudnn: ") && Contains("planted"));
  CHECK(gpu.count("cudaGraphLaunch") == 0);
}

TEST_CASE("on a device that is here, f32 keeps its bits and attention is right", "[cuda]") {
  if (!cuda::is_available()) {
    WARN("skipped: " << cuda::why_not());
    return;
  }
  for (const ConvPass pass : {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weights}) {
    check_convolution(shape(pass));
    check_convolution(shape(pass, 2, 1, 0, 1));
    check_convolution(shape(pass, 1, 2, 2, 2));
  }
  check_attention(false);
  check_attention(true);
}

TEST_CASE("on a device that is here, convolutions at fast are near those of the CPU", "[cuda]") {
  if (!cuda::is_available()) {
    WARN("skipped: " << cuda::why_not());
    return;
  }
  const Tensor x = normal({8, 20, 18, 32}), w = normal({48, 32, 3, 3}), b = normal({48});
  const auto step = [](const Tensors& in) {
    const Tensors t{in[0].detach(), in[1].detach(), in[2].detach()};
    for (const Tensor& v : t) v.set_requires_grad(true);
    const Tensor y = relu(conv2d(t[0], t[1], t[2], {.padding = Padding::same, .format = DataFormat::nhwc}));
    sum(y * y).backward();
    return Tensors{y, t[0].grad(), t[1].grad(), t[2].grad()};
  };
  const Tensors expected = step({x, w, b});
  auto fast = capture([&](const Tensors& in) { return step(in); }, {.level = Level::fast});
  const Tensors inputs{x.to(Device::cuda()), w.to(Device::cuda()), b.to(Device::cuda())};
  for (int call = 0; call < 5; ++call) {
    const Tensors got = fast(inputs);
    for (size_t i = 0; i < expected.size(); ++i)
      CHECK(max(abs(got[i].to(Device::cpu()) - expected[i])).item<double>() <
            1e-5 * max(abs(expected[i])).item<double>());
  }
  INFO(fast.explain());
  CHECK_THAT(fast.explain(), Contains("cudnn engine"));
}

TEST_CASE("a plan made for a device that was not there runs on one that is", "[cuda]") {
  if (!cuda::is_available() || cuda::device_name() != "NVIDIA H200") {
    WARN("skipped: there is no H200");
    return;
  }
  const DnnGraph& graph = some_graph();
  const DnnTarget described{std::string(bench::h200_properties)};
  const DnnPlan plan(graph, choose_engine(graph, described), DnnTarget::here());
  auto operands = operands_of(shape(ConvPass::forward));
  const auto expected = on_cpu(shape(ConvPass::forward), operands[0], operands[1]);
  run_plan(plan, operands);
  CHECK(distance(operands[2], expected) < 3e-5);
}
