#include "reprise/backends/cpu/memory.h"

#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "reprise/core/error.h"
#include "reprise/test/catch.h"

using namespace rp;

#if defined(__has_feature)
#define RP_HAS_ASAN __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define RP_HAS_ASAN 1
#else
#define RP_HAS_ASAN 0
#endif

namespace {

struct Held {
  std::byte* data;
  size_t bytes;
  unsigned char mark;

  explicit Held(size_t bytes, unsigned char mark) : data(allocate_bytes(bytes)), bytes(bytes), mark(mark) {
    std::memset(data, mark, bytes);
  }
  bool intact() const {
    for (size_t i = 0; i < bytes; i += 1 + bytes / 97)
      if (data[i] != std::byte{mark}) return false;
    return bytes == 0 || data[bytes - 1] == std::byte{mark};
  }
};

}  // namespace

TEST_CASE("blocks are aligned, writable and disjoint", "[memory]") {
  std::mt19937 random(1);
  std::vector<Held> held;
  for (int round = 0; round < 20000; round++) {
    if (held.size() < 60 || random() % 2) {
      const size_t bytes = random() % (size_t{1} << (random() % 23));
      held.emplace_back(bytes, static_cast<unsigned char>(random()));
      REQUIRE(reinterpret_cast<uintptr_t>(held.back().data) % 64 == 0);
    } else {
      std::swap(held[random() % held.size()], held.back());
      REQUIRE(held.back().intact());
      release_bytes(held.back().data, held.back().bytes);
      held.pop_back();
    }
    if (held.size() < 100) continue;
    for (const Held& h : held) {
      REQUIRE(h.intact());
      release_bytes(h.data, h.bytes);
    }
    held.clear();
  }
  for (const Held& h : held) release_bytes(h.data, h.bytes);
}

TEST_CASE("sizes around every class boundary", "[memory]") {
  for (size_t base = 1; base <= (size_t{8} << 20); base *= 2)
    for (size_t quarter = 4; quarter < 8; quarter++)
      for (size_t d : {0, 1, 2}) {
        const size_t bytes = base * quarter / 4 + d - 1;
        const Held h(bytes, 7);
        CHECK(h.intact());
        release_bytes(h.data, bytes);
      }
}

TEST_CASE("a warm cache makes no system calls", "[memory]") {
  if (RP_HAS_ASAN) return;
  const auto step = [] {
    std::vector<Held> held;
    for (size_t bytes : {10, 100, 1000, 5000, 100000, 3000000, 40000000}) held.emplace_back(bytes, 1);
    for (const Held& h : held) release_bytes(h.data, h.bytes);
  };
  step();
  const MemoryStats before = memory_stats();
  for (int i = 0; i < 100; i++) step();
  const MemoryStats after = memory_stats();
  CHECK(after.system_calls == before.system_calls);
  CHECK(after.allocations == before.allocations + 700);
  CHECK(after.in_use == before.in_use);
  CHECK(after.cached == before.cached);
  CHECK(after.cached >= 43000000);
  CHECK(after.peak >= before.in_use + 43000000);
  trim_memory();
  CHECK(memory_stats().cached == 0);
}

TEST_CASE("memory released on another thread is reused", "[memory]") {
  const size_t before = memory_stats().in_use, calls = memory_stats().system_calls;
  for (int round = 0; round < 50; round++) {
    std::vector<Held> held;
    for (int i = 0; i < 1000; i++) held.emplace_back(static_cast<size_t>(i) * 13, static_cast<unsigned char>(i));
    bool intact = true;
    std::thread([&] {
      for (const Held& h : held) {
        intact = intact && h.intact();
        release_bytes(h.data, h.bytes);
      }
    }).join();
    REQUIRE(intact);
  }
  CHECK(memory_stats().in_use == before);
  if (!RP_HAS_ASAN) CHECK(memory_stats().system_calls - calls < 4000);
}

TEST_CASE("threads allocating at the same time", "[memory]") {
  std::vector<std::thread> threads;
  bool intact[4] = {};
  for (unsigned t = 0; t < 4; t++)
    threads.emplace_back([t, &intact] {
      std::mt19937 random(t);
      std::vector<Held> held;
      bool good = true;
      for (int i = 0; i < 20000; i++) {
        held.emplace_back(random() % 20000, static_cast<unsigned char>(random()));
        if (held.size() < 50) continue;
        for (const Held& h : held) {
          good = good && h.intact();
          release_bytes(h.data, h.bytes);
        }
        held.clear();
      }
      for (const Held& h : held) release_bytes(h.data, h.bytes);
      intact[t] = good;
    });
  for (std::thread& t : threads) t.join();
  for (bool good : intact) CHECK(good);
}

TEST_CASE("what cannot be had throws", "[memory]") {
  CHECK_THROWS_AS(allocate_bytes(~size_t{0}), Error);
  CHECK_THROWS_AS(allocate_bytes(size_t{1} << 50), Error);
  if (!RP_HAS_ASAN) CHECK_THROWS_AS(allocate_bytes(size_t{1} << 45), Error);
  const Held h(100, 3);
  CHECK(h.intact());
  release_bytes(h.data, h.bytes);
  release_bytes(nullptr, 5);
}

TEST_CASE("the peak follows large blocks", "[memory]") {
  reset_memory_peak();
  const size_t before = memory_stats().in_use;
  release_bytes(allocate_bytes(size_t{32} << 20), size_t{32} << 20);
  CHECK(memory_stats().peak >= before + (size_t{32} << 20));
  reset_memory_peak();
  CHECK(memory_stats().peak < before + (size_t{1} << 20));
}
