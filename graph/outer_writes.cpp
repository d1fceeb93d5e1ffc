#include "reprise/graph/outer_writes.h"

#include <algorithm>

#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"

namespace rp {
namespace {

// The tensor that covers all of a storage, if it is still there; else the one view of it that the body uses.
Tensor whole_of(const Tensors& uses) {
  if (TensorImpl* owner = owner_of(*uses[0].impl()->storage)) {
    owner->refs.fetch_add(1, std::memory_order_relaxed);
    const Tensor whole(owner);
    if (whole.is_contiguous()) return whole;
  }
  const auto same = [&](const Tensor& t) {
    return t.impl()->layout == uses[0].impl()->layout && t.impl()->offset == uses[0].impl()->offset;
  };
  if (!std::all_of(uses.begin(), uses.end(), same))
    fail("write: a body writes to {} through one of several views while nothing holds the tensor itself",
         to_string(uses[0].spec()));
  return uses[0];
}

size_t input_written_by(const Graph& g, int32_t write) {
  return static_cast<size_t>(std::find(g.inputs.begin(), g.inputs.end(), base_of(g, write)) - g.inputs.begin());
}

}  // namespace

std::vector<size_t> own_written_by(const TracedBody& body, size_t given) {
  std::vector<size_t> inputs;
  for (int32_t w : body.graph->writes)
    if (const size_t k = input_written_by(*body.graph, w); k < given) inputs.push_back(k);
  return inputs;
}

Tensors written_by(const TracedBody& body, size_t given) {
  const Graph& g = *body.graph;
  Tensors written;
  for (int32_t w : g.writes) {
    const size_t k = input_written_by(g, w);
    if (k < given) continue;  // of a step's own values: gone after the step
    Tensors uses;
    for (size_t i = given; i < g.inputs.size(); ++i)
      if (g.aliases[i] == g.aliases[k]) uses.push_back(body.closed[i - given]);
    written.push_back(whole_of(uses));
  }
  return written;
}

TracedBody without_effects(TracedBody body, size_t given, const Tensors& written, size_t first) {
  static const Op& as_strided_op = *find_op("as_strided");
  const Graph& g = *body.graph;
  GraphBuilder b;
  std::vector<int32_t> map(g.nodes.size(), -1), copies;
  Tensors closed;
  const auto stands_for = [&](size_t k) {
    if (k < given) return written.size();
    const auto shares = [&](const Tensor& w) { return w.shares_storage(body.closed[k - given]); };
    return static_cast<size_t>(std::find_if(written.begin(), written.end(), shares) - written.begin());
  };
  for (size_t k = 0; k < g.inputs.size(); ++k) {
    if (stands_for(k) < written.size()) continue;
    map[static_cast<size_t>(g.inputs[k])] = b.input(g[g.inputs[k]].layout, -1);
    if (k >= given) closed.push_back(body.closed[k - given]);
  }
  for (size_t i = 0; i < written.size(); ++i) {
    const int32_t state = b.graph().inputs[first + i];
    copies.push_back(
        b.add({.op = &copy_op, .inputs = {state}, .own = true, .layout = b.graph()[state].layout->packed}));
  }
  for (size_t k = given; k < g.inputs.size(); ++k) {
    const size_t w = stands_for(k);
    if (w == written.size()) continue;
    const Layout* layout = g[g.inputs[k]].layout;
    const int64_t offset = body.closed[k - given].impl()->offset - written[w].impl()->offset;
    int32_t node = copies[w];
    if (layout != b.graph()[node].layout || offset)
      node = b.add({.op = &as_strided_op,
                    .inputs = {node},
                    .attrs = SpecAttrs{layout},
                    .scalars = {ScalarSource{-1, static_cast<uint64_t>(offset)}},
                    .layout = layout});
    map[static_cast<size_t>(g.inputs[k])] = node;
  }
  for (int32_t i = 0; i < g.size(); ++i) {
    if (g[i].op->kind == Kind::input) continue;
    Node n = g[i];
    for (int32_t& in : n.inputs) in = map[static_cast<size_t>(in)];
    map[static_cast<size_t>(i)] = b.add(std::move(n));
  }
  b.graph().parameters = g.parameters;
  for (int32_t i : g.outputs) b.graph().outputs.push_back(map[static_cast<size_t>(i)]);
  body.graph = intern(b.take());
  body.closed = std::move(closed);
  return body;
}

}  // namespace rp
