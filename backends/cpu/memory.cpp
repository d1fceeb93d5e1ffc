#include "reprise/backends/cpu/memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>

#include "reprise/core/fail.h"

namespace rp {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool caching = false;  // so that the sanitizer sees each release
#elif defined(__has_feature)
constexpr bool caching = !__has_feature(address_sanitizer);
#else
constexpr bool caching = true;
#endif

constexpr size_t alignment = 64;
constexpr size_t small_limit = size_t{64} << 10;
constexpr size_t huge_page = size_t{2} << 20;
constexpr size_t largest = size_t{1} << 46;
constexpr size_t thread_class_bytes = size_t{256} << 10;  // a thread keeps at most this much of one class
constexpr int64_t report_step = 64 << 10;

// Sizes are multiples of 64 up to 256, from there on four steps to each doubling.
constexpr int class_of(size_t bytes) {
  if (bytes <= 256) return bytes == 0 ? 0 : static_cast<int>((bytes - 1) / 64);
  const int top = std::bit_width(bytes - 1) - 1;  // 2^top < bytes <= 2^(top + 1)
  const int step = static_cast<int>(((bytes - 1) >> (top - 2)) & 3);
  return 4 + (top - 8) * 4 + step;
}
constexpr size_t size_of_class(int c) {
  if (c < 4) return 64 * static_cast<size_t>(c + 1);
  const int top = 8 + (c - 4) / 4;
  return (size_t{5} + static_cast<size_t>((c - 4) % 4)) << (top - 2);
}
constexpr int small_classes = class_of(small_limit) + 1;
constexpr int classes = class_of(largest) + 1;

/// How many blocks of each small class a thread keeps.
constexpr auto keep = [] {
  std::array<uint16_t, small_classes> counts{};
  for (int c = 0; c < small_classes; c++)
    counts[static_cast<size_t>(c)] =
        static_cast<uint16_t>(std::clamp<size_t>(thread_class_bytes / size_of_class(c), 4, 256));
  return counts;
}();

struct Block {
  Block* next;
};

/// A number that one thread changes and others read.
class Counter {
 public:
  void add(int64_t d) { set(get() + d); }
  void set(int64_t v) { value_.store(v, std::memory_order_relaxed); }
  int64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

struct List {
  Block* first = nullptr;
  Counter count;

  void push(void* data) {
    first = new (data) Block{first};
    count.add(1);
  }
  Block* pop() {
    Block* const block = first;
    if (block) {
      first = block->next;
      count.add(-1);
    }
    return block;
  }
};

/// What a thread keeps for itself.
struct alignas(64) Local {
  std::array<List, small_classes> lists;
  Counter in_use, allocations, allocated_bytes;

  size_t cached() const {
    int64_t sum = 0;
    for (int c = 0; c < small_classes; c++)
      sum += lists[static_cast<size_t>(c)].count.get() * static_cast<int64_t>(size_of_class(c));
    return static_cast<size_t>(sum);
  }

  Local* previous = nullptr;
  Local* next = nullptr;
};

std::byte* system_take(size_t size) noexcept {
  if (!caching || size < huge_page) return static_cast<std::byte*>(std::aligned_alloc(alignment, size));
  const size_t mapped = size + huge_page;  // room to align
  void* const raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  auto* const base = static_cast<std::byte*>(raw);
  const size_t head = (huge_page - reinterpret_cast<uintptr_t>(base) % huge_page) % huge_page;
  if (head) munmap(base, head);
  munmap(base + head + size, mapped - head - size);
  madvise(base + head, size, MADV_HUGEPAGE);
  return base + head;
}

void system_give(void* data, size_t size) noexcept {
  if (!caching || size < huge_page) return std::free(data);
  munmap(data, size);
}

/// What all threads share.
class Shared {
 public:
  Shared();
  std::byte* take(int c, size_t size);
  void give(void* data, int c, size_t size) noexcept;
  void refill(List& list, int c, uint32_t count);
  void drain(List& list, int c, uint32_t count) noexcept;
  void enter(Local* local);
  void leave(Local* local) noexcept;
  void report(int64_t in_use) noexcept;
  void count(size_t size) noexcept;
  MemoryStats stats();
  void reset_peak();
  void trim() noexcept;
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Class {
    List list;
    uint64_t used = 0;  // when, on the clock
  };
  void push(void* data, int c, size_t size) noexcept;
  bool evict() noexcept;
  void make_room(size_t size) noexcept;

