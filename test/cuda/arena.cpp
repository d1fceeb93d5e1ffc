#include "reprise/test/cuda/arena.h"

#include <fmt/core.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

namespace rp::fake {
namespace {

constexpr size_t address_space = size_t{1} << 38;
constexpr size_t zone = 256;  // before and behind each allocation, at least

/// What a zone has at an address: a NaN of either width, and another one at each, so that what a kernel copies from
/// outside to outside shows, too.
uint32_t zone_word(const uint32_t* at) {
  return 0xFFF00001u | (static_cast<uint32_t>(reinterpret_cast<uintptr_t>(at) >> 2) * 2654435761u >> 12);
}

char zone_byte(const char* at) {
  const size_t in_word = reinterpret_cast<uintptr_t>(at) % 4;
  const uint32_t word = zone_word(reinterpret_cast<const uint32_t*>(at - in_word));
  return static_cast<char>(word >> 8 * in_word);
}

void fill_zone(char* from, char* to) {
  for (char* p = from; p < to; ++p) *p = zone_byte(p);
}

/// The first byte between that is not a zone's.
const char* first_changed(const char* from, const char* to) {
  for (const char* p = from; p < to; ++p) {
    if (reinterpret_cast<uintptr_t>(p) % 4 == 0 && p + 4 <= to) {
      const auto* const word = reinterpret_cast<const uint32_t*>(p);
      if (*word == zone_word(word)) {
        p += 3;
        continue;
      }
    }
    if (*p != zone_byte(p)) return p;
  }
  return to;
}

/// Zones included.
size_t extent_of(size_t bytes) { return (bytes + zone - 1) / zone * zone + 2 * zone; }

}  // namespace

Arena::Open::Open(Arena& arena) : arena_(arena) {
  if (arena_.open_++ == 0 && arena_.touched_ > arena_.base_)
    mprotect(arena_.base_, static_cast<size_t>(arena_.touched_ - arena_.base_), PROT_READ | PROT_WRITE);
}

Arena::Open::~Open() {
  if (--arena_.open_ == 0 && arena_.touched_ > arena_.base_)
    mprotect(arena_.base_, static_cast<size_t>(arena_.touched_ - arena_.base_), PROT_NONE);
}

Arena::Arena(size_t limit) : limit_(limit) {
  void* const memory = mmap(nullptr, address_space, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = touched_ = static_cast<char*>(memory);
  free_[base_] = address_space;
}

Arena::~Arena() { munmap(base_, address_space); }

void Arena::poison(char* data, size_t bytes) {
  constexpr size_t page = 4096;
  char* const end = base_ + (static_cast<size_t>(data + bytes - base_) + page - 1) / page * page;
  if (end > touched_) {
    mprotect(touched_, static_cast<size_t>(end - touched_), PROT_READ | PROT_WRITE);
    touched_ = end;
  }
  std::memset(data, 0xFF, bytes);
}

void* Arena::allocate(size_t bytes) {
  const size_t extent = extent_of(bytes);
  if (in_use_ + bytes > limit_) return nullptr;
  const auto place = std::ranges::find_if(free_, [&](const auto& f) { return f.second >= extent; });
  if (place == free_.end()) return nullptr;
  const auto [start, size] = *place;
  free_.erase(place);
  if (size > extent) free_[start + extent] = size - extent;
  const Open open(*this);
  poison(start, extent);
  fill_zone(start, start + zone);
  fill_zone(start + zone + bytes, start + extent);
  live_[start + zone] = bytes;
  in_use_ += bytes;
  return start + zone;
}

void Arena::free(void* data) {
  const auto found = live_.find(static_cast<char*>(data));
  char* start = found->first - zone;
  size_t extent = extent_of(found->second);
  in_use_ -= found->second;
  live_.erase(found);
  const Open open(*this);
  poison(start, extent);
  const auto next = free_.lower_bound(start);
  if (next != free_.end() && next->first == start + extent) {
    extent += next->second;
    free_.erase(next);
  }
  const auto after = free_.lower_bound(start);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == start) {
      before->second += extent;
      return;
    }
  }
  free_[start] = extent;
}

bool Arena::contains(const void* address) const { return address >= base_ && address < base_ + address_space; }

bool Arena::holds(const void* data, size_t bytes) const {
  auto* const from = static_cast<char*>(const_cast<void*>(data));
  auto found = live_.upper_bound(from);
  if (found == live_.begin()) return false;
  --found;
  return from + bytes <= found->first + found->second;
}

std::string Arena::damage() {
  const Open open(*this);
  for (const auto& [data, bytes] : live_) {
    const char* const before = first_changed(data - zone, data);
    if (before != data) return fmt::format("{} bytes before an allocation of {} bytes", data - before, bytes);
    const char* const end = data - zone + extent_of(bytes);
    const char* const behind = first_changed(data + bytes, end);
    if (behind != end) return fmt::format("at byte {} of an allocation of {} bytes", behind - data, bytes);
  }
  return "";
}

}  // namespace rp::fake
