#pragma once
#include "reprise/core/backend.h"
#include "reprise/core/graph.h"

namespace rp {

/// Products and convolutions of f32 whose factors are casts of 16-bit floats, or transposes of such casts, read what
/// was cast where the backend has kernels for that; the result is f32 still, or, where nothing but a cast to 16 bits
/// reads it, what that cast gives. Shape rules do not hold for such nodes. Casts that nothing reads any more are gone.
Graph with_short_factors(const Graph& graph, Backend& backend);

}  // namespace rp
