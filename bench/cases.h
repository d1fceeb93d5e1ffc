#pragma once
// The rows of the measurements.
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "reprise/bench/machine.h"
#include "reprise/bench/measure.h"
#include "reprise/bench/peer.h"
#include "reprise/core/device.h"

namespace bench {

/// What a peer took in one of its forms.
struct Figure {
  std::string peer, form;    ///< the form is empty where there is one only
  std::optional<double> ns;  ///< none if `error` says why
  double spread = 0;
  std::string error;

  std::string name() const { return form.empty() ? peer : peer + ' ' + form; }
};

struct Result {
  std::optional<double> eager_ns, captured_ns;
  std::optional<double> fast_ns;             // captured at Level::fast
  bool counts_fast = false;                  // that is the time which counts
  double spread = 0;                         // of the slower of the two
  double loss_low_ns = 0, loss_high_ns = 0;  // quartiles of captured - eager
  int64_t system_calls = 0;
  std::optional<double> limit_ns;                  // no machine of this kind can be faster
  double flops = 0;                                // of what was timed, where the rate says something
  std::vector<Figure> peers;                       // in the order of the table
  std::vector<std::string> disagreeing;            // peers with other results: the goal is missed
  std::optional<bool> met;                         // a goal that the row itself decides
  std::string note;                                // for the table
  nlohmann::json more = nlohmann::json::object();  // fields for the file

  /// The time that is held against the limit and the peers.
  double ours() const { return counts_fast && fast_ns ? *fast_ns : captured_ns ? *captured_ns : eager_ns.value_or(0); }
  std::optional<double> fraction_of_limit() const {
    return limit_ns && ours() > 0 ? std::optional(*limit_ns / ours()) : std::nullopt;
  }
  /// The fastest figure of those that `among` accepts; null if there is none.
  const Figure* best(bool (*among)(const Figure&)) const;
};

/// What is aimed at, in words, and whether a result reaches it: nothing if that cannot be told.
struct Goal {
  std::string text = {};
  std::function<std::optional<bool>(const Result&)> met = {};
};

Goal eager_at_most(double ns);
Goal captured_at_most(double ns);
/// Captured is faster than eager, by more than rounds differ.
Goal faster_than_eager();
/// Captured is not slower than eager by more than rounds differ.
Goal not_slower_than_eager();
/// The one and the other.
Goal both(Goal a, Goal b);
/// The row decides: Result::met.
Goal stated(std::string text);

/// Kinds of peers.
bool is_any(const Figure& f);
bool is_libtorch(const Figure& f);
bool is_eager(const Figure& f);     ///< libraries that run op by op
bool is_compiled(const Figure& f);  ///< and those that compile
bool is_own_layer(const Figure& f);
bool is_users_cell(const Figure& f);

/// So many times faster than the best of some peers, or, without `among`, than own eager.
struct Aim {
  double times;
  std::string than;
  bool (*among)(const Figure&);
  bool of_eager = false;  ///< it is eager that is to be faster
};

inline constexpr double near_limit = 0.9;
/// All the aims, or that part of the limit.
Goal ratios(std::vector<Aim> aims, double limit = near_limit);

struct Case {
  std::string id;
  Goal goal;
  std::function<Result()> measure;
  bool needs_device = false;  ///< a library or a program of its own runs: with `--compile-only` there is nothing to do
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

/// What rows are compared with. It is filled in before the first row is measured.
struct Surroundings {
  int threads = 1;
  rp::Device device = {};
  std::string build;  ///< the folder of the build
  Machine machine;
  std::vector<std::unique_ptr<Peer>> peers;

  bool on_cuda() const { return device.kind == rp::DeviceKind::cuda; }
};

/// A time with its unit; "-" if there is none.
std::string time_text(const std::optional<double>& ns);

/// Rows of a family are others on a CUDA device, where sizes and aims are: see docs/gpu.md.
std::vector<Case> dispatch_cases(const Surroundings& around);
std::vector<Case> chain_cases(const Surroundings& around);
std::vector<Case> row_cases(const Surroundings& around);
std::vector<Case> product_cases(const Surroundings& around);
std::vector<Case> network_cases(const Surroundings& around);
std::vector<Case> transformer_cases(const Surroundings& around);
std::vector<Case> recurrence_cases(const Surroundings& around);
/// What capture makes of recurrences: its time, its graph, its kernels and its memory.
std::vector<Case> recurrence_graph_cases();
/// Two epochs of a character model on real text.
Case recurrence_text_case();
/// Start, size, a busy neighbour, memory.
std::vector<Case> process_cases(const Surroundings& around);
/// What a CUDA device can do, measured without this library's kernels where that is possible.
std::vector<Case> constant_cases();

}  // namespace bench
