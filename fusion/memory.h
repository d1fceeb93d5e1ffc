#pragma once
#include <cstddef>
#include <vector>

namespace rp {

/// A buffer that lives from step `first` to step `last`, both included.
struct Lifetime {
  size_t bytes = 0;
  int first = 0, last = 0;
  size_t offset = 0;  // in the arena; set by plan_memory
};

/// Lays buffers out in one arena so that buffers alive at the same time do not overlap; returns its size. Several
/// greedy orders are tried, the smallest result is kept.
size_t plan_memory(std::vector<Lifetime>& buffers);

/// The most bytes alive at one step: no layout can be smaller.
size_t live_lower_bound(const std::vector<Lifetime>& buffers);

}  // namespace rp
