#pragma once
// What the gradient of a control op is made of.
//
// The gradient of a scan is a scan in the other direction. Its body is found by tracing the body's own ops and their
// gradient together. What that needs from the forward step is, value by value, either given (a step of an input, or
// what the body closes over), computed again if that is cheap, or stacked by the forward scan as a further result.
// Gradients of factors that the body closes over are not summed step by step: they are one product over all steps, of
// the stacked left operands and the stacked gradients of the products.
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "reprise/core/graph.h"

namespace rp {

// A product whose right operand the body closes over.
struct Factor {
  int32_t node, left;  // of the body
  size_t input;
};

// What it takes to run a body's gradient.
struct Derivative {
  const Graph* forward;          // the body, with the values that the gradient needs as further outputs
  std::vector<int32_t> saved;    // of these outputs: nodes of the body
  const Graph* backward;         // the reverse step
  Scalars scalars;               // its parameters
  std::vector<int32_t> carries;  // float carries of the body: the reverse step's first carries
  std::vector<int32_t> summed;   // inputs of the body whose gradients are summed in further carries
  std::vector<int32_t> seeds;    // outputs of the body whose gradients are stepped through
  std::vector<int32_t> inputs;   // inputs of the body that are stepped through again
  std::vector<int32_t> closed;   // inputs of the body that are closed over again
  std::vector<int32_t> stacked;  // per output of the reverse step behind the carries: see `of_*`
  std::vector<std::pair<int32_t, int32_t>> of_input;   // (input of the body, output): gradient of a stepped input
  std::vector<std::pair<Factor, int32_t>> of_factor;   // gradient of a product
  std::vector<std::pair<int32_t, int32_t>> of_closed;  // gradient of a closed value, to be summed over the steps
};

/// The derivative of a scan's body for the inputs in `wanted` (bit i: input i; 63: all from there on), given the values
/// of its numbers, which gradient rules may compute with.
std::shared_ptr<const Derivative> derive(const Graph* body, size_t carries, size_t inputs, int64_t wanted,
                                         std::span<const uint64_t> scalars);

}  // namespace rp
