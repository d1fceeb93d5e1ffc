#include "reprise/backends/cpu/limits.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <vector>

#include "reprise/backends/cpu/caches.h"
#include "reprise/backends/cpu/gemm.h"
#include "reprise/backends/cpu/memory.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/expr.h"
#include "reprise/fusion/region.h"

namespace rp {
namespace {

constexpr int tries = 4;  // the first ones warm caches and clocks

class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes), data_(allocate_bytes(bytes)) {
    std::fill_n(data_, bytes, std::byte{});
  }
  ~Memory() { release_bytes(data_, bytes_); }
  Memory(const Memory&) = delete;
  std::byte* data() { return data_; }

 private:
  size_t bytes_;
  std::byte* data_;
};

template <class F>
double least_seconds(F&& f) {
  double least = 1e9;
  for (int i = 0; i < tries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return std::max(least, 1e-9);
}

// y = x + x.
std::unique_ptr<RegionKernel> simple_map(Backend& backend, int64_t elements) {
  const Layout* layout = intern({DType::f32, {elements}, {}});
  Region region;
  region.operands = {{layout}, {layout, true}};
  ProgramBuilder b;
  const Value x = b.load(b.operand(DType::f32, Access::contiguous));
  b.store(x + x, b.operand(DType::f32, Access::contiguous, true));
  Stage stage;
  stage.program = b.take();
  stage.slots = {{StageSlot::Kind::operand, 0}, {StageSlot::Kind::operand, 1}};
  region.stages.push_back(std::move(stage));
  region.members.push_back(*make_nest(RegionKind::map, {elements}, 0, {{1}, {1}}));
  return backend.compile(region);
}

// Seconds of one run of a map that reads and writes `bytes` in total, `runs` times in a row.
double map_seconds(Backend& backend, size_t bytes, int runs) {
  const size_t half = bytes / 2;
  Memory x(half), y(half);
  const auto kernel = simple_map(backend, static_cast<int64_t>(half / sizeof(float)));
  std::byte* pointers[] = {x.data(), y.data()};
  Storage* storages[] = {nullptr, nullptr};
  return least_seconds([&] {
           for (int i = 0; i < runs; ++i) kernel->run({pointers, nullptr, storages, nullptr});
         }) /
         runs;
}

double gemm_flops() {
  constexpr int64_t n = 192;
  constexpr size_t bytes = n * n * sizeof(float);
  Memory a(bytes), b(bytes), c(bytes);
  const auto at = [](Memory& m) { return reinterpret_cast<float*>(m.data()); };
  const GemmShape shape{n, n, n, n, 1, n, 1, n};
  return 2.0 * n * n * n / least_seconds([&] { gemm(shape, at(a), at(b), at(c)); });
}

Limits measure(Backend& backend) {
  const size_t in_cache = std::max<size_t>(cpu_cache_size() / 2, 64 << 10), beyond = in_cache * 16;
  Limits l;
  l.launch_ns = map_seconds(backend, 128, 64) * 1e9;
  l.cache_bytes = static_cast<double>(in_cache) / map_seconds(backend, in_cache, 4);
  l.memory_bytes = static_cast<double>(beyond) / map_seconds(backend, beyond, 1);
  l.flops = gemm_flops();
  return l;
}

// Inside a parallel region whatever runs there has one thread.
Limits measure_alone(Backend& backend) {
  Limits l;
  parallel_for(2, 1, [&](int64_t begin, int64_t) {
    if (begin == 0) l = measure(backend);
  });
  return l;
}

double fork_seconds() {
  return least_seconds([] { parallel_for(thread_count(), 1, [](int64_t, int64_t) {}); });
}

}  // namespace

size_t cpu_cache_size() { return cache_bytes(2) / 2; }

Limits cpu_limits(Backend& backend, bool all_threads) {
  static std::mutex mutex;
  static auto* known = new std::map<int, Limits>;  // by the number of threads
  const int threads = all_threads ? thread_count() : 1;
  std::lock_guard lock(mutex);
  if (const auto it = known->find(threads); it != known->end()) return it->second;
  Limits l = threads == 1 ? measure_alone(backend) : measure(backend);
  if (threads > 1) l.launch_ns += fork_seconds() * 1e9;
  return known->emplace(threads, l).first->second;
}

}  // namespace rp
