// cuDNN's graphs and plans: with the library itself, which needs no device to choose engines for one.
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <set>

#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/backends/cuda/cudnn_plan.h"
#include "reprise/bench/h200.h"
#include "reprise/test/catch.h"

using namespace rp;
using namespace rp::cuda;
using Catch::Matchers::Contains;
using cpu::ConvPass;
using cpu::ConvShape;

namespace {

/// An H200, if the library is there and can plan for devices that are not.
const DnnTarget* h200() {
  static const std::unique_ptr<const DnnTarget> target = []() -> std::unique_ptr<const DnnTarget> {
    try {
      return std::make_unique<DnnTarget>(std::string(bench::h200_properties));
    } catch (const Error& e) {
      WARN("skipped: " << e.what());
      return nullptr;
    }
  }();
  return target.get();
}

struct Window {
  int kernel, stride = 1, dilation = 1, before = 0, after = 0;
};
ConvShape shape(ConvPass pass, int n, int c, int h, int w, int out, const Window& k) {
  const auto extent = [&](int e) { return (e + k.before + k.after - (k.kernel - 1) * k.dilation - 1) / k.stride + 1; };
  return {n,        c,        h,        w,       out,     k.kernel,   k.kernel,   extent(h), extent(w), k.stride,
          k.stride, k.before, k.before, k.after, k.after, k.dilation, k.dilation, 1,         pass};
}

constexpr ConvPass passes[] = {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weights};

/// The choice for a graph; none where this version of the library supports nothing that is allowed.
std::optional<DnnChoice> choice_for(const DnnGraph& graph, const DnnTarget& target) {
  try {
    return choose_engine(graph, target);
  } catch (const Error& e) {
    WARN("skipped: " << e.what());
    return {};
  }
}

std::set<std::string> objections_to(const DnnGraph& graph, const DnnTarget& target) {
  std::set<std::string> found;
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const DnnEngine& e : dnn_engines(graph, target, mode)) found.emplace(objection(e, graph));
  return found;
}

void check_plan(const DnnGraph& graph, const DnnTarget& target) {
  const std::optional<DnnChoice> choice = choice_for(graph, target);
  if (!choice) return;
  INFO(to_string(graph));
  CHECK(choice->engine >= 0);
  CHECK(choice->workspace >= 0);
  CHECK(choice->plan.size() > 100);
  const DnnChoice again = choose_engine(graph, target);
  CHECK(again.engine == choice->engine);
  CHECK(again.workspace == choice->workspace);
  const DnnPlan plan(graph, *choice, target);
  CHECK(plan.workspace_bytes() >= static_cast<size_t>(choice->workspace));
  CHECK(plan.form() == fmt::format("cudnn engine {}", choice->engine));
}

}  // namespace

TEST_CASE("convolutions and their gradients have plans for an H200 that is not here", "[cuda]") {
  const DnnTarget* const target = h200();
  if (!target) return;
  for (const auto type : {CUDNN_DATA_FLOAT, CUDNN_DATA_BFLOAT16, CUDNN_DATA_HALF})
    for (const ConvPass pass : passes) {
      for (const Window& k : {Window{1}, Window{3, 1, 1, 1, 1}, Window{3, 2, 1, 0, 1}, Window{3, 1, 2, 2, 2},
                              Window{4, 1, 1, 1, 2}, Window{5, 3, 1, 2, 2}})
        check_plan(convolution_graph({shape(pass, 8, 16, 14, 12, 32, k), type}), *target);
      check_plan(convolution_graph({shape(pass, 16, 1, 28, 28, 6, {5}), type}), *target);
      check_plan(convolution_graph({shape(pass, 2, 3, 32, 32, 64, {7, 2, 1, 3, 3}), type}), *target);
    }
}

TEST_CASE("a forward pass and what stands behind it are one plan", "[cuda]") {
  const DnnTarget* const target = h200();
  if (!target) return;
  for (const auto type : {CUDNN_DATA_FLOAT, CUDNN_DATA_BFLOAT16, CUDNN_DATA_HALF})
    for (const DnnAfter after : {DnnAfter::bias_relu, DnnAfter::sum_bias_relu})
      check_plan(convolution_graph({shape(ConvPass::forward, 8, 16, 14, 14, 32, {3, 1, 1, 1, 1}), type, after}),
                 *target);
}

