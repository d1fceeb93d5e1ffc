#include <algorithm>
#include <cstring>

#include "reprise/backends/cpu/conv.h"

namespace rp::cpu {

namespace {

using Lanes = float __attribute__((vector_size(16)));

// Rows of images start anywhere.
Lanes load(const float* from) {
  Lanes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
void store(float* to, Lanes v) { std::memcpy(to, &v, sizeof v); }

/// Four by four elements.
void transpose_block(const float* from, int64_t from_row, float* to, int64_t to_row) {
  Lanes r[4];
  for (int i = 0; i < 4; ++i) r[i] = load(from + i * from_row);
  const Lanes a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5), b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  const Lanes c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5), d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  store(to, __builtin_shufflevector(a, c, 0, 1, 4, 5));
  store(to + to_row, __builtin_shufflevector(a, c, 2, 3, 6, 7));
  store(to + 2 * to_row, __builtin_shufflevector(b, d, 0, 1, 4, 5));
  store(to + 3 * to_row, __builtin_shufflevector(b, d, 2, 3, 6, 7));
}

/// Two by four elements.
void transpose_pair(const float* from, int64_t from_row, float* to, int64_t to_row) {
  const Lanes a = load(from), b = load(from + from_row);
  const Lanes low = __builtin_shufflevector(a, b, 0, 4, 1, 5), high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const auto half = [](const Lanes& v, int i, float* at) {
    std::memcpy(at, reinterpret_cast<const char*>(&v) + i * 8, 8);
  };
  half(low, 0, to);
  half(low, 1, to + to_row);
  half(high, 0, to + 2 * to_row);
  half(high, 1, to + 3 * to_row);
}

/// Up to a strip of columns, so that whole cache lines are read and written.
void transpose_strip(int64_t rows, int64_t columns, const float* from, int64_t from_row, float* to, int64_t to_row) {
  const int64_t fours = rows / 4 * 4, twos = rows / 2 * 2, square_columns = columns / 4 * 4;
  for (int64_t i = 0; i < fours; i += 4)
    for (int64_t j = 0; j < square_columns; j += 4)
      transpose_block(from + i * from_row + j, from_row, to + j * to_row + i, to_row);
  for (int64_t j = 0; fours < twos && j < square_columns; j += 4)
    transpose_pair(from + fours * from_row + j, from_row, to + j * to_row + fours, to_row);
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = j < square_columns ? twos : 0; i < rows; ++i) to[j * to_row + i] = from[i * from_row + j];
}

}  // namespace

void transpose_images(int64_t images, int64_t rows, int64_t columns, const float* from, float* to) {
  constexpr int64_t strip = 64;
  for (int64_t i = 0; i < images; ++i, from += rows * columns, to += rows * columns)
    for (int64_t j = 0; j < columns; j += strip)
      transpose_strip(rows, std::min(strip, columns - j), from + j, columns, to + j * rows, rows);
}

}  // namespace rp::cpu
