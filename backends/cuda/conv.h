#pragma once
// What convolutions and the gradients of their weights share.
#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "reprise/backends/cpu/conv.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// How an address moves with an image, its rows, columns and channels, in elements.
struct ImageMoves {
  int64_t n = 0, h = 0, w = 0, c = 0;
  bool operator==(const ImageMoves&) const = default;
};
/// Of the strides of the four axes in their order.
ImageMoves image_moves(const std::array<int64_t, 4>& strides, bool nhwc);
ImageMoves image_moves(const Layout& layout, bool nhwc);

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// The geometry of a region's convolution, checked. Throws if the operands do not fit together.
cpu::ConvShape conv_shape(const Region& region);

/// Puts weights [out, c, kh, kw] into the order in which products read them: [kh, kw, c, out], or towards the image
/// [kh, kw, out, c]. `function` has the text for that.
void order_weights(const LazyFunction& function, const cpu::ConvShape& shape, DType dtype, const std::byte* weights,
                   std::byte* to);
std::string order_weights_text(cpu::ConvPass pass, DType dtype);

std::unique_ptr<RegionKernel> compile_conv_weights(const Region& region);

}  // namespace rp::cuda
