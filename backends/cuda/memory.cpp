#include "reprise/backends/cuda/memory.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/stream.h"

namespace rp::cuda {
namespace {

constexpr size_t alignment = 256;
constexpr size_t small_limit = size_t{256} << 10;  // up to here, blocks are parts of slabs
constexpr size_t step_limit = size_t{16} << 20;
constexpr size_t large_step = size_t{2} << 20;
constexpr size_t first_slab = size_t{2} << 20, largest_slab = size_t{32} << 20;
constexpr size_t largest = size_t{1} << 46;

/// Eight steps to each doubling, of at least 256 bytes; from 16 MiB on, multiples of 2 MiB.
constexpr size_t block_size(size_t bytes) {
  if (bytes <= alignment) return alignment;
  const size_t step = bytes > step_limit ? large_step : std::max(alignment, std::bit_floor(bytes - 1) / 8);
  return (bytes + step - 1) / step * step;
}

/// Of a size that `block_size` gives, up to the small limit.
constexpr size_t class_of(size_t size) {
  if (size <= 8 * alignment) return size / alignment - 1;
  const size_t top = std::bit_floor(size - 1);
  return 8 * static_cast<size_t>(std::bit_width(top) - std::bit_width(8 * alignment)) + 7 + (size - top) / (top / 8);
}
constexpr size_t classes = class_of(small_limit) + 1;

class Pool {
 public:
  Pool();
  std::byte* allocate(size_t bytes);
  void release(std::byte* data, size_t bytes) noexcept;
  void trim();
  MemoryStats stats();
  void reset_peak();

  static inline bool keeps = true;

 private:
  /// Blocks of one size. There is always room for all of them in `free`, so that a release needs no memory.
  struct Class {
    std::vector<std::byte*> free;
    size_t made = 0;
  };
  struct Large {
    size_t size;
    std::byte* data;
    bool free;
  };
  std::byte* take_small(size_t size);
  std::byte* take_large(size_t size);
  std::byte* from_driver(size_t size);
  void to_driver(std::byte* data, size_t size) noexcept;
  void drop_free_blocks();
  Large& large_of(std::byte* data) noexcept;

  std::mutex mutex_;
  cudaMemPool_t driver_pool_ = nullptr;
  std::array<Class, classes> classes_;
  std::byte *slab_ = nullptr, *slab_end_ = nullptr;
  size_t next_slab_ = first_slab;
  std::vector<Large> large_;  // by size
  std::unordered_map<const std::byte*, size_t> large_sizes_;
  MemoryStats stats_;
};

Lazy<Pool> pool;

/// The driver keeps what it is given back, so that taking it again costs little.
Pool::Pool() {
  runtime().cudaDeviceGetDefaultMemPool(&driver_pool_, 0);
  uint64_t all = UINT64_MAX;
  runtime().cudaMemPoolSetAttribute(driver_pool_, cudaMemPoolAttrReleaseThreshold, &all);
}

std::byte* Pool::allocate(size_t bytes) {
  if (bytes > largest) fail("cuda: out of memory: {} bytes", bytes);
  const size_t size = block_size(bytes);
  const std::lock_guard lock(mutex_);
  std::byte* const data = !keeps ? from_driver(size) : size <= small_limit ? take_small(size) : take_large(size);
  stats_.in_use += size;
  stats_.peak = std::max(stats_.peak, stats_.in_use);
  ++stats_.allocations;
  return data;
}

void Pool::release(std::byte* data, size_t bytes) noexcept {
  const size_t size = block_size(bytes);
  const std::lock_guard lock(mutex_);
  stats_.in_use -= size;
  if (!keeps)
    to_driver(data, size);
  else if (size <= small_limit)
    classes_[class_of(size)].free.push_back(data);
  else
    large_of(data).free = true;
}

std::byte* Pool::take_small(size_t size) {
  Class& c = classes_[class_of(size)];
  if (!c.free.empty()) {
    std::byte* const data = c.free.back();
    c.free.pop_back();
    return data;
  }
  if (c.free.capacity() <= c.made) c.free.reserve(2 * c.made + 8);
  if (static_cast<size_t>(slab_end_ - slab_) < size) {
    slab_ = from_driver(next_slab_);
    slab_end_ = slab_ + next_slab_;
    next_slab_ = std::min(2 * next_slab_, largest_slab);
  }
  ++c.made;
  return std::exchange(slab_, slab_ + size);
}

/// The smallest free block that is at most an eighth too large, or a new one.
std::byte* Pool::take_large(size_t size) {
  const auto first = std::ranges::lower_bound(large_, size, {}, &Large::size);
  for (auto b = first; b != large_.end() && b->size <= size + size / 8; ++b)
    if (b->free) {
      b->free = false;
      return b->data;
    }
  large_.reserve(large_.size() + 1);
  std::byte* const data = from_driver(size);
  try {
    large_sizes_.emplace(data, size);
  } catch (...) {
    to_driver(data, size);
    throw;
  }
  large_.insert(std::ranges::lower_bound(large_, size, {}, &Large::size), {size, data, false});
  return data;
}

Pool::Large& Pool::large_of(std::byte* data) noexcept {
  auto b = std::ranges::lower_bound(large_, large_sizes_.find(data)->second, {}, &Large::size);
  while (b->data != data) ++b;
  return *b;
}

std::byte* Pool::from_driver(size_t size) {
  void* data = nullptr;
  ++stats_.driver_calls;
  cudaError_t status = runtime().cudaMallocAsync.raw(&data, size, compute_stream());
  if (status == cudaErrorMemoryAllocation) {
    drop_free_blocks();
    status = runtime().cudaMallocAsync.raw(&data, size, compute_stream());
  }
  if (status == cudaErrorMemoryAllocation)
    fail("cuda: out of memory: {} bytes wanted, {} in use, {} of the device's {} reserved", size, stats_.in_use,
         stats_.reserved, device().properties.totalGlobalMem);
  check(status, "cudaMallocAsync");
  stats_.reserved += size;
  return static_cast<std::byte*>(data);
}

void Pool::to_driver(std::byte* data, size_t size) noexcept {
  ++stats_.driver_calls;
  stats_.reserved -= size;
  runtime().cudaFreeAsync.raw(data, compute_stream());
}

/// Everything that is free and not a part of a slab goes back, down to the driver's own pool.
void Pool::drop_free_blocks() {
  for (const Large& b : large_)
    if (b.free) {
      large_sizes_.erase(b.data);
      to_driver(b.data, b.size);
    }
  std::erase_if(large_, [](const Large& b) { return b.free; });
  runtime().cudaStreamSynchronize(compute_stream());
  runtime().cudaMemPoolTrimTo(driver_pool_, 0);
}

void Pool::trim() {
  const std::lock_guard lock(mutex_);
  drop_free_blocks();
}

MemoryStats Pool::stats() {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Pool::reset_peak() {
  const std::lock_guard lock(mutex_);
  stats_.peak = stats_.in_use;
}

}  // namespace

std::byte* allocate_bytes(size_t bytes) { return pool.get().allocate(bytes); }

void release_bytes(std::byte* data, size_t bytes) noexcept {
  Pool* const made = pool.get_if();
  if (made && data) made->release(data, bytes);
}

void keep_memory(bool on) { Pool::keeps = on; }

MemoryStats memory_stats() {
  Pool* const made = pool.get_if();
  return made ? made->stats() : MemoryStats{};
}

void reset_memory_peak() {
  if (Pool* const made = pool.get_if()) made->reset_peak();
}

void trim_memory() {
  if (Pool* const made = pool.get_if()) made->trim();
}

}  // namespace rp::cuda
