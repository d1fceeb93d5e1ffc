#include "reprise/backends/cpu/gemm.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "reprise/backends/cpu/gemm_kernel.h"
#include "reprise/backends/cpu/isa.h"
#include "reprise/backends/cpu/memory.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/planted.h"

namespace rp {
namespace {

using gemm_detail::Block;
using gemm_detail::Kernels;

constexpr int64_t parallel_work = 500'000;  // products of two elements that pay for a parallel region
constexpr int64_t block_rows = 96;          // of A and C: a block of A stays in the second-level cache
constexpr int64_t block_columns = 512;      // of C: what an epilogue gets
constexpr int64_t wide_columns = 2048;      // of B: what is packed at a time
constexpr int64_t direct_rows = 12;         // fewer rows of A than this do not repay packing B

GemmForm first_form() {
  switch (isa_in_use()) {
    case Isa::avx512:
      return GemmForm::avx512;
    case Isa::avx2:
      return GemmForm::avx2;
    default:
      return GemmForm::portable;
  }
}

std::atomic<GemmForm>& form() {
  static std::atomic<GemmForm> form = first_form();
  return form;
}

/// Null if the processor or the build lacks them.
template <class T>
const Kernels<T>* kernels_of(GemmForm form) {
  static const Kernels<T>* const all[] = {gemm_detail::portable_kernels<T>(), gemm_detail::avx2_kernels<T>(),
                                          gemm_detail::avx512_kernels<T>()};
  return all[static_cast<size_t>(form)];
}

template <class T>
const Kernels<T>& kernels() {
  return *kernels_of<T>(gemm_form());
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Memory that a thread keeps from call to call.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  ~Scratch() { release_bytes(data_, size_); }

  template <class T>
  T* get(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes > size_) {
      release_bytes(std::exchange(data_, nullptr), std::exchange(size_, 0));
      data_ = allocate_bytes(bytes);
      size_ = bytes;
    }
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};
thread_local Scratch scratch_a, scratch_b;

/// A product as given, and how it is cut up.
template <class T>
struct Product {
  const Kernels<T>& kernels;
  GemmShape shape;
  const T* a;
  const T* b;
  const PackedB<T>* packed;
  T* c;
  const Epilogue* epilogue;
  bool transposed = false;  // C is a column and is computed as a row, so the epilogue's rows and columns swap
  const FormedA<T>* formed = nullptr;  // instead of `a`

