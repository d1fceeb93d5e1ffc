#include "reprise/core/block.h"

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

constexpr int classes = 3;
constexpr int max_kept = 4096;
constexpr std::align_val_t alignment{64};

struct Free {
  Free* next;
};
struct Lists {
  Free* heads[classes] = {};
  int counts[classes] = {};
  bool armed = false, dead = false;
};
constinit thread_local Lists lists;

// Returns the thread's blocks to the system when the thread ends. Blocks freed later go there directly.
struct Cleanup {
  ~Cleanup() {
    lists.dead = true;
    for (Free*& head : lists.heads)
      while (head) {
        Free* next = head->next;
        ::operator delete(head, alignment);
        head = next;
      }
  }
};

void arm() {
  thread_local Cleanup cleanup;
  lists.armed = true;
}

constexpr int class_of(size_t bytes) { return bytes <= block_sizes[0] ? 0 : bytes <= block_sizes[1] ? 1 : 2; }

}  // namespace

void* allocate_block(size_t bytes) {
  const int c = class_of(bytes);
  if (Free* head = lists.heads[c]) {
    lists.heads[c] = head->next;
    --lists.counts[c];
    return head;
  }
  return ::operator new(bytes <= block_sizes[c] ? block_sizes[c] : bytes, alignment);
}

void free_block(void* block, size_t bytes) noexcept {
  const int c = class_of(bytes);
  if (!pooled || lists.dead || bytes > block_sizes[c] || lists.counts[c] == max_kept) {
    ::operator delete(block, alignment);
    return;
  }
  if (!lists.armed) arm();
  auto* free = static_cast<Free*>(block);
  free->next = lists.heads[c];
  lists.heads[c] = free;
  ++lists.counts[c];
}

}  // namespace rp
