#include "reprise/fusion/short_factors.h"

#include <algorithm>

#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/graph/passes.h"

namespace rp {
namespace {

class Shortener {
 public:
  Shortener(const Graph& g, Backend& backend) : g_(g), backend_(backend) {
    for (const Node& n : g.nodes)
      writes_.push_back((writes_.empty() ? 0 : writes_.back()) + (n.op->kind == Kind::write));
  }

  Graph run() {
    for (int32_t i = 0; i < g_.size(); ++i) map_.push_back(rebuild(i));
    return builder_.take(g_, map_);
  }

 private:
  int32_t rebuild(int32_t i) {
    Node n = g_[i];
    if (n.op->kind == Kind::input) return builder_.input(n.layout, g_.aliases[inputs_++], n.loc);
    const bool reads_short = n.op == &matmul_op && is_cast(i, n.inputs[0]) && is_cast(i, n.inputs[1]) &&
                             backend_.reads_short(*n.op, *short_layout(n.inputs[0]), *short_layout(n.inputs[1]));
    for (int32_t& in : n.inputs) in = reads_short ? short_factor(in) : map_[static_cast<size_t>(in)];
    return builder_.add(std::move(n));
  }

  // The cast behind transposes, or what else stands there.
  int32_t behind(int32_t factor) const {
    while (g_[factor].op == &permute_op) factor = g_[factor].inputs[0];
    return factor;
  }

  // Whether a factor is such a cast, of elements that are the same still when the product reads them.
  bool is_cast(int32_t product, int32_t factor) const {
    const int32_t cast = behind(factor);
    return g_[cast].op == &cast_op && !g_[cast].own && g_[cast].layout->dtype() == DType::f32 &&
           is_short(g_[g_[cast].inputs[0]].layout->dtype()) &&
           writes_[static_cast<size_t>(cast)] == writes_[static_cast<size_t>(product)];
  }

  const Layout* short_layout(int32_t factor) const {
    const Node& n = g_[factor];
    return n.op == &permute_op ? permuted(n, short_layout(n.inputs[0])) : g_[n.inputs[0]].layout;
  }

  int32_t short_factor(int32_t factor) {
    Node n = g_[factor];
    if (n.op != &permute_op) return map_[static_cast<size_t>(n.inputs[0])];
    n.layout = short_layout(factor);
    n.inputs[0] = short_factor(n.inputs[0]);
    return builder_.add(std::move(n));
  }

  static const Layout* permuted(const Node& n, const Layout* from) {
    return n.op->shape({*n.op, {&from, 1}, n.attrs, {}, 0});
  }

  const Graph& g_;
  Backend& backend_;
  std::vector<int> writes_;  // up to and including each node
  GraphBuilder builder_;
  std::vector<int32_t> map_;
  size_t inputs_ = 0;
};

bool has_short(const Graph& g) {
  return std::ranges::any_of(g.nodes, [](const Node& n) { return is_short(n.layout->dtype()); });
}

}  // namespace

Graph with_short_factors(const Graph& graph, Backend& backend) {
  return has_short(graph) ? drop_dead_code(Shortener(graph, backend).run()) : graph;
}

}  // namespace rp
