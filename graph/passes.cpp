#include "reprise/graph/passes.h"

#include <algorithm>
#include <functional>
#include <set>

#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"
#include "reprise/graph/batch.h"

namespace rp {
namespace {

// What a rewrite makes of a node whose inputs have been rewritten: another node's number, or -1 to keep it.
using Rewrite = std::function<int32_t(const Graph& made, const Node& node, int32_t original)>;

// Rebuilds a graph through the builder, keeping only what `keep` says.
Graph rebuilt(const Graph& g, const std::vector<bool>& keep, const Rewrite& rewrite) {
  GraphBuilder builder;
  std::vector<int32_t> map(g.nodes.size(), -1);
  size_t input = 0;
  for (int32_t i = 0; i < g.size(); ++i) {
    Node n = g[i];
    if (n.op->kind == Kind::input) {
      map[static_cast<size_t>(i)] = builder.input(n.layout, g.aliases[input++], n.loc);
      continue;
    }
    if (!keep[static_cast<size_t>(i)]) continue;
    for (int32_t& in : n.inputs) in = map[static_cast<size_t>(in)];
    const int32_t other = rewrite(builder.graph(), n, i);
    map[static_cast<size_t>(i)] = other >= 0 ? other : builder.add(std::move(n));
  }
  return builder.take(g, map);
}

// Removes what no output and no write to an input needs.
Graph drop_dead_code(const Graph& given) {
  Graph g = given;
  for (Node& n : g.nodes)
    if (planted(Defect::dead_write) && n.op->kind == Kind::write) n.inputs.resize(2);
  std::vector<bool> keep(g.nodes.size());
  for (const auto* list : {&g.outputs, &g.writes})
    for (int32_t i : *list) keep[static_cast<size_t>(i)] = true;
  for (int32_t i = g.size() - 1; i >= 0; --i)
    if (keep[static_cast<size_t>(i)])
      for (int32_t in : g[i].inputs) keep[static_cast<size_t>(in)] = true;
  return rebuilt(g, keep, [](const Graph&, const Node&, int32_t) { return -1; });
}

// Exact identities only: a copy of elements that nothing writes is the elements, and a sign flipped twice is as it was.
Graph fold(const Graph& g) {
  std::set<int32_t> fixed_places;  // bases that must keep their own elements: outputs and what is written
  for (int32_t i : g.outputs) fixed_places.insert(base_of(g, i));
  bool writes = false;
  for (const Node& n : g.nodes) writes |= n.op->kind == Kind::write;
  static const Op* neg_op = find_op("neg");
  std::vector<bool> keep(g.nodes.size(), true);
  return rebuilt(g, keep, [&](const Graph& made, const Node& n, int32_t original) -> int32_t {
    if (writes || n.own || fixed_places.count(original)) return -1;
    if (n.op == &copy_op && made[n.inputs[0]].layout->contiguous) return n.inputs[0];
    if (n.op == neg_op && made[n.inputs[0]].op == neg_op)
      return planted(Defect::fold_sign) ? n.inputs[0] : made[n.inputs[0]].inputs[0];
    return -1;
  });
}

#ifdef REPRISE_PLANTED_DEFECTS
// A defect for the tests: (a + b) + c becomes (c + b) + a, which rounds otherwise.
Graph reassociate(const Graph& g) {
  Graph out = g;
  std::vector<int> uses(g.nodes.size());
  for (const Node& n : g.nodes)
    for (int32_t in : n.inputs) ++uses[static_cast<size_t>(in)];
  for (int32_t i = 0; i < g.size(); ++i) {
    Node& outer = out.nodes[static_cast<size_t>(i)];
    if (outer.op != &add_op || outer.inputs.size() != 2 || outer.inputs[0] < 0) continue;
    Node& inner = out.nodes[static_cast<size_t>(outer.inputs[0])];
    const bool same = inner.op == &add_op && inner.inputs.size() == 2 && inner.layout == outer.layout;
    if (!same || uses[static_cast<size_t>(outer.inputs[0])] != 1 || outer.inputs[1] >= outer.inputs[0]) continue;
    std::swap(inner.inputs[0], outer.inputs[1]);
  }
  return out;
}
#else
Graph reassociate(const Graph& g) { return g; }
#endif

constexpr Pass all_passes[] = {
    {"dead", drop_dead_code}, {"fold", fold}, {"chain", chain_products}, {"batch", batch_products}};

}  // namespace

std::span<const Pass> passes() { return all_passes; }

Graph run_passes(Graph graph) {
  for (const Pass& pass : passes()) {
    if (disabled(pass.name)) continue;
    if (planted(Defect::gradient_order) && pass.run == fold) graph = reassociate(graph);
    graph = pass.run(graph);
#ifndef NDEBUG
    verify(graph, pass.name);
#endif
  }
  return graph;
}

}  // namespace rp
