#include "reprise/core/block.h"

#include <algorithm>
#include <new>

namespace rp {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool pooled = false;  // leave every block to the sanitizer
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr bool pooled = false;
#else
constexpr bool pooled = true;
#endif
#else
constexpr bool pooled = true;
#endif

constexpr int max_kept = 4096;
constexpr std::align_val_t alignment{64};

// Returns the thread's blocks to the system when the thread ends. Blocks freed later go there directly.
struct Cleanup {
  ~Cleanup() {
    std::ranges::fill(free_blocks.room, 0);
    for (FreeBlock*& head : free_blocks.heads)
      while (head) {
        FreeBlock* next = head->next;
        ::operator delete(head, alignment);
        head = next;
      }
  }
};

// Lets the thread keep blocks from now on; once.
bool arm() {
  static constinit thread_local bool armed = false;
  if (!pooled || armed) return false;
  armed = true;
  thread_local Cleanup cleanup;
  std::ranges::fill(free_blocks.room, max_kept);
  return true;
}

}  // namespace

void* allocate_fresh_block(size_t bytes) {
  return ::operator new(std::max(bytes, block_sizes[block_class(bytes)]), alignment);
}

void release_block(void* block, size_t bytes) noexcept {
  if (bytes <= block_sizes[2] && arm()) return free_block(block, bytes);
  ::operator delete(block, alignment);
}

}  // namespace rp
