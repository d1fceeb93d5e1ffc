#include <algorithm>
#include <set>

#include <fmt/core.h>

#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/graph/batch.h"

namespace rp {
namespace {

constexpr size_t min_terms = 3;         // fewer do not repay the concatenation of their operands
constexpr int64_t small_segment = 64;   // a longer one must not exceed the rows and columns: the sums then cost little
constexpr size_t max_bytes = 64 << 20;  // of the concatenated operands, which live until the sum is formed

// One operand of the products in a chain: what must be concatenated along k, and how.
struct Side {
  bool transposed;  // the parts are the matrices themselves, the factors are views of them
  int axis;         // of the parts: their k
  std::vector<int32_t> parts;
};

struct Chain {
  std::vector<int32_t> products, sums;  // in the order of addition; sums[i] adds products[i + 1]
  Side sides[2];
  int32_t last() const { return sums.back(); }
};

// Row-wise concatenations of several chains, one beginning or ending with what another one has inside, are parts of
// one.
struct Pool {
  std::vector<int32_t> parts;
  int32_t first_use;
  int32_t node = -1;
};

class Chainer {
 public:
  explicit Chainer(const Graph& g) : g_(g), user_(g.nodes.size(), nobody), in_chain_(g.nodes.size()) {
    for (int32_t i = 0; i < g.size(); ++i)
      for (int32_t in : g[i].inputs) use(in, i);
    for (const auto* list : {&g.outputs, &g.writes})
      for (int32_t i : *list) use(i, several);
  }

  Graph run() {
    for (int32_t i = 0; i < g_.size(); ++i)
      if (is_term(i) && !in_chain_[static_cast<size_t>(i)]) follow(i);
    if (chains_.empty()) return g_;
    std::sort(chains_.begin(), chains_.end(), [](const Chain& a, const Chain& b) { return a.last() < b.last(); });
    for (const Chain& c : chains_)
      for (const Side& s : c.sides)
        if (s.axis == 0) pool(s.parts, c.last());
    return rebuild();
  }

 private:
  static constexpr int32_t nobody = -1, several = -2;

  void use(int32_t node, int32_t by) {
    int32_t& user = user_[static_cast<size_t>(node)];
    user = user == nobody ? by : several;
  }

  int32_t user(int32_t node) const { return user_[static_cast<size_t>(node)]; }

  bool is_term(int32_t i) const {
    const Node& n = g_[i];
    return n.op == &matmul_op && !n.own && n.layout->rank() == 2 && user(i) >= 0;
  }

  // ---- finding chains ----

  bool alike(int32_t a, int32_t b) const {
    for (size_t k : {0, 1}) {
      const int32_t x = g_[a].inputs[k], y = g_[b].inputs[k];
      if (g_[x].layout != g_[y].layout || is_transposed(x) != is_transposed(y)) return false;
    }
    return true;
  }

  bool is_transposed(int32_t factor) const {
    const Node& n = g_[factor];
    return n.op == &permute_op && n.attrs.as<PermuteAttrs>().axes[0] == 1 && g_[n.inputs[0]].layout->contiguous;
  }

  // The sum that adds product `p` to `sum`, or -1.
  int32_t next_sum(int32_t sum, int32_t first, int32_t& p) const {
    const int32_t i = user(sum);
    if (i < 0 || g_[i].op != &add_op || g_[i].inputs.size() != 2) return -1;
    p = g_[i].inputs[g_[i].inputs[0] == sum];
    return p != sum && is_term(p) && alike(first, p) && !in_chain_[static_cast<size_t>(p)] ? i : -1;
  }

  void follow(int32_t first) {
    Chain c{{first}, {}, {}};
    int32_t product = -1;
    for (int32_t sum = first; (sum = next_sum(sum, first, product)) >= 0;) {
      c.sums.push_back(sum);
      c.products.push_back(product);
    }
    if (c.products.size() < min_terms) return;
    for (size_t k : {0, 1}) c.sides[k] = side(c, k);
    if (!pays(c) || !stays_readable(c)) return;
    for (int32_t p : c.products) in_chain_[static_cast<size_t>(p)] = true;
    chains_.push_back(std::move(c));
  }

  Side side(const Chain& c, size_t k) const {
    Side s{is_transposed(g_[c.products[0]].inputs[k]), 0, {}};
    s.axis = s.transposed == (k == 0) ? 0 : 1;
    for (int32_t p : c.products) {
      const int32_t factor = g_[p].inputs[k];
      s.parts.push_back(s.transposed ? g_[factor].inputs[0] : factor);
    }
    if (planted(Defect::chain_order)) std::reverse(s.parts.begin(), s.parts.end());
    return s;
  }

  bool pays(const Chain& c) const {
    const Node& p = g_[c.products[0]];
    const int64_t m = p.layout->shape()[0], n = p.layout->shape()[1], k = g_[p.inputs[0]].layout->shape()[1];
    if (k < 1 || k > std::max(small_segment, std::min(m, n))) return false;
    const size_t bytes = static_cast<size_t>(k * (m + n)) * size_of(p.layout->dtype()) * c.products.size();
    if (bytes > max_bytes) return false;
    return std::all_of(std::begin(c.sides), std::end(c.sides), [](const Side& s) {
      return std::set<int32_t>(s.parts.begin(), s.parts.end()).size() == s.parts.size();
    });
  }

