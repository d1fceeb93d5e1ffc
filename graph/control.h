#pragma once
// Control flow as ops. A body is a C++ function of tensors. In every mode it is called once per call, on values without
// data, to find its graph; what it closes over, tensors and numbers alike, becomes an operand. Eager runs that graph
// step by step, a captured function compiles it into its plan, and gradients of any order are derived from it. Reading
// a value inside a body is an error in every mode. Where `detach` or `NoGrad` ends a gradient in a body, it ends; a
// `CustomGradient` in one is an error, since the body's gradient comes from its ops.
//
// Carries, inputs and outputs are structures: a Tensor, or a tuple, container or plain struct of structures.
#include <functional>
#include <string>

#include "reprise/graph/tree.h"

namespace rp {

struct ScanOptions {
  bool reverse = false;  ///< from the last step to the first; outputs keep their places
  int64_t length = -1;   ///< the number of steps, if there are no inputs to tell it
};

struct WhileOptions {
  int64_t max_trips = -1;  ///< the greatest number of trips; gradients need it
};

namespace detail {

/// A body seen from inside the library: tensors in, carries and outputs out.
struct ControlBody {
  std::function<Tensors(const Tensors& carry, const Tensors& input, Tensors& outputs)> call;
  std::function<std::string(size_t)> name;  // of carry i
};

Tensors scan(const Tensors& init, const Tensors& xs, const ScanOptions& options, const ControlBody& body,
             const Loc& loc);
Tensors cond(const Tensor& predicate, const std::function<Tensors()>& yes, const std::function<Tensors()>& no,
             const Loc& loc);
Tensors while_loop(const std::function<Tensor(const Tensors&)>& test, const ControlBody& body, const Tensors& init,
                   const WhileOptions& options, const Loc& loc);

struct Nothing {};

template <class T>
struct PairParts {
  using First = void;
};
template <class A, class B>
struct PairParts<std::pair<A, B>> {
  using First = A;
  using Second = B;
};

template <class Carry, class X, class Body>
auto scan_tree(Body& body, const Carry& init, const X& xs, const ScanOptions& options, const Loc& loc) {
  const auto call = [&](const Carry& carry, const X& x) {
    if constexpr (std::is_same_v<X, Nothing>)
      return body(carry);
    else
      return body(carry, x);
  };
  using Result = std::decay_t<decltype(call(init, xs))>;
  constexpr bool plain = std::is_convertible_v<Result, Carry>;
  static_assert(plain || std::is_convertible_v<typename PairParts<Result>::First, Carry>,
                "a scan's body returns the next carry, or a std::pair of the next carry and the step's output");
  const auto run = [&](auto& outputs) {
    const ControlBody traced{[&](const Tensors& c, const Tensors& x, Tensors& out) {
                               auto result = call(with_tensors(init, c.data()), with_tensors(xs, x.data()));
                               if constexpr (plain) {
                                 return tensors_of(static_cast<Carry>(result));
                               } else {
                                 outputs = result.second;
                                 out = tensors_of(result.second);
                                 return tensors_of(static_cast<Carry>(result.first));
                               }
                             },
                             [&](size_t i) { return path_of(init, i); }};
    return scan(tensors_of(init), tensors_of(xs), options, traced, loc);
  };
  if constexpr (plain) {
    Nothing none;
    return with_tensors(init, run(none).data());
  } else {
    typename PairParts<Result>::Second outputs{};
    const Tensors results = run(outputs);
    const size_t carries = tensors_of(init).size();
    Carry carry = with_tensors(init, results.data());
    return std::pair(std::move(carry), with_tensors(std::move(outputs), results.data() + carries));
  }
}

}  // namespace detail

/// Runs `body(carry, x)` for every step: x is the structure of xs at that step (axis 0 of each tensor), the carry
/// starts as `init` and keeps its shapes and dtypes. The body returns the next carry, or a std::pair of it and the
/// step's output. Returns the last carry, or a pair of it and the outputs stacked along a new axis 0.
template <class Body, class Carry, class Xs>
auto scan(Body&& body, const Carry& init, const Xs& xs, ScanOptions options = {}, Loc loc = Loc::current()) {
  return detail::scan_tree(body, init, xs, options, loc);
}

/// Runs `body(carry)` `options.length` times.
template <class Body, class Carry>
auto scan(Body&& body, const Carry& init, ScanOptions options, Loc loc = Loc::current()) {
  return detail::scan_tree(body, init, detail::Nothing{}, options, loc);
}

/// `yes()` if the bool tensor of one element is true, else `no()`. Both close over what they need and return structures
/// of the same shapes and dtypes. Only the chosen branch runs.
template <class Yes, class No>
auto cond(const Tensor& predicate, Yes&& yes, No&& no, Loc loc = Loc::current()) {
  using Result = std::decay_t<std::invoke_result_t<Yes&>>;
  Result shape{};
  const auto call = [&](auto& branch) {
    return [&] {
      shape = branch();
      return detail::tensors_of(shape);
    };
  };
  const Tensors results = detail::cond(predicate, call(yes), call(no), loc);
  return detail::with_tensors(std::move(shape), results.data());
}

/// Runs `body(carry)` as long as `test(carry)`, a bool tensor of one element, is true. Returns the last carry.
template <class Test, class Body, class Carry>
Carry while_loop(Test&& test, Body&& body, const Carry& init, WhileOptions options = {}, Loc loc = Loc::current()) {
  const detail::ControlBody traced{[&](const Tensors& c, const Tensors&, Tensors&) {
                                     const Carry next = body(detail::with_tensors(init, c.data()));
                                     return detail::tensors_of(next);
                                   },
                                   [&](size_t i) { return detail::path_of(init, i); }};
  const auto traced_test = [&](const Tensors& c) -> Tensor { return test(detail::with_tensors(init, c.data())); };
  const Tensors results = detail::while_loop(traced_test, traced, detail::tensors_of(init), options, loc);
  return detail::with_tensors(init, results.data());
}

}  // namespace rp
