#pragma once
// The graph of a function's path, run op by op with real values: what a debugger is to a program.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "reprise/core/tensor.h"

namespace rp {

struct Graph;

/// Steps through a graph, on copies of its inputs.
class Stepper {
 public:
  Stepper(const Graph& graph, Tensors inputs, std::vector<uint64_t> scalars);
  Stepper(Stepper&&) noexcept;
  Stepper& operator=(Stepper&&) noexcept;
  ~Stepper();

  int size() const;  ///< how many nodes there are
  int next() const;  ///< the node that `step` runs next
  bool done() const { return next() == size(); }

  std::string op(int node) const;             ///< "matmul"
  std::string op() const;                     ///< of the next node; empty at the end
  std::string line(int node) const;           ///< "model.cpp:41"; empty for inputs
  std::string line() const;                   ///< of the next node
  std::vector<int> operands(int node) const;  ///< the nodes that it reads

  /// Runs the next node and returns its value; undefined for a control op, whose results are nodes of their own.
  Tensor step();
  /// Runs to the next node of that op, or of that line if `where` has a colon; to the end if there is none.
  void run_to(const std::string& where);
  void run();
  /// The value of a node that has run.
  Tensor value(int node) const;

  /// A stepper through the body that the next node, a control op, runs in step or trip `number`: of a scan its step, of
  /// a cond the branch taken, of a while_loop the trip, or with `condition` its condition. The op itself has not run
  /// then. Throws if there is no such body.
  Stepper into(int64_t number = 0, bool condition = false) const;

  /// A line for each node that has run, with its value.
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

namespace detail {
std::vector<Stepper> steppers(const std::function<void()>& call);
}

/// Calls `f(arguments...)` once, as eager does, and returns a stepper for each stretch that a capture would run as one
/// plan: from the start or a read by the host to the next, or to the end. No rewrite is applied.
template <class F, class... A>
std::vector<Stepper> steppers(F&& f, const A&... arguments) {
  return detail::steppers([&] { f(arguments...); });
}

}  // namespace rp
