#include "reprise/bench/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "reprise/backends/cpu/memory.h"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

double ns_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

/// Time of `calls` calls together.
double time_calls(const Variant& v, int64_t calls) {
  rp::ModeGuard guard(v.mode);
  if (!v.before) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) v.run();
    return ns_since(start);
  }
  double total = 0;
  for (int64_t i = 0; i < calls; ++i) {
    v.before();
    const auto start = Clock::now();
    v.run();
    total += ns_since(start);
  }
  return total;
}

int64_t calls_per_round(const Variant& v) {
  time_calls(v, warm_up_calls);
  for (int64_t calls = 1;; calls *= 2) {
    const double ns = time_calls(v, calls);
    if (ns >= round_ns) return calls;
    if (ns * 8 >= round_ns) return static_cast<int64_t>(std::ceil(static_cast<double>(calls) * round_ns / ns));
  }
}

}  // namespace

Timing interleave(const std::vector<Variant>& variants) {
  std::vector<int64_t> calls;
  for (const Variant& v : variants) calls.push_back(calls_per_round(v));
  Timing timing;
  timing.of.resize(variants.size());
  const size_t system_calls = rp::memory_stats().system_calls;
  for (int r = 0; r < rounds; ++r)
    for (size_t i = 0; i < variants.size(); ++i)
      timing.of[i].push_back(time_calls(variants[i], calls[i]) / static_cast<double>(calls[i]));
  timing.system_calls = static_cast<int64_t>(rp::memory_stats().system_calls - system_calls);
  return timing;
}

double quantile(Times times, double q) {
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(times.size() - 1) + 0.5);
  std::nth_element(times.begin(), at, times.end());
  return *at;
}

double spread(const Times& times) { return (quantile(times, 0.75) - quantile(times, 0.25)) / median(times); }

Times difference(const Times& a, const Times& b) {
  Times result;
  for (size_t i = 0; i < a.size(); ++i) result.push_back(a[i] - b[i]);
  return result;
}

double measure_bandwidth_gbs() {
  const std::vector<char> from(size_t{64} << 20, 1);
  std::vector<char> to(from.size());
  const Timing timing = interleave({{rp::Mode::eager, [&] { std::memcpy(to.data(), from.data(), from.size()); }}});
  return 2 * static_cast<double>(from.size()) / quantile(timing.of[0], 0);
}

#if defined(__x86_64__)
namespace {

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

}  // namespace

double measure_peak_gflops() {
  if (!__builtin_cpu_supports("fma") || !__builtin_cpu_supports("avx2")) return 0;
  constexpr int64_t turns = 100000;
  const Timing timing = interleave({{rp::Mode::eager, [] { fma_turns(turns); }}});
  return turns * fmas_a_turn * 8 * 2 / quantile(timing.of[0], 0);
}
#else
double measure_peak_gflops() { return 0; }
#endif

}  // namespace bench