  int64_t k_step() const;
  bool packs_b(int64_t rows) const;
  bool packs_a(int64_t columns) const;
};

/// How much of k a block covers: a panel of B then takes half of the first-level cache. The few rows that read B in
/// place run along its rows instead, since a step down a column may be a new page.
template <class T>
int64_t Product<T>::k_step() const {
  const int64_t most = shape.m <= 3 && !packed && !packs_b(shape.m) ? 32 : 1536 / static_cast<int64_t>(sizeof(T));
  const int64_t whole = shape.segment ? shape.segment : 1;  // a segment is never cut
  const int64_t parts = std::max<int64_t>(1, shape.k / whole);
  return whole * divide_up(parts, divide_up(parts, std::max<int64_t>(1, most / whole)));
}

template <class T>
bool Product<T>::packs_b(int64_t rows) const {
  return !packed && (shape.b_col != 1 || rows >= direct_rows);
}

/// Tiles read A in place where its rows are contiguous.
template <class T>
bool Product<T>::packs_a(int64_t columns) const {
  return (formed ? formed->by_columns : shape.a_col != 1) && shape.k > 16 && columns > 4 * kernels.width;
}

/// Rows [row, row + rows) and columns [column, column + columns), at most `k` deep, for one thread.
struct Part {
  int64_t row, rows, column, columns;
};

template <class T>
void finish(const Product<T>& x, const Part& part) {
  if (!x.epilogue) return;
  if (x.transposed)
    x.epilogue->run(x.epilogue->context, part.column, part.columns, part.row, part.rows);
  else
    x.epilogue->run(x.epilogue->context, part.row, part.rows, part.column, part.columns);
}

/// Points `block` to its rows of A, in place or in `to`; `formed` has room for them as they are formed.
template <class T>
void prepare_a(const Product<T>& x, int64_t row, int64_t k0, Block<T>& block, T* to, T* formed) {
  if (x.formed) {
    x.formed->form(x.formed->context, row, block.m, k0, block.k, formed);
    block.a = formed;
    block.a_row = x.formed->by_columns ? 1 : block.k;
    block.a_col = x.formed->by_columns ? block.m : 1;
  } else {
    block.a = x.a + row * x.shape.a_row + k0 * x.shape.a_col;
  }
  if (!to) return;
  x.kernels.pack_a(block.m, block.k, block.a, block.a_row, block.a_col, to);
  block.a = to;
}

/// Multiplies all rows of `part` with a range of k whose B stands ready in `block`, or is to be packed on the way.
template <class T>
void multiply_rows(const Product<T>& x, const Part& part, int64_t k0, Block<T> block) {
  const GemmShape& s = x.shape;
  const T* b = block.b;
  T* const pack = block.pack;
  const bool last = k0 + block.k == s.k;
  const bool packs = x.packs_a(part.columns);
  const int64_t size = std::min(part.rows, block_rows) * block.k;
  T* const scratch = packs || x.formed ? scratch_a.get<T>(x.formed ? 2 * size : size) : nullptr;
  for (int64_t i = 0; i < part.rows; i += block_rows) {
    const int64_t row = part.row + i;
    block.m = std::min(block_rows, part.rows - i);
    prepare_a(x, row, k0, block, packs ? scratch : nullptr, x.formed ? scratch + size : nullptr);
    block.a_packed = packs;
    for (int64_t j = 0; j < part.columns; j += block_columns) {
      block.n = std::min(block_columns, part.columns - j);
      block.b = b + j / x.kernels.width * block.b_panel;
      if (block.pack) block.pack = pack + j * block.k;
      block.c = x.c + row * s.c_row + part.column + j;
      x.kernels.multiply(block);
      if (last) finish(x, {row, block.m, part.column + j, block.n});
    }
    if (!block.pack) continue;
    b = pack;
    block.pack = nullptr;
    block.b_row = x.kernels.width;
    block.b_panel = block.k * x.kernels.width;
  }
}

/// Points `block` to the rows k0 on of B's columns of `part`.
template <class T>
void prepare_b(const Product<T>& x, const Part& part, int64_t k0, Block<T>& block) {
  const GemmShape& s = x.shape;
  const int64_t width = x.kernels.width;
  if (x.packed) {
    block.b_row = width;
    block.b_panel = s.k * width;
    block.b = x.packed->panel(part.column / width) + k0 * width;
    return;
  }
  block.b_row = s.b_row;
  block.b_panel = width;
  block.b = x.b + k0 * s.b_row + part.column * s.b_col;
  if (!x.packs_b(s.m)) return;
  T* const to = scratch_b.get<T>(divide_up(part.columns, width) * width * block.k);
  if (s.b_col == 1 && part.rows >= 2 * x.kernels.rows) {
    block.pack = to;
    return;
  }
  block.b_row = width;
  block.b_panel = block.k * width;
  x.kernels.pack_b(block.k, part.columns, block.b, s.b_row, s.b_col, to, block.b_panel);
  block.b = to;
}

template <class T>
void multiply_part(const Product<T>& x, const Part& part, int64_t k_step) {
  const GemmShape& s = x.shape;
  const int64_t step = s.m <= 3 && x.packs_b(s.m) ? 4 * x.kernels.width : wide_columns;
  for (int64_t j = 0; j < part.columns; j += step) {
    const Part wide{part.row, part.rows, part.column + j, std::min(step, part.columns - j)};
    for (int64_t k0 = 0; k0 < s.k; k0 += k_step) {
      Block<T> block{};
      block.k = std::min(k_step, s.k - k0);
      block.a_row = s.a_row;
      block.a_col = s.a_col;
      block.c_row = s.c_row;
      block.segment = s.segment ? s.segment : block.k;
      block.run = block.segment;
      block.accumulate = k0 > 0 && !s.segment && !(planted(Defect::k_split) && x.packed);
      block.adds = k0 > 0 && s.segment && !planted(Defect::segment_adds);
      prepare_b(x, wide, k0, block);
      multiply_rows(x, wide, k0, block);
    }
  }
}

/// A part for each thread: `rows` by `columns` of them.
struct Grid {
  int64_t rows = 1, columns = 1;
};

/// The grid whose parts are done first, if each also packs the B it needs.
template <class T>
Grid choose_grid(const Product<T>& x, int64_t threads) {
  const GemmShape& s = x.shape;
  const int64_t panels = divide_up(s.n, x.kernels.width), packing = x.packs_b(s.m) ? 8 : 1;
  Grid best;
  int64_t least = INT64_MAX;
  for (int64_t rows = 1; rows <= threads; rows++) {
    const Grid grid{std::min(rows, s.m), std::min(threads / rows, panels)};
    const int64_t tall = divide_up(s.m, grid.rows), wide = divide_up(panels, grid.columns) * x.kernels.width;
    const int64_t cost = tall * wide + packing * wide + 2 * tall;
    if (cost < least) least = cost, best = grid;
  }
  return best;
}

template <class T>
void multiply_parts(const Product<T>& x, const Grid& grid) {
  const GemmShape& s = x.shape;
  const int64_t width = x.kernels.width, panels = divide_up(s.n, width), k_step = x.k_step();
  parallel_for(grid.rows * grid.columns, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t i = t / grid.columns, j = t % grid.columns;
      const int64_t row = s.m * i / grid.rows, row_end = s.m * (i + 1) / grid.rows;
      const int64_t column = panels * j / grid.columns * width;
      const int64_t column_end = std::min(s.n, panels * (j + 1) / grid.columns * width);
      multiply_part(x, {row, row_end - row, column, column_end - column}, k_step);
    }
  });
}

