#include "reprise/fusion/homes.h"

#include <algorithm>
#include <functional>
#include <optional>

#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

int64_t outer_count(const Shape& shape, int axis) {
  int64_t n = 1;
  for (int i = 0; i < axis; ++i) n *= shape[i];
  return n;
}

int axis_of(const Node& concat) { return concat.attrs.as<AxisAttrs>().axis; }

// The strides that elements of shape `from` have under shape `to`, which differs in extents of 1 only.
std::optional<Strides> without_ones(const Shape& from, const Strides& strides, const Shape& to) {
  Strides result = packed_strides(to);
  int a = 0;
  for (int i = 0; i < to.rank(); ++i) {
    if (to[i] == 1) continue;
    while (a < from.rank() && from[a] == 1) ++a;
    if (a == from.rank() || from[a] != to[i]) return {};
    result[i] = strides[a++];
  }
  while (a < from.rank() && from[a] == 1) ++a;
  return a == from.rank() ? std::optional(result) : std::nullopt;
}

// Which values can be made in the buffer of a concat.
class Candidates {
 public:
  explicit Candidates(const Graph& g) : g_(g), uses_(g.nodes.size()), taken_(g.nodes.size()) {
    for (const Node& n : g.nodes)
      if (n.op->kind != Kind::view)
        for (int32_t in : n.inputs) ++uses_[static_cast<size_t>(base_of(g, in))];
    for (int32_t i : g.outputs) taken_[static_cast<size_t>(base_of(g, i))] = true;
  }

  // The node that makes input k of a concat, if that is all that stands between them.
  int32_t maker(const Node& concat, size_t k) const {
    int32_t v = concat.inputs[k];
    while (g_[v].op == &reshape_op && g_[g_[v].inputs[0]].layout->contiguous) v = g_[v].inputs[0];
    return v;
  }

  // Whether a copy of the value costs no more than another store in the kernel that computes it.
  bool copied_for_nothing(const Node& concat, size_t k) const {
    const int32_t v = maker(concat, k);
    return g_[v].op->kind == Kind::pointwise && g_[v].op != &copy_op && !g_[v].own;
  }

  // Takes the value for this concat if it can be made there.
  bool take(const Node& concat, size_t k) {
    const int32_t v = maker(concat, k);
    const Node& n = g_[v];
    const auto made = taken_.begin() + v;
    const bool computed =
        n.op->kind == Kind::pointwise || n.op->kind == Kind::reduce || n.op->kind == Kind::contract || is_call(*n.op);
    if (!computed || n.own || (*made && !planted(Defect::taken_home))) return false;
    const Layout& in = *g_[concat.inputs[k]].layout;
    const bool strided = outer_count(concat.layout->shape(), axis_of(concat)) != 1;
    if (strided && (uses_[static_cast<size_t>(v)] != 1 || n.op->kind == Kind::reduce || is_call(*n.op) ||
                    !without_ones(in.shape(), in.strides, n.layout->shape())))
      return false;
    *made = true;
    return true;
  }

  void give_back(const Node& concat, const std::vector<bool>& had) {
    for (size_t k = 0; k < had.size(); ++k)
      if (had[k]) taken_[static_cast<size_t>(maker(concat, k))] = false;
  }

 private:
  const Graph& g_;
  std::vector<int> uses_;    // of each base, by nodes that compute
  std::vector<bool> taken_;  // has its home already
};

// Per concat, which inputs are made in it; empty where the concat runs as a kernel.
using Choices = std::vector<std::vector<bool>>;

Choices choose(const Graph& g) {
  Candidates candidates(g);
  Choices choices(g.nodes.size());
  if (disabled("homes")) return choices;
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    if (n.op != &concat_op || n.own) continue;
    std::vector<bool> made(n.inputs.size());
    size_t easy = 0;
    for (size_t k = 0; k < made.size(); ++k) {
      made[k] = candidates.take(n, k);
      easy += made[k] || candidates.copied_for_nothing(n, k);
    }
    if (2 * easy >= made.size())
      choices[static_cast<size_t>(i)] = std::move(made);
    else
      candidates.give_back(n, made);
  }
  return choices;
}

}  // namespace

