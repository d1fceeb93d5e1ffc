#pragma once
// The calls from core to what stands right of it. One file at the root, engine.cpp, fills the table with constants.
#include "reprise/core/backend.h"

namespace rp {

class Recorder;
class Executable;
struct Graph;

struct Engine {
  Backend& (*backend)(Device);
  /// Computes a call now.
  Tensor (*run)(const Call& call, const Layout* out);
  /// Computes a call now, replacing the elements of `target`, which has the result's shape and dtype.
  void (*run_into)(const Tensor& target, const Call& call);
  /// Computes a call now into a tensor of the result's layout that shares no storage with the inputs.
  void (*run_out)(const Call& call, const Tensor& out);
  /// The same for what is not a plain contiguous map or a single kernel: through the cached plan of a graph of one op.
  void (*run_plan)(const Call& call, const Tensor& out);
  /// Computes a control call now; its results are attached to `token`.
  void (*run_control)(const Call& call, const Tensor& token);
  /// Result `index` of the control call that made `token`.
  Tensor (*result_of)(const Tensor& token, int64_t index);
  /// Gradient rules of control ops.
  Tensors (*scan_gradient)(const GradCall& call);
  Tensors (*cond_gradient)(const GradCall& call);
  /// Makes a graph executable on the device of its values.
  std::unique_ptr<Executable> (*compile)(Graph graph);
  /// Notes a call on the tape; `out` becomes a non-leaf.
  void (*note)(const Call& call, const Tensor& out);
  /// Notes that the elements of `target` have been replaced by those of `value`.
  void (*note_write)(const Tensor& target, const Tensor& value);
  /// Checks that `target` may be written under the tape; throws otherwise.
  void (*check_write)(const Tensor& target);
  void (*drop_grad)(GradState*) noexcept;
  void (*drop_history)(WriteHistory*) noexcept;
  void (*backward)(const Tensor& output, const Tensor& seed, bool retain_graph);
  /// Records a call, running or deferring it.
  Tensor (*record)(Recorder&, const Call& call);
  /// Makes the elements of `t` readable by the host: runs what is pending if they depend on it.
  void (*before_read)(const Tensor& t);
  /// Makes them writable by the host: runs everything that is pending.
  void (*before_write)(const Tensor& t);
};
extern const Engine engine;

enum Watch : int8_t {
  watch_nan = 1,    // results are searched for NaN and Inf
  watch_trace = 2,  // spans are written to the trace
};

/// What apply looks at first.
struct ThreadState {
  Recorder* recorder = nullptr;  // not null while a capture is armed
  bool grad = true;              // ops may be noted on the tape
  bool tracing = false;  // `recorder` traces a body: its own values have no elements, and nothing else may change
  int8_t watch = -1;     // what is done besides computing: bits of Watch; -1: the switches are not read yet
  bool cutting = false;  // a body is traced that may be differentiated: its graph says where histories end
};
inline constinit thread_local ThreadState thread_state;

/// Reads the switches REPRISE_NAN and REPRISE_TRACE for this thread.
int8_t read_watch();
/// What this thread watches: bits of Watch.
inline int8_t watched() { return thread_state.watch < 0 ? read_watch() : thread_state.watch; }

/// While it lives, ops are neither recorded nor noted.
class Unarmed {
 public:
  Unarmed() = default;
  Unarmed(const Unarmed&) = delete;
  ~Unarmed() {
    thread_state.recorder = recorder_;
    thread_state.grad = grad_;
  }

 private:
  Recorder* recorder_ = std::exchange(thread_state.recorder, nullptr);
  bool grad_ = std::exchange(thread_state.grad, false);
};

/// The gradient state asks for notes: some input, directly or through its history, requires a gradient.
inline bool wants_grad(const Tensor& t) noexcept {
  const TensorImpl& impl = *t.impl();
  return (impl.grad || impl.storage->history) && t.requires_grad();
}

}  // namespace rp
