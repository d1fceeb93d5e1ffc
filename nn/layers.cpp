#include "reprise/nn/layers.h"

#include <cmath>

#include "reprise/core/fail.h"
#include "reprise/eager/grad.h"

namespace rp {
namespace {

/// PyTorch's choice for dense and convolution layers: the bound of the uniform distribution from the number of inputs.
Init bounded_by(int64_t inputs) {
  double bound = inputs ? 1 / std::sqrt(static_cast<double>(inputs)) : 0;
  return init::uniform(-bound, bound);
}

void check_positive(const char* layer, const char* what, int64_t value) {
  if (value <= 0) fail("{}: {} must be positive, got {}", layer, what, value);
}

/// A parameter of an input of 16-bit floats is read as such; its gradient and its updates stay f32.
Tensor read_as(const Tensor& parameter, const Tensor& x) {
  return is_short(x.dtype()) ? parameter.to(x.dtype()) : parameter;
}

Pool2dOptions with_window(Pool2dOptions options, Window window) {
  options.window_h = window.h;
  options.window_w = window.w;
  return options;
}

}  // namespace

Dense::Dense(int64_t units, DenseOptions options, Loc loc) : units_(units), options_(std::move(options)) {
  At at(loc);
  check_positive("dense", "the number of units", units);
  weight_ = lazy_param("weight", loc);
  if (options_.bias) bias_ = lazy_param("bias", loc);
}

Tensor Dense::operator()(In x) const {
  const Scope scope(*this, x.loc);
  if (!value(weight_).defined()) {
    if (x->rank() == 0) fail("dense: expected at least one axis, got {}", to_string(x->spec()));
    const int64_t inputs = x->size(-1);
    create(weight_, {inputs, units_}, options_.weight_init ? options_.weight_init : bounded_by(inputs), x->device());
    if (bias_) create(*bias_, {units_}, options_.bias_init ? options_.bias_init : bounded_by(inputs), x->device());
  }
  return linear(x, read_as(value(weight_), x), bias_ ? read_as(value(*bias_), x) : Tensor());
}

Conv2D::Conv2D(int64_t filters, Window kernel, Conv2dOptions options, bool bias, Loc loc)
    : filters_(filters), kernel_(kernel), options_(options) {
  At at(loc);
  check_positive("conv2d", "the number of filters", filters);
  check_positive("conv2d", "the kernel's height", kernel.h);
  check_positive("conv2d", "the kernel's width", kernel.w);
  weight_ = lazy_param("weight", loc);
  if (bias) bias_ = lazy_param("bias", loc);
}

Tensor Conv2D::operator()(In x) const {
  const Scope scope(*this, x.loc);
  if (!value(weight_).defined()) {
    if (x->rank() != 4) fail("conv2d: expected four axes, got {}", to_string(x->spec()));
    const int64_t channels = x->size(options_.format == DataFormat::nchw ? 1 : 3);
    const Shape shape{filters_, channels, kernel_.h, kernel_.w};
    Init init = bounded_by(channels * kernel_.h * kernel_.w);
    create(weight_, shape, init, x->device());
    if (bias_) create(*bias_, {filters_}, init, x->device());
  }
  return conv2d(x, read_as(value(weight_), x), bias_ ? read_as(value(*bias_), x) : Tensor(), options_);
}

MaxPool::MaxPool(Window window, Pool2dOptions options) : options_(with_window(options, window)) {}

Tensor MaxPool::operator()(In x) const {
  const Scope scope(*this, x.loc);
  return max_pool2d(x, options_);
}

AvgPool::AvgPool(Window window, Pool2dOptions options) : options_(with_window(options, window)) {}

Tensor AvgPool::operator()(In x) const {
  const Scope scope(*this, x.loc);
  return avg_pool2d(x, options_);
}

BatchNorm::BatchNorm(BatchNormOptions options, Loc loc)
    : options_(options),
      scale_(lazy_param("scale", loc)),
      shift_(lazy_param("shift", loc)),
      mean_(lazy_buffer("mean", loc)),
      variance_(lazy_buffer("variance", loc)) {}

Tensor BatchNorm::operator()(In x) const {
  const Scope scope(*this, x.loc);
  const int axis = options_.axis < 0 ? options_.axis + x->rank() : options_.axis;
  if (axis < 0 || axis >= x->rank()) {
    fail("batch_norm: there is no axis {} for the channels in {}", options_.axis, to_string(x->spec()));
  }
  const int64_t channels = x->size(axis);
  if (!value(scale_).defined()) {
    create(scale_, {channels}, init::ones(), x->device());
    create(shift_, {channels}, init::zeros(), x->device());
    create(mean_, {channels}, init::zeros(), x->device());
    create(variance_, {channels}, init::ones(), x->device());
  }
  Tensor scale = value(scale_), shift = value(shift_), running_mean = value(mean_), running_variance = value(variance_);
  if (!training()) return batch_norm(x, running_mean, running_variance, scale, shift, axis, options_.eps);

  const int64_t n = channels ? x->numel() / channels : 0;
  if (n < 2) fail("batch_norm: training needs two values per channel, got {}", to_string(x->spec()));
  Dims axes;
  for (int i = 0; i < x->rank(); ++i) {
    if (i != axis) axes.push_back(i);
  }
  Tensor batch_mean = mean(x, axes), batch_variance = var(x, axes, false, 0);
  no_grad([&] {
    const double keep = 1 - options_.momentum;
    const double unbiased = options_.momentum * static_cast<double>(n) / static_cast<double>(n - 1);
    running_mean.copy_(running_mean * keep + batch_mean * options_.momentum);
    running_variance.copy_(running_variance * keep + batch_variance * unbiased);
  });
  return batch_norm(x, batch_mean, batch_variance, scale, shift, axis, options_.eps);
}

LayerNorm::LayerNorm(double eps, Loc loc)
    : eps_(eps), scale_(lazy_param("scale", loc)), shift_(lazy_param("shift", loc)) {}

Tensor LayerNorm::operator()(In x) const {
  const Scope scope(*this, x.loc);
  if (!value(scale_).defined()) {
    if (x->rank() == 0) fail("layer_norm: expected at least one axis, got {}", to_string(x->spec()));
    create(scale_, {x->size(-1)}, init::ones(), x->device());
    create(shift_, {x->size(-1)}, init::zeros(), x->device());
  }
  const Tensor y = layer_norm(x, value(scale_), value(shift_), eps_);
  return is_short(x->dtype()) ? y.to(x->dtype()) : y;  // of f32 parameters it is f32
}

Dropout::Dropout(double p, Loc loc) : p_(p) {
  At at(loc);
  if (!(p >= 0 && p < 1)) fail("dropout: the probability must be in [0, 1), got {}", p);
}

Tensor Dropout::operator()(In x) const {
  const Scope scope(*this, x.loc);
  return dropout(x, p_, training());
}

Embedding::Embedding(int64_t count, int64_t width, Init init, Loc loc) {
  At at(loc);
  check_positive("embedding", "the number of rows", count);
  check_positive("embedding", "the width", width);
  weight_ = param("weight", {count, width}, init ? init : init::normal(), loc);
}

Tensor Embedding::operator()(In indices) const {
  const Scope scope(*this, indices.loc);
  return index_select(weight_, indices);
}

Tensor Flatten::operator()(In x) const {
  const Scope scope(*this, x.loc);
  return x->flatten(1);
}

Tensor Sequential::operator()(In x) const {
  const Scope scope(*this, x.loc);
  Tensor y = x;
  for (const auto& layer : *layers_) y = layer(y);
  return y;
}

}  // namespace rp
