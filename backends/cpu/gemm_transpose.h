#pragma once
// Transposed blocks for the packing of B, where there is AVX2. Internal linkage, as everything that kernels are made
// of.
#include <immintrin.h>

#include <cstdint>

namespace rp::gemm_detail {
namespace {

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

}  // namespace
}  // namespace rp::gemm_detail
