#include "reprise/core/graph.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "reprise/core/fail.h"
#include "reprise/core/hash.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"

namespace rp {

constinit const Op after_op{
    .name = "after", .kind = Kind::view, .operands = 2, .shape = [](const ShapeCall& c) { return c.inputs[0]; }};

int32_t base_of(const Graph& graph, int32_t node) {
  while (graph[node].op->kind == Kind::view || graph[node].op->kind == Kind::write) node = graph[node].inputs[0];
  return node;
}

Device device_of(const Graph& graph) { return graph.nodes.empty() ? Device() : graph[0].layout->spec.device; }

int32_t storage_of(const Graph& graph, int32_t node) {
  const int32_t base = base_of(graph, node);
  if (graph[base].op->kind != Kind::input) return base;
  const auto k = std::find(graph.inputs.begin(), graph.inputs.end(), base) - graph.inputs.begin();
  return graph.inputs[static_cast<size_t>(graph.aliases[static_cast<size_t>(k)])];
}

std::string source_line(const Loc& loc) { return loc.line() ? " " + line_text(loc) : ""; }

namespace {

// Nodes with run-time scalars are never shared by value, writes and inputs are events, not values.
bool shareable(const Node& n) {
  return (!n.own || planted(Defect::share_own)) && n.op->kind != Kind::input && n.op->kind != Kind::write &&
         n.op->kind != Kind::control &&
         std::all_of(n.scalars.begin(), n.scalars.end(), [](const ScalarSource& s) { return s.parameter < 0; });
}

bool same(const Node& a, const Node& b) {
  return a.op == b.op && a.inputs == b.inputs && a.attrs == b.attrs && a.layout == b.layout &&
         a.scalar_mask == b.scalar_mask && a.scalars == b.scalars;
}

size_t hash(const Node& n) {
  size_t h = hash_mix(reinterpret_cast<size_t>(n.op), reinterpret_cast<size_t>(n.layout));
  h = hash_bytes(h, n.inputs.data(), n.inputs.size() * sizeof(int32_t));
  for (const ScalarSource& s : n.scalars) h = hash_mix(h, s.bits);
  return hash_bytes(h, n.attrs.data(), static_cast<size_t>(n.attrs.size()));
}

// Everything but the source lines; the modules count, so that layers which share their source have bodies of their own.
bool same(const Graph& a, const Graph& b) {
  return a.inputs == b.inputs && a.aliases == b.aliases && a.outputs == b.outputs && a.writes == b.writes &&
         a.parameters == b.parameters &&
         std::equal(a.nodes.begin(), a.nodes.end(), b.nodes.begin(), b.nodes.end(), [](const Node& x, const Node& y) {
           return same(x, y) && x.own == y.own && x.loc.module == y.loc.module;
         });
}

}  // namespace

const Graph* intern(Graph graph) {
#ifndef NDEBUG
  verify(graph, "interning");
#endif
  static std::mutex mutex;
  static auto* graphs = new std::unordered_multimap<size_t, std::unique_ptr<const Graph>>;
  size_t h = hash_mix(graph.nodes.size(), graph.outputs.size());
  for (const Node& n : graph.nodes) h = hash_mix(h, hash(n));
  std::lock_guard lock(mutex);
  for (auto [it, end] = graphs->equal_range(h); it != end; ++it)
    if (same(*it->second, graph)) return it->second.get();
  return graphs->emplace(h, std::make_unique<const Graph>(std::move(graph)))->second.get();
}

std::vector<int32_t> random_positions(const Graph& graph) {
  std::vector<int32_t> positions;
  const auto add = [&](const Node& n, size_t scalar) {
    if (n.scalars[scalar].parameter >= 0) positions.push_back(n.scalars[scalar].parameter);
  };
  for (const Node& n : graph.nodes) {
    if (n.op->random) add(n, position_scalar);
    if (n.op->kind != Kind::control) continue;
    const auto& a = n.attrs.as<ControlAttrs>();
    int32_t before = 0;  // the scalars of the first body stand before those of the second
    for (const Graph* body : {a.body, n.op == &scan_op ? nullptr : a.other}) {
      if (!body) continue;
      for (int32_t p : random_positions(*body)) add(n, static_cast<size_t>(before + p));
      before += body->parameters;
    }
  }
  std::sort(positions.begin(), positions.end());
  return positions;
}

GraphBuilder::GraphBuilder() : share_(!disabled("share")) {}

int32_t GraphBuilder::input(const Layout* layout, int32_t alias_of, const Where& loc) {
  const auto k = static_cast<int32_t>(graph_.inputs.size());
  graph_.aliases.push_back(alias_of < 0 ? k : alias_of);
  graph_.nodes.push_back({.op = &input_op, .layout = layout, .loc = loc});
  graph_.inputs.push_back(graph_.size() - 1);
  return graph_.size() - 1;
}

int32_t GraphBuilder::add(Node node) {
  if (!share_ || !shareable(node)) {
    graph_.nodes.push_back(std::move(node));
    return graph_.size() - 1;
  }
  if (2 * count_ >= shared_.size()) grow();
  size_t at = hash(node) & (shared_.size() - 1);
  for (; shared_[at] >= 0; at = (at + 1) & (shared_.size() - 1))
    if (same(graph_[shared_[at]], node)) return shared_[at];
  shared_[at] = graph_.size();
  ++count_;
  graph_.nodes.push_back(std::move(node));
  return graph_.size() - 1;
}

Graph GraphBuilder::take(const Graph& original, const std::vector<int32_t>& map) {
  graph_.parameters = original.parameters;
  for (int32_t i : original.outputs) graph_.outputs.push_back(map[static_cast<size_t>(i)]);
  for (int32_t i : original.writes) graph_.writes.push_back(map[static_cast<size_t>(i)]);
  graph_.notes.insert(graph_.notes.begin(), original.notes.begin(), original.notes.end());
  return std::move(graph_);
}

void GraphBuilder::grow() {
  const std::vector<int32_t> old = std::move(shared_);
  shared_.assign(std::max<size_t>(64, old.size() * 2), -1);
  for (int32_t i : old) {
    if (i < 0) continue;
    size_t at = hash(graph_[i]) & (shared_.size() - 1);
    while (shared_[at] >= 0) at = (at + 1) & (shared_.size() - 1);
    shared_[at] = i;
  }
}

void verify(const Graph& g, std::string_view stage) {
  const auto broken = [&](int32_t i, std::string_view what) {
    fail("graph after {}: node %{} ({}) {}", stage, i, g[i].op->name, what);
  };
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    std::vector<const Layout*> layouts;
    for (int32_t in : n.inputs) {
      if (in < 0 || in >= i) broken(i, "names a later node");
      layouts.push_back(g[in].layout);
    }
    if (n.layout->spec.device != g[0].layout->spec.device) broken(i, "lies on another device than the first");
    if (n.op->kind == Kind::input) continue;
    for (const ScalarSource& s : n.scalars)
      if (s.parameter >= g.parameters) broken(i, "names a scalar that is not there");
    Scalars scalars;
    for (const ScalarSource& s : n.scalars) scalars.add_bits(s.bits);
    if (n.op->shape({*n.op, layouts, n.attrs, scalars, n.scalar_mask}) != n.layout) broken(i, "breaks its shape rule");
  }
  for (const auto& list : {g.inputs, g.outputs, g.writes})
    for (int32_t i : list)
      if (i < 0 || i >= g.size()) fail("graph after {}: %{} does not exist", stage, i);
}

}  // namespace rp
