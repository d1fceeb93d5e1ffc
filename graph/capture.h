#pragma once
// Capture. A captured function is recorded op by op the first time it runs and reprised afterwards: its body still runs
// on every call, but each op is only compared with the recording and deferred, and the whole pending stretch is run by
// a compiled plan at the end of the call or when a value is read. Whatever differs from the recording runs op by op, as
// eager would, so a capture can be slow but never wrong.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "reprise/core/error.h"

namespace rp {

enum class Mode : uint8_t { eager, graph, verify };

/// The mode in force on this thread: the innermost guard, else the default, else REPRISE_MODE, else graph.
Mode mode();
void set_default_mode(Mode mode);
/// "eager", "graph" or "verify"; throws for anything else.
Mode parse_mode(const std::string& name);

/// Sets the mode of this thread for a scope. Pending work is run first.
class ModeGuard {
 public:
  explicit ModeGuard(Mode mode);
  ~ModeGuard();
  ModeGuard(const ModeGuard&) = delete;

 private:
  int before_;
  void* recorder_;
};

/// What plans of captured functions may change. exact: nothing, their results are the same bits as eager's. fast: what
/// docs/levels.md lists, each with the largest difference that it makes in `explain()`.
enum class Level : uint8_t { exact, fast };

/// The level in force on this thread: the innermost guard, else the default, else REPRISE_LEVEL, else exact.
Level level();
void set_default_level(Level level);
/// "exact" or "fast"; throws for anything else.
Level parse_level(const std::string& name);

/// Sets the level of this thread for a scope. Pending work is run first.
class LevelGuard {
 public:
  explicit LevelGuard(Level level);
  ~LevelGuard();
  LevelGuard(const LevelGuard&) = delete;

 private:
  int before_;
};

enum class OnMismatch : uint8_t { throw_error, log_and_use_eager };

struct CaptureOptions {
  std::string name = "";                             ///< for reports; default: the line of the capture
  int max_pending = 16384;                           ///< ops deferred before a flush is forced
  OnMismatch on_mismatch = OnMismatch::throw_error;  ///< what verify does
  bool profile = false;                              ///< times every kernel, for the reports (REPRISE_PROFILE=1)
  std::optional<Level> level = {};                   ///< default: the level in force when a plan runs
  double compile_budget_ms = 1000;                   ///< the longest that a call waits for a plan; see docs/reports.md
  bool drop_slow_plans = false;                      ///< a plan is timed beside op by op, and goes if it is slower
};

/// Counts since the capture was made (this thread's recordings).
struct CaptureStats {
  int64_t calls = 0, ops = 0, matched = 0, planned = 0;  ///< `planned`: ops that ran as part of a plan
  int64_t flushes = 0, plan_runs = 0, plan_builds = 0, divergences = 0, recordings = 0;
  int64_t verified = 0;                       ///< flushes compared with eager, bit for bit
  int64_t kernels = 0;                        ///< kernels launched by the last plan
  int64_t reorders = 0;                       ///< tensors that the last plan only puts into another order
  int64_t arena_bytes = 0, output_bytes = 0;  ///< of the last plan
  double compile_ms = 0;
};

class Recording;  // the trie of one captured function

namespace detail {
std::shared_ptr<Recording> make_recording(CaptureOptions options, const Loc& loc);
CaptureStats stats(const Recording&);
std::string explain(const Recording&);
std::string json(const Recording&);
std::string dot(const Recording&);
std::string dump(const Recording&);
void report(const Recording&, const std::string& path);
void reset(Recording&);
template <class F>
Recording* recording_of(const F& captured) {
  return captured.recording_.get();
}

/// Arms the recorder for one call; transparent if another capture is already armed on this thread.
class Session {
 public:
  explicit Session(const std::shared_ptr<Recording>& recording);
  ~Session();
  Session(const Session&) = delete;
  /// Runs what is pending by the plan. Called when the body has returned and its locals are gone.
  void finish();

 private:
  void disarm();

  std::shared_ptr<Recording> recording_;
  bool armed_ = false, finished_ = false;
  int64_t begun_;  // of the call's span in a trace
};
}  // namespace detail

/// A captured function: call it like the function itself. Outputs belong to the caller and are never overwritten.
template <class F>
class Captured {
 public:
  Captured(F f, CaptureOptions options, const Loc& loc)
      : f_(std::move(f)), recording_(detail::make_recording(std::move(options), loc)) {}

  template <class... A>
  auto operator()(A&&... args) -> std::decay_t<std::invoke_result_t<F&, A...>> {
    if (mode() == Mode::eager) return f_(std::forward<A>(args)...);
    detail::Session session(recording_);
    if constexpr (std::is_void_v<std::invoke_result_t<F&, A...>>) {
      f_(std::forward<A>(args)...);
      session.finish();
    } else {
      auto result = f_(std::forward<A>(args)...);
      session.finish();
      return result;
    }
  }

  CaptureStats stats() const { return detail::stats(*recording_); }
  // Reports, all of what the calling thread has recorded; docs/reports.md tells how to read them.

  /// Kernels with their ops, lines, bytes, FLOPs and times, and the reason of every miss, split and refusal to fuse.
  std::string explain() const { return detail::explain(*recording_); }
  /// The same as JSON.
  std::string json() const { return detail::json(*recording_); }
  /// The graphs of all recorded paths for Graphviz, kernels as clusters.
  std::string dot() const { return detail::dot(*recording_); }
  /// Writes all of it as one page that a browser opens offline. Throws if the file cannot be written.
  void report(const std::string& path) const { detail::report(*recording_, path); }
  /// The graphs of all recorded paths as text that reads back in.
  std::string dump() const { return detail::dump(*recording_); }
  /// Forgets every recording.
  void reset() { detail::reset(*recording_); }

 private:
  template <class C>
  friend Recording* detail::recording_of(const C& captured);
  F f_;
  std::shared_ptr<Recording> recording_;
};

/// Wraps `f` so that later calls are matched against its recording and run as compiled plans. Arguments, return values,
/// closed-over state, branches, prints, random numbers and in-place updates all work as they do without it.
template <class F>
Captured<std::decay_t<F>> capture(F&& f, CaptureOptions options = {}, Loc loc = Loc::current()) {
  return {std::forward<F>(f), std::move(options), loc};
}

}  // namespace rp
