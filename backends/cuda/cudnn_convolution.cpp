#include <algorithm>

#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/core/fail.h"

namespace rp::cuda {
namespace {

using cpu::ConvPass;
using cpu::ConvShape;

/// cuDNN counts axes as [images, channels, rows, columns] and learns from strides how they lie.
Strides image_strides(const Dims& d, bool channels_last) {
  return channels_last ? Strides{d[1] * d[2] * d[3], 1, d[1] * d[3], d[1]} : packed_strides(d);
}

void expect_extent(const char* what, int64_t got, int64_t extent, int64_t window, int64_t dilation, int64_t stride) {
  const int64_t span = (window - 1) * dilation + 1;
  if (extent < span) fail("cudnn: convolution: a window of {} {} does not fit into {}", span, what, extent);
  const int64_t expected = (extent - span) / stride + 1;
  if (got != expected) fail("cudnn: convolution: expected a result of {} {}, got {}", expected, what, got);
}

void check(const DnnConvolution& of) {
  const ConvShape& s = of.shape;
  if (std::min({s.n, s.c, s.h, s.w, s.out, s.kh, s.kw}) < 1)
    fail("cudnn: convolution: expected extents of at least 1, got image [{},{},{},{}] and weights [{},{},{},{}]", s.n,
         s.c, s.h, s.w, s.out, s.c, s.kh, s.kw);
  if (std::min({s.stride_h, s.stride_w, s.dilation_h, s.dilation_w}) < 1)
    fail("cudnn: convolution: strides and dilations start at 1");
  if (std::min({s.top, s.left, s.bottom, s.right}) < 0) fail("cudnn: convolution: padding starts at 0");
  expect_extent("rows", s.oh, s.h + s.top + s.bottom, s.kh, s.dilation_h, s.stride_h);
  expect_extent("columns", s.ow, s.w + s.left + s.right, s.kw, s.dilation_w, s.stride_w);
  if (of.after != DnnAfter::nothing && s.pass != ConvPass::forward)
    fail("cudnn: convolution: only a forward pass has operations behind it");
  if (of.after != DnnAfter::nothing && of.type == CUDNN_DATA_DOUBLE)
    fail("cudnn: convolution: operations behind it are computed in f32, which is not enough for f64");
}

/// What becomes of the values of a forward pass before they are stored.
class Behind {
 public:
  Behind(DnnGraph& graph, const DnnConvolution& of, const Dims& shape, const Strides& strides)
      : graph_(graph), of_(of), shape_(shape), strides_(strides) {}

  void add(int value) {
    const auto per_channel = [&] {
      return graph_.operand(of_.type, {1, shape_[1], 1, 1}, image_strides({1, shape_[1], 1, 1}, of_.shape.nhwc));
    };
    const auto z = [&] { return graph_.operand(of_.type, shape_, strides_); };
    if (of_.after == DnnAfter::scale_bias_sum_relu)
      value = graph_.pointwise(CUDNN_POINTWISE_MUL, {value, per_channel()});
    if (of_.after == DnnAfter::sum_bias_relu) value = graph_.pointwise(CUDNN_POINTWISE_ADD, {value, z()});
    value = graph_.pointwise(CUDNN_POINTWISE_ADD, {value, per_channel()});
    if (of_.after == DnnAfter::scale_bias_sum_relu) value = graph_.pointwise(CUDNN_POINTWISE_ADD, {value, z()});
    const int result = graph_.operand(of_.type, shape_, strides_);
    graph_.operations.push_back({.kind = DnnOperation::Kind::pointwise,
                                 .inputs = {value},
                                 .output = result,
                                 .pointwise = CUDNN_POINTWISE_RELU_FWD});
  }

 private:
  DnnGraph& graph_;
  const DnnConvolution& of_;
  Dims shape_;
  Strides strides_;
};

}  // namespace

DnnGraph convolution_graph(const DnnConvolution& of) {
  check(of);
  const ConvShape& s = of.shape;
  DnnGraph g;
  g.full_products = of.type == CUDNN_DATA_FLOAT || of.type == CUDNN_DATA_DOUBLE;
  if (g.full_products) g.alignment = size_of(of.type);  // more is of no use to the engines for it
  const Dims x{s.n, s.c, s.h, s.w}, w{s.out, s.c, s.kh, s.kw}, y{s.n, s.out, s.oh, s.ow};
  const auto operand = [&](const Dims& d) { return g.operand(of.type, d, image_strides(d, s.nhwc)); };
  DnnOperation o;
  o.window = {.before = {s.top, s.left},
              .after = {s.bottom, s.right},
              .strides = {s.stride_h, s.stride_w},
              .dilation = {s.dilation_h, s.dilation_w}};
  if (of.type == CUDNN_DATA_DOUBLE) o.compute = CUDNN_DATA_DOUBLE;
  switch (s.pass) {
    case ConvPass::forward:
      g.name = "convolution";
      o.kind = DnnOperation::Kind::convolution;
      o.inputs = {operand(x), operand(w)};
      break;
    case ConvPass::backward_data:
      g.name = "convolution, gradient of the image";
      o.kind = DnnOperation::Kind::image_gradient;
      o.inputs = {operand(y), operand(w)};
      break;
    case ConvPass::backward_weights:
      g.name = "convolution, gradient of the weights";
      o.kind = DnnOperation::Kind::weights_gradient;
      o.inputs = {operand(x), operand(y)};
      break;
  }
  const Dims& result = s.pass == ConvPass::forward ? y : s.pass == ConvPass::backward_data ? x : w;
  const bool behind = of.after != DnnAfter::nothing;
  o.output = behind ? g.inner(CUDNN_DATA_FLOAT, result) : operand(result);
  g.operations.push_back(o);
  if (!behind) return g;
  g.tensors.back().strides = image_strides(result, s.nhwc);
  g.name += of.after == DnnAfter::bias_relu       ? ", bias, relu"
            : of.after == DnnAfter::sum_bias_relu ? ", sum, bias, relu"
                                                  : ", scale, bias, sum, relu";
  Behind(g, of, result, image_strides(result, s.nhwc)).add(o.output);
  return g;
}

}  // namespace rp::cuda
