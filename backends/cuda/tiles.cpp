#include "reprise/backends/cuda/tiles.h"

#include <fmt/core.h>

#include <algorithm>
#include <span>

#include "reprise/backends/cuda/element_text.h"

namespace rp::cuda {
namespace {

// From large to small. A sum is never cut up, so results of few elements have few threads: their tiles are deep, to
// have much of the factors on the way at a time.
constexpr Tile narrow_tiles[] = {
    {128, 128, 8, 8, 8, 8, 4, 8, 2, 1},    {128, 64, 16, 8, 4, 8, 2, 16, 2, 0.85},
    {64, 64, 16, 4, 4, 8, 1, 16, 2, 0.65}, {32, 32, 32, 2, 2, 8, 1, 16, 2, 0.35},
    {16, 32, 64, 2, 1, 32, 1, 16, 2, 0.2}, {8, 32, 128, 1, 1, 32, 1, 16, 2, 0.12},
};
constexpr Tile wide_tiles[] = {
    {128, 64, 8, 8, 4, 8, 4, 8, 1, 1},      {64, 64, 8, 4, 4, 8, 2, 8, 2, 0.8},    {32, 32, 16, 2, 2, 8, 1, 16, 2, 0.4},
    {16, 32, 32, 2, 1, 32, 1, 16, 2, 0.25}, {8, 32, 64, 1, 1, 32, 1, 16, 2, 0.15},
};
constexpr int64_t multiprocessors = 132;

int vector_of(DType dtype) { return static_cast<int>(16 / size_of(dtype)); }
// Elements from one k to the next in a tile, as LEFT_PITCH and RIGHT_PITCH are.
int pitch(int side, int of_thread, int vector) { return side + std::min(of_thread, vector); }

}  // namespace

std::span<const Tile> tiles_of(DType dtype) {
  if (size_of(dtype) == 8) return wide_tiles;
  return narrow_tiles;
}

int64_t tiles_along(int64_t extent, int tile) { return (extent + tile - 1) / tile; }

bool fits(const Tile& tile, DType dtype, const TileLimits& limits) {
  // Beside two sets of sums, or the steps of an integer product, there are registers for half as many.
  const bool half = limits.segmented || !is_floating(dtype);
  const int most = half ? 128 / static_cast<int>(size_of(dtype)) : 64;
  return tile.rows >= limits.rows && tile.r * tile.c <= std::min(limits.sums, most);
}

TileChoice choose_tile(DType dtype, const Extents& e, const TileLimits& limits) {
  TileChoice best{nullptr, 0};
  for (const Tile& tile : tiles_of(dtype)) {
    if (!fits(tile, dtype, limits)) continue;
    const int64_t tiles = e.count * tiles_along(e.m, tile.rows) * tiles_along(e.n, tile.columns);
    const double waves = static_cast<double>(tiles_along(tiles, multiprocessors));
    const double cost = waves * tile.rows * tile.columns / tile.rate;
    if (!best.tile || cost < best.cost) best = {&tile, cost};
  }
  return best;
}

size_t tile_bytes(const Tile& tile, DType dtype) {
  const int vector = vector_of(dtype);
  const int factors = 2 * tile.depth * (pitch(tile.rows, tile.r, vector) + pitch(tile.columns, tile.c, vector));
  const int sums = tile.rows / tile.parts * (tile.columns + vector);
  return static_cast<size_t>(std::max(factors, sums)) * size_of(dtype);
}

std::string tile_text(const Tile& tile, DType dtype, bool segmented, bool roomy) {
  return fmt::format(
      "typedef {} T;\n"
      "constexpr int THREADS = {}, ROWS = {}, COLUMNS = {}, DEPTH = {}, R = {}, C = {}, LANES_X = {}, PARTS = {};\n"
      "constexpr int UNROLL = {}, BLOCKS = {}, SHARED_TILES = {};\n"
      "constexpr bool SEGMENTED = {};\n",
      c_type(dtype), tile_threads, tile.rows, tile.columns, tile.depth, tile.r, tile.c, tile.lanes_x, tile.parts,
      tile.unroll, roomy ? 1 : tile.blocks, tile_bytes(tile, dtype), segmented);
}

}  // namespace rp::cuda