template <class T>
void multiply(const Product<T>& x) {
  const GemmShape& s = x.shape;
  if (s.m <= 0 || s.n <= 0) return;
  const Part whole{0, s.m, 0, s.n};
  if (s.k <= 0) {
    for (int64_t i = 0; i < s.m; i++) std::fill_n(x.c + i * s.c_row, s.n, T{0});
    return finish(x, whole);
  }
  const bool large = s.m * s.n > parallel_work / s.k;
  const int64_t threads = large && !in_parallel_region() ? thread_count() : 1;
  if (threads > 1) return multiply_parts(x, choose_grid(x, threads));
  multiply_part(x, whole, x.k_step());
}

}  // namespace

GemmForm gemm_form() { return form().load(std::memory_order_relaxed); }

bool set_gemm_form(GemmForm wanted) {
  if (!kernels_of<float>(wanted)) return false;
  form().store(wanted);
  return true;
}

template <class T>
PackedB<T>::PackedB(int64_t k, int64_t n, const T* b, int64_t b_row, int64_t b_col)
    : k_(k), n_(n), width_(kernels<T>().width) {
  data_ = reinterpret_cast<T*>(allocate_bytes(bytes()));
  const int64_t panels = divide_up(n, width_);
  parallel_for(panels, 1 + parallel_work / (k * width_ + 1), [&](int64_t begin, int64_t end) {
    kernels<T>().pack_b(k, std::min(n, end * width_) - begin * width_, b + begin * width_ * b_col, b_row, b_col,
                        data_ + begin * k * width_, k * width_);
  });
}

template <class T>
PackedB<T>::~PackedB() {
  if (data_) release_bytes(reinterpret_cast<std::byte*>(data_), bytes());
}

template <class T>
size_t PackedB<T>::bytes() const {
  return static_cast<size_t>(divide_up(n_, width_) * width_ * k_) * sizeof(T);
}

