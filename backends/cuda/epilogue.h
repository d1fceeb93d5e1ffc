#pragma once
#include <optional>
#include <string>

#include "reprise/fusion/region.h"

namespace rp::cuda {

/// Of a region of kind gemm: the factors are operands 0 and 1.
inline constexpr size_t product_operand = 2;

/// The stage behind a product as a map over the finished result.
Region map_behind(const Region& region);

/// A stage that stores one value for each element, where the product stands: the product itself, rounded to the
/// result's dtype or not; before that perhaps plus a number for each column, of the same dtype, and perhaps max(it, 0).
struct PlainStage {
  size_t result, bias;  // operands; no bias: 0
  bool relu;
};
std::optional<PlainStage> plain_stage(const Region& region);

/// The stage of a region behind its product as text: what is computed of a finished element and what it stores. Before
/// it stand `T`, `Args` (with `pointers`, `scalars` and `stores_product`), and `Spot` with its `offset` and `index`.
std::string epilogue_text(const Region& region);

}  // namespace rp::cuda
