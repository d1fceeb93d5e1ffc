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
/// it stand `T`, `Args` (with `pointers`, `scalars` and `stores_product`), `Spot` with its `offset` and `index`, and
/// SHARED_TILES: what of the shared memory the tiles take. Behind them `keep_scalars` puts the scalars, once in a
/// kernel and before a barrier, and SHARED_PLACE is the end of both.
std::string epilogue_text(const Region& region);
inline size_t shared_scalar_bytes(const Region& region) {
  return sizeof(uint64_t) * static_cast<size_t>(region.scalars);
}

}  // namespace rp::cuda
