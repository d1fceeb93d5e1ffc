#pragma once
#include <optional>

#include "reprise/fusion/homes.h"

namespace rp {

/// A region with what to bind its operands and scalars to.
struct Lowered {
  Region region;
  std::vector<Place> operands;
  std::vector<ScalarSource> scalars;
};

/// Turns a draft into a region. `stored[i]` says that node i's elements are needed outside the draft. No value if the
/// draft has more operands than a program can take; then it must be split.
std::optional<Lowered> lower(const Graph& graph, const Draft& draft, const std::vector<bool>& stored,
                             const Homes& homes);

}  // namespace rp
