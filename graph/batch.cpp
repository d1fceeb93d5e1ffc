#include "reprise/graph/batch.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"

namespace rp {

namespace {

constexpr int64_t few_rows = 96;        // a product of more rows is as fast alone
constexpr int64_t half_filled = 12;     // so few that two products together are faster than one after the other
constexpr size_t min_products = 4;      // of more rows: fewer do not repay a concatenation and lost epilogues
constexpr int64_t min_columns = 16;     // fewer do not repay the concatenation of the left operands
constexpr size_t max_bytes = 16 << 20;  // of a result, which lives until its last rows have been read

// A set of groups.
class Bits {
 public:
  explicit Bits(size_t count = 0) : words_((count + 63) / 64) {}
  bool test(size_t i) const { return words_[i / 64] >> i % 64 & 1; }
  void set(size_t i) { words_[i / 64] |= uint64_t{1} << i % 64; }
  void merge(const Bits& o) {
    for (size_t i = 0; i < words_.size(); ++i) words_[i] |= o.words_[i];
  }
  template <class F>
  void for_each(F&& f) const {
    for (size_t i = 0; i < words_.size(); ++i)
      for (uint64_t w = words_[i]; w; w &= w - 1) f(i * 64 + static_cast<size_t>(__builtin_ctzll(w)));
  }

 private:
  std::vector<uint64_t> words_;
};

// Products that may become one.
struct Group {
  std::vector<int32_t> products;
  int32_t concat = -1;  // one in the graph whose rows from `start` on are the left operands
  int64_t start = 0;
};

class Batcher {
 public:
  explicit Batcher(const Graph& g) : g_(g), group_(g.nodes.size(), -1), before_(g.nodes.size()) {
    for (int32_t i : g.outputs) fixed_.push_back(base_of(g, i));
    find_order();
  }

