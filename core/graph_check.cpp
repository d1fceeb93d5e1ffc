// What a graph from outside must keep to, so that shape rules and kernels may rely on it.
#include <bit>

#include "reprise/core/fail.h"
#include "reprise/core/graph.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"

namespace rp {
namespace {

using Layouts = std::vector<const Layout*>;

bool distinct_axes(const PermuteAttrs& p, int rank) {
  if (p.rank != rank) return false;
  int32_t seen = 0;
  for (int i = 0; i < rank; ++i) {
    if (p.axes[i] < 0 || p.axes[i] >= rank) return false;
    seen |= 1 << p.axes[i];
  }
  return seen == (1 << rank) - 1;
}

bool within(int64_t axis, const Layout& l) { return axis >= 0 && axis < l.rank(); }

// A start that is known only at run time counts as 0.
bool section_fits(const Node& n, const Layout& in) {
  Scalars start;
  for (const ScalarSource& s : n.scalars) start.add_bits(s.parameter < 0 ? s.bits : 0);
  const Section s = n.op->section(n.attrs, start);
  if (!within(s.axis, in) || s.start < 0 || s.length < 0 || s.step < 1) return false;
  const int64_t extent = in.shape()[static_cast<int>(s.axis)];
  if (!s.length) return s.start <= extent;
  return s.start < extent && s.length - 1 <= (extent - 1 - s.start) / s.step;
}

// Whether the attrs, so far as one member tells, fit the first input.
bool fits(const Field& f, const Node& n, const Layouts& in) {
  const std::string_view name = f.name;
  if (f.type == FieldType::spec) {
    const auto* spec = *reinterpret_cast<const Layout* const*>(n.attrs.data() + f.offset);
    return spec || n.op == &conv2d_op || n.op->name.find("pool2d") != std::string_view::npos;
  }
  if (in.empty()) return true;
  if (n.op == &permute_op) return distinct_axes(n.attrs.as<PermuteAttrs>(), in[0]->rank());
  if (n.op->section) return section_fits(n, *in[0]);
  if (name == "segment") {
    const int64_t segment = n.attrs.as<SegmentAttrs>().segment;
    return segment > 0 && in[0]->rank() && in[0]->shape().back() % segment == 0;
  }
  if (name == "axes") return n.attrs.as<ReduceAttrs>().axes >> in[0]->rank() == 0;
  if (name != "axis") return true;
  const bool scatter = n.op == &index_add_op || n.op == &scatter_add_op;
  return scatter ? within(n.attrs.as<ScatterAttrs>().axis, *n.attrs.as<ScatterAttrs>().spec)
                 : within(n.attrs.as<AxisAttrs>().axis, *in[0]);
}

bool counts_fit(const Node& n) {
  const auto inputs = static_cast<int>(n.inputs.size()), scalars = static_cast<int>(n.scalars.size());
  if (n.op->operands < 0) return inputs > 0 || n.op->kind == Kind::control;
  if (n.op->kind == Kind::write) return inputs >= 2 && inputs <= 3 && !scalars;
  if (n.op->kind != Kind::pointwise)
    return inputs == n.op->operands && scalars == (n.op->view_offset && n.op != &part_op ? 1 : 0);
  if (n.op->random && scalars <= position_scalar + 1) return false;
  return scalars == std::popcount(n.scalar_mask) && inputs + scalars == n.op->operands &&
         n.scalar_mask >> n.op->operands == 0;
}

// Images, weights and matrices have their ranks; pointwise inputs are alike.
bool ranks_fit(const Node& n, const Layouts& in) {
  int least = 0;
  if (n.op->kind == Kind::contract) least = 2;
  if (n.op->name.find("2d") != std::string_view::npos) least = 4;
  for (const Layout* l : in)
    if (l->rank() < least) return false;
  if (n.op->kind == Kind::pointwise || n.op->kind == Kind::contract)
    for (const Layout* l : in)
      if (l->rank() != in[0]->rank() || (n.op->kind == Kind::pointwise && l->shape() != in[0]->shape())) return false;
  return n.op->name != "layer_norm" || in[0]->rank() > 0;
}

}  // namespace

void check_nodes(const Graph& g) {
  if (g.parameters < 0) fail("parse_graph: {} parameters", g.parameters);
  for (size_t k = 0; k < g.aliases.size(); ++k)
    if (g.aliases[k] < 0 || g.aliases[k] > static_cast<int32_t>(k))
      fail("parse_graph: input {} names a later input", k);
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    Layouts in;
    if (!n.layout) fail("parse_graph: node %{} ({}) has no layout", i, n.op->name);
    for (int32_t k : n.inputs) {
      if (k < 0 || k >= i) fail("parse_graph: node %{} ({}) names a later node", i, n.op->name);
      in.push_back(g[k].layout);
    }
    if (n.op->kind == Kind::input) continue;
    if (n.op->kind == Kind::transfer) fail("parse_graph: node %{} ({}) is no part of a graph", i, n.op->name);
    if (!counts_fit(n)) fail("parse_graph: node %{} ({}) has another number of operands", i, n.op->name);
    if (!ranks_fit(n, in)) fail("parse_graph: node %{} ({}) has inputs of the wrong shapes", i, n.op->name);
    for (const Field& f : n.op->fields)
      if (!fits(f, n, in)) fail("parse_graph: node %{} ({}): {} does not fit its input", i, n.op->name, f.name);
  }
}

