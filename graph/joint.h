#pragma once
#include <span>
#include <vector>

#include "reprise/graph/derive.h"

namespace rp {

// The body and its gradient in one graph.
struct Joint {
  const Graph* graph = nullptr;
  Scalars scalars;
  std::vector<int32_t> value;                // node of the joint graph, by node of the body; -1 for views and the like
  std::vector<int32_t> of_input, of_factor;  // gradients; -1: none
  std::vector<int32_t> seeds;                // input of the joint graph, by output of the body; -1: not floating
  std::vector<Factor> factors;
};

Joint trace_joint(const Graph& body, size_t carries, size_t inputs, int64_t wanted, std::span<const uint64_t> scalars);

/// Whether a node makes elements of its own.
bool computes(const Node& n);

}  // namespace rp
