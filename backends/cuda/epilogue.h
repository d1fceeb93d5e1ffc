#pragma once
#include <string>

#include "reprise/fusion/region.h"

namespace rp::cuda {

/// Of a region of kind gemm: the factors are operands 0 and 1.
inline constexpr size_t product_operand = 2;

/// The stage of a region behind its product as text: what is computed of a finished element and what it stores. Before
/// it stand `T`, `Args` (with `pointers`, `scalars` and `stores_product`), and `Spot` with its `offset` and `index`.
std::string epilogue_text(const Region& region);

}  // namespace rp::cuda