  // Whether what the products read is still there when the last sum is formed.
  bool stays_readable(const Chain& c) const {
    std::set<int32_t> read;
    for (const Side& s : c.sides)
      for (int32_t part : s.parts) read.insert(storage_of(g_, part));
    const int32_t first = *std::min_element(c.products.begin(), c.products.end());
    for (int32_t i = first; i < c.last(); ++i)
      if (g_[i].op->kind == Kind::write && read.count(storage_of(g_, i))) return false;
    return true;
  }

  // ---- concatenations that have parts in common ----

  bool fits_behind(const Pool& p, const std::vector<int32_t>& parts, std::vector<int32_t>& joined) const {
    const auto at = std::find(p.parts.begin(), p.parts.end(), parts[0]);
    if (at == p.parts.end()) return false;
    const auto common = std::min(p.parts.end() - at, static_cast<std::ptrdiff_t>(parts.size()));
    if (!std::equal(at, at + common, parts.begin())) return false;
    joined = p.parts;
    joined.insert(joined.end(), parts.begin() + common, parts.end());
    return true;
  }

  void pool(const std::vector<int32_t>& parts, int32_t use) {
    for (Pool& p : pools_) {
      std::vector<int32_t> joined;
      const Pool other{parts, use};
      if (!fits_behind(p, parts, joined) && !fits_behind(other, p.parts, joined)) continue;
      const bool in_time = *std::max_element(joined.begin(), joined.end()) < p.first_use;
      if (!in_time || std::set<int32_t>(joined.begin(), joined.end()).size() != joined.size()) continue;
      p.parts = std::move(joined);
      return;
    }
    pools_.push_back({parts, use});
  }

  // ---- the new graph ----

  Graph rebuild() {
    std::vector<const Chain*> ends(g_.nodes.size());
    std::vector<bool> gone(g_.nodes.size());
    for (const Chain& c : chains_) {
      for (int32_t i : c.products) gone[static_cast<size_t>(i)] = true;
      for (int32_t i : c.sums) gone[static_cast<size_t>(i)] = true;
      ends[static_cast<size_t>(c.last())] = &c;
    }
    size_t input = 0;
    for (int32_t i = 0; i < g_.size(); ++i) {
      Node n = g_[i];
      int32_t made = -1;
      if (n.op->kind == Kind::input) {
        made = builder_.input(n.layout, g_.aliases[input++], n.loc);
      } else if (const Chain* c = ends[static_cast<size_t>(i)]) {
        made = emit(*c);
      } else if (!gone[static_cast<size_t>(i)]) {
        for (int32_t& in : n.inputs) in = map_[static_cast<size_t>(in)];
        made = builder_.add(std::move(n));
      }
      map_.push_back(made);
    }
    return builder_.take(g_, map_);
  }

  int32_t emit(const Chain& c) {
    const Node &first = g_[c.products[0]], &last = g_[c.last()];
    const int32_t a = operand(c.sides[0], first.loc), b = operand(c.sides[1], first.loc);
    const SegmentAttrs attrs{g_[first.inputs[0]].layout->shape()[1]};
    builder_.graph().notes.push_back(fmt::format("batch: a sum of {} products became one of k = {} x {}{}",
                                                 c.products.size(), c.products.size(), attrs.segment,
                                                 source_line(first.loc)));
    return builder_.add({.op = &segmented_matmul_op,
                         .inputs = {a, b},
                         .attrs = attrs,
                         .own = last.own,
                         .layout = last.layout,
                         .loc = first.loc});
  }

  int32_t operand(const Side& s, const Where& loc) {
    const int32_t whole = s.axis ? concat_of(builder_, mapped(s.parts), 1, loc) : part_of_pool(s.parts, loc);
    if (!s.transposed) return whole;
    const PermuteAttrs turn{{1, 0}, 2};
    const Layout* in = builder_.graph()[whole].layout;
    const Layout* layout = permute_op.shape({permute_op, {&in, 1}, turn, {}, 0});
    return builder_.add({.op = &permute_op, .inputs = {whole}, .attrs = turn, .layout = layout, .loc = loc});
  }

  int32_t part_of_pool(const std::vector<int32_t>& parts, const Where& loc) {
    for (Pool& p : pools_) {
      const auto at = std::search(p.parts.begin(), p.parts.end(), parts.begin(), parts.end());
      if (at == p.parts.end()) continue;
      if (p.node < 0) p.node = concat_of(builder_, mapped(p.parts), 0, loc);
      if (parts.size() == p.parts.size()) return p.node;
      const int64_t rows = g_[parts[0]].layout->shape()[0];
      return rows_of(builder_, p.node, (at - p.parts.begin()) * rows, static_cast<int64_t>(parts.size()) * rows, loc);
    }
    return -1;
  }

  std::vector<int32_t> mapped(std::vector<int32_t> nodes) const {
    for (int32_t& n : nodes) n = map_[static_cast<size_t>(n)];
    return nodes;
  }

  const Graph& g_;
  std::vector<int32_t> user_;   // the only node that names a value, or how many do
  std::vector<bool> in_chain_;  // products
  std::vector<Chain> chains_;
  std::vector<Pool> pools_;
  GraphBuilder builder_;
  std::vector<int32_t> map_;
};

}  // namespace

Graph chain_products(const Graph& graph) { return Chainer(graph).run(); }

}  // namespace rp
