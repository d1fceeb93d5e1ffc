#pragma once
#include <string>
#include <utility>
#include <vector>

#include "reprise/graph/control.h"
#include "reprise/graph/control_call.h"

namespace rp {

/// A scan's body called step by step on real tensors; results as those of the scan.
Tensors unrolled(const Tensors& init, const ScanCall& call, const detail::ControlBody& body);

/// What is found out about scans while their bodies are called step by step.
struct LoopCheck {
  std::vector<std::string> scans;  // their lines
  std::string wrong;               // the line of the first whose values as one op are others
};

inline constinit thread_local LoopCheck* loop_check = nullptr;

/// While alive, scans tell `check`.
class LoopWatch {
 public:
  explicit LoopWatch(LoopCheck& check) : before_(std::exchange(loop_check, &check)) {}
  ~LoopWatch() { loop_check = before_; }
  LoopWatch(const LoopWatch&) = delete;

 private:
  LoopCheck* before_;
};

}  // namespace rp
