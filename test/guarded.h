#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>

#include "reprise/test/catch.h"

namespace rp::test {

/// Memory that ends where a page begins that nobody may touch.
class Guarded {
 public:
  Guarded() {
    page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    base_ = static_cast<std::byte*>(mmap(nullptr, size_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    REQUIRE(base_ != MAP_FAILED);
    REQUIRE(mprotect(base_ + page_, size_, PROT_READ | PROT_WRITE) == 0);
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_ + 2 * page_); }

  std::byte* begin() const { return base_ + page_; }
  std::byte* end() const { return begin() + size_; }
  size_t size() const { return size_; }

 private:
  size_t page_ = 0, size_ = 16 * 4096;
  std::byte* base_ = nullptr;
};

}  // namespace rp::test
