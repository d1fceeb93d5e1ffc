#include "reprise/graph/passes.h"

#include <algorithm>
#include <functional>
#include <set>

#include "reprise/core/ops/attrs.h"
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

}  // namespace

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

namespace {

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

bool is_turn(const Node& n) {
  return n.op == &permute_op && n.layout->rank() == 2 && n.attrs.as<PermuteAttrs>().axes[0] == 1;
}

// The transpose of a product that only pointwise ops read is the product of the transposed factors, in the other order:
// sums over k are the same. Gradients of weights that every step of a loop transposes become sums of plain products.
class Turner {
 public:
  explicit Turner(const Graph& g) : g_(g), users_(g.nodes.size()), pointwise_(g.nodes.size(), true) {
    for (int32_t i = 0; i < g.size(); ++i) {
      writes_.push_back((i ? writes_.back() : 0) + (g[i].op->kind == Kind::write));
      for (int32_t in : g[i].inputs) {
        ++users_[static_cast<size_t>(in)];
        if (g[i].op->kind != Kind::pointwise) pointwise_[static_cast<size_t>(in)] = false;
      }
    }
    for (const auto* list : {&g.outputs, &g.writes})
      for (int32_t i : *list) {
        ++users_[static_cast<size_t>(i)];
        pointwise_[static_cast<size_t>(i)] = false;
      }
  }

  Graph run() {
    for (int32_t i = 0; i < g_.size(); ++i) {
      Node n = g_[i];
      if (n.op->kind == Kind::input) {
        map_.push_back(builder_.input(n.layout, g_.aliases[builder_.graph().inputs.size()], n.loc));
        continue;
      }
      if (turns(i)) {
        const Node& product = g_[n.inputs[0]];
        n.op = &matmul_op;
        n.inputs = {turned(product.inputs[1]), turned(product.inputs[0])};
        n.attrs = product.attrs;
        n.layout = n.layout->packed;
      } else {
        for (int32_t& in : n.inputs) in = map_[static_cast<size_t>(in)];
      }
      map_.push_back(builder_.add(std::move(n)));
    }
    return builder_.take(g_, map_);
  }

 private:
  bool turns(int32_t i) const {
    if (!is_turn(g_[i]) || !pointwise_[static_cast<size_t>(i)]) return false;
    const int32_t p = g_[i].inputs[0];
    const Node& product = g_[p];
    // Nothing may be written between the two: the factors are read later now.
    return product.op == &matmul_op && !product.own && users_[static_cast<size_t>(p)] == 1 &&
           writes_[static_cast<size_t>(p)] == writes_[static_cast<size_t>(i)];
  }

  int32_t turned(int32_t factor) {
    const Node& n = g_[factor];
    if (is_turn(n)) return map_[static_cast<size_t>(n.inputs[0])];
    const Spec spec{n.layout->dtype(), {n.layout->shape()[1], n.layout->shape()[0]}, n.layout->spec.device};
    return builder_.add({.op = &permute_op,
                         .inputs = {map_[static_cast<size_t>(factor)]},
                         .attrs = PermuteAttrs{{1, 0}, 2},
                         .layout = intern(spec, {n.layout->strides[1], n.layout->strides[0]}),
                         .loc = n.loc});
  }

  const Graph& g_;
  std::vector<int> users_, writes_;  // writes_: up to and including the node
  std::vector<bool> pointwise_;      // all users are
  GraphBuilder builder_;
  std::vector<int32_t> map_;
};

Graph turn_products(const Graph& g) { return Turner(g).run(); }

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

constexpr Pass all_passes[] = {{"turn", turn_products},
                               {"dead", drop_dead_code},
                               {"fold", fold},
                               {"chain", chain_products},
                               {"batch", batch_products}};

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
