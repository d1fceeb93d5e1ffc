#pragma once
// Small blocks for tensor handles, their storages and tape nodes, from free lists of the calling thread.
#include <cstddef>

namespace rp {

/// Sizes that are kept in free lists; others come from the system.
inline constexpr size_t block_sizes[] = {64, 256, 512};

struct FreeBlock {
  FreeBlock* next;
};
/// The calling thread's free blocks of each size.
struct FreeBlocks {
  FreeBlock* heads[3] = {};
  int room[3] = {};  // how many more may be kept; none before the first that is freed, and once the thread ends
};
inline constinit thread_local FreeBlocks free_blocks;

/// From the system, and back to it unless the thread may keep it.
void* allocate_fresh_block(size_t bytes);
void release_block(void* block, size_t bytes) noexcept;

constexpr int block_class(size_t bytes) { return bytes <= block_sizes[0] ? 0 : bytes <= block_sizes[1] ? 1 : 2; }

inline void* allocate_block(size_t bytes) {
  FreeBlocks& free = free_blocks;
  const int c = block_class(bytes);
  FreeBlock* head = free.heads[c];
  if (!head || bytes > block_sizes[2]) return allocate_fresh_block(bytes);
  free.heads[c] = head->next;
  ++free.room[c];
  return head;
}

inline void free_block(void* block, size_t bytes) noexcept {
  FreeBlocks& free = free_blocks;
  const int c = block_class(bytes);
  if (free.room[c] <= 0 || bytes > block_sizes[2]) return release_block(block, bytes);
  auto* head = static_cast<FreeBlock*>(block);
  head->next = free.heads[c];
  free.heads[c] = head;
  --free.room[c];
}

}  // namespace rp