  std::mutex mutex_;
  std::array<Class, classes> classes_{};
  Local* locals_ = nullptr;
  uint64_t clock_ = 0;
  size_t cached_ = 0;
  size_t physical_ = 0;
  std::atomic<size_t> system_calls_{0}, allocations_{0}, allocated_bytes_{0};
  std::atomic<int64_t> in_use_{0}, peak_{0};
};

/// Never destroyed: static objects release memory after everything else is gone.
Shared& shared() {
  static Shared* const shared = new Shared;
  return *shared;
}

Shared::Shared() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  physical_ = pages > 0 && page > 0 ? static_cast<size_t>(pages) * static_cast<size_t>(page) : size_t{4} << 30;
  pthread_atfork([] { shared().lock(); }, [] { shared().unlock(); }, [] { shared().unlock(); });
}

void Shared::push(void* data, int c, size_t size) noexcept {
  Class& k = classes_[static_cast<size_t>(c)];
  k.list.push(data);
  k.used = ++clock_;
  cached_ += size;
}

/// Gives one block of the class that lay unused for longest to the system. False if nothing is cached.
bool Shared::evict() noexcept {
  Class* oldest = nullptr;
  for (Class& k : classes_)
    if (k.list.first && (!oldest || k.used < oldest->used)) oldest = &k;
  if (!oldest) return false;
  const size_t size = size_of_class(static_cast<int>(oldest - classes_.data()));
  system_give(oldest->list.pop(), size);
  system_calls_.fetch_add(1, std::memory_order_relaxed);
  cached_ -= size;
  return true;
}

/// The system promises more memory than there is, so the cache shrinks before the promise is called in.
void Shared::make_room(size_t size) noexcept {
  const size_t limit = physical_ / 4 * 3;
  const auto in_use = static_cast<size_t>(std::max<int64_t>(in_use_.load(std::memory_order_relaxed), 0));
  while (cached_ && in_use + cached_ + size > limit && evict()) {
  }
}

std::byte* Shared::take(int c, size_t size) {
  const std::lock_guard lock(mutex_);
  Class& k = classes_[static_cast<size_t>(c)];
  k.used = ++clock_;
  if (Block* const block = k.list.pop()) {
    cached_ -= size;
    return reinterpret_cast<std::byte*>(block);
  }
  make_room(size);
  std::byte* data = system_take(size);
  while (!data && evict()) data = system_take(size);
  system_calls_.fetch_add(1, std::memory_order_relaxed);
  return data;
}

void Shared::give(void* data, int c, size_t size) noexcept {
  const std::lock_guard lock(mutex_);
  push(data, c, size);
  while (cached_ > physical_ / 2 && evict()) {
  }
}

/// Adds up to `count` cached blocks to a thread's list.
void Shared::refill(List& list, int c, uint32_t count) {
  const std::lock_guard lock(mutex_);
  Class& k = classes_[static_cast<size_t>(c)];
  k.used = ++clock_;
  for (; count > 0 && k.list.first; count--) {
    list.push(k.list.pop());
    cached_ -= size_of_class(c);
  }
}

void Shared::drain(List& list, int c, uint32_t count) noexcept {
  const std::lock_guard lock(mutex_);
  for (; count > 0 && list.first; count--) push(list.pop(), c, size_of_class(c));
}

void Shared::enter(Local* local) {
  const std::lock_guard lock(mutex_);
  local->next = locals_;
  if (locals_) locals_->previous = local;
  locals_ = local;
}

void Shared::leave(Local* local) noexcept {
  for (int c = 0; c < small_classes; c++) drain(local->lists[static_cast<size_t>(c)], c, ~0u);
  report(local->in_use.get());
  local->in_use.set(0);
  const std::lock_guard lock(mutex_);
  allocations_.fetch_add(static_cast<size_t>(local->allocations.get()), std::memory_order_relaxed);
  allocated_bytes_.fetch_add(static_cast<size_t>(local->allocated_bytes.get()), std::memory_order_relaxed);
  (local->previous ? local->previous->next : locals_) = local->next;
  if (local->next) local->next->previous = local->previous;
}

void Shared::report(int64_t d) noexcept {
  const int64_t now = in_use_.fetch_add(d, std::memory_order_relaxed) + d;
  int64_t peak = peak_.load(std::memory_order_relaxed);
  while (now > peak && !peak_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

/// Notes an allocation of a thread without a Local.
void Shared::count(size_t size) noexcept {
  allocations_.fetch_add(1, std::memory_order_relaxed);
  allocated_bytes_.fetch_add(size, std::memory_order_relaxed);
}

MemoryStats Shared::stats() {
  const std::lock_guard lock(mutex_);
  int64_t in_use = in_use_.load();
  MemoryStats s{0, 0, cached_, system_calls_.load(), allocations_.load(), allocated_bytes_.load()};
  for (const Local* l = locals_; l; l = l->next) {
    in_use += l->in_use.get();
    s.cached += l->cached();
    s.allocations += static_cast<size_t>(l->allocations.get());
    s.allocated_bytes += static_cast<size_t>(l->allocated_bytes.get());
  }
  s.in_use = static_cast<size_t>(std::max<int64_t>(in_use, 0));
  s.peak = std::max(s.in_use, static_cast<size_t>(std::max<int64_t>(peak_.load(), 0)));
  return s;
}

void Shared::reset_peak() {
  const std::lock_guard lock(mutex_);
  int64_t in_use = in_use_.load();
  for (const Local* l = locals_; l; l = l->next) in_use += l->in_use.get();
  peak_.store(in_use);
}

void Shared::trim() noexcept {
  const std::lock_guard lock(mutex_);
  while (evict()) {
  }
}

constinit thread_local Local* local = nullptr;
constinit thread_local bool ended = false;  // the thread's own lists are gone; static destructors still come here

struct AtThreadExit {
  ~AtThreadExit() {
    if (!local) return;
    shared().leave(local);
    delete std::exchange(local, nullptr);
    ended = true;
  }
};

/// This thread's own lists, made at its first call; null at the thread's end or when there is no memory for them.
Local* begin_local() noexcept {
  if (ended) return nullptr;
  static thread_local const AtThreadExit at_exit;
  (void)at_exit;
  Local* const made = new (std::nothrow) Local;
  if (!made) return nullptr;
  shared().enter(made);
  return local = made;
}

Local* own() noexcept { return local ? local : begin_local(); }

void note(Local* l, int64_t d) noexcept {
  if (!l) return shared().report(d);
  int64_t sum = l->in_use.get() + d;
  if (sum >= report_step || sum <= -report_step) shared().report(std::exchange(sum, 0));
  l->in_use.set(sum);
}

std::byte* take(Local* l, int c, size_t size) {
  if (!caching || c >= small_classes || !l) return shared().take(c, size);
  List& list = l->lists[static_cast<size_t>(c)];
  if (!list.first) shared().refill(list, c, keep[static_cast<size_t>(c)] / 2);
  Block* const block = list.pop();
  return block ? reinterpret_cast<std::byte*>(block) : shared().take(c, size);
}

}  // namespace

std::byte* allocate_bytes(size_t bytes) {
  if (bytes > largest) fail("out of memory: {} bytes", bytes);
  const int c = class_of(bytes);
  const size_t size = size_of_class(c);
  Local* const l = own();
  std::byte* data = take(l, c, size);
  if (!data) {
    trim_memory();
    data = shared().take(c, size);
    if (!data) fail("out of memory: {} bytes", bytes);
  }
  note(l, static_cast<int64_t>(size));
  if (l) {
    l->allocations.add(1);
    l->allocated_bytes.add(static_cast<int64_t>(size));
  } else {
    shared().count(size);
  }
  return data;
}

void release_bytes(std::byte* data, size_t bytes) noexcept {
  if (!data) return;
  const int c = class_of(bytes);
  const size_t size = size_of_class(c);
  Local* const l = own();
  note(l, -static_cast<int64_t>(size));
  if (!caching) return system_give(data, size);
  if (c >= small_classes || !l) return shared().give(data, c, size);
  List& list = l->lists[static_cast<size_t>(c)];
  list.push(data);
  if (list.count.get() > keep[static_cast<size_t>(c)]) shared().drain(list, c, keep[static_cast<size_t>(c)] / 2);
}

MemoryStats memory_stats() { return shared().stats(); }

void reset_memory_peak() { shared().reset_peak(); }

void trim_memory() noexcept {
  if (Local* const l = local) {
    for (int c = 0; c < small_classes; c++) shared().drain(l->lists[static_cast<size_t>(c)], c, ~0u);
  }
  shared().trim();
}

}  // namespace rp
