#include "reprise/fusion/memory.h"
#include "reprise/core/planted.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>

namespace rp {
namespace {

constexpr size_t alignment = 64;
size_t padded(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// Places the buffers in the given order, each into the lowest gap between those alive with it.
size_t place_in_order(const std::vector<Lifetime>& buffers, const std::vector<size_t>& order,
                      std::vector<size_t>& offsets) {
  size_t total = 0;
  std::vector<size_t> placed;  // sorted by offset
  for (size_t i : order) {
    const Lifetime& b = buffers[i];
    size_t at = 0;
    for (size_t j : placed) {
      const Lifetime& other = buffers[j];
      if (other.last < b.first + planted(Defect::short_life) || b.last < other.first + planted(Defect::short_life))
        continue;
      if (offsets[j] >= at + padded(b.bytes)) break;
      at = std::max(at, offsets[j] + padded(other.bytes));
    }
    offsets[i] = at;
    total = std::max(total, at + padded(b.bytes));
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), i, [&](size_t x, size_t y) { return offsets[x] < offsets[y]; }),
        i);
  }
  return total;
}

}  // namespace

size_t plan_memory(std::vector<Lifetime>& buffers) {
  std::vector<size_t> order(buffers.size()), offsets(buffers.size());
  size_t best = SIZE_MAX;
  const auto area = [&](size_t i) {
    return buffers[i].bytes * static_cast<size_t>(buffers[i].last - buffers[i].first + 1);
  };
  const auto try_order = [&](auto weight) {
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return std::pair(weight(b), a) < std::pair(weight(a), b); });
    const size_t total = place_in_order(buffers, order, offsets);
    if (total >= best) return;
    best = total;
    for (size_t i = 0; i < buffers.size(); ++i) buffers[i].offset = offsets[i];
  };
  try_order([&](size_t i) { return buffers[i].bytes; });
  try_order(area);
  try_order([&](size_t i) { return SIZE_MAX - static_cast<size_t>(buffers[i].first); });
  return buffers.empty() ? 0 : best;
}

size_t live_lower_bound(const std::vector<Lifetime>& buffers) {
  int steps = 0;
  for (const Lifetime& b : buffers) steps = std::max(steps, b.last + 1);
  std::vector<size_t> alive(static_cast<size_t>(steps) + 1);
  for (const Lifetime& b : buffers)
    for (int s = b.first; s <= b.last; ++s) alive[static_cast<size_t>(s)] += padded(b.bytes);
  return *std::max_element(alive.begin(), alive.end());
}

}  // namespace rp
