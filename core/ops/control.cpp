// Control flow: ops whose structural arguments are graphs. Each gives a token, an empty value that stands for all of
// its results; `result` ops take them from it, one each, so that every other mechanism deals with single values.
#include "reprise/core/graph.h"
#include "reprise/core/ops/define.h"

namespace rp {
namespace {

void check_layout(const ShapeCall& c, const Graph& body, size_t input, const Layout* got) {
  const Layout* wanted = body[body.inputs[input]].layout;
  if (wanted != got)
    fail("{}: input {} of the body is {}, its operand {}", c.op.name, input, layout_text(wanted), layout_text(got));
}

void check_counts(const ShapeCall& c, const Graph* body, size_t inputs, size_t outputs) {
  if (!body || body->inputs.size() != inputs || body->outputs.size() != outputs)
    fail("{}: expected a body of {} inputs and {} outputs", c.op.name, inputs, outputs);
}

const Layout* token(const ShapeCall& c) {
  return intern({DType::f32, {0}, c.inputs.empty() ? default_device() : c.inputs[0]->spec.device});
}

const Layout* scan_shape(const ShapeCall& c) {
  const auto& a = c.attrs.as<ControlAttrs>();
  check_counts(c, a.body, c.inputs.size(), static_cast<size_t>(a.results));
  if (a.carries < 0 || a.inputs < 0 || a.length < 0 || a.results < a.carries ||
      static_cast<size_t>(a.carries) + static_cast<size_t>(a.inputs) > c.inputs.size())
    fail("scan: {} carries and {} inputs do not fit {} operands and {} results", a.carries, a.inputs, c.inputs.size(),
         a.results);
  const auto carries = static_cast<size_t>(a.carries), inputs = static_cast<size_t>(a.inputs);
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const bool sliced = i >= carries && i < carries + inputs;
    if (sliced && (!c.inputs[i]->rank() || c.inputs[i]->shape()[0] != a.length))
      fail("scan: expected {} steps, got {}", a.length, to_string(c.inputs[i]->spec));
    const Layout* got = sliced ? step_layout(c.inputs[i]) : c.inputs[i];
    check_layout(c, *a.body, i, got);
  }
  return token(c);
}

const Layout* branch_shape(const ShapeCall& c) {
  const auto& a = c.attrs.as<ControlAttrs>();
  if (c.inputs.empty()) fail("cond: expected a predicate");
  for (const Graph* branch : {a.body, a.other}) {
    check_counts(c, branch, c.inputs.size() - 1, static_cast<size_t>(a.results));
    for (size_t i = 1; i < c.inputs.size(); ++i) check_layout(c, *branch, i - 1, c.inputs[i]);
  }
  return token(c);
}

const Layout* while_shape(const ShapeCall& c) {
  const auto& a = c.attrs.as<ControlAttrs>();
  if (a.carries < 0 || a.closed < 0 || static_cast<size_t>(a.carries) + static_cast<size_t>(a.closed) > c.inputs.size())
    fail("while_loop: {} carries do not fit {} operands", a.carries, c.inputs.size());
  const auto carries = static_cast<size_t>(a.carries), closed = static_cast<size_t>(a.closed);
  check_counts(c, a.body, c.inputs.size() - closed, carries);
  check_counts(c, a.other, carries + closed, 1);
  for (size_t i = 0; i < carries + closed; ++i) check_layout(c, *a.other, i, c.inputs[i]);
  for (size_t i = 0; i < a.body->inputs.size(); ++i)
    check_layout(c, *a.body, i, c.inputs[i < carries ? i : i + closed]);
  return token(c);
}

}  // namespace

const Layout* step_layout(const Layout* stacked) {
  Shape shape = stacked->shape();
  Strides strides = stacked->strides;
  shape.erase(0);
  strides.erase(0);
  return intern({stacked->dtype(), shape, stacked->spec.device}, strides);
}

const Layout* result_layout(const Op& op, const ControlAttrs& a, int64_t k) {
  const Layout* layout = (*a.body)[a.body->outputs[static_cast<size_t>(k)]].layout;
  if (&op != &scan_op || k < a.carries) return layout->packed;
  Spec spec = layout->spec;
  spec.shape.insert(0, a.length);
  return intern(spec);
}

constinit const Op scan_op{.name = "scan",
                           .kind = Kind::control,
                           .operands = -1,
                           .shape = scan_shape,
                           .gradient = {[](const GradCall& c) { return engine.scan_gradient(c); }, Needs::inputs},
                           .fields = ControlAttrs::fields};
constinit const Op cond_op{.name = "cond",
                           .kind = Kind::control,
                           .operands = -1,
                           .shape = branch_shape,
                           .gradient = {[](const GradCall& c) { return engine.cond_gradient(c); }, Needs::inputs},
                           .fields = ControlAttrs::fields};
constinit const Op while_op{.name = "while_loop",
                            .kind = Kind::control,
                            .operands = -1,
                            .shape = while_shape,
                            .gradient = {[](const GradCall&) -> Tensors {
                              fail("while_loop: a gradient needs max_trips, the greatest number of trips; or use scan");
                            }},
                            .fields = ControlAttrs::fields};
constinit const Op result_op{
    .name = "result", .kind = Kind::result, .operands = 1, .shape = given_spec, .fields = ResultAttrs::fields};

Entries control_entries() {
  static constexpr const Op* entries[] = {&scan_op, &cond_op, &while_op, &result_op};
  return entries;
}

}  // namespace rp
