#pragma once
// Which implementation a convolution takes, as a pure function of its geometry and dtype.
#include <cstdint>
#include <memory>
#include <string>

#include "reprise/core/backend.h"
#include "reprise/core/ops/attrs.h"

namespace rp::cpu {

enum class ConvPass : int32_t { forward, backward_data, backward_weights };

/// x: n images of c channels; y: n images of `out` channels; weights [out, c, kh, kw].
struct ConvShape {
  int64_t n, c, h, w, out, kh, kw, oh, ow;
  int32_t stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w;
  int32_t nhwc;
  ConvPass pass;
  bool operator==(const ConvShape&) const = default;

  int64_t x_image() const { return c * h * w; }
  int64_t y_image() const { return out * oh * ow; }
  int64_t weights() const { return out * c * kh * kw; }
};

/// The geometry of a call, checked. Throws if the tensors do not fit together.
ConvShape conv_shape(ConvPass pass, const KernelCall& call);

class DnnConv;

/// Images go in slices of `slice`, each computed by one thread; both depend on nothing but the geometry.
struct ConvChoice {
  int64_t slice = 1, slices = 0;
  std::unique_ptr<const DnnConv> whole, tail;  // for a full slice and for what remains; null: im2col and own products
  std::string form;                            // "jit:avx2", "im2col"
};

/// The choice for a geometry; made once and kept for ever.
const ConvChoice& conv_choice(const ConvShape& shape, DType dtype);

// Own implementations by im2col, for `images` images at x and y. Sums run over channel, kernel row and kernel column in
// this order (weights: over images, then positions), from zero by fma. T is float, double, int32_t or int64_t.
template <class T>
void im2col_forward(const ConvShape& shape, int64_t images, const T* x, const T* w, T* y);
template <class T>
void im2col_backward_data(const ConvShape& shape, int64_t images, T* x, const T* w, const T* y);
template <class T>
void im2col_backward_weights(const ConvShape& shape, int64_t images, const T* x, T* w, const T* y);

/// Each image [rows, columns] becomes [columns, rows]: nchw to nhwc and back.
void transpose_images(int64_t images, int64_t rows, int64_t columns, const float* from, float* to);

}  // namespace rp::cpu
