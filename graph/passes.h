#pragma once
#include <span>
#include <string_view>

#include "reprise/core/graph.h"

namespace rp {

/// A rewrite of whole graphs, switched off by its name in REPRISE_DISABLE.
struct Pass {
  std::string_view name;
  Graph (*run)(const Graph&);
};

/// In the order in which they run.
std::span<const Pass> passes();

/// Without what no output and no write to an input needs.
Graph drop_dead_code(const Graph& graph);

/// Runs every pass that is not disabled; debug builds verify the graph after each.
Graph run_passes(Graph graph);

}  // namespace rp
