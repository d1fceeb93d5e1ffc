#pragma once
// Products by cuBLASLt, which adds up in orders of its own: for plans that may change bits.
#include <memory>
#include <string>

#include "reprise/backends/cuda/launch_list.h"
#include "reprise/backends/cuda/lt_library.h"
#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// The library's kernel of a region's product, with the region's stage in it or behind it.
class LtProduct final : public LibraryWork {
 public:
  /// Products of fewer multiplications gain too little from the library.
  static constexpr int64_t least_work = 1 << 24;

  /// Null, with the reason in `why`, if the library does not serve the product.
  static std::unique_ptr<LtProduct> make(const Region& region, std::string* why, int64_t least = least_work);

  /// Whether the addresses are what the algorithm expects.
  bool takes(const RegionCall& call) const;
  void run(const RegionCall& call) const;
  void queue(std::span<const std::byte> args, cudaStream_t stream) const override;
  std::string form() const;
  size_t scratch_bytes() const;

 private:
  LtProduct(const LtShape& shape, const LtAlgorithm& how, size_t result, size_t bias);
  LtOperands operands(const RegionCall& call) const;

  LtShape shape_;
  LtAlgorithm how_;
  size_t result_, bias_;  // operands of the region
  std::unique_ptr<RegionKernel> stage_{};
};

}  // namespace rp::cuda
