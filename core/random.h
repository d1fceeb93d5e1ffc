#pragma once
#include <cstdint>

namespace rp {

/// The generator of the calling thread: a seed and the position in program order. A random op takes one position, at
/// the call, whether it runs now or later; its element i is a pure function of (seed, position, i).
struct Generator {
  uint64_t seed = 0;
  uint64_t position = 0;
  bool operator==(const Generator&) const = default;
};

/// The calling thread's generator. Assign to it to restore a saved state.
Generator& generator();

/// Starts the calling thread's generator afresh from a seed.
void manual_seed(uint64_t seed);

}  // namespace rp
