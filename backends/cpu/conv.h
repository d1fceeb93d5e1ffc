#pragma once
// Which implementation a convolution takes, as a pure function of its geometry and dtype.
#include <cstdint>
#include <memory>
#include <string>

#include "reprise/backends/cpu/gemm.h"
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

  /// Towards the image: whether patches are made and added up, since there is a stride or too few channels to fill a
  /// vector. Otherwise it is a forward pass again.
  bool adds_patches() const { return stride_h != 1 || stride_w != 1 || c <= 4; }
  int64_t x_image() const { return c * h * w; }
  int64_t y_image() const { return out * oh * ow; }
  /// Towards the image, with weights turned around.
  bool turns() const { return pass == ConvPass::backward_data && !adds_patches(); }
  /// The gradient of the image is the forward pass of this shape over y, with the weights turned around.
  ConvShape turned() const;
  int64_t weights() const { return out * c * kh * kw; }
};

/// The geometry of a call, checked. Throws if the tensors do not fit together.
ConvShape conv_shape(ConvPass pass, const KernelCall& call);

class DnnConv;

enum class ConvMethod : uint8_t {
  direct,   // few channels: products whose factors are read where the image lies
  patches,  // a product of the patches, which are formed block by block, and the weights
  library,  // oneDNN
  im2col,   // a product of all patches of an image and the weights, for any dtype
};

/// Of `direct` alone for weights, and of `library` and `im2col`: images go in slices of `slice`, each computed by one
/// thread. Everything depends on nothing but the geometry.
struct ConvChoice {
  ConvMethod method = ConvMethod::im2col;
  int64_t slice = 1, slices = 0;
  int reorders = 0;                            // of an image and a result by the library
  std::unique_ptr<const DnnConv> whole, tail;  // for a full slice and for what remains
  std::string form = "im2col";                 // "direct", "patches", "jit:avx2", "im2col"
};

/// The choice for a geometry; made once and kept for ever.
const ConvChoice& conv_choice(const ConvShape& shape, DType dtype);

/// The weights in the order in which `direct` and `patches` read them, forward or towards the image; null if the choice
/// takes them as they are.
std::unique_ptr<const PackedB<float>> pack_conv_weights(const ConvShape& shape, DType dtype, const void* weights);

/// A forward pass or a gradient of the image: reads two of x, w and y and writes the third. `packed` comes from
/// `pack_conv_weights`. The epilogue's rows are those of the result's last axis, its columns the elements of that axis.
void convolve(const ConvShape& shape, DType dtype, void* x, const void* w, void* y, const PackedB<float>* packed,
              const Epilogue* epilogue);

// Own implementations by im2col, for `images` images at x and y. Sums run over channel, kernel row and kernel column in
// this order (weights: over images, then positions), from zero by fma. T is float, double, int32_t or int64_t.
template <class T>
void im2col_forward(const ConvShape& shape, int64_t images, const T* x, const T* w, T* y);
template <class T>
void im2col_backward_data(const ConvShape& shape, int64_t images, T* x, const T* w, const T* y);
template <class T>
void im2col_backward_weights(const ConvShape& shape, int64_t images, const T* x, T* w, const T* y);

// f32 and nhwc. Sums run over kernel row, kernel column and channel in this order.
void direct_forward(const ConvShape& shape, const float* x, const PackedB<float>& w, float* y,
                    const Epilogue* epilogue);
/// For `images` images. Sums run over the positions of an image in order, then over images; dw: [kh, kw, c, out].
void direct_weights(const ConvShape& shape, int64_t images, const float* x, float* dw, const float* y);
void patches_forward(const ConvShape& shape, const float* x, const PackedB<float>& w, float* y,
                     const Epilogue* epilogue);
/// Each patch is a product of an output and the weights, and is added to its place in order.
void patches_backward_data(const ConvShape& shape, float* x, const PackedB<float>& w, const float* y,
                           const Epilogue* epilogue);
/// Sums run over positions and images in order, in segments of some rows.
void patches_weights(const ConvShape& shape, const float* x, float* w, const float* y);
/// [kh, kw, c, out] to [out, c, kh, kw].
void weights_to_front(const ConvShape& shape, const float* from, float* to);

/// Each image [rows, columns] becomes [columns, rows]: nchw to nhwc and back.
void transpose_images(int64_t images, int64_t rows, int64_t columns, const float* from, float* to);

}  // namespace rp::cpu
