#include "reprise/graph/hoist.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

// A body without what has left its loop, and what that was.
struct Hoisted {
  const Graph* body = nullptr;
  std::vector<int32_t> parameters;   // of the old body, by parameter of the new one
  const Graph* invariant = nullptr;  // of all closed values; its outputs are further closed values
  std::vector<int32_t> invariant_parameters;
  struct Merge {
    std::vector<int32_t> rights;  // closed values, to be put side by side as a further one
  };
  std::vector<Merge> merges;
  struct Product {
    int32_t input, right;  // a stepped input and a closed value; the product is a further stepped input
    Where loc;
    std::optional<DType> cast;  // what the input is cast to first
  };
  std::vector<Product> products;
  // A pointwise op on values of all steps: a further stepped input. Operands are stepped inputs or, ~number, closed
  // values.
  struct Map {
    Node node;  // its scalars name parameters of the old body
    std::vector<int32_t> operands;
  };
  std::vector<Map> maps;
  std::vector<int32_t> inputs, closed;  // which of those the new body takes
};

class Hoister {
 public:
  Hoister(const Graph& g, size_t carries, size_t inputs) : g_(g), carries_(carries), inputs_(inputs) {}

  // No value if nothing leaves the loop.
  std::optional<Hoisted> run() {
    classify();
    find_invariants();
    find_products();
    find_maps();
    find_merges();
    if (frontier_.empty() && h_.products.empty() && h_.merges.empty()) return {};
    make_body();
    return std::move(h_);
  }

 private:
  bool invariant(int32_t i) const { return invariant_[static_cast<size_t>(i)]; }
  size_t input_number(int32_t node) const {
    return static_cast<size_t>(std::find(g_.inputs.begin(), g_.inputs.end(), node) - g_.inputs.begin());
  }
  size_t first_closed() const { return carries_ + inputs_; }

  // A node depends on nothing but what the body closes over, and has no effects.
  void classify() {
    invariant_.assign(g_.nodes.size(), false);
    for (int32_t i = 0; i < g_.size(); ++i) {
      const Node& n = g_[i];
      if (n.op->kind == Kind::input) {
        invariant_[static_cast<size_t>(i)] = input_number(i) >= first_closed();
        continue;
      }
      const bool random = planted(Defect::hoist_random) && n.op->random;
      bool still =
          (random || (!n.inputs.empty() && !n.op->random)) && !n.own && n.op->kind != Kind::write && n.op != &after_op;
      if (n.op->kind == Kind::control) still = still && !draws(n);
      for (int32_t in : n.inputs) still = still && invariant(in) && !g_[base_of(g_, in)].own;
      invariant_[static_cast<size_t>(i)] = still;
    }
  }

  static bool draws(const Node& n) {
    const auto& a = n.attrs.as<ControlAttrs>();
    return !random_positions(*a.body).empty() || !random_positions(*a.other).empty();
  }

  void note(const char* what, const Node& n) {
    notes_.push_back(fmt::format("{}: {}{}", what, n.op->name, source_line(n.loc)));
  }

  // The invariant values that the loop needs, and a graph that makes them.
  void find_invariants() {
    std::vector<bool> wanted(g_.nodes.size());
    for (int32_t i = 0; i < g_.size(); ++i)
      if (!invariant(i))
        for (int32_t in : g_[i].inputs) wanted[static_cast<size_t>(in)] = true;
    for (int32_t i : g_.outputs) wanted[static_cast<size_t>(i)] = true;
    for (int32_t i = 0; i < g_.size(); ++i)
      if (wanted[static_cast<size_t>(i)] && invariant(i) && g_[i].op->kind != Kind::input) {
        frontier_.push_back(i);
        note("once, before the loop", g_[i]);
      }
    if (frontier_.empty()) return;
    GraphBuilder b;
    std::vector<int32_t> map(g_.nodes.size(), -1);
    for (size_t k = first_closed(); k < g_.inputs.size(); ++k)
      map[static_cast<size_t>(g_.inputs[k])] = b.input(g_[g_.inputs[k]].layout, -1);
    std::vector<bool> needed = needed_for(frontier_);
    for (int32_t i = 0; i < g_.size(); ++i)
      if (needed[static_cast<size_t>(i)] && g_[i].op->kind != Kind::input)
        map[static_cast<size_t>(i)] = b.add(moved(g_[i], map, h_.invariant_parameters));
    for (int32_t i : frontier_) b.graph().outputs.push_back(map[static_cast<size_t>(i)]);
    b.graph().parameters = static_cast<int32_t>(h_.invariant_parameters.size());
    h_.invariant = intern(b.take());
  }

