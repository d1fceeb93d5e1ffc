#pragma once
// Calls of control ops as the library makes them, from traced bodies and for gradients.
#include "reprise/core/op.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/graph/recorder.h"

namespace rp {

/// A scan's body with its operands. The body's inputs are the carries, one step of each of xs, and what it closes over;
/// its outputs the next carries and the step's outputs.
struct ScanCall {
  const Graph* body = nullptr;
  int64_t length = 0;
  bool reverse = false;
  int64_t draws = 0;
  Tensors carry, xs, closed;
  Scalars scalars;
};

/// The last carries, then the stacked outputs.
Tensors run_scan(ScanCall call);

/// The results of the branch taken. Their closed-over tensors become operands of both.
Tensors run_cond(const Tensor& predicate, TracedBody yes, TracedBody no, int64_t draws);

/// A while_loop with its operands. The inputs of both graphs are the carries and what each closes over.
struct WhileCall {
  Tensors carry;
  TracedBody test, step;
  int64_t max_trips = -1, draws = 0;
};

/// The last carries. With a bound on the trips and where gradients are wanted, by a scan.
Tensors run_while(const WhileCall& call);

/// Applies a control op and takes all of its results.
Tensors call_control(const Op& op, const Tensors& inputs, const ControlAttrs& attrs, const Scalars& scalars);

/// Calls a graph's ops one by one, as the program that it was traced from did: noted and recorded like any. Returns the
/// value of every node. The right operands of the products that `detached` picks take no part in gradients.
Tensors replay(const Graph& graph, const Tensors& inputs, std::span<const uint64_t> scalars,
               const std::function<bool(int32_t)>& detached);
/// A control op of such a graph.
Tensors replay_control(const Op& op, const Tensors& inputs, const ControlAttrs& attrs, const Scalars& scalars);

/// The gradients of `outputs`, given theirs in `seeds`, for `targets`; undefined where there is none.
Tensors gradients_of(const Tensors& outputs, const Tensors& seeds, const Tensors& targets);

/// Switches noting on or off for a scope that calls no code of the user.
class GradScope {
 public:
  explicit GradScope(bool on)
      : before_(std::exchange(thread_state.grad, on)), cutting_(std::exchange(thread_state.cutting, false)) {}
  ~GradScope() {
    thread_state.grad = before_;
    thread_state.cutting = cutting_;
  }
  GradScope(const GradScope&) = delete;

 private:
  bool before_, cutting_;
};

}  // namespace rp