TEST_CASE("plans whose kernels are compiled need a driver", "[cuda]") {
  const DnnTarget* const target = h200();
  if (!target) return;
  if (!dlopen("libcuda.so.1", RTLD_LAZY)) {
    WARN("skipped: no libcuda.so.1");
    return;
  }
  for (const auto type : {CUDNN_DATA_BFLOAT16, CUDNN_DATA_HALF}) {
    check_plan(convolution_graph(
                   {shape(ConvPass::forward, 8, 16, 14, 14, 32, {3, 1, 1, 1, 1}), type, DnnAfter::scale_bias_sum_relu}),
               *target);
    for (const bool causal : {false, true}) {
      DnnAttention a{2, 4, 128, 192, 64, 64, type, causal, false, causal, 0.125f};
      check_plan(attention_graph(a), *target);
      a.statistics = true;
      check_plan(attention_graph(a), *target);
      check_plan(attention_gradient_graph(a), *target);
    }
  }
}

TEST_CASE("no engine is taken that rounds factors of f32 or adds up in any order", "[cuda]") {
  const DnnTarget* const target = h200();
  if (!target) return;
  std::set<std::string> full, half;
  for (const ConvPass pass : passes) {
    const ConvShape s = shape(pass, 64, 64, 56, 56, 64, {3, 1, 1, 1, 1});
    full.merge(objections_to(convolution_graph({s, CUDNN_DATA_FLOAT}), *target));
    half.merge(objections_to(convolution_graph({s, CUDNN_DATA_BFLOAT16}), *target));
  }
  CHECK(full.contains("CUDNN_NUMERICAL_NOTE_TENSOR_CORE"));
  CHECK(full.contains("CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC"));
  CHECK(full.contains(""));
  CHECK_FALSE(half.contains("CUDNN_NUMERICAL_NOTE_TENSOR_CORE"));
  CHECK(half.contains(""));
}

TEST_CASE("convolutions of 16-bit floats run on tensor cores and store 16 bits", "[cuda]") {
  const DnnTarget* const target = h200();
  if (!target) return;
  const auto on_tensor_cores = [&](const DnnGraph& graph) {
    const std::optional<DnnChoice> choice = choice_for(graph, *target);
    if (!choice) return true;
    for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
      for (const DnnEngine& e : dnn_engines(graph, *target, mode))
        if (e.number == choice->engine) return std::ranges::count(e.notes, CUDNN_NUMERICAL_NOTE_TENSOR_CORE) != 0;
    return false;
  };
  // The stem of a ResNet-50 and some of its blocks' convolutions.
  const auto shapes = [](ConvPass pass) {
    return std::array{
        shape(pass, 64, 3, 224, 224, 64, {7, 2, 1, 2, 3}),
        shape(pass, 64, 64, 56, 56, 64, {3, 1, 1, 1, 1}),
        shape(pass, 64, 256, 56, 56, 512, {1, 2}),
        shape(pass, 64, 128, 56, 56, 128, {3, 2, 1, 0, 1}),
        shape(pass, 64, 512, 7, 7, 2048, {1}),
    };
  };
  for (const auto type : {CUDNN_DATA_BFLOAT16, CUDNN_DATA_HALF})
    for (const ConvPass pass : passes)
      for (const ConvShape& s : shapes(pass)) {
        INFO(to_string(convolution_graph({s, type})));
        CHECK(on_tensor_cores(convolution_graph({s, type})));
        if (pass == ConvPass::forward) CHECK(on_tensor_cores(convolution_graph({s, type, DnnAfter::bias_relu})));
      }
}

TEST_CASE("stored plans are read back, and rubbish is not", "[cuda]") {
  const DnnTarget* const target = h200();
  if (!target) return;
  const DnnGraph graph = convolution_graph({shape(ConvPass::forward, 4, 8, 10, 10, 8, {3}), CUDNN_DATA_FLOAT});
  std::optional<DnnChoice> choice = choice_for(graph, *target);
  if (!choice) return;
  CHECK_NOTHROW(DnnPlan(graph, *choice, *target));
  choice->plan = "{\"not\": \"a plan\"}";
  CHECK_THROWS_WITH(DnnPlan(graph, *choice, *target), Contains("CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION") ||
                                                          Contains("CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR"));
}