  std::vector<bool> needed_for(const std::vector<int32_t>& roots) const {
    std::vector<bool> needed(g_.nodes.size());
    for (int32_t i : roots) needed[static_cast<size_t>(i)] = true;
    for (int32_t i = g_.size() - 1; i >= 0; --i)
      if (needed[static_cast<size_t>(i)])
        for (int32_t in : g_[i].inputs) needed[static_cast<size_t>(in)] = true;
    return needed;
  }

  static Node moved(Node n, const std::vector<int32_t>& map, std::vector<int32_t>& parameters) {
    for (int32_t& in : n.inputs) in = map[static_cast<size_t>(in)];
    for (ScalarSource& s : n.scalars) {
      if (s.parameter < 0) continue;
      const auto it = std::find(parameters.begin(), parameters.end(), s.parameter);
      const auto k = static_cast<int32_t>(it - parameters.begin());
      if (it == parameters.end()) parameters.push_back(s.parameter);
      s.parameter = k;
    }
    return n;
  }

  // The number of a closed value: those of the call, then the invariants, then the merged factors. -1: none.
  int32_t closed_number(int32_t node) const {
    if (!invariant(node)) return -1;
    if (const size_t k = input_number(node); k < g_.inputs.size()) return static_cast<int32_t>(k - first_closed());
    const auto at = std::find(frontier_.begin(), frontier_.end(), node) - frontier_.begin();
    return static_cast<int32_t>(g_.inputs.size() - first_closed()) + static_cast<int32_t>(at);
  }

  bool flat_product(int32_t i) const {
    return g_[i].op == &matmul_op && g_[i].layout->rank() == 2 && !g_[i].own && !invariant(i) &&
           closed_number(g_[i].inputs[1]) >= 0;
  }

  void find_products() {
    for (int32_t i = 0; i < g_.size(); ++i) {
      if (!flat_product(i)) continue;
      const int32_t left = g_[i].inputs[0], from = uncast(left);
      if (!stepped(from)) continue;
      product_[i] = static_cast<int32_t>(h_.products.size());
      h_.products.push_back(
          {static_cast<int32_t>(input_number(from) - carries_), closed_number(g_[i].inputs[1]), g_[i].loc, {}});
      if (left != from) h_.products.back().cast = g_[left].layout->dtype();
      note("one product over all steps", g_[i]);
    }
    for (int32_t i = 0; i < g_.size(); ++i)
      if (g_[i].op == &cast_op && stepped(g_[i].inputs[0]) && only_products_read(i)) cast_.insert(i);
  }

  bool stepped(int32_t i) const {
    const size_t x = input_number(i);
    return x >= carries_ && x < first_closed();
  }
  int32_t uncast(int32_t i) const { return g_[i].op == &cast_op && !g_[i].own ? g_[i].inputs[0] : i; }

  // Products that have left the loop, one at least.
  bool only_products_read(int32_t cast) const {
    bool any = false, all = std::find(g_.outputs.begin(), g_.outputs.end(), cast) == g_.outputs.end();
    for (int32_t i = 0; i < g_.size(); ++i)
      for (int32_t in : g_[i].inputs) {
        any |= in == cast && product_.count(i);
        all &= in != cast || product_.count(i);
      }
    return any && all;
  }

  // Pointwise ops on products that have left the loop, with nothing but such and invariant values: a bias, say.
  void find_maps() {
    for (int32_t i = 0; i < g_.size(); ++i) {
      const Node& n = g_[i];
      if (n.op->kind != Kind::pointwise || n.op->random || n.own || invariant(i)) continue;
      Hoisted::Map map{n, {}};
      bool stepped = false, all = true;
      for (int32_t in : n.inputs) {
        const auto outer = product_.find(in);
        if (outer != product_.end()) map.operands.push_back(static_cast<int32_t>(inputs_) + outer->second);
        if (outer == product_.end()) map.operands.push_back(~closed_number(in));
        stepped |= outer != product_.end();
        all &= outer != product_.end() || (invariant(in) && g_[in].layout->shape() == n.layout->shape());
      }
      if (!stepped || !all) continue;
      product_[i] = static_cast<int32_t>(h_.products.size() + h_.maps.size());
      h_.maps.push_back(std::move(map));
      note("for all steps at once", n);
    }
  }

