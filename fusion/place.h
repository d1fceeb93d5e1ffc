#pragma once
// Where a value's elements lie: a view chain followed to its base.
#include <vector>

#include "reprise/core/graph.h"

namespace rp {

struct Place {
  int32_t base = -1;               // the node whose buffer holds the elements
  const Layout* layout = nullptr;  // over that buffer
  int64_t offset = 0;              // in elements, the known part
  struct Term {
    int32_t parameter;  // a run-time scalar (i64) ...
    int64_t stride;     // ... times this many elements
    bool operator==(const Term&) const = default;
  };
  std::vector<Term> terms{};
  int32_t version = -1;  // the write it comes after; -1: before any
  bool operator==(const Place&) const = default;

  /// The same elements, in whatever version.
  bool same_elements(const Place& o) const {
    return base == o.base && layout == o.layout && offset == o.offset && terms == o.terms;
  }
};

/// The place of a value. Of a write: its target.
Place place_of(const Graph& graph, int32_t node);

/// The node that must have run before the elements at a value can be read: its producer, or the last write it comes
/// after; -1 for inputs that nothing has written.
int32_t producer_of(const Graph& graph, int32_t node);

}  // namespace rp
