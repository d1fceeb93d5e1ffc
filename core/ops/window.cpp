// Convolution and pooling.
#include <algorithm>

#include "reprise/core/ops/define.h"

namespace rp {
namespace {

struct Axes {
  int n = 0, c, h, w;
};
Axes axes_of(int32_t format) {
  return static_cast<DataFormat>(format) == DataFormat::nchw ? Axes{0, 1, 2, 3} : Axes{0, 3, 1, 2};
}

struct Pads {
  int32_t before, after;
};

// `same` padding: the output extent is ceil(extent / stride); the odd element goes behind.
Pads pads(Padding padding, int64_t extent, int64_t window, int64_t stride) {
  if (padding == Padding::valid) return {0, 0};
  const int64_t total = std::max<int64_t>(((extent + stride - 1) / stride - 1) * stride + window - extent, 0);
  return {static_cast<int32_t>(total / 2), static_cast<int32_t>(total - total / 2)};
}

int64_t extent_after(std::string_view op, int64_t extent, int64_t window, int64_t stride) {
  if (extent < window)
    fail("{}: a window of {} does not fit into an extent of {} with its padding", op, window, extent);
  return (extent - window) / stride + 1;
}

const Layout* conv_shape(const ShapeCall& c) {
  const auto& a = c.attrs.as<ConvAttrs>();
  const Axes x = axes_of(a.format);
  Spec spec = c.inputs[0]->spec;
  const Shape in = spec.shape, &w = c.inputs[1]->shape();
  const auto span = [](int64_t k, int64_t d) { return (k - 1) * d + 1; };
  spec.shape[x.c] = w[0];
  spec.shape[x.h] = extent_after("conv2d", in[x.h] + a.top + a.bottom, span(w[2], a.dilation_h), a.stride_h);
  spec.shape[x.w] = extent_after("conv2d", in[x.w] + a.left + a.right, span(w[3], a.dilation_w), a.stride_w);
  return intern(spec);
}

const Layout* conv_given(const ShapeCall& c) { return c.attrs.as<ConvAttrs>().spec; }

ConvAttrs with_spec(const GradCall& c, const Layout* spec) {
  ConvAttrs a = c.attrs().as<ConvAttrs>();
  a.spec = spec;
  return a;
}

const Layout* input_layout(const GradCall& c, int i) { return intern(c.input_spec(i)); }

Tensor contiguous_call(const Op& op, const Tensor& a, const Tensor& b, const Attrs& attrs) {
  const Tensor x = a.contiguous(), y = b.contiguous();
  return call(op, {&x, &y}, attrs);
}

Tensors conv_gradient(const GradCall& c) {
  Tensor dx, dw;
  if (c.wanted(0)) dx = contiguous_call(conv2d_backward_data_op, c.dy(), c.input(1), with_spec(c, input_layout(c, 0)));
  if (c.wanted(1))
    dw = contiguous_call(conv2d_backward_weights_op, c.input(0), c.dy(), with_spec(c, input_layout(c, 1)));
  return {dx, dw};
}

// The convolution is bilinear: each gradient of a gradient is one of the three ops again.
Tensors conv_data_gradient(const GradCall& c) {
  Tensor ddy, dw;
  if (c.wanted(0)) ddy = contiguous_call(conv2d_op, c.dy(), c.input(1), with_spec(c, nullptr));
  if (c.wanted(1))
    dw = contiguous_call(conv2d_backward_weights_op, c.dy(), c.input(0), with_spec(c, input_layout(c, 1)));
  return {ddy, dw};
}

Tensors conv_weights_gradient(const GradCall& c) {
  Tensor dx, ddy;
  if (c.wanted(0)) dx = contiguous_call(conv2d_backward_data_op, c.input(1), c.dy(), with_spec(c, input_layout(c, 0)));
  if (c.wanted(1)) ddy = contiguous_call(conv2d_op, c.input(0), c.dy(), with_spec(c, nullptr));
  return {dx, ddy};
}

const Layout* pool_shape(const ShapeCall& c) {
  const auto& a = c.attrs.as<PoolAttrs>();
  const Axes x = axes_of(a.format);
  Spec spec = c.inputs[0]->spec;
  spec.shape[x.h] = extent_after(c.op.name, spec.shape[x.h] + a.top + a.bottom, a.window_h, a.stride_h);
  spec.shape[x.w] = extent_after(c.op.name, spec.shape[x.w] + a.left + a.right, a.window_w, a.stride_w);
  return intern(spec);
}

Tensors max_pool_gradient(const GradCall& c) {
  return {contiguous_call(max_pool2d_backward_op, c.input(0), c.dy(), c.attrs())};
}
Tensors max_pool_backward_gradient(const GradCall& c) {
  return {{}, contiguous_call(max_pool2d_pick_op, c.input(0), c.dy(), c.attrs())};
}
Tensors max_pool_pick_gradient(const GradCall& c) {
  return {{}, contiguous_call(max_pool2d_backward_op, c.input(0), c.dy(), c.attrs())};
}
Tensors avg_pool_gradient(const GradCall& c) {
  PoolAttrs a = c.attrs().as<PoolAttrs>();
  a.spec = input_layout(c, 0);
  const Tensor dy = c.dy().contiguous();
  return {call(avg_pool2d_backward_op, {&dy}, a)};
}
Tensors avg_pool_backward_gradient(const GradCall& c) {
  PoolAttrs a = c.attrs().as<PoolAttrs>();
  a.spec = nullptr;
  const Tensor ddx = c.dy().contiguous();
  return {call(avg_pool2d_op, {&ddx}, a)};
}

}  // namespace

constinit const Op conv2d_op{.name = "conv2d",
                             .kind = Kind::kernel,
                             .operands = 2,
                             .shape = conv_shape,
                             .gradient = {conv_gradient, Needs::inputs},
                             .fields = ConvAttrs::fields,
                             .blocks = true};
constinit const Op conv2d_backward_data_op{.name = "conv2d_backward_data",
                                           .kind = Kind::kernel,
                                           .operands = 2,
                                           .shape = conv_given,
                                           .gradient = {conv_data_gradient, Needs::inputs},
                                           .fields = ConvAttrs::fields,
                                           .blocks = true};
constinit const Op conv2d_backward_weights_op{.name = "conv2d_backward_weights",
                                              .kind = Kind::kernel,
                                              .operands = 2,
                                              .shape = conv_given,
                                              .gradient = {conv_weights_gradient, Needs::inputs},
                                              .fields = ConvAttrs::fields};
constinit const Op max_pool2d_op{.name = "max_pool2d",
                                 .kind = Kind::kernel,
                                 .shape = pool_shape,
                                 .gradient = {max_pool_gradient, Needs::inputs},
                                 .fields = PoolAttrs::fields};
constinit const Op max_pool2d_backward_op{.name = "max_pool2d_backward",
                                          .kind = Kind::kernel,
                                          .operands = 2,
                                          .shape = same_as_input,
                                          .gradient = {max_pool_backward_gradient, Needs::inputs},
                                          .fields = PoolAttrs::fields};
constinit const Op max_pool2d_pick_op{.name = "max_pool2d_pick",
                                      .kind = Kind::kernel,
                                      .operands = 2,
                                      .shape = pool_shape,
                                      .gradient = {max_pool_pick_gradient, Needs::inputs},
                                      .fields = PoolAttrs::fields};
constinit const Op avg_pool2d_op{.name = "avg_pool2d",
                                 .kind = Kind::kernel,
                                 .shape = pool_shape,
                                 .gradient = {avg_pool_gradient},
                                 .fields = PoolAttrs::fields};
constinit const Op avg_pool2d_backward_op{.name = "avg_pool2d_backward",
                                          .kind = Kind::kernel,
                                          .shape = [](const ShapeCall& c) { return c.attrs.as<PoolAttrs>().spec; },
                                          .gradient = {avg_pool_backward_gradient},
                                          .fields = PoolAttrs::fields};

Entries window_entries() {
  static constexpr const Op* entries[] = {&conv2d_op,     &conv2d_backward_data_op, &conv2d_backward_weights_op,
                                          &max_pool2d_op, &max_pool2d_backward_op,  &max_pool2d_pick_op,
                                          &avg_pool2d_op, &avg_pool2d_backward_op};
  return entries;
}

namespace {

ConvAttrs conv_attrs(const char* op, const Shape& x, const Shape& w, const Conv2dOptions& o) {
  if (x.rank() != 4 || w.rank() != 4)
    fail("{}: expected an image [n,c,h,w] or [n,h,w,c] and a weight [out,c,kh,kw], got {} and {}", op, to_string(x),
         to_string(w));
  const Axes a = axes_of(static_cast<int32_t>(o.format));
  if (x[a.c] != w[1])
    fail("{}: the image has {} channels, the weight {} (shapes {} and {})", op, x[a.c], w[1], to_string(x),
         to_string(w));
  if (std::min({o.stride_h, o.stride_w, o.dilation_h, o.dilation_w}) < 1)
    fail("{}: strides and dilations start at 1", op);
  if (std::min(w[2], w[3]) < 1) fail("{}: the weight {} has no window", op, to_string(w));
  const Pads h = pads(o.padding, x[a.h], (w[2] - 1) * o.dilation_h + 1, o.stride_h);
  const Pads v = pads(o.padding, x[a.w], (w[3] - 1) * o.dilation_w + 1, o.stride_w);
  return {o.stride_h,
          o.stride_w,
          h.before,
          v.before,
          h.after,
          v.after,
          o.dilation_h,
          o.dilation_w,
          static_cast<int32_t>(o.format),
          1,
          nullptr};
}

DType common(const Tensor& a, const Tensor& b) { return promoted(promoted(a.dtype(), b.dtype()), DType::i32); }

PoolAttrs pool_attrs(const char* op, const Tensor& x, const Pool2dOptions& o) {
  if (x.rank() != 4) fail("{}: expected an image [n,c,h,w] or [n,h,w,c], got {}", op, to_string(x.spec()));
  const int sh = o.stride_h ? o.stride_h : o.window_h, sw = o.stride_w ? o.stride_w : o.window_w;
  if (std::min({o.window_h, o.window_w, sh, sw}) < 1) fail("{}: windows and strides start at 1", op);
  const Axes a = axes_of(static_cast<int32_t>(o.format));
  const Pads h = pads(o.padding, x.shape()[a.h], o.window_h, sh), v = pads(o.padding, x.shape()[a.w], o.window_w, sw);
  return {o.window_h, o.window_w, sh, sw, h.before, v.before, h.after, v.after, static_cast<int32_t>(o.format),
          0,          nullptr};
}

}  // namespace

namespace {

// Images are convolved with their channels last. One of shape nchw is a view of that order, so that it has to be moved
// only where it enters: results lie with their channels last, and pointwise ops and pools keep that. Only fewer
// channels than a vector has lanes are put into planes, since everything behind would leave lanes empty.
constexpr int64_t few_channels = 8;

bool is_nchw(const Conv2dOptions& o) { return o.format == DataFormat::nchw; }
Tensor channels_last(const Tensor& x) { return x.permute({0, 2, 3, 1}); }
Tensor channels_first(const Tensor& x) { return x.permute({0, 3, 1, 2}); }
Shape channels_last(const Shape& s) { return {s[0], s[2], s[3], s[1]}; }

Tensor image(const char* op, const Tensor& x, DType dtype, const Conv2dOptions& o) {
  if (x.rank() != 4) fail("{}: expected an image of four axes, got {}", op, to_string(x.spec()));
  const Tensor v = cast(x, dtype);
  return is_nchw(o) ? channels_last(v) : v;
}

ConvAttrs on_channels_last(ConvAttrs a) {
  a.format = static_cast<int32_t>(DataFormat::nhwc);
  return a;
}

}  // namespace

Tensor conv2d(In x, In w, const Tensor& bias, Conv2dOptions options) {
  At at(x.loc);
  const ConvAttrs attrs = on_channels_last(conv_attrs("conv2d", x->shape(), w->shape(), options));
  const DType dtype = common(x, w);
  Tensor y = contiguous_call(conv2d_op, image("conv2d", x, dtype, options), cast(w, dtype), attrs);
  const int64_t out = w->shape()[0];
  const bool planes = is_nchw(options) && out < few_channels;
  if (planes) y = channels_first(y).contiguous();
  if (bias.defined()) {
    if (bias.shape() != Shape{out}) fail("conv2d: expected a bias [{}], got {}", out, to_string(bias.spec()));
    y = y + (planes ? bias.reshape({out, 1, 1}) : bias);
  }
  return is_nchw(options) && !planes ? channels_first(y) : y;
}

Tensor conv2d_backward_data(In dy, In w, const Shape& x_shape, Conv2dOptions options) {
  At at(dy.loc);
  ConvAttrs attrs = on_channels_last(conv_attrs("conv2d_backward_data", x_shape, w->shape(), options));
  const DType dtype = common(dy, w);
  attrs.spec = intern({dtype, is_nchw(options) ? channels_last(x_shape) : x_shape, dy->device()});
  const Tensor last = image("conv2d_backward_data", dy, dtype, options);
  const Tensor dx = contiguous_call(conv2d_backward_data_op, last, cast(w, dtype), attrs);
  return is_nchw(options) ? channels_first(dx) : dx;
}

Tensor conv2d_backward_weights(In x, In dy, const Shape& w_shape, Conv2dOptions options) {
  At at(x.loc);
  ConvAttrs attrs = on_channels_last(conv_attrs("conv2d_backward_weights", x->shape(), w_shape, options));
  const DType dtype = common(x, dy);
  attrs.spec = intern({dtype, w_shape, x->device()});
  const auto last = [&](const Tensor& t) { return image("conv2d_backward_weights", t, dtype, options); };
  return contiguous_call(conv2d_backward_weights_op, last(x), last(dy), attrs);
}

namespace {

// A pool takes an image as it lies.
Tensor pooled(const Op& op, const Tensor& x, PoolAttrs attrs) {
  const bool nchw = attrs.format == static_cast<int32_t>(DataFormat::nchw);
  const Tensor last = nchw && !x.is_contiguous() ? channels_last(x) : Tensor();
  if (!last.defined() || !last.is_contiguous()) {
    const Tensor v = x.contiguous();
    return call(op, {&v}, attrs);
  }
  attrs.format = static_cast<int32_t>(DataFormat::nhwc);
  return channels_first(call(op, {&last}, attrs));
}

}  // namespace

Tensor max_pool2d(In x, Pool2dOptions options) {
  At at(x.loc);
  return pooled(max_pool2d_op, x, pool_attrs("max_pool2d", x, options));
}

Tensor avg_pool2d(In x, Pool2dOptions options) {
  At at(x.loc);
  const PoolAttrs attrs = pool_attrs("avg_pool2d", x, options);
  return pooled(avg_pool2d_op, is_floating(x->dtype()) ? x.tensor : cast(x, DType::f32), attrs);
}

}  // namespace rp
