#pragma once
// Gradients. Ops are noted on a tape of plain data while an input requires a gradient; `backward` and `grad` walk it in
// reverse program order and call the ops' gradient rules, which are public ops and so can be recorded and
// differentiated again.
#include <functional>

#include "reprise/core/tensor.h"

namespace rp {

struct GradOptions {
  bool create_graph = false;  ///< note the gradient's own ops, for higher orders
  bool retain_graph = false;  ///< keep the tape for another walk (implied by create_graph)
  bool allow_unused =
      false;           ///< give an undefined tensor for an input that the outputs do not depend on, instead of throwing
  Tensors seeds = {};  ///< gradients of the outputs; by default 1 for outputs of one element
};

/// Gradients of `outputs` for `inputs`, one each.
Tensors grad(const Tensors& outputs, const Tensors& inputs, GradOptions options = {}, Loc loc = Loc::current());

struct ValueAndGrad {
  Tensor value;
  Tensors grads;
};

/// `f`'s value and its gradients for all arguments, as a function: value_and_grad(f)(x, w).
template <class F>
auto value_and_grad(F f) {
  return [f]<class... T>(const T&... x) {
    Tensors inputs{x.detach()...};
    for (Tensor& t : inputs) t.set_requires_grad();
    return [&]<size_t... I>(std::index_sequence<I...>) {
      Tensor y = f(inputs[I]...);
      return ValueAndGrad{y.detach(), grad({y}, inputs)};
    }(std::make_index_sequence<sizeof...(T)>());
  };
}

/// Runs `f` and returns its value with the gradients of all leaves it reached that require one, without being told
/// which.
struct ImplicitGradients {
  Tensor value;
  std::vector<std::pair<Tensor, Tensor>> grads;  ///< (leaf, its gradient), in the order of first use
};
ImplicitGradients implicit_gradients(const std::function<Tensor()>& f, Loc loc = Loc::current());

/// While alive, ops on this thread are not noted.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;

 private:
  bool before_;
};
/// Calls `f` without noting its ops.
template <class F>
decltype(auto) no_grad(F&& f) {
  NoGrad guard;
  return f();
}
bool grad_enabled();

/// A function with a gradient of the user's own. `forward` runs un-noted; `backward(inputs, output, dy)` returns one
/// gradient per input, in public ops.
struct CustomGradient {
  std::function<Tensor(const Tensors& inputs)> forward;
  std::function<Tensors(const Tensors& inputs, const Tensor& output, const Tensor& dy)> backward;
  Tensor operator()(const Tensors& inputs, Loc loc = Loc::current()) const;
};

/// The leaves that the most recent `backward` on this thread gave gradients to.
Tensors last_backward_leaves();

/// Calls `visit` for every leaf that requires a gradient and that `output` was computed from.
void for_each_leaf(const Tensor& output, const std::function<void(const Tensor&)>& visit);

}  // namespace rp
