#pragma once
#include <cstddef>

namespace rp {

/// At least `bytes` of memory, aligned to 64 bytes, uninitialised. Throws when there is none.
std::byte* allocate_bytes(size_t bytes);

/// Takes memory back; `bytes` is what was asked for. Any thread may do that, whichever allocated.
void release_bytes(std::byte* data, size_t bytes) noexcept;

struct MemoryStats {
  size_t in_use = 0;           // bytes handed out and not yet released, as rounded up
  size_t peak = 0;             // the most that were in use, to within 64 KiB a thread
  size_t cached = 0;           // released bytes kept for reuse
  size_t system_calls = 0;     // times that memory was taken from or given to the system
  size_t allocations = 0;      // calls of allocate_bytes
  size_t allocated_bytes = 0;  // what they were given in total
};
MemoryStats memory_stats();

/// Makes the present use the peak.
void reset_memory_peak();

/// Gives cached memory back to the system, apart from what other threads keep for themselves.
void trim_memory() noexcept;

}  // namespace rp