  // Products of one value that only pointwise ops read.
  void find_merges() {
    std::vector<bool> pointwise(g_.nodes.size(), true);
    for (int32_t i : g_.outputs) pointwise[static_cast<size_t>(i)] = false;
    for (const Node& n : g_.nodes)
      if (n.op->kind != Kind::pointwise)
        for (int32_t in : n.inputs) pointwise[static_cast<size_t>(in)] = false;
    std::map<int32_t, std::vector<int32_t>> by_left;
    for (int32_t i = 0; i < g_.size(); ++i)
      if (flat_product(i) && !product_.count(i) && pointwise[static_cast<size_t>(i)])
        by_left[g_[i].inputs[0]].push_back(i);
    for (const auto& [left, group] : by_left) {
      if (group.size() < 2) continue;
      Hoisted::Merge merge;
      int64_t column = 0;
      for (int32_t i : group) {
        merge.rights.push_back(closed_number(g_[i].inputs[1]));
        member_[i] = {static_cast<int32_t>(h_.merges.size()), planted(Defect::merge_columns) && !column
                                                                  ? g_[i].layout->shape()[1]
                                                              : planted(Defect::merge_columns) ? 0
                                                                                               : column};
        column += g_[i].layout->shape()[1];
        note("side by side in one product", g_[i]);
      }
      columns_.push_back(column);
      h_.merges.push_back(std::move(merge));
    }
  }

  void make_body();
  int32_t part_of_merged(GraphBuilder& b, int32_t i, const std::vector<int32_t>& map,
                         const std::vector<int32_t>& factors, std::vector<int32_t>& made);

  const Graph& g_;
  size_t carries_, inputs_;
  Hoisted h_;
  std::vector<bool> invariant_;
  std::vector<int32_t> frontier_;
  std::map<int32_t, int32_t> product_;  // node -> product, or map behind all products
  std::set<int32_t> cast_;              // casts that have gone with products
  struct Member {
    int32_t merge;
    int64_t column;
  };
  std::map<int32_t, Member> member_;
  std::vector<int64_t> columns_;  // of each merged product
  std::vector<std::string> notes_;
};

// A member of a merged product: columns of the one product.
int32_t Hoister::part_of_merged(GraphBuilder& b, int32_t i, const std::vector<int32_t>& map,
                                const std::vector<int32_t>& factors, std::vector<int32_t>& made) {
  const Node& n = g_[i];
  const Member& m = member_.at(i);
  int32_t& product = made[static_cast<size_t>(m.merge)];
  const int64_t all = columns_[static_cast<size_t>(m.merge)];
  Spec spec = n.layout->spec;
  if (product < 0) {
    spec.shape[1] = all;
    product = b.add({.op = &matmul_op,
                     .inputs = {map[static_cast<size_t>(n.inputs[0])], factors[static_cast<size_t>(m.merge)]},
                     .layout = intern(spec),
                     .loc = n.loc});
    spec.shape[1] = n.layout->shape()[1];
  }
  return b.add({.op = &part_op,
                .inputs = {product},
                .attrs = PartAttrs{m.column, spec.shape[1], 1},
                .layout = intern(spec, {all, 1}),
                .loc = n.loc});
}

void Hoister::make_body() {
  // What the loop still takes from outside.
  std::vector<bool> used(g_.nodes.size());
  const auto in_loop = [&](int32_t i) {
    return g_[i].op->kind != Kind::input && !invariant(i) && !product_.count(i) && !cast_.count(i);
  };
  for (int32_t i : g_.outputs) used[static_cast<size_t>(i)] = true;
  for (int32_t i = 0; i < g_.size(); ++i)
    if (in_loop(i))
      for (size_t k = 0; k < g_[i].inputs.size(); ++k)
        if (!(k == 1 && member_.count(i))) used[static_cast<size_t>(g_[i].inputs[k])] = true;
  GraphBuilder b;
  std::vector<int32_t> map(g_.nodes.size(), -1), factors, made(h_.merges.size(), -1);
  for (size_t k = 0; k < first_closed(); ++k) {
    const int32_t node = g_.inputs[k];
    if (k >= carries_ && !used[static_cast<size_t>(node)]) continue;
    if (k >= carries_) h_.inputs.push_back(static_cast<int32_t>(k - carries_));
    map[static_cast<size_t>(node)] = b.input(g_[node].layout, -1);
  }
  for (const auto& [node, product] : product_) {
    if (!used[static_cast<size_t>(node)]) continue;
    map[static_cast<size_t>(node)] = b.input(g_[node].layout, -1);
    h_.inputs.push_back(static_cast<int32_t>(inputs_) + product);
  }
  for (int32_t i = 0; i < g_.size(); ++i) {
    const bool outside = invariant(i) && (g_[i].op->kind == Kind::input ||
                                          std::find(frontier_.begin(), frontier_.end(), i) != frontier_.end());
    if (!outside || !used[static_cast<size_t>(i)]) continue;
    map[static_cast<size_t>(i)] = b.input(g_[i].layout, -1);
    h_.closed.push_back(closed_number(i));
  }
  for (size_t m = 0; m < h_.merges.size(); ++m) {
    const int32_t first = std::find_if(member_.begin(), member_.end(), [&](const auto& e) {
                            return e.second.merge == static_cast<int32_t>(m);
                          })->first;
    Spec spec = g_[g_[first].inputs[1]].layout->spec;
    spec.shape[1] = columns_[m];
    factors.push_back(b.input(intern(spec), -1));
    h_.closed.push_back(static_cast<int32_t>(g_.inputs.size() - first_closed() + frontier_.size() + m));
  }
  for (int32_t i = 0; i < g_.size(); ++i) {
    if (!in_loop(i)) continue;
    map[static_cast<size_t>(i)] =
        member_.count(i) ? part_of_merged(b, i, map, factors, made) : b.add(moved(g_[i], map, h_.parameters));
  }
  for (int32_t i : g_.outputs) {
    int32_t node = map[static_cast<size_t>(i)];
    if (b.graph()[node].op->kind == Kind::input)  // an output has elements of its own
      node = b.add({.op = &copy_op, .inputs = {node}, .layout = b.graph()[node].layout->packed, .loc = g_[i].loc});
    b.graph().outputs.push_back(node);
  }
  b.graph().parameters = static_cast<int32_t>(h_.parameters.size());
  b.graph().notes = std::move(notes_);
  h_.body = intern(b.take());
}

