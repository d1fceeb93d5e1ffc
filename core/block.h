#pragma once
// Small blocks for tensor handles and their storages, from free lists of the calling thread.
#include <cstddef>

namespace rp {

/// Sizes that are kept in free lists; others come from the system.
inline constexpr size_t block_sizes[] = {64, 256, 512};

void* allocate_block(size_t bytes);
void free_block(void* block, size_t bytes) noexcept;

}  // namespace rp
