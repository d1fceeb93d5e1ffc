#include "reprise/fusion/short_factors.h"

#include <algorithm>
#include <map>

#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/graph/passes.h"

namespace rp {
namespace {

class Shortener {
 public:
  Shortener(const Graph& g, Backend& backend) : g_(g), backend_(backend), reader_(g.nodes.size(), nobody) {
    for (int32_t i = 0; i < g.size(); ++i)
      for (int32_t in : g[i].inputs) note_reader(in, i);
    for (int32_t i : g.outputs) note_reader(i, several);
  }

  Graph run() {
    for (int32_t i = 0; i < g_.size(); ++i) map_.push_back(rebuild(i));
    return builder_.take(g_, map_);
  }

 private:
  static constexpr int32_t nobody = -1, several = -2;

  void note_reader(int32_t node, int32_t reader) {
    int32_t& only = reader_[static_cast<size_t>(node)];
    only = only == nobody ? reader : several;
  }

  int32_t rebuild(int32_t i) {
    Node n = g_[i];
    if (n.op->kind == Kind::input) return builder_.input(n.layout, g_.aliases[inputs_++], n.loc);
    if (n.op->kind == Kind::write) last_write_[storage_of(g_, i)] = i;
    if (n.op == &cast_op && is_short_already(n)) return map_[static_cast<size_t>(n.inputs[0])];
    const Layout* const result = short_result(i);
    for (int32_t& in : n.inputs) in = result ? short_input(n, in) : map_[static_cast<size_t>(in)];
    if (result && result != n.layout) {
      n.layout = result;
      n.own = g_[reader_[static_cast<size_t>(i)]].own;  // it takes the cast's place
    }
    return builder_.add(std::move(n));
  }

  // Whether what is cast back has become a result of 16 bits.
  bool is_short_already(const Node& cast) {
    const int32_t from = cast.inputs[0];
    return g_[from].layout != cast.layout && builder_.graph()[map_[static_cast<size_t>(from)]].layout == cast.layout;
  }

  // The result's layout where a node reads what was cast; null where it does not.
  const Layout* short_result(int32_t i) {
    const Node& n = g_[i];
    if ((n.op->kind != Kind::contract && n.op->kind != Kind::kernel) || n.inputs.size() != 2) return nullptr;
    if (!is_cast(n.inputs[0]) || !is_cast(n.inputs[1])) return nullptr;
    const Layout* const factors[] = {short_input_layout(n, n.inputs[0]), short_input_layout(n, n.inputs[1])};
    std::string why;
    for (const Layout* const result : {cast_back(i), n.layout})
      if (result && backend_.reads_short(*n.op, n.attrs, factors, *result, &why)) return result;
    if (!why.empty())
      builder_.graph().notes.push_back(fmt::format("{}{} reads f32 copies of {}: {}", n.op->name, source_line(n.loc),
                                                   name_of(factors[0]->dtype()), why));
    return nullptr;
  }

  // The layout of a cast to 16 bits that alone reads a node; null if there is none.
  const Layout* cast_back(int32_t i) const {
    const int32_t reader = reader_[static_cast<size_t>(i)];
    if (reader < 0 || g_[reader].op != &cast_op) return nullptr;
    return is_short(g_[reader].layout->dtype()) ? g_[reader].layout : nullptr;
  }

  // The cast behind transposes, or what else stands there.
  int32_t behind(int32_t factor) const {
    while (g_[factor].op == &permute_op) factor = g_[factor].inputs[0];
    return factor;
  }

  // Whether a factor is such a cast, of elements that nothing has written since.
  bool is_cast(int32_t factor) const {
    const int32_t cast = behind(factor);
    const Node& n = g_[cast];
    if (n.op != &cast_op || n.own || n.layout->dtype() != DType::f32) return false;
    if (!is_short(g_[n.inputs[0]].layout->dtype())) return false;
    const auto written = last_write_.find(storage_of(g_, n.inputs[0]));
    return written == last_write_.end() || written->second < cast;
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

  // Kernels read operands that are packed: what was cast need not be so where its cast was.
  const Layout* short_input_layout(const Node& n, int32_t factor) const {
    const Layout* const as_it_lies = short_layout(factor);
    return n.op->kind == Kind::kernel && !as_it_lies->contiguous ? as_it_lies->packed : as_it_lies;
  }

  int32_t short_input(const Node& n, int32_t factor) {
    const int32_t in = short_factor(factor);
    const Layout* const layout = short_input_layout(n, factor);
    if (layout == short_layout(factor)) return in;
    return builder_.add({.op = &copy_op, .inputs = {in}, .layout = layout, .loc = n.loc});
  }

  static const Layout* permuted(const Node& n, const Layout* from) {
    return n.op->shape({*n.op, {&from, 1}, n.attrs, {}, 0});
  }

  const Graph& g_;
  Backend& backend_;
  std::vector<int32_t> reader_;            // of each node
  std::map<int32_t, int32_t> last_write_;  // of each storage, so far
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
