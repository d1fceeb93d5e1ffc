#pragma once
// oneDNN, as far as convolution needs it, without its headers. Everything runs on the calling thread alone.
#include <cstddef>
#include <memory>
#include <string_view>

#include "reprise/backends/cpu/conv.h"

namespace rp::cpu {

/// oneDNN's implementation of an f32 convolution or gradient. Activations go in and out in the user's format; weights,
/// or their gradient, in an inner layout of `weights_bytes()`. Safe to use from several threads at once.
class DnnConv {
 public:
  virtual ~DnnConv() = default;
  /// What runs: "jit:avx2".
  virtual std::string_view form() const = 0;
  /// How many of x and y it puts into another order.
  virtual int reorders() const = 0;
  virtual size_t weights_bytes() const = 0;
  virtual size_t scratch_bytes() const = 0;
  /// Weights [out, c, kh, kw] to the inner layout and back.
  virtual void pack(const float* plain, std::byte* inner) const = 0;
  virtual void unpack(const std::byte* inner, float* plain) const = 0;
  /// Reads two of x, w and y and writes the third, as the pass says. `scratch` is aligned to 64 bytes.
  virtual void run(float* x, std::byte* w, float* y, std::byte* scratch) const = 0;
};

/// The fastest real implementation for the shape, or null where there is only a reference one. With `like`, one for
/// another number of images and the same inner layout of weights.
std::unique_ptr<const DnnConv> make_dnn_conv(const ConvShape& shape, const DnnConv* like = nullptr);

}  // namespace rp::cpu