TEST_CASE("errors of cuDNN say what was set", "[cuda]") {
  if (!h200()) return;
  Descriptor tensor = Descriptor::make<CUDNN_BACKEND_TENSOR_DESCRIPTOR>();
  CHECK_THROWS_WITH(tensor.set<CUDNN_ATTR_CONVOLUTION_COMP_TYPE>(CUDNN_DATA_FLOAT),
                    Contains("CUDNN_ATTR_CONVOLUTION_COMP_TYPE of CUDNN_BACKEND_TENSOR_DESCRIPTOR: CUDNN_STATUS_"));
  tensor.set<CUDNN_ATTR_TENSOR_DIMENSIONS>(std::vector<int64_t>{2, 3});
  CHECK_THROWS_WITH(tensor.finalize(), Contains("finalizing CUDNN_BACKEND_TENSOR_DESCRIPTOR: CUDNN_STATUS_BAD_PARAM"));
  CHECK_THROWS_WITH((tensor.get<CUDNN_ATTR_TENSOR_DIMENSIONS, int64_t>()), Contains("CUDNN_ATTR_TENSOR_DIMENSIONS of"));
  CHECK_THROWS_WITH(DnnTarget("no properties"), Contains("CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR"));
}

TEST_CASE("graphs are checked before the library sees them", "[cuda]") {
  const auto message = [](auto change) -> std::string {
    DnnConvolution c{shape(ConvPass::forward, 2, 3, 8, 9, 4, {3, 1, 1, 1, 1})};
    change(c);
    try {
      convolution_graph(c);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  CHECK_THAT(message([](DnnConvolution&) {}), Contains("nothing"));
  CHECK_THAT(message([](DnnConvolution& c) { ++c.shape.oh; }), Contains("expected a result of 8 rows, got 9"));
  CHECK_THAT(message([](DnnConvolution& c) { --c.shape.ow; }), Contains("expected a result of 9 columns, got 8"));
  CHECK_THAT(message([](DnnConvolution& c) { c.shape.kh = 20; }), Contains("a window of 20 rows does not fit into 10"));
  CHECK_THAT(message([](DnnConvolution& c) { c.shape.n = 0; }), Contains("expected extents of at least 1"));
  CHECK_THAT(message([](DnnConvolution& c) { c.shape.stride_w = 0; }), Contains("strides and dilations start at 1"));
  CHECK_THAT(message([](DnnConvolution& c) { c.shape.left = -1; }), Contains("padding starts at 0"));
  CHECK_THAT(message([](DnnConvolution& c) {
               c.shape.pass = ConvPass::backward_data;
               c.after = DnnAfter::bias_relu;
             }),
             Contains("only a forward pass has operations behind it"));
  CHECK_THROWS_WITH(attention_graph({1, 1, 0, 4, 8, 8}), Contains("expected extents of at least 1"));
  CHECK_THROWS_WITH(attention_graph({1, 1, 4, 4, 8, 8, CUDNN_DATA_FLOAT}), Contains("expected bf16 or f16"));
}

TEST_CASE("graphs that differ have texts that differ", "[cuda]") {
  const ConvShape s = shape(ConvPass::forward, 2, 3, 8, 9, 4, {3, 1, 1, 1, 1});
  std::set<std::string> texts;
  for (const auto type : {CUDNN_DATA_FLOAT, CUDNN_DATA_BFLOAT16, CUDNN_DATA_HALF})
    for (const DnnAfter after : {DnnAfter::nothing, DnnAfter::bias_relu, DnnAfter::sum_bias_relu})
      texts.insert(to_string(convolution_graph({s, type, after})));
  for (int64_t ConvShape::* extent : {&ConvShape::n, &ConvShape::c, &ConvShape::out}) {
    ConvShape other = s;
    ++(other.*extent);
    texts.insert(to_string(convolution_graph({other})));
  }
  ConvShape shifted = s;
  --shifted.top;
  ++shifted.bottom;
  texts.insert(to_string(convolution_graph({shifted})));
  DnnAttention a{2, 4, 8, 8, 16, 16};
  texts.insert(to_string(attention_graph(a)));
  texts.insert(to_string(attention_gradient_graph(a)));
  a.scale = 0.5f;
  texts.insert(to_string(attention_graph(a)));
  a.causal = true;
  texts.insert(to_string(attention_graph(a)));
  a.rows_first = true;
  texts.insert(to_string(attention_graph(a)));
  CHECK(texts.size() == 18);
}