Place Homes::place_of(const Graph& graph, int32_t node) const {
  Place place = rp::place_of(graph, node);
  const Place& home = places[static_cast<size_t>(place.base)];
  if (home.base == place.base) return place;
  if (!home.layout->contiguous) place.layout = home.layout;  // such a value is read as it is, or not at all
  place.base = home.base;
  place.offset += home.offset;
  return place;
}

Graph with_copies_for_concats(const Graph& g) {
  const Choices choices = choose(g);
  GraphBuilder builder;
  std::vector<int32_t> map;
  for (int32_t i = 0; i < g.size(); ++i) {
    Node n = g[i];
    if (n.op->kind == Kind::input) {
      map.push_back(builder.input(n.layout, g.aliases[builder.graph().inputs.size()], n.loc));
      continue;
    }
    const std::vector<bool>& made = choices[static_cast<size_t>(i)];
    for (size_t k = 0; k < n.inputs.size(); ++k) {
      n.inputs[k] = map[static_cast<size_t>(n.inputs[k])];
      if (made.empty() || made[k]) continue;
      const Layout* layout = builder.graph()[n.inputs[k]].layout->packed;
      Graph& out = builder.graph();  // never shared: each copy is for one place
      out.nodes.push_back({.op = &copy_op, .inputs = {n.inputs[k]}, .layout = layout, .loc = n.loc});
      n.inputs[k] = out.size() - 1;
    }
    map.push_back(builder.add(std::move(n)));
  }
  return builder.take(g, map);
}

Homes find_homes(const Graph& g, const std::vector<Draft>& drafts, const std::vector<bool>& whole) {
  Homes homes;
  for (int32_t i = 0; i < g.size(); ++i) homes.places.push_back({.base = i, .layout = g[i].layout});
  homes.filled.resize(g.nodes.size());
  std::vector<const Draft*> draft_of(g.nodes.size());
  for (const Draft& d : drafts)
    for (int32_t i : d.nodes) draft_of[static_cast<size_t>(i)] = &d;
  const Candidates candidates(g);
  const Choices choices = choose(g);
  for (int32_t c = g.size() - 1; c >= 0; --c) {  // outer concats first
    const Node& n = g[c];
    const std::vector<bool>& made = choices[static_cast<size_t>(c)];
    if (made.empty() || whole[static_cast<size_t>(c)] || !std::all_of(made.begin(), made.end(), std::identity()))
      continue;
    const int axis = axis_of(n);
    const bool strided = outer_count(n.layout->shape(), axis) != 1;
    const auto fits = [&](int32_t v) { return !strided || is_full(g, *draft_of[static_cast<size_t>(v)], v); };
    std::vector<int32_t> makers;
    for (size_t k = 0; k < n.inputs.size(); ++k) makers.push_back(candidates.maker(n, k));
    if (!std::all_of(makers.begin(), makers.end(), fits)) continue;
    homes.filled[static_cast<size_t>(c)] = true;
    int64_t start = 0;
    for (size_t k = 0; k < makers.size(); ++k) {
      const Place& whole_place = homes.places[static_cast<size_t>(c)];
      Place& home = homes.places[static_cast<size_t>(makers[k])];
      const Layout& in = *g[n.inputs[k]].layout;
      home.base = whole_place.base;
      home.offset = whole_place.offset + start * n.layout->strides[axis];
      if (strided)
        home.layout = intern(home.layout->spec, *without_ones(in.shape(), n.layout->strides, home.layout->shape()));
      start += in.shape()[axis] - planted(Defect::near_home);
    }
  }
  return homes;
}

int32_t strided_home(const Graph& g, const Homes& homes, int32_t node) {
  if (homes.places[static_cast<size_t>(node)].layout == g[node].layout) return -1;
  for (int32_t c = 0; c < g.size(); ++c)
    if (homes.filled[static_cast<size_t>(c)])
      for (int32_t in : g[c].inputs)
        if (base_of(g, in) == node) return c;
  return -1;
}

}  // namespace rp
