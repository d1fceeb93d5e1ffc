#include "reprise/backends/cpu/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "reprise/core/fail.h"
#include "reprise/core/switches.h"

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <cfenv>
#endif

namespace rp {
namespace {

constexpr int max_threads = 64;
constexpr int ranges_per_thread = 4;  // spare ranges even out a thread that starts late or is slowed down
constexpr int max_ranges = max_threads * ranges_per_thread;
constexpr int spins = 2000;

thread_local bool inside = false;

#if defined(__x86_64__)
void relax() { _mm_pause(); }

/// Rounding, flush-to-zero and exception masks; not the sticky exception flags.
struct FloatModes {
  static constexpr unsigned flags = 0x3f;
  unsigned csr = _mm_getcsr() & ~flags;
  void apply() const {
    if ((_mm_getcsr() & ~flags) != csr) _mm_setcsr(csr);
  }
};
#else
void relax() { std::this_thread::yield(); }

struct FloatModes {
  FloatModes() { std::fegetenv(&env); }
  void apply() const { std::fesetenv(&env); }
  std::fenv_t env;
};
#endif

/// The ranges of a region that nobody has taken yet are [front, back). The caller takes from the front, workers from
/// the back, so that each side walks through neighbouring memory.
struct Open {
  uint16_t front, back;
  uint32_t epoch;  // makes the words of two regions differ

  static Open unpack(uint64_t w) {
    return {static_cast<uint16_t>(w), static_cast<uint16_t>(w >> 16), static_cast<uint32_t>(w >> 32)};
  }
  uint64_t pack() const { return front | uint64_t{back} << 16 | uint64_t{epoch} << 32; }
  bool empty() const { return front >= back; }
};

/// What a region's ranges need. Written only while no range is open or running.
struct Work {
  RangeFn run = nullptr;
  void* body = nullptr;
  int64_t n = 0;
  int ranges = 0;
  FloatModes modes;
  Loc line;
};

class Pool {
 public:
  Pool();
  int count() const { return alone_.load(std::memory_order_relaxed) ? 1 : count_.load(std::memory_order_relaxed); }
  void resize(int count);
  void run(int64_t n, int64_t grain, RangeFn run, void* body);
  /// From here on regions run on their callers alone.
  void close();

 private:
  void region(const Work& work);
  void start_workers();
  void stop_workers();
  void worker();
  void sleep();
  int take(bool from_front);
  void run_range(int index) noexcept;
  void wake(int wanted);
  void wait_for_others();
  void rethrow();

  alignas(64) std::atomic<uint64_t> open_{0};
  alignas(64) std::atomic<uint32_t> left_{0};   // ranges not finished
  alignas(64) std::atomic<uint32_t> epoch_{0};  // what workers sleep on
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> alone_{false};  // after the end of main, and in the child of a fork
  std::atomic<bool> threw_{false};
  std::atomic<int> count_{1};
  Work work_;
  std::array<std::exception_ptr, max_ranges> errors_;
  std::mutex mutex_;  // held during a region
  std::vector<std::thread> workers_;
};

/// Never destroyed: threads may outlive the static objects.
Pool& pool() {
  static Pool* const pool = new Pool;
  static const struct AtExit {
    ~AtExit() { rp::pool().close(); }
  } at_exit;
  return *pool;
}

int default_count() {
  const std::string text = switch_value("REPRISE_THREADS");
  if (text.empty()) return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, max_threads);
  int count = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, count);
  if (error != std::errc{} || rest != end || count < 1 || count > max_threads)
    fail("REPRISE_THREADS: expected 1 to {}, got \"{}\"", max_threads, text);
  return count;
}

Pool::Pool() : count_(default_count()) {
  // The child of a fork has none of the workers, and the lock may be held by a thread it does not have either.
  pthread_atfork(nullptr, nullptr, [] { pool().alone_.store(true); });
}

void Pool::resize(int count) {
  if (inside) fail("set_thread_count: expected a call from outside of parallel regions, got one from inside");
  if (alone_.load()) return;
  const std::lock_guard lock(mutex_);
  if (count == count_.load()) return;
  stop_workers();
  count_.store(count);
}

void Pool::close() {
  if (alone_.exchange(true) || inside) return;  // a thread inside a region may be one of those to be joined
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (lock) stop_workers();
}

