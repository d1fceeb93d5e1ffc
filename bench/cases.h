#pragma once
// The rows of the measurements.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "reprise/bench/measure.h"
#include "reprise/bench/peers.h"

namespace bench {

/// What is aimed at; times are those of one core.
struct Goal {
  enum class Of : uint8_t {
    none,
    eager,       // eager takes at most `ns`
    captured,    // captured takes at most `ns`
    faster,      // captured is faster than eager, by more than rounds differ
    not_slower,  // captured is not slower than eager by more than rounds differ
    stated,      // what `text` says; the result tells whether it is met
  };
  Of of = Of::none;
  double ns = 0;
  std::string text = {};
};

/// A goal in words; none if there are none.
inline Goal stated(std::string text) { return {text.empty() ? Goal::Of::none : Goal::Of::stated, 0, std::move(text)}; }

struct Result {
  std::optional<double> eager_ns, captured_ns;
  double spread = 0;                         // of the slower of the two
  double loss_low_ns = 0, loss_high_ns = 0;  // quartiles of captured - eager
  int64_t system_calls = 0;
  std::optional<bool> met;                         // a stated goal
  std::string note;                                // for the table
  nlohmann::json more = nlohmann::json::object();  // fields for the file
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

/// Times and spread of the same thing in both modes.
Result in_both_modes(std::function<void()> eager, std::function<void()> captured);

/// What matching one op costs that the gradient tape notes.
double match_ns_per_op();
/// What recording one op costs beyond running it.
double record_ns_per_op();

/// What rows are compared with.
struct Surroundings {
  Peers peers;
  int threads = 1;
  double peak_gflops = 0, bandwidth_gbs = 0;  ///< of one core
};

/// A time with its unit; "-" if there is none.
std::string time_text(const std::optional<double>& ns);

std::vector<Case> dispatch_cases();
std::vector<Case> kernel_cases();
std::vector<Case> training_cases();
/// `around` may be filled in later, before a row is measured, and must outlive the rows.
std::vector<Case> recurrence_cases(const Surroundings& around);
/// What capture makes of recurrences: its time, its graph, its kernels and its memory.
std::vector<Case> recurrence_graph_cases();
/// Two epochs of a character model on real text.
Case recurrence_text_case();

}  // namespace bench
