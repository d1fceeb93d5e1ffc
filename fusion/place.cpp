#include "reprise/fusion/place.h"

#include <algorithm>

#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"

namespace rp {

Place place_of(const Graph& g, int32_t node) {
  Place place{.base = node, .layout = g[node].layout};
  while (true) {
    const Node& n = g[place.base];
    if (n.op->kind != Kind::view && n.op->kind != Kind::write) return place;
    if (n.op == &part_op) {
      const Layout* in = g[n.inputs[0]].layout;
      place.offset += n.op->view_offset({*n.op, {&in, 1}, n.attrs, {}, 0});
    } else if (n.op->view_offset) {
      // Every other view with an offset has one scalar, in elements along one axis of its input.
      const int64_t stride =
          n.op == &slice_op ? g[n.inputs[0]].layout->strides[static_cast<int>(n.attrs.as<SliceAttrs>().axis)] : 1;
      const ScalarSource& s = n.scalars[0];
      if (s.parameter < 0)
        place.offset += static_cast<int64_t>(s.bits) * stride;
      else
        place.terms.push_back({s.parameter, stride});
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
