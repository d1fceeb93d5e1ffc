#pragma once
// How the blocks of a product's kernel cut it up.
#include <cstdint>
#include <span>
#include <string>

#include "reprise/core/dtype.h"

namespace rp::cuda {

/// What a block of 256 threads computes: rows x columns sums, `depth` steps of k at a time.
struct Tile {
  int rows, columns, depth;
  int r, c;     // sums of a thread
  int lanes_x;  // lanes of a warp side by side
  int parts;    // in how many parts finished sums pass through shared memory
  int unroll;   // of the loop over `depth`
  int blocks;   // on a multiprocessor at one time: what limits the registers
  double rate;  // of sums that lie inside of the result; only their proportions count
};

inline constexpr int tile_threads = 256;

/// From large to small.
std::span<const Tile> tiles_of(DType dtype);

/// What is multiplied: `count` products of m x k and k x n.
struct Extents {
  int64_t m, n, count;
};

/// What a kernel asks of its tiles.
struct TileLimits {
  bool segmented = false;  // threads have two sets of sums
  int rows = 1;            // at least
  int sums = 64;           // of a thread, at most
};

bool fits(const Tile& tile, DType dtype, const TileLimits& limits);

/// The tile that is done first on a device of many multiprocessors, and how long that takes (only proportions count).
/// It depends on nothing but the arguments.
struct TileChoice {
  const Tile* tile;
  double cost;
};
TileChoice choose_tile(DType dtype, const Extents& extents, const TileLimits& limits);

int64_t tiles_along(int64_t extent, int tile);

/// Shared memory for both factors' tiles, which is also what finished sums pass through.
size_t tile_bytes(const Tile& tile, DType dtype);

/// The constants that a product's text begins with. `roomy`: a thread may have all registers, so that fewer blocks are
/// on a multiprocessor.
std::string tile_text(const Tile& tile, DType dtype, bool segmented, bool roomy);

}  // namespace rp::cuda
