#include "reprise/graph/facts.h"

#include <algorithm>

#include "reprise/core/fail.h"
#include "reprise/graph/recorder.h"

namespace rp {

void KernelTimes::add(double ns) {
  constexpr size_t kept = 63;
  if (latest_.size() < kept)
    latest_.push_back(ns);
  else
    latest_[static_cast<size_t>(runs_) % kept] = ns;
  ++runs_;
}

double KernelTimes::median_ns() const {
  if (latest_.empty()) return 0;
  std::vector<double> sorted = latest_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

std::string op_text(const TraceOp& t) {
  const std::string line = line_text(t.loc);
  return std::string(t.op->name) + (line.empty() ? "" : " at " + line);
}

std::vector<NodeFacts> node_facts(const Graph& graph) {
  std::vector<NodeFacts> list;
  for (const Node& n : graph.nodes) {
    NodeFacts f{.op = std::string(n.op->name),
                .attrs = {},
                .layout = layout_text(n.layout),
                .line = line_text(n.loc),
                .inputs = n.inputs};
    for (const Field& field : n.op->fields)
      f.attrs += fmt::format("{}{}={}", f.attrs.empty() ? "" : " ", field.name, field_text(field, n.attrs.data()));
    list.push_back(std::move(f));
  }
  return list;
}

Totals totals(const PlanFacts& plan) {
  Totals t;
  for (const KernelFacts& k : plan.kernels) {
    t.bytes_read += k.bytes_read;
    t.bytes_written += k.bytes_written;
    t.flops += k.flops;
    t.predicted_ns += k.predicted_ns;
    t.measured_ns += k.measured_ns;
    t.runs = &k == &plan.kernels[0] ? k.runs : std::min(t.runs, k.runs);
  }
  return t;
}

namespace {

PathFacts path_facts(const TraceOp& end) {
  PathFacts p{.ops = end.depth, .hits = end.leaf->hits, .refusal = end.leaf->refusal, .plan = {}};
  if (!end.leaf->plan) return p;
  const LeafPlan& leaf = *end.leaf->plan;
  p.plan = leaf.code->facts();
  p.plan->notes.insert(p.plan->notes.end(), leaf.notes.begin(), leaf.notes.end());
  if (leaf.times)
    for (size_t k = 0; k < std::min(leaf.times->size(), p.plan->kernels.size()); ++k) {
      p.plan->kernels[k].measured_ns = (*leaf.times)[k].median_ns();
      p.plan->kernels[k].runs = (*leaf.times)[k].runs();
    }
  return p;
}

// Walks the trie in the order of its recordings, joining ops that follow each other without a branch or an end.
void add_stretches(const TraceOp& root, CaptureFacts& f) {
  std::vector<std::pair<const TraceOp*, int>> open;
  const auto push_children = [&](const TraceOp& t, int parent) {
    for (auto it = t.children.rbegin(); it != t.children.rend(); ++it) open.emplace_back(it->get(), parent);
  };
  push_children(root, -1);
  while (!open.empty()) {
    const auto [first, parent] = open.back();
    open.pop_back();
    const TraceOp* last = first;
    while (!last->leaf && last->children.size() == 1) last = last->children[0].get();
    StretchFacts s{parent, last->depth - first->depth + 1, op_text(*first), op_text(*last)};
    if (last->leaf) {
      s.path = static_cast<int>(f.paths.size());
      f.paths.push_back(path_facts(*last));
    }
    f.stretches.push_back(std::move(s));
    push_children(*last, static_cast<int>(f.stretches.size()) - 1);
  }
}

}  // namespace

CaptureFacts facts(const Trie& trie) {
  CaptureFacts f{
      .name = trie.options.name, .stats = trie.stats, .ends = {}, .stretches = {}, .paths = {}, .events = trie.events};
  for (const auto& [reason, times] : trie.ends) f.ends.emplace_back(reason, times);
  add_stretches(trie.root, f);
  return f;
}

}  // namespace rp