const std::optional<Hoisted>& hoisted(const Graph* body, size_t carries, size_t inputs) {
  static thread_local std::map<std::tuple<const Graph*, size_t, size_t>, std::optional<Hoisted>> known;
  const auto [it, fresh] = known.try_emplace({body, carries, inputs});
  if (fresh) it->second = Hoister(*body, carries, inputs).run();
  return it->second;
}

Scalars picked(const Scalars& all, const std::vector<int32_t>& which) {
  Scalars some;
  for (int32_t k : which) some.add_bits(all.data()[k]);
  return some;
}

Tensor map_of_all_steps(const Hoisted::Map& m, const Tensors& xs, const Tensors& closed, const Scalars& scalars) {
  AtForward at(m.node.loc);
  const Tensor& like =
      xs[static_cast<size_t>(*std::find_if(m.operands.begin(), m.operands.end(), [](int32_t k) { return k >= 0; }))];
  Tensors operands;
  for (int32_t k : m.operands)
    operands.push_back(k >= 0 ? xs[static_cast<size_t>(k)]
                              : closed[static_cast<size_t>(~k)].unsqueeze(0).expand(like.shape()));
  std::vector<const Tensor*> inputs;
  for (const Tensor& t : operands) inputs.push_back(&t);
  Scalars numbers;
  for (const ScalarSource& s : m.node.scalars)
    numbers.add_bits(s.parameter >= 0 ? scalars.data()[s.parameter] : s.bits);
  return apply({.op = m.node.op,
                .inputs = inputs,
                .attrs = m.node.attrs,
                .scalars = numbers,
                .scalar_mask = m.node.scalar_mask});
}

}  // namespace

ScanCall hoist(ScanCall call) {
  if (disabled("hoist")) return call;
  const std::optional<Hoisted>& h = hoisted(call.body, call.carry.size(), call.xs.size());
  if (!h) return call;
  Tensors closed = call.closed, xs = call.xs;
  if (h->invariant) {
    const Tensors values =
        replay(*h->invariant, call.closed, picked(call.scalars, h->invariant_parameters).bits(), nullptr);
    for (int32_t i : h->invariant->outputs) closed.push_back(values[static_cast<size_t>(i)]);
  }
  for (const Hoisted::Merge& m : h->merges) {
    Tensors rights;
    for (int32_t k : m.rights) rights.push_back(closed[static_cast<size_t>(k)]);
    closed.push_back(concat(rights, 1));
  }
  for (const Hoisted::Product& p : h->products) {
    AtForward at(p.loc);
    const Tensor& x = call.xs[static_cast<size_t>(p.input)];
    Tensor rows = x.reshape({x.shape()[0] * x.shape()[1], x.shape()[2]});
    if (p.cast) rows = cast(rows, *p.cast);
    const Tensor product = matmul(rows, closed[planted(Defect::hoist_right) ? 0 : static_cast<size_t>(p.right)]);
    xs.push_back(product.reshape({x.shape()[0], x.shape()[1], product.shape()[1]}));
  }
  for (const Hoisted::Map& m : h->maps) xs.push_back(map_of_all_steps(m, xs, closed, call.scalars));
  call.scalars = picked(call.scalars, h->parameters);
  call.body = h->body;
  call.xs.clear();
  call.closed.clear();
  for (int32_t k : h->inputs) call.xs.push_back(xs[static_cast<size_t>(k)]);
  for (int32_t k : h->closed) call.closed.push_back(closed[static_cast<size_t>(k)]);
  return call;
}

}  // namespace rp
