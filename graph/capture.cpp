#include "reprise/graph/capture.h"

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "reprise/core/fail.h"
#include "reprise/core/switches.h"
#include "reprise/core/trace_events.h"
#include "reprise/graph/recorder.h"

namespace rp {

// ---- modes ----------------------------------------------------------------------------------------------------------

namespace {

constexpr int no_mode = -1;
constinit thread_local int scoped_mode = no_mode;
std::atomic<int> default_mode{no_mode};

Mode initial_mode() {
  const std::string name = switch_value("REPRISE_MODE");
  return name.empty() ? Mode::graph : parse_mode(name);
}

}  // namespace

Mode parse_mode(const std::string& name) {
  if (name == "eager") return Mode::eager;
  if (name == "graph") return Mode::graph;
  if (name == "verify") return Mode::verify;
  fail("mode: expected eager, graph or verify, got '{}'", name);
}

Mode mode() {
  if (scoped_mode != no_mode) return static_cast<Mode>(scoped_mode);
  int m = default_mode.load(std::memory_order_relaxed);
  if (m == no_mode) {
    m = static_cast<int>(initial_mode());
    default_mode.store(m, std::memory_order_relaxed);
  }
  return static_cast<Mode>(m);
}

void set_default_mode(Mode mode) { default_mode = static_cast<int>(mode); }

ModeGuard::ModeGuard(Mode mode) : before_(scoped_mode), recorder_(thread_state.recorder) {
  if (recorder_) thread_state.recorder->flush("a change of mode");
  scoped_mode = static_cast<int>(mode);
  if (mode == Mode::eager && !(recorder_ && thread_state.recorder->tracing())) thread_state.recorder = nullptr;
}

ModeGuard::~ModeGuard() {
  try {
    if (thread_state.recorder) thread_state.recorder->flush("a change of mode");
  } catch (...) {  // the values concerned tell when they are read
  }
  thread_state.recorder = static_cast<Recorder*>(recorder_);
  scoped_mode = before_;
}

// ---- recordings -----------------------------------------------------------------------------------------------------

/// The tries of one captured function: each thread has its own.
class Recording {
 public:
  explicit Recording(CaptureOptions options) : options_(std::move(options)) {}

  const std::string& name() const { return options_.name; }

  Trie& mine() {
    // The same function is called again and again: remember where its trie is.
    struct Last {
      uint64_t serial = 0;
      Trie* trie = nullptr;
    };
    static thread_local Last last;
    if (last.serial == serial_.load(std::memory_order_acquire)) return *last.trie;
    std::lock_guard lock(mutex_);
    std::unique_ptr<Trie>& trie = tries_[std::this_thread::get_id()];
    if (!trie) {
      trie = std::make_unique<Trie>();
      trie->options = options_;
      trie->recorder = std::make_unique<Recorder>(*trie);
    }
    last = {serial_.load(), trie.get()};
    return *trie;
  }
  void forget() {
    std::lock_guard lock(mutex_);
    tries_.erase(std::this_thread::get_id());
    serial_ = next_serial();
  }

 private:
  static uint64_t next_serial() {
    static std::atomic<uint64_t> serial{0};
    return ++serial;
  }

  CaptureOptions options_;
  std::atomic<uint64_t> serial_{next_serial()};  // of this recording in its present state; never used twice
  std::mutex mutex_;
  std::map<std::thread::id, std::unique_ptr<Trie>> tries_;
};

const Trie& trie_of(const Recording& recording) { return const_cast<Recording&>(recording).mine(); }
Trie& trie_of(Recording& recording) { return recording.mine(); }

namespace detail {

std::shared_ptr<Recording> make_recording(CaptureOptions options, const Loc& loc) {
  if (options.name.empty()) options.name = line_text(loc);
  options.profile |= switch_value("REPRISE_PROFILE") == "1";
  if (options.max_pending < 1) fail("capture: expected max_pending of at least 1, got {}", options.max_pending);
  if (!(options.compile_budget_ms >= 0))
    fail("capture: expected a compile budget of at least 0 ms, got {}", options.compile_budget_ms);
  return std::make_shared<Recording>(std::move(options));
}

CaptureStats stats(const Recording& recording) { return trie_of(recording).stats; }

void reset(Recording& recording) {
  if (thread_state.recorder) fail("reset: a capture cannot be reset while a captured function runs");
  recording.forget();
}

Session::Session(const std::shared_ptr<Recording>& recording) : recording_(recording), begun_(begin_span()) {
  if (thread_state.recorder) return;  // inside another capture: part of its recording
  Trie& trie = recording_->mine();
  ++trie.stats.calls;
  thread_state.recorder = trie.recorder.get();
  armed_ = true;
}

void Session::finish() {
  if (!armed_) return;
  thread_state.recorder->flush("the end of the captured function");
  finished_ = true;
}

Session::~Session() {
  if (armed_) disarm();
  if (begun_) end_span(begun_, "capture", recording_->name(), where_members(At::where()));
}

void Session::disarm() {
  Recorder* recorder = thread_state.recorder;
  try {
    if (!finished_) recorder->abandon();
  } catch (...) {  // the exception that ended the body is on its way already
  }
  thread_state.recorder = nullptr;
}

}  // namespace detail

// ---- the engine's entries -------------------------------------------------------------------------------------------

Tensor record(Recorder& recorder, const Call& call) { return recorder.record(call); }

void before_read(const Tensor& t) {
  Recorder* recorder = thread_state.recorder;
  if (recorder && recorder->tracing())
    fail(
        "read: {} is read inside the body of a control op, which is traced without data; choose with where or cond, or "
        "return the value and read it after the call",
        to_string(t.spec()));
  if (recorder && recorder->concerns(t)) recorder->flush("a read");
  if (!t.pending()) return;
  if (t.impl()->storage->recorder)
    fail("read: {} is pending in a capture on another thread, or in a body that is traced without data",
         to_string(t.spec()));
  fail("read: {} was never computed, because an op before it failed", to_string(t.spec()));
}

void before_write(const Tensor& t) {
  Recorder* recorder = thread_state.recorder;
  if (recorder) recorder->watch(t);
  if (recorder && !recorder->tracing()) recorder->flush("a write by the host");
  before_read(t);
}

}  // namespace rp