template <class T>
void gemm(const GemmShape& s, const T* a, const T* b, T* c, const Epilogue* epilogue) {
  if (s.n == 1 && s.c_row == 1 && s.m > 1) {
    // As a row: sums side by side in a vector belong to different elements, so each still adds in order.
    const GemmShape turned{1, s.m, s.k, 0, s.b_row, s.a_col, s.a_row, s.m, s.segment};
    return multiply(Product<T>{kernels<T>(), turned, b, a, nullptr, c, epilogue, true});
  }
  multiply(Product<T>{kernels<T>(), s, a, b, nullptr, c, epilogue});
}

template <class T>
void gemm(const GemmShape& shape, const T* a, const PackedB<T>& b, T* c, const Epilogue* epilogue) {
  multiply(Product<T>{kernels<T>(), shape, a, nullptr, &b, c, epilogue});
}

template <class T>
void gemm(const GemmShape& shape, const FormedA<T>& a, const PackedB<T>& b, T* c, const Epilogue* epilogue) {
  multiply(Product<T>{kernels<T>(), shape, nullptr, nullptr, &b, c, epilogue, false, &a});
}

template <class T>
void gemm(const GemmShape& shape, const FormedA<T>& a, const T* b, T* c, const Epilogue* epilogue) {
  multiply(Product<T>{kernels<T>(), shape, nullptr, b, nullptr, c, epilogue, false, &a});
}

template <class T>
void gemm_runs(const RunProducts<T>& x) {
  for (int64_t i = 0; i < x.count; i++)
    kernels<T>().multiply({x.m, x.n, x.k, x.a + i * x.a_product, x.a_row, x.a_col, false, x.b + i * x.b_product,
                           x.b_row, x.b_panel, x.c + i * x.c_product, x.c_row, false, x.k, x.adds, x.run, x.a_skip,
                           x.b_skip});
}

template <class T>
void gemm_columns(const GemmShape& shape, const T* a, const T* b, const PackedB<T>* packed, T* c,
                  const Epilogue* epilogue, int64_t column, int64_t columns) {
  const Product<T> x{kernels<T>(), shape, a, b, packed, c, epilogue};
  multiply_part(x, {0, shape.m, column, columns}, x.k_step());
}

template <class T>
int64_t gemm_width() {
  return kernels<T>().width;
}

template int64_t gemm_width<float>();
template int64_t gemm_width<double>();
template void gemm_columns(const GemmShape&, const float*, const float*, const PackedB<float>*, float*, const Epilogue*,
                           int64_t, int64_t);
template void gemm_columns(const GemmShape&, const double*, const double*, const PackedB<double>*, double*,
                           const Epilogue*, int64_t, int64_t);
template void gemm_runs(const RunProducts<float>&);
template void gemm(const GemmShape&, const FormedA<float>&, const PackedB<float>&, float*, const Epilogue*);
template void gemm(const GemmShape&, const FormedA<float>&, const float*, float*, const Epilogue*);
template class PackedB<float>;
template class PackedB<double>;
template class PackedB<int32_t>;
template class PackedB<int64_t>;
template void gemm(const GemmShape&, const float*, const float*, float*, const Epilogue*);
template void gemm(const GemmShape&, const double*, const double*, double*, const Epilogue*);
template void gemm(const GemmShape&, const int32_t*, const int32_t*, int32_t*, const Epilogue*);
template void gemm(const GemmShape&, const int64_t*, const int64_t*, int64_t*, const Epilogue*);
template void gemm(const GemmShape&, const float*, const PackedB<float>&, float*, const Epilogue*);
template void gemm(const GemmShape&, const double*, const PackedB<double>&, double*, const Epilogue*);
template void gemm(const GemmShape&, const int32_t*, const PackedB<int32_t>&, int32_t*, const Epilogue*);
template void gemm(const GemmShape&, const int64_t*, const PackedB<int64_t>&, int64_t*, const Epilogue*);

}  // namespace rp
