#pragma once
// Values that are made where they are wanted: what goes into a concat is written by its producer straight into the
// concat's buffer, so that the concat itself need not run.
#include <vector>

#include "reprise/fusion/partition.h"
#include "reprise/fusion/place.h"

namespace rp {

/// Where each node's elements lie: in a buffer of its own, or as a part of another node's.
struct Homes {
  std::vector<Place> places;  // per node; its base is the owner of the buffer
  std::vector<bool> filled;   // concats that their producers fill

  /// The place of a value, views followed to where their base's elements lie.
  Place place_of(const Graph& graph, int32_t node) const;
};

/// The same graph with copies of what goes into a concat but cannot be made there (parameters, views, results, values
/// of two concats), where enough of the concat's inputs can be made there or copied by the kernel that computes them.
Graph with_copies_for_concats(const Graph& graph);

/// Homes of all nodes. `whole[i]` says that concat i must run as a kernel.
Homes find_homes(const Graph& graph, const std::vector<Draft>& drafts, const std::vector<bool>& whole);

/// The concat that node i's elements are made in, with other strides than packed ones; -1 if there is none.
int32_t strided_home(const Graph& graph, const Homes& homes, int32_t node);

}  // namespace rp
