#pragma once
// Matrix products. Each element of C is c = 0, then c = fma(a[k], b[k], c) for k = 0, 1, 2, ... (integers wrap),
// whatever the extents, the strides, the blocking and the number of threads. So a product's rows do not depend on how
// many rows are computed along with them. Only the payload and sign of a NaN are open.
//
// A segmented product is a sum of products: k is cut into segments, the first one's product is C, and those of the
// others are added to C one after the other.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace rp {

/// C[m,n] = A[m,k] * B[k,n]. Strides are in elements and may be zero; the columns of C are contiguous. C overlaps
/// neither A nor B.
struct GemmShape {
  int64_t m = 0, n = 0, k = 0;
  int64_t a_row = 0, a_col = 0;
  int64_t b_row = 0, b_col = 0;
  int64_t c_row = 0;
  int64_t segment = 0;  // length of a segment, which divides k; 0: the product has only one
};

/// Called for blocks of C that are finished and still in cache; once for each element, on the thread that computed it.
/// Blocks may be worked on by several threads at once.
struct Epilogue {
  void (*run)(const void* context, int64_t row0, int64_t rows, int64_t col0, int64_t cols) = nullptr;
  const void* context = nullptr;
};

/// A copy of a B in the order in which the kernels read it, for products with one B and many A.
template <class T>
class PackedB {
 public:
  PackedB(int64_t k, int64_t n, const T* b, int64_t b_row, int64_t b_col);
  PackedB(PackedB&& other) noexcept
      : k_(other.k_), n_(other.n_), width_(other.width_), data_(std::exchange(other.data_, nullptr)) {}
  PackedB& operator=(PackedB&& other) noexcept {
    std::swap(k_, other.k_);
    std::swap(n_, other.n_);
    std::swap(width_, other.width_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~PackedB();

  int64_t k() const { return k_; }
  int64_t n() const { return n_; }
  size_t bytes() const;
  /// Columns of a panel. Panel p holds columns p * width() on, row after row; what the last one lacks is not read.
  int64_t width() const { return width_; }
  const T* panel(int64_t p) const { return data_ + p * k_ * width_; }

 private:
  int64_t k_, n_, width_;
  T* data_ = nullptr;
};

/// An A that is written block by block when the product needs it: a matrix of patches, say.
template <class T>
struct FormedA {
  /// Writes A[row, row + rows)[k, k + depth) to `to`: row after row, or, if `by_columns`, column after column. Called
  /// by several threads at once.
  void (*form)(const void* context, int64_t row, int64_t rows, int64_t k, int64_t depth, T* to) = nullptr;
  const void* context = nullptr;
  bool by_columns = false;
};

/// `count` products whose factors lie in memory in runs: after every `run` steps along k, which it divides, A and B
/// move on by their `skip` elements more. From one product to the next all three move on by their `product`.
template <class T>
struct RunProducts {
  int64_t count, m, n, k, run;
  const T* a;
  int64_t a_product, a_row, a_col, a_skip;
  const T* b;  // panels of gemm_width<T>() columns, `b_panel` apart
  int64_t b_product, b_row, b_panel, b_skip;
  T* c;
  int64_t c_product, c_row;
  bool adds;  // to what C holds
};
/// On the calling thread.
template <class T>
void gemm_runs(const RunProducts<T>& products);

/// T is float, double, int32_t or int64_t.
template <class T>
void gemm(const GemmShape& shape, const T* a, const T* b, T* c, const Epilogue* epilogue = nullptr);
/// The strides of B in `shape` do not count.
template <class T>
void gemm(const GemmShape& shape, const T* a, const PackedB<T>& b, T* c, const Epilogue* epilogue = nullptr);

/// The strides of A in `shape` do not count. T is float.
template <class T>
void gemm(const GemmShape& shape, const FormedA<T>& a, const PackedB<T>& b, T* c, const Epilogue* epilogue = nullptr);
template <class T>
void gemm(const GemmShape& shape, const FormedA<T>& a, const T* b, T* c, const Epilogue* epilogue = nullptr);

/// Columns [column, column + columns) alone, on the calling thread; `column` is a multiple of `gemm_width<T>()`, and k
/// at least 1. B comes packed or, if that is null, as it is.
template <class T>
void gemm_columns(const GemmShape& shape, const T* a, const T* b, const PackedB<T>* packed, T* c,
                  const Epilogue* epilogue, int64_t column, int64_t columns);
/// Columns of a panel in the kernels' order.
template <class T>
int64_t gemm_width();

template <class T>
std::unique_ptr<PackedB<T>> pack_b(int64_t k, int64_t n, const T* b, int64_t b_row, int64_t b_col) {
  return std::make_unique<PackedB<T>>(k, n, b, b_row, b_col);
}

enum class GemmForm : uint8_t { portable, avx2, avx512 };
/// The kernels in use: at first those of `isa_in_use()`.
GemmForm gemm_form();
/// Uses other kernels from here on. False if the processor or the build lacks them.
bool set_gemm_form(GemmForm form);

}  // namespace rp
