// Compiled with the flags of AVX-512 F, DQ, BW and VL. Without them there is nothing here.
#include "reprise/backends/cpu/gemm_kernel.h"
#include "reprise/backends/cpu/isa.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "reprise/backends/cpu/gemm_transpose.h"

namespace rp::gemm_detail {
namespace {

/// The first `count` lanes.
__mmask16 mask_of_16(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
__mmask8 mask_of_8(int64_t count) { return static_cast<__mmask8>((1u << count) - 1); }

/// A block of 2 x 2 blocks. Half of the rows at a time: with rows a page apart, all of them would compete for the same
/// lines of the first-level cache.
template <class T, class F>
void transpose_four(const T* from, int64_t from_row, T* to, int64_t to_row, int64_t size, F&& transpose) {
  for (int64_t i = 0; i < 2 * size; i += size)
    for (int64_t j = 0; j < 2 * size; j += size)
      transpose(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
}

void transpose_16x16(const float* from, int64_t from_row, float* to, int64_t to_row) {
  transpose_four(from, from_row, to, to_row, 8, transpose_8x8);
}

void transpose_8x8(const double* from, int64_t from_row, double* to, int64_t to_row) {
  transpose_four(from, from_row, to, to_row, 4, transpose_4x4);
}

/// 24 of the 32 registers hold sums. Tiles with more rows make the rows of A, a page apart in large matrices, compete
/// for the same lines of the first-level cache.
struct Tiling {
  static constexpr int tile_rows = 6, panel_vectors = 4;
};

struct F32 : Tiling {
  using Element = float;
  using Reg = __m512;
  static constexpr int64_t width = 16;
  static __mmask16 mask(int64_t count) { return mask_of_16(count); }
  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg load(const float* p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
  static void store(float* p, Reg r) { _mm512_storeu_ps(p, r); }
  static void store(float* p, Reg r, __mmask16 mask) { _mm512_mask_storeu_ps(p, mask, r); }
  static Reg splat(const float* p) { return _mm512_set1_ps(*p); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static void transpose(const float* from, int64_t from_row, float* to, int64_t to_row) {
    transpose_16x16(from, from_row, to, to_row);
  }
};

struct F64 : Tiling {
  using Element = double;
  using Reg = __m512d;
  static constexpr int64_t width = 8;
  static __mmask8 mask(int64_t count) { return mask_of_8(count); }
  static Reg zero() { return _mm512_setzero_pd(); }
  static Reg load(const double* p) { return _mm512_loadu_pd(p); }
  static Reg load(const double* p, __mmask8 mask) { return _mm512_maskz_loadu_pd(mask, p); }
  static void store(double* p, Reg r) { _mm512_storeu_pd(p, r); }
  static void store(double* p, Reg r, __mmask8 mask) { _mm512_mask_storeu_pd(p, mask, r); }
  static Reg splat(const double* p) { return _mm512_set1_pd(*p); }
  static Reg add(Reg a, Reg b) { return _mm512_add_pd(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_pd(a, b, c); }
  static void transpose(const double* from, int64_t from_row, double* to, int64_t to_row) {
    transpose_8x8(from, from_row, to, to_row);
  }
};

struct I32 : Tiling {
  using Element = int32_t;
  using Reg = __m512i;
  static constexpr int64_t width = 16;
  static __mmask16 mask(int64_t count) { return mask_of_16(count); }
  static Reg zero() { return _mm512_setzero_si512(); }
  static Reg load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Reg load(const int32_t* p, __mmask16 mask) { return _mm512_maskz_loadu_epi32(mask, p); }
  static void store(int32_t* p, Reg r) { _mm512_storeu_si512(p, r); }
  static void store(int32_t* p, Reg r, __mmask16 mask) { _mm512_mask_storeu_epi32(p, mask, r); }
  static Reg splat(const int32_t* p) { return _mm512_set1_epi32(*p); }
  static Reg add(Reg a, Reg b) { return _mm512_add_epi32(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_add_epi32(_mm512_mullo_epi32(a, b), c); }
  static void transpose(const int32_t* from, int64_t from_row, int32_t* to, int64_t to_row) {
    transpose_16x16(reinterpret_cast<const float*>(from), from_row, reinterpret_cast<float*>(to), to_row);
  }
};

struct I64 : Tiling {
  using Element = int64_t;
  using Reg = __m512i;
  static constexpr int64_t width = 8;
  static __mmask8 mask(int64_t count) { return mask_of_8(count); }
  static Reg zero() { return _mm512_setzero_si512(); }
  static Reg load(const int64_t* p) { return _mm512_loadu_si512(p); }
  static Reg load(const int64_t* p, __mmask8 mask) { return _mm512_maskz_loadu_epi64(mask, p); }
  static void store(int64_t* p, Reg r) { _mm512_storeu_si512(p, r); }
  static void store(int64_t* p, Reg r, __mmask8 mask) { _mm512_mask_storeu_epi64(p, mask, r); }
  static Reg splat(const int64_t* p) { return _mm512_set1_epi64(*p); }
  static Reg add(Reg a, Reg b) { return _mm512_add_epi64(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_add_epi64(_mm512_mullo_epi64(a, b), c); }
  static void transpose(const int64_t* from, int64_t from_row, int64_t* to, int64_t to_row) {
    transpose_8x8(reinterpret_cast<const double*>(from), from_row, reinterpret_cast<double*>(to), to_row);
  }
};

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> : F32 {};
template <>
struct VectorOf<double> : F64 {};
template <>
struct VectorOf<int32_t> : I32 {};
template <>
struct VectorOf<int64_t> : I64 {};

}  // namespace

template <class T>
const Kernels<T>* avx512_kernels() {
  return has_isa(Isa::avx512) ? &kernels_of<VectorOf<T>> : nullptr;
}

#else
namespace rp::gemm_detail {

template <class T>
const Kernels<T>* avx512_kernels() {
  return nullptr;
}

#endif

template const Kernels<float>* avx512_kernels();
template const Kernels<double>* avx512_kernels();
template const Kernels<int32_t>* avx512_kernels();
template const Kernels<int64_t>* avx512_kernels();

}  // namespace rp::gemm_detail
