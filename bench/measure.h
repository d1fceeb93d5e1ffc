#pragma once
// Timing. Variants of one thing take turns in a fixed number of rounds, so that what disturbs the machine disturbs all
// of them; a round repeats each variant until a fixed time has passed. Neither number depends on the row.
#include <functional>
#include <vector>

#include "reprise/graph/capture.h"

namespace bench {

inline constexpr int rounds = 31;
inline constexpr double round_ns = 5e5;  // the least time of one variant in one round
inline constexpr int warm_up_calls = 6;

struct Variant {
  rp::Mode mode;
  std::function<void()> run;
  std::function<void()> before = {};  ///< called, untimed, before every run
};

/// Time of one call in every round, in ns.
using Times = std::vector<double>;

struct Timing {
  std::vector<Times> of;     ///< per variant
  int64_t system_calls = 0;  ///< to get or return memory, during the rounds
};

Timing interleave(const std::vector<Variant>& variants);

double quantile(Times times, double q);
inline double median(const Times& times) { return quantile(times, 0.5); }
/// Distance of the quartiles in relation to the median.
double spread(const Times& times);
/// a - b, round by round.
Times difference(const Times& a, const Times& b);

/// The most f32 operations that one core does in a second, in 1e9: fused multiply-adds on registers. 0 if unknown.
double measure_peak_gflops();
/// Bytes that one core reads and writes in a second when it copies what no cache holds, in 1e9.
double measure_bandwidth_gbs();

}  // namespace bench
