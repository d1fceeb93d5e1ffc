#pragma once
// What cuBLASLt is asked for: products of matrices that lie column by column.
#include <cstddef>
#include <cstdint>
#include <optional>

#include "reprise/backends/cuda/cublas_lt.h"
#include "reprise/core/dtype.h"

namespace rp::cuda {

/// A matrix as the library sees it: `columns` of them, `ld` elements apart.
struct LtMatrix {
  int64_t rows, columns, ld;
  int64_t batch_step = 0;
  bool transposed = false;  // the product takes its transpose
};

/// Products left * right, and what becomes of them. All that the choice of an algorithm depends on.
struct LtShape {
  DType dtype;  // of the factors: f32 or f64 with all their bits, or 16 bits with sums of f32
  DType to;     // of the result and the bias
  LtMatrix left, right, result;
  int64_t count;      // of products
  bool bias = false;  // one for each row is added
  bool relu = false;  // negative elements become 0
};

/// Addresses of operands, and of the workspace, must be multiples of these.
inline constexpr size_t lt_alignment = 16, lt_workspace_alignment = 256;

/// How a product is computed: one of the library's algorithms, as it describes it.
struct LtAlgorithm {
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace;  // bytes
};
/// The library's first choice that keeps all partial sums in the type of sums. It follows from the shape and the
/// device's properties; it is looked up once and kept in memory and on disk. No value if there is none.
std::optional<LtAlgorithm> lt_algorithm(const LtShape& shape);

struct LtOperands {
  const std::byte *left, *right, *bias;  // no bias: null
  std::byte *result, *workspace;
};
/// Queues the product on a stream.
void lt_multiply(const LtShape& shape, const LtAlgorithm& how, const LtOperands& operands, cudaStream_t stream);

}  // namespace rp::cuda
