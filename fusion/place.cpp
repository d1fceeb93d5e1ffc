#include "reprise/fusion/place.h"

#include <algorithm>

#include "reprise/core/ops/entries.h"

namespace rp {

Place place_of(const Graph& g, int32_t node) {
  Place place{.base = node, .layout = g[node].layout};
  while (true) {
    const Node& n = g[place.base];
    if (n.op->kind != Kind::view && n.op->kind != Kind::write) return place;
    if (n.op->view_offset) {
      const Layout* in = g[n.inputs[0]].layout;
      Scalars one;  // a scalar's offset is proportional to it
      if (!n.scalars.empty()) one.add(int64_t{1});
      const int64_t offset = n.op->view_offset({*n.op, {&in, 1}, n.attrs, one, 0});
      if (n.scalars.empty())
        place.offset += offset;
      else if (const ScalarSource& s = n.scalars[0]; s.parameter < 0)
        place.offset += static_cast<int64_t>(s.bits) * offset;
      else
        place.terms.push_back({s.parameter, offset});
    }
    if (n.op == &after_op && place.version < 0) place.version = n.inputs[1];
    place.base = n.inputs[0];
  }
}

int32_t producer_of(const Graph& g, int32_t node) {
  while (true) {
    const Node& n = g[node];
    if (n.op == &after_op) return n.inputs[1];
    if (n.op->kind == Kind::input) return -1;
    if (n.op->kind != Kind::view) return node;
    node = n.inputs[0];
  }
}

}  // namespace rp
