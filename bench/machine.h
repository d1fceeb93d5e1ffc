#pragma once
// The machine that is measured on: what it is, and the peaks that rows are held against.
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bench {

/// Memory of one kind, and what all threads together move to and from it.
struct MemoryLevel {
  std::string name;
  double gbs = 0;  ///< bytes read and written a second, in 1e9
};

struct Machine {
  std::string cpu = "unknown";
  unsigned cores = 0;
  double load = 0;                             ///< of the last minute, before the first row
  double peak_gflops = 0;                      ///< f32 fused multiply-adds on registers, all threads; 0 if unknown
  std::vector<MemoryLevel> levels;             ///< from the smallest to the largest
  std::function<double(double bytes)> gbs_of;  ///< the rate of moving that many bytes again and again

  /// The least time of that much arithmetic, and of moving that many bytes.
  double arithmetic_ns(double flops) const { return peak_gflops > 0 ? flops / peak_gflops : 0; }
  double moving_ns(double bytes) const { return bytes / gbs_of(bytes); }
};

/// Measures for that many threads. A rate of moving is measured when first asked for, with arrays of that size.
Machine describe_machine(int threads);

nlohmann::json to_json(const Machine& machine);

}  // namespace bench
