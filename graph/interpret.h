#pragma once
#include <span>
#include <vector>

#include "reprise/core/graph.h"

namespace rp {

/// Runs a graph op by op with real values, as eager would.
class Interpreter {
 public:
  /// `inputs`: one tensor for each graph input, of its layout; graph inputs that alias share elements. `parameters`:
  /// the graph's run-time scalars. Both graph and parameters must outlive the interpreter.
  Interpreter(const Graph& graph, Tensors inputs, std::span<const uint64_t> parameters);

  /// The node that `step` runs next; graph().size() once all have run.
  int32_t next() const { return static_cast<int32_t>(values_.size()); }
  bool done() const { return next() == graph_.size(); }
  void step();
  void run() {
    while (!done()) step();
  }

  /// The value of a node that has run. A place that was written since shows its present elements.
  const Tensor& value(int32_t node) const { return values_[static_cast<size_t>(node)]; }
  const Graph& graph() const { return graph_; }

 private:
  const Graph& graph_;
  Tensors inputs_;
  std::span<const uint64_t> parameters_;
  Tensors values_;
  size_t input_ = 0;
};

/// Runs a graph op by op. The elements of every node that has some, packed, as they were when it had run: copies,
/// because later writes may change them.
Tensors values_of(const Graph& graph, Tensors inputs, std::span<const uint64_t> parameters);

}  // namespace rp
