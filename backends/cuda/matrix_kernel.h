#pragma once
#include <string>
#include <vector>

#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/tiles.h"
#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// How an operand's address moves with the row, the column and the batch axes of a matrix, in elements.
struct Moves {
  int64_t row = 0, column = 0;
  int64_t batch[max_rank - 2] = {};
};

/// What a product of matrices [batch..., m, k] and [batch..., k, n] depends on beside the elements. `moves` are those
/// of the region's operands.
struct MatrixProduct {
  DType dtype;
  int64_t m, n, k;
  int64_t segment;  // as in cpu's GemmShape: 0 if k is not cut
  Dims batch;
  std::vector<Moves> moves;
};

/// The product of a region's factors.
MatrixProduct matrix_product(const Region& region);

/// How a product is cut up. Turned, the transposed result is computed from the swapped factors.
struct Cut {
  const Tile* tile;
  bool turned;
};
Cut choose_cut(const MatrixProduct& product);

/// The kernel of a matrix product with the region's stage behind it. Sums have the bits of the CPU's.
class MatrixKernel {
 public:
  MatrixKernel(const Region& region, const MatrixProduct& product, Cut cut);
  MatrixKernel(const Region& region, const MatrixProduct& product)
      : MatrixKernel(region, product, choose_cut(product)) {}
  void run(const RegionCall& call) const;
  std::string form() const;
  /// For operands at aligned addresses, then at others.
  std::vector<std::string> texts() const;

 private:
  // A factor as the blocks load it: packs lie along k or along the other axis.
  struct Factor {
    bool along_k = false, vectors = false;
  };
  Factor factor(const MatrixProduct& product, const Moves& moves, int64_t side, int64_t step, int64_t k_step) const;
  void add_args(const MatrixProduct& product);
  std::string text(bool left_vectors, bool right_vectors) const;
  bool stores_product(const RegionCall& call) const;

  Region region_;
  DType dtype_;
  bool segmented_;
  Cut cut_;
  Factor left_, right_;
  int64_t tiles_ = 0;
  std::vector<Moves> moves_;
  ArgsBytes args_;
  size_t scalars_at_ = 0, stores_at_ = 0;
  const LazyFunction functions_[2][2] =
      {  // by whether the left factor's packs are loaded as vectors, and the right one's
          {LazyFunction([this] { return text(false, false); }), LazyFunction([this] { return text(false, true); })},
          {LazyFunction([this] { return text(true, false); }), LazyFunction([this] { return text(true, true); })}};
};

}  // namespace rp::cuda
