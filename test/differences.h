#pragma once
// Gradients by central differences, in f64.
#include <functional>
#include <string>

#include "reprise/core/tensor.h"

namespace rp::test {

/// A function of f64 tensors.
using RealFunction = std::function<Tensor(const Tensors&)>;

/// Compares the gradients of sum(f(x) * w), for fixed random w, with central differences for every element of every
/// input (rtol 1e-5, atol 1e-7). Returns what differs; empty if nothing does.
std::string gradient_error(const RealFunction& f, const Tensors& inputs);

/// The same for the gradients of sum(v * gradients), as a function of the inputs and of w.
std::string second_gradient_error(const RealFunction& f, const Tensors& inputs);

}  // namespace rp::test