  Graph run() {
    find_groups();
    if (std::none_of(groups_.begin(), groups_.end(), [&](const Group& x) { return pays(x); })) return g_;
    find_concats();
    return rebuild();
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  // ---- what must run before what ----

  // Operands, and for a write the reads of what it replaces.
  void find_order() {
    std::map<int32_t, std::vector<int32_t>> readers;
    for (int32_t i = 0; i < g_.size(); ++i) {
      const Node& n = g_[i];
      before_[at(i)] = n.inputs;
      if (n.op->kind == Kind::view || n.op->kind == Kind::input) continue;
      const bool writes = n.op->kind == Kind::write;
      if (writes && !planted(Defect::batch_order)) {
        std::vector<int32_t>& r = readers[storage_of(g_, i)];
        before_[at(i)].insert(before_[at(i)].end(), r.begin(), r.end());
        r = {i};
      }
      for (size_t k = writes; k < n.inputs.size(); ++k) readers[storage_of(g_, n.inputs[k])].push_back(i);
    }
  }

  // ---- groups ----

  bool is_candidate(int32_t i) const {
    const Node& n = g_[i];
    if (n.op != &matmul_op || n.own || n.layout->rank() != 2) return false;
    const int64_t rows = n.layout->shape()[0], columns = n.layout->shape()[1];
    return rows > 0 && rows <= few_rows && columns >= min_columns && g_[n.inputs[0]].layout->shape()[1] > 0 &&
           !is_fixed(i);
  }

  bool is_fixed(int32_t i) const { return std::find(fixed_.begin(), fixed_.end(), i) != fixed_.end(); }

  // Walks the nodes once. A product joins a group of its kind that nothing it depends on depends on.
  void find_groups() {
    size_t candidates = 0;
    for (int32_t i = 0; i < g_.size(); ++i) candidates += is_candidate(i);
    reached_from_.assign(g_.nodes.size(), Bits(candidates));
    using Kind =
        std::tuple<int32_t, const Layout*, const Layout*>;  // right operand, layouts of the left and the result
    std::map<Kind, std::vector<size_t>> by_kind;
    for (int32_t i = 0; i < g_.size(); ++i) {
      Bits& reached = reached_from_[at(i)];
      for (int32_t p : before_[at(i)]) {
        reached.merge(reached_from_[at(p)]);
        if (group_[at(p)] >= 0) reached.set(at(group_[at(p)]));
      }
      if (!is_candidate(i)) continue;
      const Node& n = g_[i];
      std::vector<size_t>& list = by_kind[{n.inputs[1], g_[n.inputs[0]].layout, n.layout}];
      const Bits all = closed(reached);
      const auto open = std::find_if(list.begin(), list.end(), [&](size_t x) { return !all.test(x) && has_room(x); });
      const size_t x = open == list.end() ? groups_.size() : *open;
      if (open == list.end()) {
        list.push_back(x);
        groups_.emplace_back();
        ancestors_.push_back(all);
      } else {
        depends(x, all);
      }
      groups_[x].products.push_back(i);
      group_[at(i)] = static_cast<int32_t>(x);
    }
  }

  bool pays(const Group& x) const {
    const int64_t rows = g_[x.products[0]].layout->shape()[0];
    return x.products.size() >= (rows <= half_filled ? 2 : min_products);
  }

  bool has_room(size_t group) const {
    const Group& x = groups_[group];
    return (x.products.size() + 1) * g_[x.products[0]].layout->bytes() <= max_bytes;
  }

  // The groups of `seen` with all that they depend on.
  Bits closed(const Bits& seen) const {
    Bits all = seen;
    seen.for_each([&](size_t x) { all.merge(ancestors_[x]); });
    return all;
  }

  // Group `x` and what depends on it depend on `all`, a closed set, from now on.
  void depends(size_t x, const Bits& all) {
    for (size_t y = 0; y < groups_.size(); ++y)
      if (y == x || ancestors_[y].test(x)) ancestors_[y].merge(all);
  }

  // ---- concatenations that are there already ----

  // The left operands are often the factors of a weight's gradient too, whose concatenation then serves both; it
  // decides on the order of the rows.
  void find_concats() {
    for (int32_t c = 0; c < g_.size(); ++c) {
      const Node& n = g_[c];
      if (n.op != &concat_op || n.attrs.as<AxisAttrs>().axis || n.layout->rank() != 2) continue;
      std::map<int32_t, size_t> index;
      for (size_t k = 0; k < n.inputs.size(); ++k) index.emplace(n.inputs[k], k);
      if (index.size() != n.inputs.size()) continue;
      for (size_t x = 0; x < groups_.size(); ++x)
        if (pays(groups_[x]) && groups_[x].concat < 0) try_concat(x, c, index);
    }
  }

  void try_concat(size_t x, int32_t c, const std::map<int32_t, size_t>& index) {
    Group& group = groups_[x];
    std::vector<std::pair<size_t, int32_t>> order;
    for (int32_t p : group.products) {
      const auto it = index.find(g_[p].inputs[0]);
      if (it == index.end()) return;
      order.push_back({it->second, p});
    }
    std::sort(order.begin(), order.end());
    for (size_t k = 0; k < order.size(); ++k)
      if (order[k].first != order[0].first + k) return;
    const Bits all = closed(reached_from_[at(c)]);
    if (all.test(x)) return;
    depends(x, all);
    group.concat = c;
    for (size_t k = 0; k < order.size(); ++k) group.products[k] = order[k].second;
    for (size_t k = 0; k < order[0].first; ++k) group.start += g_[g_[c].inputs[k]].layout->shape()[0];
  }

  // ---- the new graph ----

  Graph rebuild() {
    map_.assign(g_.nodes.size(), -1);
    for (size_t k = 0; k < g_.inputs.size(); ++k)
      map_[at(g_.inputs[k])] = builder_.input(g_[g_.inputs[k]].layout, g_.aliases[k], g_[g_.inputs[k]].loc);
    for (int32_t i = 0; i < g_.size(); ++i) emit_after_needs(i);
    return builder_.take(g_, map_);
  }

  bool is_batched(int32_t i) const { return group_[at(i)] >= 0 && pays(groups_[at(group_[at(i)])]); }

  // The first of what node i waits for that has not been emitted, or -1.
  int32_t missing(int32_t i) const {
    const auto first = [&](const std::vector<int32_t>& list) {
      const auto it = std::find_if(list.begin(), list.end(), [&](int32_t p) { return map_[at(p)] < 0; });
      return it == list.end() ? -1 : *it;
    };
    if (!is_batched(i)) return first(before_[at(i)]);
    const Group& group = groups_[at(group_[at(i)])];
    if (group.concat >= 0 && map_[at(group.concat)] < 0) return group.concat;
    for (int32_t p : group.products)
      if (const int32_t m = first(before_[at(p)]); m >= 0) return m;
    return -1;
  }

  void emit_after_needs(int32_t root) {
    std::vector<int32_t> stack{root};
    while (!stack.empty()) {
      const int32_t i = stack.back(), needed = map_[at(i)] < 0 ? missing(i) : -1;
      if (needed >= 0) {
        if (stack.size() > g_.nodes.size()) fail("batch: products wait for each other");
        stack.push_back(needed);
        continue;
      }
      stack.pop_back();
      if (map_[at(i)] < 0) emit(i);
    }
  }

  void emit(int32_t i) {
    if (is_batched(i)) return emit_group(groups_[at(group_[at(i)])]);
    Node n = g_[i];
    for (int32_t& in : n.inputs) in = map_[at(in)];
    const bool rows = n.op == &concat_op && !n.attrs.as<AxisAttrs>().axis && !n.own && !is_fixed(i);
    map_[at(i)] = rows ? concat_of(builder_, n.inputs, 0, n.loc) : builder_.add(std::move(n));
  }

  void emit_group(const Group& group) {
    const Node& first = g_[group.products[0]];
    const int64_t rows = first.layout->shape()[0], total = rows * static_cast<int64_t>(group.products.size());
    std::vector<int32_t> left;
    for (int32_t p : group.products) left.push_back(map_[at(g_[p].inputs[0])]);
    const int32_t a = group.concat >= 0 ? rows_of(builder_, map_[at(group.concat)], group.start, total, first.loc)
                                        : concat_of(builder_, left, 0, first.loc);
    const Layout* inputs[] = {builder_.graph()[a].layout, g_[first.inputs[1]].layout};
    const Layout* layout = matmul_op.shape({matmul_op, inputs, {}, {}, 0});
    const int32_t all =
        builder_.add({.op = &matmul_op, .inputs = {a, map_[at(first.inputs[1])]}, .layout = layout, .loc = first.loc});
    for (size_t k = 0; k < group.products.size(); ++k)
      map_[at(group.products[k])] = rows_of(
          builder_, all, static_cast<int64_t>(planted(Defect::batch_rows) ? group.products.size() - 1 - k : k) * rows,
          rows, g_[group.products[k]].loc);
    builder_.graph().notes.push_back(
        fmt::format("batch: {} products of {} rows became one{}", group.products.size(), rows, source_line(first.loc)));
  }

  const Graph& g_;
  std::vector<int32_t> fixed_;                // have buffers of the caller's
  std::vector<int32_t> group_;                // of each node
  std::vector<std::vector<int32_t>> before_;  // each node
  std::vector<Bits> reached_from_;            // per node: groups it depends on, not closed
  std::vector<Group> groups_;
  std::vector<Bits> ancestors_;  // per group: groups it depends on, closed
  GraphBuilder builder_;
  std::vector<int32_t> map_;
};

// Where rows that stand behind each other in one node begin, if the parts are views of such. Nothing may write to that
// node later: the parts that are there are read where they stand, a concatenation of them perhaps after the write.
bool consecutive(const Graph& g, const std::vector<int32_t>& parts, int64_t& start) {
  int64_t next = 0;
  for (size_t k = 0; k < parts.size(); ++k) {
    const Node& n = g[parts[k]];
    if (n.op != &part_op || n.inputs[0] != g[parts[0]].inputs[0]) return false;
    const auto& p = n.attrs.as<PartAttrs>();
    if (p.axis || (k && p.start != next)) return false;
    if (!k) start = p.start;
    next = p.start + p.length;
  }
  const Node &whole = g[g[parts[0]].inputs[0]], &base = g[base_of(g, parts[0])];
  return whole.layout == whole.layout->packed && base.op->kind != Kind::input && !base.own;
}

}  // namespace

int32_t rows_of(GraphBuilder& builder, int32_t node, int64_t start, int64_t length, const Where& loc) {
  const Layout* in = builder.graph()[node].layout;
  if (!start && length == in->shape()[0]) return node;
  const PartAttrs attrs{start, length, 0};
  return builder.add({.op = &part_op,
                      .inputs = {node},
                      .attrs = attrs,
                      .layout = part_op.shape({part_op, {&in, 1}, attrs, {}, 0}),
                      .loc = loc});
}

int32_t concat_of(GraphBuilder& builder, const std::vector<int32_t>& parts, int axis, const Where& loc) {
  const Graph& g = builder.graph();
  int64_t start = 0, length = 0;
  for (int32_t p : parts) length += g[p].layout->shape()[axis];
  if (!axis && consecutive(g, parts, start)) return rows_of(builder, g[parts[0]].inputs[0], start, length, loc);
  std::vector<const Layout*> layouts;
  for (int32_t p : parts) layouts.push_back(g[p].layout);
  const AxisAttrs attrs{axis};
  return builder.add({.op = &concat_op,
                      .inputs = parts,
                      .attrs = attrs,
                      .layout = concat_op.shape({concat_op, layouts, attrs, {}, 0}),
                      .loc = loc});
}

Graph batch_products(const Graph& graph) { return Batcher(graph).run(); }

}  // namespace rp
