// Compiled with -mavx2 -mfma. Without them there is nothing here.
#include "reprise/backends/cpu/gemm_kernel.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

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

/// Four floats each from two addresses.
__m256 load_pair(const float* low, const float* high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)), _mm_loadu_ps(high), 1);
}
__m256d load_pair(const double* low, const double* high) {
  return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(low)), _mm_loadu_pd(high), 1);
}

void transpose_8x8(const float* from, int64_t from_row, float* to, int64_t to_row) {
  const float* const lower = from + 4 * from_row;
  for (int64_t j = 0; j < 8; j += 4) {
    const __m256 r0 = load_pair(from + j, lower + j);
    const __m256 r1 = load_pair(from + from_row + j, lower + from_row + j);
    const __m256 r2 = load_pair(from + 2 * from_row + j, lower + 2 * from_row + j);
    const __m256 r3 = load_pair(from + 3 * from_row + j, lower + 3 * from_row + j);
    const __m256 a = _mm256_unpacklo_ps(r0, r1), b = _mm256_unpackhi_ps(r0, r1);
    const __m256 c = _mm256_unpacklo_ps(r2, r3), d = _mm256_unpackhi_ps(r2, r3);
    _mm256_storeu_ps(to + (j + 0) * to_row, _mm256_shuffle_ps(a, c, 0x44));
    _mm256_storeu_ps(to + (j + 1) * to_row, _mm256_shuffle_ps(a, c, 0xee));
    _mm256_storeu_ps(to + (j + 2) * to_row, _mm256_shuffle_ps(b, d, 0x44));
    _mm256_storeu_ps(to + (j + 3) * to_row, _mm256_shuffle_ps(b, d, 0xee));
  }
}

void transpose_4x4(const double* from, int64_t from_row, double* to, int64_t to_row) {
  for (int64_t j = 0; j < 4; j += 2) {
    const __m256d even = load_pair(from + j, from + 2 * from_row + j);
    const __m256d odd = load_pair(from + from_row + j, from + 3 * from_row + j);
    _mm256_storeu_pd(to + j * to_row, _mm256_unpacklo_pd(even, odd));
    _mm256_storeu_pd(to + (j + 1) * to_row, _mm256_unpackhi_pd(even, odd));
  }
}

struct F32 {
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

struct F64 {
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

struct I32 {
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

struct I64 {
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
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &kernels_of<VectorOf<T>> : nullptr;
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
