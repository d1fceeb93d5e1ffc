#pragma once
#include "reprise/core/graph.h"

namespace rp {

/// The same graph with copies where loops could not step through an operand: afterwards every pointwise op and
/// reduction can be a region of its own, and kernels read contiguous elements.
Graph legalize(const Graph& graph);

}  // namespace rp
