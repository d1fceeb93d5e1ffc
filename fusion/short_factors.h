#pragma once
#include "reprise/core/backend.h"
#include "reprise/core/graph.h"

namespace rp {

/// Products of f32 whose factors are casts of 16-bit floats, or transposes of such casts, read what was cast where the
/// backend has kernels for that. Shape rules do not hold for such products: they are f32 still. Casts that nothing
/// reads any more are gone.
Graph with_short_factors(const Graph& graph, Backend& backend);

}  // namespace rp
