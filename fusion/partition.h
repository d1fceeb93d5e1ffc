#pragma once
// Splitting a graph into regions. A node joins the region of a producer if the kinds allow it, the iteration spaces
// agree, and no path leaves and re-enters the region. Every refusal keeps its reason.
#include <string>
#include <vector>

#include "reprise/fusion/region.h"

namespace rp {

/// Whether an op runs as one kernel of the backend, alone. Of composites those do that have been left whole.
inline bool is_call(const Op& op) { return op.kind == Kind::kernel || op.kind == Kind::composite; }

/// What will become one region.
struct Draft {
  RegionKind kind = RegionKind::map;
  Shape shape;                 // of the full space
  int32_t reduced = 0;         // its reduced axes
  std::vector<int32_t> nodes;  // in program order
};

struct Refusal {
  int32_t producer, consumer;
  std::string reason;
};

struct Partition {
  std::vector<Draft> drafts;  // in an order in which they can run
  std::vector<Refusal> refusals;
};

/// `fuse` false makes every node a region of its own.
Partition partition(const Graph& graph, bool fuse);

/// A draft's nodes as drafts of their own, in the same order.
std::vector<Draft> separate(const Graph& graph, const Draft& draft);

/// Whether a value lives in the full space of a draft rather than in that of its results.
bool is_full(const Graph& graph, const Draft& draft, int32_t node);

/// Strides of `layout` in the full space of a draft: per-result values step by 0 along the reduced axes. False if the
/// layout belongs to neither space.
bool full_strides(const Draft& draft, const Layout& layout, bool per_row, Strides& strides);

}  // namespace rp
