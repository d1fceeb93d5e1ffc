#pragma once
#include <cstdint>
#include <memory>

namespace rp {

/// How many threads a parallel region may use, the calling one included.
int thread_count();

/// Sets `thread_count()`, 1 to 64. Throws outside of that range, or when called from inside a parallel region.
void set_thread_count(int count);

/// True on a thread that is working on a part of a parallel region; regions begun there run on that thread alone.
bool in_parallel_region() noexcept;

using RangeFn = void (*)(void* body, int64_t begin, int64_t end);

/// `parallel_for` after type erasure.
void run_ranges(int64_t n, int64_t grain, RangeFn run, void* body);

/// Calls body(begin, end) for contiguous ranges that together cover [0, n) once, on several threads when n > grain.
/// Ranges are at least about `grain` long; which thread takes which is open, so values must not depend on it. Returns
/// when all are done; if some threw, rethrows what the first of them in range order threw. Threads start with the
/// caller's floating-point modes and its mark of the user's source line.
template <class F>
void parallel_for(int64_t n, int64_t grain, F&& body) {
  if (n <= 0) return;
  if (n <= grain) {
    body(int64_t{0}, n);
    return;
  }
  auto* const target = std::addressof(body);
  using Target = decltype(target);
  const RangeFn run = [](void* f, int64_t begin, int64_t end) { (**static_cast<Target*>(f))(begin, end); };
  run_ranges(n, grain, run, const_cast<void*>(static_cast<const void*>(&target)));
}

}  // namespace rp