/// Where the system grants fewer threads than asked for, those must do.
void Pool::start_workers() try {
  const size_t wanted = static_cast<size_t>(count_.load()) - 1;
  while (workers_.size() < wanted) workers_.emplace_back([this] { worker(); });
} catch (const std::exception&) {
  count_.store(static_cast<int>(workers_.size()) + 1);
}

void Pool::stop_workers() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& t : workers_) t.join();
  workers_.clear();
  stop_.store(false);
}

/// Takes an open range; -1 if there is none.
int Pool::take(bool from_front) {
  uint64_t word = open_.load();
  for (;;) {
    Open open = Open::unpack(word);
    if (open.empty()) return -1;
    const int index = from_front ? open.front++ : --open.back;
    if (open_.compare_exchange_weak(word, open.pack())) return index;
  }
}

void Pool::run_range(int index) noexcept {
  const int64_t share = work_.n / work_.ranges, extra = work_.n % work_.ranges;
  const int64_t begin = index * share + std::min<int64_t>(index, extra);
  try {
    work_.run(work_.body, begin, begin + share + (index < extra));
  } catch (...) {
    errors_[static_cast<size_t>(index)] = std::current_exception();
    threw_.store(true, std::memory_order_relaxed);
  }
}

void Pool::worker() {
  inside = true;
  int idle = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    const int index = take(false);
    if (index < 0) {
      if (++idle < spins) {
        relax();
      } else {
        sleep();
        idle = 0;
      }
      continue;
    }
    idle = 0;
    work_.modes.apply();
    {
      const At line(work_.line);
      run_range(index);
    }
    if (left_.fetch_sub(1) == 1) left_.notify_one();
  }
}

/// Waits for the next region, or for the end.
void Pool::sleep() {
  const uint32_t epoch = epoch_.load();  // before the look at what follows: news after this look changes it
  sleepers_.fetch_add(1);
  if (!stop_.load() && Open::unpack(open_.load()).empty()) epoch_.wait(epoch);
  sleepers_.fetch_sub(1);
}

void Pool::wake(int wanted) {
  epoch_.fetch_add(1);
  const int asleep = sleepers_.load();
  if (asleep == 0) return;
  if (wanted >= asleep) return epoch_.notify_all();
  for (int i = 0; i < wanted; i++) epoch_.notify_one();
}

void Pool::wait_for_others() {
  for (int i = 0; i < spins; i++) {
    if (left_.load() == 0) return;
    relax();
  }
  sched_yield();  // perhaps it is this core that the last worker waits for
  for (uint32_t left; (left = left_.load()) != 0;) left_.wait(left);
}

void Pool::rethrow() {
  threw_.store(false);
  std::exception_ptr first;
  for (int i = work_.ranges; i-- > 0;) {
    std::exception_ptr& error = errors_[static_cast<size_t>(i)];
    if (error) first = std::exchange(error, nullptr);
  }
  std::rethrow_exception(first);
}

void Pool::region(const Work& work) {
  start_workers();
  work_ = work;
  left_.store(static_cast<uint32_t>(work.ranges));
  const uint32_t epoch = Open::unpack(open_.load()).epoch + 1;
  open_.store(Open{0, static_cast<uint16_t>(work.ranges), epoch}.pack());
  wake(std::min(work.ranges, count_.load()) - 1);
  inside = true;
  for (int index; (index = take(true)) >= 0;) {
    run_range(index);
    left_.fetch_sub(1);
  }
  inside = false;
  wait_for_others();
  if (threw_.load()) rethrow();
}

void Pool::run(int64_t n, int64_t grain, RangeFn run, void* body) {
  const int threads = inside ? 1 : count();
  if (threads == 1) return run(body, 0, n);
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) return run(body, 0, n);  // another thread of the user has the workers
  const int64_t least = std::max<int64_t>(grain, 1);
  const int64_t ranges = std::min<int64_t>(n / least + (n % least != 0), threads * ranges_per_thread);
  Work work;
  work.run = run;
  work.body = body;
  work.n = n;
  work.ranges = static_cast<int>(ranges);
  work.line = At::where();
  region(work);
}

}  // namespace

int thread_count() { return pool().count(); }

void set_thread_count(int count) {
  if (count < 1 || count > max_threads) fail("set_thread_count: expected 1 to {}, got {}", max_threads, count);
  pool().resize(count);
}

bool in_parallel_region() noexcept { return inside; }

void run_ranges(int64_t n, int64_t grain, RangeFn run, void* body) { pool().run(n, grain, run, body); }

}  // namespace rp