// ---- control ops ----

namespace {

std::string node_text(const Graph& g, int32_t i) { return fmt::format("parse_graph: node %{} ({})", i, g[i].op->name); }

// A body writes to nothing of its caller's, and what it gives has elements of its own.
void check_body(const std::string& where, const Graph& body) {
  for (int32_t i = 0; i < body.size(); ++i)
    if (body[i].op->kind == Kind::write && body[base_of(body, i)].op->kind == Kind::input)
      fail("{}: %{} of a body writes to the body's inputs", where, i);
  for (int32_t i : body.outputs)
    if (!body[i].layout->contiguous || body[base_of(body, i)].op->kind == Kind::input)
      fail("{}: output %{} of a body has no elements of its own", where, i);
}

void check_alike(const std::string& where, std::string_view what, size_t k, const Layout* a, const Layout* b) {
  if (a->spec != b->spec || !a->contiguous)
    fail("{}: {} {} is {} and {}", where, what, k, layout_text(a), layout_text(b));
}

void check_bool(const std::string& where, std::string_view what, const Layout* l) {
  if (l->dtype() != DType::boolean || l->numel != 1)
    fail("{}: expected one bool as {}, got {}", where, what, layout_text(l));
}

void check_bodies(const Graph& g, int32_t i) {
  const Node& n = g[i];
  const auto& a = n.attrs.as<ControlAttrs>();
  const std::string where = node_text(g, i);
  const Graph &body = *a.body, *other = a.other;
  const auto layout = [](const Graph& of, int32_t node) { return of[node].layout; };
  if (a.results != static_cast<int64_t>(body.outputs.size()) || a.saved < 0 || a.saved > a.results - a.carries)
    fail("{}: {} results, {} of them saved, of a body with {} outputs", where, a.results, a.saved, body.outputs.size());
  const bool steps = n.op == &scan_op;
  if (steps && other &&
      (other->inputs.size() != body.inputs.size() || other->parameters != body.parameters ||
       static_cast<int64_t>(other->outputs.size()) != a.results - a.saved))
    fail("{}: the step without saved results is another one", where);
  if (static_cast<int64_t>(n.scalars.size()) != int64_t{body.parameters} + (steps ? 0 : other->parameters))
    fail("{}: the bodies have another number of parameters", where);
  for (const Graph* b : {a.body, other})
    if (b) check_body(where, *b);
  for (size_t k = 0; k < static_cast<size_t>(a.carries); ++k)
    check_alike(where, "carry", k, layout(body, body.inputs[k]), layout(body, body.outputs[k]));
  if (n.op == &cond_op) {
    check_bool(where, "predicate", g[n.inputs[0]].layout);
    for (size_t k = 0; k < body.outputs.size(); ++k)
      check_alike(where, "result", k, layout(body, body.outputs[k]), layout(*other, other->outputs[k]));
  }
  if (n.op == &while_op) check_bool(where, "condition", layout(*other, other->outputs[0]));
}

void check_result(const Graph& g, int32_t i) {
  const Node &n = g[i], &of = g[n.inputs[0]];
  if (of.op->kind != Kind::control) fail("{}: %{} has no results", node_text(g, i), n.inputs[0]);
  const auto& a = of.attrs.as<ControlAttrs>();
  const auto& r = n.attrs.as<ResultAttrs>();
  if (r.index < 0 || r.index >= a.results)
    fail("{}: {} has results 0 to {}, got {}", node_text(g, i), of.op->name, a.results - 1, r.index);
  if (const Layout* layout = result_layout(*of.op, a, r.index); layout != r.spec)
    fail("{}: result {} of {} is {}, got {}", node_text(g, i), r.index, of.op->name, layout_text(layout),
         layout_text(r.spec));
}

}  // namespace

void check_control(const Graph& g) {
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    if (n.op->kind == Kind::control) check_bodies(g, i);
    if (n.op->kind == Kind::result) check_result(g, i);
    for (int32_t in : n.inputs)
      if (g[in].op->kind == Kind::control && n.op->kind != Kind::result)
        fail("{}: %{} has no elements", node_text(g, i), in);
  }
  for (const auto& list : {g.outputs, g.writes})
    for (int32_t i : list)
      if (g[i].op->kind == Kind::control) fail("{} has no elements", node_text(g, i));
  for (int32_t p : random_positions(g))
    if (p + 1 >= g.parameters) fail("parse_graph: a position of the generator has no high word");
}

}  // namespace rp
