// Compiled with -mavx2 -mfma. Without them there is nothing here.
#include "reprise/backends/cpu/gemm_kernel.h"
#include "reprise/backends/cpu/isa.h"

#if defined(__AVX2__) && defined(__FMA__)
#include "reprise/backends/cpu/gemm_transpose.h"

namespace rp::gemm_detail {
namespace {

/// The first `count` lanes.
struct Lanes {
  __m256i mask;  // all ones in them
  int64_t count;
};

/// Stores the first `count` of 8 or, `wide`, of 4 lanes. Some processors take many cycles for a store by a mask.
template <bool wide>
void store_lanes(float* p, __m256 r, int64_t count) {
  if (wide) count *= 2;
  if (count == 8) return _mm256_storeu_ps(p, r);
  __m128 part = _mm256_castps256_ps128(r);
  if (count >= 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(r, 1);
    p += 4;
    count -= 4;
  }
  if (count >= 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (count & 1) _mm_store_ss(p, part);
}

/// All ones in the first `count` lanes.
__m256i mask_of_8(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
__m256i mask_of_4(int64_t count) {
  return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}

/// Twelve of the sixteen registers hold sums.
struct Tiling {
  static constexpr int tile_rows = 6, panel_vectors = 2;
};

struct F32 : Tiling {
  using Element = float;
  using Reg = __m256;
  static constexpr int64_t width = 8;
  static Lanes mask(int64_t count) { return {mask_of_8(count), count}; }
  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static Reg load(const float* p, const Lanes& l) { return _mm256_maskload_ps(p, l.mask); }
  static void store(float* p, Reg r) { _mm256_storeu_ps(p, r); }
  static void store(float* p, Reg r, const Lanes& l) { store_lanes<false>(p, r, l.count); }
  static Reg splat(const float* p) { return _mm256_broadcast_ss(p); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static void transpose(const float* from, int64_t from_row, float* to, int64_t to_row) {
    transpose_8x8(from, from_row, to, to_row);
  }
};

struct F64 : Tiling {
  using Element = double;
  using Reg = __m256d;
  static constexpr int64_t width = 4;
  static Lanes mask(int64_t count) { return {mask_of_4(count), count}; }
  static Reg zero() { return _mm256_setzero_pd(); }
  static Reg load(const double* p) { return _mm256_loadu_pd(p); }
  static Reg load(const double* p, const Lanes& l) { return _mm256_maskload_pd(p, l.mask); }
  static void store(double* p, Reg r) { _mm256_storeu_pd(p, r); }
  static void store(double* p, Reg r, const Lanes& l) {
    store_lanes<true>(reinterpret_cast<float*>(p), _mm256_castpd_ps(r), l.count);
  }
  static Reg splat(const double* p) { return _mm256_broadcast_sd(p); }
  static Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }
  static void transpose(const double* from, int64_t from_row, double* to, int64_t to_row) {
    transpose_4x4(from, from_row, to, to_row);
  }
};

struct I32 : Tiling {
  using Element = int32_t;
  using Reg = __m256i;
  static constexpr int64_t width = 8;
  static Lanes mask(int64_t count) { return {mask_of_8(count), count}; }
  static Reg zero() { return _mm256_setzero_si256(); }
  static Reg load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Reg load(const int32_t* p, const Lanes& l) { return _mm256_maskload_epi32(p, l.mask); }
  static void store(int32_t* p, Reg r) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), r); }
  static void store(int32_t* p, Reg r, const Lanes& l) {
    store_lanes<false>(reinterpret_cast<float*>(p), _mm256_castsi256_ps(r), l.count);
  }
  static Reg splat(const int32_t* p) { return _mm256_set1_epi32(*p); }
  static Reg add(Reg a, Reg b) { return _mm256_add_epi32(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_add_epi32(_mm256_mullo_epi32(a, b), c); }
  static void transpose(const int32_t* from, int64_t from_row, int32_t* to, int64_t to_row) {
    transpose_8x8(reinterpret_cast<const float*>(from), from_row, reinterpret_cast<float*>(to), to_row);
  }
};

struct I64 : Tiling {
  using Element = int64_t;
  using Reg = __m256i;
  static constexpr int64_t width = 4;
  static Lanes mask(int64_t count) { return {mask_of_4(count), count}; }
  static Reg zero() { return _mm256_setzero_si256(); }
  static Reg load(const int64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Reg load(const int64_t* p, const Lanes& l) {
    return _mm256_maskload_epi64(reinterpret_cast<const long long*>(p), l.mask);
  }
  static void store(int64_t* p, Reg r) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), r); }
  static void store(int64_t* p, Reg r, const Lanes& l) {
    store_lanes<true>(reinterpret_cast<float*>(p), _mm256_castsi256_ps(r), l.count);
  }
  static Reg splat(const int64_t* p) { return _mm256_set1_epi64x(*p); }
  static Reg add(Reg a, Reg b) { return _mm256_add_epi64(a, b); }
  /// The low 64 bits of a product, from those of 32-bit halves: the product of the high halves does not reach them.
  static Reg fma(Reg a, Reg b, Reg c) {
    const Reg crossed = _mm256_mullo_epi32(a, _mm256_shuffle_epi32(b, 0xb1));
    const Reg high = _mm256_add_epi32(_mm256_slli_epi64(crossed, 32), crossed);
    const Reg upper = _mm256_and_si256(high, _mm256_set1_epi64x(static_cast<int64_t>(0xffffffff00000000)));
    return _mm256_add_epi64(_mm256_add_epi64(_mm256_mul_epu32(a, b), upper), c);
  }
  static void transpose(const int64_t* from, int64_t from_row, int64_t* to, int64_t to_row) {
    transpose_4x4(reinterpret_cast<const double*>(from), from_row, reinterpret_cast<double*>(to), to_row);
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
const Kernels<T>* avx2_kernels() {
  return has_isa(Isa::avx2) ? &kernels_of<VectorOf<T>> : nullptr;
}

#else
namespace rp::gemm_detail {

template <class T>
const Kernels<T>* avx2_kernels() {
  return nullptr;
}

#endif

template const Kernels<float>* avx2_kernels();
template const Kernels<double>* avx2_kernels();
template const Kernels<int32_t>* avx2_kernels();
template const Kernels<int64_t>* avx2_kernels();

}  // namespace rp::gemm_detail
