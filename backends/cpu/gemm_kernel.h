#pragma once
// The register-tiled kernels, once for all element types and instruction sets: a file per instruction set instantiates
// them with its vectors. Everything here has internal linkage, so that code for one instruction set is never called in
// place of another's.
#include <cstdint>
#include <utility>

namespace rp::gemm_detail {

/// A block of a product that shares one range of k. B is in panels of `width` columns: element (k, j) stands at
/// b[j / width * b_panel + k * b_row + j % width]. A packed A holds each tile's rows as [k][rows of the tile], a tile
/// that begins with row i at a[i * k].
template <class T>
struct Block {
  int64_t m, n, k;
  const T* a;
  int64_t a_row, a_col;
  bool a_packed;
  const T* b;
  int64_t b_row, b_panel;
  T* c;
  int64_t c_row;
  bool accumulate;  // C holds the sums over what came before this range of k, and they go on
  int64_t segment;  // k is cut into segments of this length: each has sums of its own, which are added to C in order
  bool adds;        // C holds what the segments before this range of k have come to
  int64_t run;  // after each run of this length, which divides the segment, A and B move on by so many elements more
  int64_t a_skip, b_skip;
  /// If set, B is read in place and the first tile of each panel, of full height, also writes the panel here for the
  /// tiles after it: between its fmas there is time for that.
  T* pack = nullptr;
};

template <class T>
struct Kernels {
  int64_t width;  // columns of a panel
  int64_t rows;   // of a tile
  void (*multiply)(const Block<T>& block);
  /// Writes A[m, k] as a packed A.
  void (*pack_a)(int64_t m, int64_t k, const T* a, int64_t a_row, int64_t a_col, T* to);
  /// Writes B[k, n] as panels [k][width] that stand `panel` elements apart, whole vectors filled up with zeros.
  void (*pack_b)(int64_t k, int64_t n, const T* b, int64_t b_row, int64_t b_col, T* to, int64_t panel);
};

template <class T>
const Kernels<T>* portable_kernels();
/// Null if the build or the processor lacks AVX2 and FMA.
template <class T>
const Kernels<T>* avx2_kernels();

/// Null if the build or the processor lacks AVX-512 F, DQ, BW and VL.
template <class T>
const Kernels<T>* avx512_kernels();

namespace {

/// Columns of a panel.
template <class V>
inline constexpr int64_t panel_width = V::width * V::panel_vectors;

/// Rows of the next tile. What is left over is shared between two tiles: one with few rows waits for its own sums.
template <class V>
int64_t next_rows(int64_t left) {
  if (left >= 2 * V::tile_rows || left <= V::tile_rows) return left < V::tile_rows ? left : V::tile_rows;
  return (left + 1) / 2;
}

#define RP_INLINE __attribute__((always_inline))

template <class F, int... I>
RP_INLINE inline void unroll(F&& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int Count, class F>
RP_INLINE inline void unroll(F&& f) {
  unroll(f, std::make_integer_sequence<int, Count>{});
}

template <class V>
struct Tile {
  using T = typename V::Element;
  int64_t k;
  const T* a;
  int64_t a_row, a_col;
  const T* b;
  int64_t b_row, b_panel;
  T* c;
  int64_t c_row;
  bool accumulate;
  int64_t segment;
  bool adds;
  int64_t run, a_skip, b_skip;
  int64_t tail;  // columns in the last vector
  T* pack = nullptr;
};

/// Rows x Vectors registers of sums. Every index is a constant, or else the compiler would keep them in memory.
template <class V, int Rows, int Vectors, bool Masked, bool Packs = false>
void tile(const Tile<V>& t) {
  using Reg = typename V::Reg;
  using T = typename V::Element;
  const auto mask = V::mask(t.tail);
  T* const to = t.c;
  const int64_t c_row = t.c_row;
  const T *a = t.a, *b = t.b;
  T* pack = t.pack;
  const int64_t a_row = t.a_row, a_col = t.a_col, b_row = t.b_row, b_panel = t.b_panel;
  bool adds = t.adds;
  for (int64_t left = t.k; left > 0; left -= t.segment) {
    Reg sums[Rows][Vectors];
    unroll<Rows>([&](auto r) RP_INLINE {
      unroll<Vectors>([&](auto v) RP_INLINE {
        const T* const c = to + r * c_row + v * V::width;
        if (!t.accumulate)
          sums[r][v] = V::zero();
        else if constexpr (Masked && v == Vectors - 1)
          sums[r][v] = V::load(c, mask);
        else
          sums[r][v] = V::load(c);
      });
    });
    for (int64_t rest = t.segment; rest > 0; rest -= t.run, a += t.a_skip, b += t.b_skip)
      for (int64_t k = t.run; k > 0; k--, a += a_col, b += b_row) {
        Reg row[Vectors];
        unroll<Vectors>([&](auto v) RP_INLINE {
          const T* const from = b + v / V::panel_vectors * b_panel + v % V::panel_vectors * V::width;
          if constexpr (Masked && v == Vectors - 1)
            row[v] = V::load(from, mask);
          else
            row[v] = V::load(from);
          if constexpr (Packs) V::store(pack + v * V::width, row[v]);
        });
        if constexpr (Packs) pack += V::width * Vectors;
        unroll<Rows>([&](auto r) RP_INLINE {
          const Reg x = V::splat(a + r * a_row);
          unroll<Vectors>([&](auto v) RP_INLINE { sums[r][v] = V::fma(x, row[v], sums[r][v]); });
        });
      }
    unroll<Rows>([&](auto r) RP_INLINE {
      unroll<Vectors>([&](auto v) RP_INLINE {
        T* const c = to + r * c_row + v * V::width;
        if constexpr (Masked && v == Vectors - 1)
          V::store(c, adds ? V::add(V::load(c, mask), sums[r][v]) : sums[r][v], mask);
        else
          V::store(c, adds ? V::add(V::load(c), sums[r][v]) : sums[r][v]);
      });
    });
    adds = true;
  }
}

template <class V>
using TileFn = void (*)(const Tile<V>&);

/// Functions by the rows of a tile, less one.
template <class Fn, class Rows>
struct ByRows;
template <class Fn, int... Row>
struct ByRows<Fn, std::integer_sequence<int, Row...>> {
  Fn of[sizeof...(Row)];
  template <class F>
  constexpr ByRows(F&& f) : of{f(std::integral_constant<int, Row + 1>{})...} {}
};
template <class V, class Fn>
using ByRowsOf = ByRows<Fn, std::make_integer_sequence<int, V::tile_rows>>;

template <class V, int Vectors, bool Masked>
inline constexpr ByRowsOf<V, TileFn<V>> tiles([](auto rows) -> TileFn<V> { return tile<V, rows, Vectors, Masked>; });

/// All rows of `n` columns, which one tile is wide enough for. `tall`, if any, is a tile of twice as many rows.
template <class V>
void column_strip(const Block<typename V::Element>& x, int64_t j, int64_t n, const TileFn<V>* kernels,
                  TileFn<V> tall = nullptr) {
  constexpr int64_t width = panel_width<V>;
  Tile<V> t{x.k,
            x.a,
            x.a_row,
            x.a_col,
            x.b + j / width * x.b_panel,
            x.b_row,
            x.b_panel,
            x.c + j,
            x.c_row,
            x.accumulate,
            x.segment,
            x.adds,
            x.run,
            x.a_skip,
            x.b_skip,
            n % V::width ? n % V::width : V::width};
  int64_t i = 0;
  if (x.pack) {
    if (x.a_packed) t.a_row = 1, t.a_col = V::tile_rows;
    t.pack = x.pack + j * x.k;
    tile<V, V::tile_rows, V::panel_vectors, false, true>(t);
    t.b = t.pack;
    t.b_row = width;
    i = V::tile_rows;
  }
  while (i < x.m) {
    const bool high = tall && x.m - i >= 2 * V::tile_rows;
    const int64_t rows = high ? 2 * V::tile_rows : next_rows<V>(x.m - i);
    t.a = x.a_packed ? x.a + i * x.k : x.a + i * x.a_row;
    if (x.a_packed) t.a_row = 1, t.a_col = rows;
    t.c = x.c + j + i * x.c_row;
    high ? tall(t) : kernels[rows - 1](t);
    i += rows;
  }
}

/// Few rows make few sums, and the next fma of a sum waits for the last: tiles of several panels keep more of them.
template <class V>
int64_t wide_strips(const Block<typename V::Element>& x) {
  static constexpr TileFn<V> one[] = {tile<V, 1, 8, false>};
  static constexpr TileFn<V> two_or_three[] = {nullptr, tile<V, 2, 4, false>, tile<V, 3, 4, false>};
  const int64_t step = V::width * (x.m == 1 ? 8 : 4);
  int64_t j = 0;
  for (; j + step <= x.n; j += step) column_strip<V>(x, j, step, x.m == 1 ? one : two_or_three);
  return j;
}

/// One panel whose columns are `b_col` apart; of the columns it lacks, those in the last vector that is read are zero.
template <class V>
void pack_panel(int64_t k, int64_t n, const typename V::Element* b, int64_t b_row, int64_t b_col,
                typename V::Element* to) {
  constexpr int64_t width = panel_width<V>;
  int64_t done = 0;
  if (b_row == 1 && n == width)
    for (; done + V::width <= k; done += V::width)
      for (int64_t j = 0; j < width; j += V::width)
        V::transpose(b + done + j * b_col, b_col, to + done * width + j, width);
  if (b_col == 1) {
    const int64_t whole = (n - 1) / V::width * V::width;
    const auto mask = V::mask(n - whole);
    for (int64_t p = 0; p < k; p++, b += b_row, to += width) {
      for (int64_t j = 0; j < whole; j += V::width) V::store(to + j, V::load(b + j));
      V::store(to + whole, V::load(b + whole, mask));
    }
    return;
  }
  const int64_t read = (n + V::width - 1) / V::width * V::width;
  for (int64_t j = 0; j < read; j++)
    for (int64_t p = done; p < k; p++) to[p * width + j] = j < n ? b[p * b_row + j * b_col] : 0;
}

template <class V>
void multiply(const Block<typename V::Element>& x) {
  constexpr int64_t width = panel_width<V>;
  int64_t j = x.m <= 3 ? wide_strips<V>(x) : 0;
  for (; j + width <= x.n; j += width) column_strip<V>(x, j, width, tiles<V, V::panel_vectors, false>.of);
  const int64_t left = x.n - j;
  if (left == 0) return;
  Block<typename V::Element> last = x;
  if (x.pack) {
    pack_panel<V>(x.k, left, x.b + j, x.b_row, 1, x.pack + j * x.k);
    last.b = x.pack;
    last.b_row = width;
    last.b_panel = x.k * width;
    last.pack = nullptr;
  }
  const TileFn<V>* kernels = nullptr;
  unroll<V::panel_vectors>([&](auto v) {
    if (left > v * V::width) kernels = tiles<V, v + 1, true>.of;
  });
  // One vector makes few sums as well.
  const bool narrow = left <= V::width && !x.a_packed;
  column_strip<V>(last, j, left, kernels, narrow ? tile<V, 2 * V::tile_rows, 1, true> : nullptr);
}

template <class T, int Rows>
void pack_tile(int64_t k, const T* a, int64_t a_row, int64_t a_col, T* to) {
  for (; k > 0; k--, a += a_col, to += Rows) unroll<Rows>([&](auto r) RP_INLINE { to[r] = a[r * a_row]; });
}

template <class V>
void pack_a(int64_t m, int64_t k, const typename V::Element* a, int64_t a_row, int64_t a_col, typename V::Element* to) {
  using Fn = decltype(&pack_tile<typename V::Element, 1>);
  static constexpr ByRowsOf<V, Fn> by_rows([](auto rows) -> Fn { return pack_tile<typename V::Element, rows>; });
  for (int64_t i = 0; i < m;) {
    const int64_t rows = next_rows<V>(m - i);
    by_rows.of[rows - 1](k, a + i * a_row, a_row, a_col, to + i * k);
    i += rows;
  }
}

/// `Panels` full panels whose rows are contiguous: a stretch of each row at a time, since every row may lie on a page
/// of its own.
template <class V, int Panels>
void pack_rows(int64_t k, const typename V::Element* b, int64_t b_row, typename V::Element* to, int64_t panel) {
  constexpr int64_t width = panel_width<V>;
  for (int64_t p = 0; p < k; p++, b += b_row, to += width)
    unroll<Panels>([&](auto i) RP_INLINE {
      unroll<V::panel_vectors>(
          [&](auto v) RP_INLINE { V::store(to + i * panel + v * V::width, V::load(b + i * width + v * V::width)); });
    });
}

template <class V>
void pack_b(int64_t k, int64_t n, const typename V::Element* b, int64_t b_row, int64_t b_col, typename V::Element* to,
            int64_t panel) {
  constexpr int64_t width = panel_width<V>;
  int64_t j = 0;
  if (b_col == 1) {
    for (; j + 4 * width <= n; j += 4 * width, to += 4 * panel) pack_rows<V, 4>(k, b + j, b_row, to, panel);
    for (; j + width <= n; j += width, to += panel) pack_rows<V, 1>(k, b + j, b_row, to, panel);
  }
  for (; j < n; j += width, to += panel)
    pack_panel<V>(k, n - j < width ? n - j : width, b + j * b_col, b_row, b_col, to);
}

template <class V>
inline constexpr Kernels<typename V::Element> kernels_of{panel_width<V>, V::tile_rows, multiply<V>, pack_a<V>,
                                                         pack_b<V>};

#undef RP_INLINE

}  // namespace
}  // namespace rp::gemm_detail
