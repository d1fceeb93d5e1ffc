#include "reprise/bench/machine.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <thread>

#include "reprise/backends/cpu/caches.h"
#include "reprise/backends/cpu/memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int attempts = 15;
constexpr double attempt_ns = 2e6;

/// The best rate of `work`, which every thread does on its own `size` bytes: amount(work) for each ns of the slowest.
/// All threads run at the same time.
double best_rate(int threads, const std::function<void(int thread, int64_t times)>& work, double amount) {
  const auto together = [&](int64_t times) {
    const auto start = Clock::now();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back([&, t] { work(t, times); });
    work(0, times);
    for (std::thread& t : others) t.join();
    return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
  };
  const auto least = [&](int64_t times, int tries) {
    double ns = together(times);
    for (int i = 1; i < tries; ++i) ns = std::min(ns, together(times));
    return ns;
  };
  int64_t times = 1;
  while (least(times, 3) < attempt_ns) times *= 2;  // several: a thread may start late on a busy machine
  return amount * static_cast<double>(times) * threads / least(times, attempts);
}

#if defined(__x86_64__)

constexpr int fmas_a_turn = 12;

/// Twelve independent fused multiply-adds of eight lanes, `turns` times.
void fma_turns(int64_t turns) {
  asm volatile(
      "vzeroall\n"
      "1:\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm0\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm1\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm2\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm3\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm4\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm5\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm6\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm7\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm8\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm9\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm10\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm11\n"
      "dec %0\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : "+r"(turns)
      :
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "cc");
}

/// The same of sixteen lanes.
__attribute__((target("avx512f"))) void wide_fma_turns(int64_t turns) {
  asm volatile(
      "vzeroall\n"
      "1:\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm0\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm1\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm2\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm3\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm4\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm5\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm6\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm7\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm8\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm9\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm10\n"
      "vfmadd231ps %%zmm12, %%zmm13, %%zmm11\n"
      "dec %0\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : "+r"(turns)
      :
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "cc");
}

double measure_peak_gflops(int threads) {
  if (!__builtin_cpu_supports("fma") || !__builtin_cpu_supports("avx2")) return 0;
  constexpr int64_t turns = 1000;
  const auto rate = [&](void (*fmas)(int64_t), double lanes) {
    return best_rate(threads, [=](int, int64_t times) { fmas(times * turns); }, turns * fmas_a_turn * lanes * 2);
  };
  const double narrow = rate(fma_turns, 8);
  return __builtin_cpu_supports("avx512f") ? std::max(narrow, rate(wide_fma_turns, 16)) : narrow;
}

/// c = a + b on `count` floats, a multiple of 32.
template <bool streaming>
__attribute__((target("avx2"))) void add_arrays(const float* a, const float* b, float* c, int64_t count) {
  for (int64_t i = 0; i < count; i += 32)
    for (int64_t k = i; k < i + 32; k += 8) {
      const __m256 sum = _mm256_add_ps(_mm256_load_ps(a + k), _mm256_load_ps(b + k));
      if constexpr (streaming)
        _mm256_stream_ps(c + k, sum);
      else
        _mm256_store_ps(c + k, sum);
    }
}

bool has_vectors() { return __builtin_cpu_supports("avx2"); }

#else

double measure_peak_gflops(int) { return 0; }

template <bool streaming>
void add_arrays(const float* a, const float* b, float* c, int64_t count) {
  for (int64_t i = 0; i < count; ++i) c[i] = a[i] + b[i];
}

bool has_vectors() { return true; }

#endif

/// Three arrays for each thread, `bytes` together.
class Arrays {
 public:
  Arrays(int threads, size_t bytes) : count_(static_cast<int64_t>(bytes / 3 / sizeof(float) / 32 * 32)) {
    for (int i = 0; i < 3 * threads; ++i) {
      memory_.push_back(rp::allocate_bytes(size()));
      std::memset(memory_.back(), 0, size());
    }
  }
  ~Arrays() {
    for (std::byte* m : memory_) rp::release_bytes(m, size());
  }
  Arrays(const Arrays&) = delete;

  float* at(int thread, int i) const { return reinterpret_cast<float*>(memory_[static_cast<size_t>(3 * thread + i)]); }
  int64_t count() const { return count_; }
  size_t size() const { return static_cast<size_t>(count_) * sizeof(float); }

 private:
  int64_t count_;
  std::vector<std::byte*> memory_;
};

/// The best of a copy and of the sum of two arrays, with and without the cache in between, in 1e9 bytes a second.
double measure_bandwidth_gbs(int threads, size_t bytes_a_thread) {
  const Arrays arrays(threads, bytes_a_thread);
  const auto size = static_cast<double>(arrays.size());
  const auto copy = [&](int t, int64_t times) {
    for (; times; --times) {
      std::memcpy(arrays.at(t, 0), arrays.at(t, 1), arrays.size());
      asm volatile("" ::: "memory");
    }
  };
  double best = best_rate(threads, copy, 2 * size);
  if (!has_vectors()) return best;
  for (const auto add : {add_arrays<false>, add_arrays<true>}) {
    const auto sum = [&](int t, int64_t times) {
      for (; times; --times) add(arrays.at(t, 0), arrays.at(t, 1), arrays.at(t, 2), arrays.count());
    };
    best = std::max(best, best_rate(threads, sum, 3 * size));
  }
  return best;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

}  // namespace

/// Caches are measured with arrays that fill half of them; the last, which others may share, also with the least that
/// the one before does not hold.
Machine describe_machine(int threads) {
  Machine m;
  m.cpu = cpu_name();
  m.cores = std::thread::hardware_concurrency();
  getloadavg(&m.load, 1);
  m.peak_gflops = measure_peak_gflops(threads);
  const auto l1 = static_cast<double>(rp::cache_bytes(1)), l2 = static_cast<double>(rp::cache_bytes(2)),
             l3 = static_cast<double>(rp::cache_bytes(3)), beyond = 6 * static_cast<double>(rp::cache_bytes(0));
  const auto gbs = [threads](double bytes) { return measure_bandwidth_gbs(threads, static_cast<size_t>(bytes)); };
  m.levels = {{"L1", gbs(l1 / 2)},
              {"L2", gbs(l2 / 2)},
              {"L3", std::max(gbs(std::max(l3 / 2 / threads, 1.5 * l2)), gbs(2 * l2))},
              {"DRAM", gbs(beyond / threads)}};
  m.gbs_of = [=, known = std::map<double, double>()](double bytes) mutable {
    const double each = std::clamp(bytes, 4096.0 * threads, beyond) / threads;
    double& rate = known[each];
    if (rate == 0) rate = gbs(each);
    return rate;
  };
  return m;
}

nlohmann::json to_json(const Machine& m) {
  nlohmann::json bandwidths;
  for (const MemoryLevel& l : m.levels) bandwidths[l.name] = l.gbs;
  return {{"cpu", m.cpu},
          {"cores", m.cores},
          {"load", m.load},
          {"compiler", __VERSION__},
          {"peak_gflops", m.peak_gflops},
          {"bandwidth_gbs", bandwidths}};
}

}  // namespace bench
