#pragma once
// The text of kernels that form products, in the pieces that a kernel is put together from: constants of its own, the
// kernel's arguments and where its factors and results stand, and the product itself.
#include <string_view>

namespace rp::cuda {

/// Of every product. Before it stand: `T`, the type of elements; the constants of a tile (`tile_text` in tiles.h);
/// OPERANDS and SCALARS.
extern const std::string_view product_tile_text;
/// Of every product: the kernel. Before it stand `Args`, `Left`, `Right`, `Place` and the epilogue.
extern const std::string_view product_kernel_text;

/// Matrices of any strides: Args, Left, Right and Place.
extern const std::string_view matrix_text;

/// Convolutions as products over the patches of an image: Args and Place, Left and Right.
extern const std::string_view image_text;
/// Weights' gradients as products over the positions of an image: Args, Left, Right and Place.
extern const std::string_view position_text;

}  // namespace rp::cuda
