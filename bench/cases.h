#pragma once
// The rows of the measurements.
#include <optional>
#include <string>
#include <vector>

#include "reprise/bench/measure.h"

namespace bench {

/// What is aimed at; times are those of one core.
struct Goal {
  enum class Of : uint8_t {
    none,
    eager,       // eager takes at most `ns`
    captured,    // captured takes at most `ns`
    faster,      // captured is faster than eager, by more than rounds differ
    not_slower,  // captured is not slower than eager by more than rounds differ
  };
  Of of = Of::none;
  double ns = 0;
};

struct Result {
  std::optional<double> eager_ns, captured_ns;
  double spread = 0;                         // of the slower of the two
  double loss_low_ns = 0, loss_high_ns = 0;  // quartiles of captured - eager
  int64_t system_calls = 0;
};

struct Case {
  std::string id;
  Goal goal;
  double flops = 0;  ///< of one call, where the rate says something
  std::function<Result()> measure;
};

/// Makes what is timed in one mode: a function that runs a capture once.
using Make = std::function<std::function<void()>()>;

/// A row of the same thing in both modes, each with a copy of its own.
Case paired(std::string id, Goal goal, Make make, double flops = 0);

/// A time with its unit; "-" if there is none.
std::string time_text(const std::optional<double>& ns);

std::vector<Case> dispatch_cases();
std::vector<Case> kernel_cases();
std::vector<Case> training_cases();

}  // namespace bench
