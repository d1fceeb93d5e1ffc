#pragma once
// The usual layers. All find their input sizes at first use, draw their first weights as PyTorch does unless told
// otherwise, and report errors at the line that called them. Parameters are f32; of an input of 16-bit floats a layer
// makes a result of that dtype.
#include <optional>
#include <type_traits>

#include "reprise/core/ops.h"
#include "reprise/nn/module.h"

namespace rp {

struct DenseOptions {
  bool bias = true;
  Init weight_init = {};  ///< default: U(-b, b) with b = 1 / sqrt(inputs)
  Init bias_init = {};    ///< default: the same
};
/// x: [..., inputs] -> [..., units], x · weight + bias. Parameters: weight [inputs, units], bias [units].
class Dense : public Module {
 public:
  explicit Dense(int64_t units, DenseOptions options = {}, Loc loc = Loc::current());
  Tensor operator()(In x) const;

 private:
  int64_t units_;
  DenseOptions options_;
  Lazy weight_;
  std::optional<Lazy> bias_;
};

/// Height and width of a window; one number makes a square.
struct Window {
  Window(int size) : h(size), w(size) {}
  Window(int height, int width) : h(height), w(width) {}
  int h, w;
};

/// Cross-correlation with `filters` kernels. Parameters: weight [filters, channels, h, w] in either data format, bias
/// [filters]; both begin as U(-b, b) with b = 1 / sqrt(channels * h * w).
class Conv2D : public Module {
 public:
  Conv2D(int64_t filters, Window kernel, Conv2dOptions options = {}, bool bias = true, Loc loc = Loc::current());
  Tensor operator()(In x) const;

 private:
  int64_t filters_;
  Window kernel_;
  Conv2dOptions options_;
  Lazy weight_;
  std::optional<Lazy> bias_;
};

/// The largest element of each window; windows stand side by side unless strides are given.
class MaxPool : public Module {
 public:
  explicit MaxPool(Window window, Pool2dOptions options = {});
  Tensor operator()(In x) const;

 private:
  Pool2dOptions options_;
};

/// The mean of each window's elements inside the image.
class AvgPool : public Module {
 public:
  explicit AvgPool(Window window, Pool2dOptions options = {});
  Tensor operator()(In x) const;

 private:
  Pool2dOptions options_;
};

struct BatchNormOptions {
  double momentum = 0.1;  ///< weight of the newest batch in the running statistics
  double eps = 1e-5;
  int axis = 1;  ///< the channels; -1 for nhwc
};
/// Normalises each channel: in training by the batch's mean and variance, which also move the buffers `mean` and
/// `variance` (the unbiased one); in use by these buffers (Ioffe and Szegedy, 2015). Parameters: scale, shift
/// [channels].
class BatchNorm : public Module {
 public:
  explicit BatchNorm(BatchNormOptions options = {}, Loc loc = Loc::current());
  Tensor operator()(In x) const;

 private:
  BatchNormOptions options_;
  Lazy scale_, shift_, mean_, variance_;
};

/// Normalises over the last axis (Ba, Kiros and Hinton, 2016). Parameters: scale and shift, [extent of that axis].
class LayerNorm : public Module {
 public:
  explicit LayerNorm(double eps = 1e-5, Loc loc = Loc::current());
  Tensor operator()(In x) const;

 private:
  double eps_;
  Lazy scale_, shift_;
};

/// In training drops each element with probability p and scales the others by 1 / (1 - p). Throws unless 0 <= p < 1.
class Dropout : public Module {
 public:
  explicit Dropout(double p = 0.5, Loc loc = Loc::current());
  Tensor operator()(In x) const;

 private:
  double p_;
};

/// indices: [...] integers in [0, count) -> [..., width]. Parameter: weight [count, width], N(0, 1) unless told
/// otherwise.
class Embedding : public Module {
 public:
  Embedding(int64_t count, int64_t width, Init init = {}, Loc loc = Loc::current());
  Tensor operator()(In indices) const;

 private:
  Tensor weight_;
};

/// [n, ...] -> [n, all the rest].
class Flatten : public Module {
 public:
  Tensor operator()(In x) const;
};

/// Layers one after another: modules, which become children "0", "1", ..., or functions of one tensor such as rp::relu.
class Sequential : public Module {
 public:
  template <class... L>
    requires(std::is_invocable_r_v<Tensor, const L&, const Tensor&> && ...)
  explicit Sequential(L... layers) {
    (add(std::move(layers)), ...);
  }

  template <class L>
    requires std::is_invocable_r_v<Tensor, const L&, const Tensor&>
  void add(L layer, Loc loc = Loc::current()) {
    if constexpr (std::derived_from<L, Module>) child(std::to_string(layers_->size()), layer, loc);
    layers_->push_back([layer = std::move(layer)](const Tensor& x) { return layer(x); });
  }

  Tensor operator()(In x) const;

 private:
  std::shared_ptr<std::vector<std::function<Tensor(const Tensor&)>>> layers_ =
      std::make_shared<std::vector<std::function<Tensor(const Tensor&)>>>();
};

}  // namespace rp
