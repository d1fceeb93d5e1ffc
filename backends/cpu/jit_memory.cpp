#include "reprise/backends/cpu/jit_memory.h"

#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <mutex>

namespace rp::jit {
namespace {

constexpr size_t chunk_bytes = size_t{1} << 20;

constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/// Memory seen twice: where code is written, and where it runs.
struct Chunk {
  std::byte* writable = nullptr;
  std::byte* executable = nullptr;
  size_t used = 0, size = 0;
  pid_t owner = 0;
};

bool map_twice(Chunk& chunk, size_t size) {
  int file = memfd_create("reprise", MFD_CLOEXEC);
  if (file < 0) return false;
  void* writable = MAP_FAILED;
  void* executable = MAP_FAILED;
  if (ftruncate(file, static_cast<off_t>(size)) == 0) {
    writable = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    executable = mmap(nullptr, size, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
  }
  close(file);
  if (writable != MAP_FAILED && executable != MAP_FAILED) {
    chunk = {static_cast<std::byte*>(writable), static_cast<std::byte*>(executable), 0, size, getpid()};
    return true;
  }
  if (writable != MAP_FAILED) munmap(writable, size);
  if (executable != MAP_FAILED) munmap(executable, size);
  return false;
}

const std::byte* publish_in_chunk(std::span<const std::byte> code) {
  static std::mutex mutex;
  static Chunk chunk;
  std::lock_guard lock(mutex);
  // After a fork the chunk is still shared with the parent, which goes on appending to it.
  if (chunk.owner != getpid() || chunk.size - chunk.used < code.size()) {
    if (!map_twice(chunk, round_up(std::max(code.size(), chunk_bytes), chunk_bytes))) return nullptr;
  }
  std::memcpy(chunk.writable + chunk.used, code.data(), code.size());
  const std::byte* at = chunk.executable + chunk.used;
  chunk.used = std::min(chunk.size, round_up(chunk.used + code.size(), 64));
  return at;
}

const std::byte* publish_on_own_pages(std::span<const std::byte> code) {
  size_t size = round_up(code.size(), static_cast<size_t>(sysconf(_SC_PAGESIZE)));
  void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return nullptr;
  std::memcpy(pages, code.data(), code.size());
  if (mprotect(pages, size, PROT_READ | PROT_EXEC) == 0) return static_cast<const std::byte*>(pages);
  munmap(pages, size);
  return nullptr;
}

}  // namespace

const std::byte* publish(std::span<const std::byte> code) {
  const std::byte* at = publish_in_chunk(code);
  return at ? at : publish_on_own_pages(code);
}

}  // namespace rp::jit
