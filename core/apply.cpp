#include <algorithm>
#include <cstring>
#include <vector>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/infer.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/entries.h"

namespace rp {

namespace {

bool any_wants_grad(const Call& call) {
  for (const Tensor* t : call.inputs)
    if (wants_grad(*t)) return true;
  return false;
}

Tensor compute(const Call& call) {
  if (thread_state.recorder) return engine.record(*thread_state.recorder, call);
  return run_now(call);
}

}  // namespace

namespace {

[[noreturn, gnu::cold]] void other_device(const Call& call, const Layout& a, const Layout& b) {
  fail("{}: operands on different devices: {} is on {}, {} on {}; use to({})", call.op->name, to_string(a.spec),
       to_string(a.spec.device), to_string(b.spec), to_string(b.spec.device),
       a.spec.device == Device::cpu() ? "Device::cpu()" : "Device::cuda()");
}

// What is written must come from the same device.
void check_device(const Tensor& target, const Call& call) {
  for (const Tensor* t : call.inputs)
    if (t->device() != target.device()) other_device(call, target.layout(), t->layout());
}

const Layout* infer_from(const Call& call, const Layout** layouts) {
  const size_t n = call.inputs.size();
  for (size_t i = 0; i < n; ++i) {
    layouts[i] = &call.inputs[i]->layout();
    if (layouts[i]->spec.device != layouts[0]->spec.device) other_device(call, *layouts[0], *layouts[i]);
  }
  return call.op->shape({*call.op, {layouts, n}, call.attrs, call.scalars, call.scalar_mask});
}

[[gnu::noinline]] const Layout* infer_from_many(const Call& call) {
  std::vector<const Layout*> layouts(call.inputs.size());
  return infer_from(call, layouts.data());
}

}  // namespace

const Layout* infer(const Call& call) {
  const Layout* few[8];
  return call.inputs.size() <= std::size(few) ? infer_from(call, few) : infer_from_many(call);
}

int64_t view_offset(const Call& call) {
  if (!call.op->view_offset) return 0;
  const Layout* layout = &call.inputs[0]->layout();
  return call.op->view_offset({*call.op, {&layout, 1}, call.attrs, call.scalars, call.scalar_mask});
}

// Of 16-bit floats a body is computed as f32, and its result rounded.
Tensor run_body(const Op& op, std::span<const Tensor> inputs, const Attrs& attrs, const Scalars& scalars) {
  const DeviceScope on(inputs[0].device());
  if (std::ranges::none_of(inputs, [](const Tensor& t) { return is_short(t.dtype()); }))
    return op.body(inputs, attrs, scalars);
  std::vector<Tensor> wide;
  std::vector<const Tensor*> given;
  for (const Tensor& t : inputs) {
    wide.push_back(cast(t, widened(t.dtype())));
    given.push_back(&t);
  }
  const Layout* result = infer({.op = &op, .inputs = given, .attrs = attrs, .scalars = scalars});
  return cast(op.body(wide, attrs, scalars), result->dtype());
}

Tensor run_now(const Call& call) {
  const Layout* out = infer(call);
  if (call.op->kind == Kind::view) {
    const Tensor& base = *call.inputs[0];
    return alias(base, out, base.impl()->offset + view_offset(call));
  }
  return engine.run(call, out);
}

namespace {

bool reads_short(const Call& call) {
  return std::any_of(call.inputs.begin(), call.inputs.end(), [](const Tensor* t) { return is_short(t->dtype()); });
}

// Of 16-bit floats everything that is neither element by element nor a reduction is computed as f32. A composite that
// is not always on the tape itself is so in its body.
bool widens(const Call& call) {
  const Op& op = *call.op;
  const bool computes = op.kind == Kind::contract || (op.kind == Kind::composite && op.gradient.rule && !op.whole) ||
                        (op.kind == Kind::kernel && !op.moves);
  return computes && reads_short(call);
}

// Whether a composite goes onto the tape itself. Otherwise its body does: then the gradient reads what that computed,
// while a rule computes it again.
bool is_noted(const Call& call) {
  const Op& op = *call.op;
  if (!op.gradient.rule || !op.whole) return op.gradient.rule;
  std::vector<const Layout*> layouts;
  for (const Tensor* t : call.inputs) layouts.push_back(&t->layout());
  return engine.backend(layouts[0]->spec.device).keeps_whole(op, layouts);
}

// Specs among the attrs that name the dtype of a result.
void widen_specs(const Op& op, Attrs& attrs) {
  for (const Field& f : op.fields) {
    if (f.type != FieldType::spec) continue;
    const Layout* layout;
    std::memcpy(&layout, attrs.data() + f.offset, sizeof layout);
    if (!layout || !is_short(layout->dtype())) continue;
    Spec spec = layout->spec;
    spec.dtype = DType::f32;
    layout = intern(spec);
    std::memcpy(attrs.data() + f.offset, &layout, sizeof layout);
  }
}

// The op on f32, and its result rounded: one rounding, whatever is added up inside.
[[gnu::noinline]] Tensor apply_widened(const Call& call) {
  std::vector<Tensor> wide;
  std::vector<const Tensor*> inputs;
  wide.reserve(call.inputs.size());
  for (const Tensor* t : call.inputs)
    inputs.push_back(is_short(t->dtype()) ? &wide.emplace_back(cast(*t, DType::f32)) : t);
  Call widened = call;
  widened.inputs = inputs;
  widen_specs(*call.op, widened.attrs);
  return cast(apply(widened), infer(call)->dtype());
}

}  // namespace

Tensor apply(const Call& call) {
  const Op& op = *call.op;
  if (op.kind != Kind::pointwise && widens(call)) return apply_widened(call);
  if (!thread_state.grad || !any_wants_grad(call)) return compute(call);
  if (op.kind == Kind::composite && !is_noted(call)) {
    std::vector<Tensor> inputs;
    for (const Tensor* t : call.inputs) inputs.push_back(*t);
    return run_body(op, inputs, call.attrs, call.scalars);
  }
  Tensor y = compute(call);
  if (op.kind == Kind::result || (op.gradient.rule && is_floating(y.dtype()))) engine.note(call, y);
  return y;
}

void write(const Tensor& target, const Tensor& value) {
  const Tensor* inputs[] = {&target, &value};
  const Call call{.op = &write_op, .inputs = inputs};
  check_device(target, call);
  engine.check_write(target);
  if (thread_state.recorder)
    engine.record(*thread_state.recorder, call);
  else
    engine.run(call, target.impl()->layout);
  engine.note_write(target, value);
}

namespace {

// The gradient rule may want to see inputs that the write is about to change: those are copied.
Tensor apply_keeping_inputs(const Tensor& target, const Call& call) {
  const bool sees_inputs = static_cast<int>(call.op->gradient.needs) & static_cast<int>(Needs::inputs);
  std::vector<Tensor> copies;
  std::vector<const Tensor*> inputs(call.inputs.begin(), call.inputs.end());
  copies.reserve(inputs.size());
  for (const Tensor*& t : inputs)
    if (sees_inputs && t->shares_storage(target)) t = &copies.emplace_back(t->clone());
  Call kept = call;
  kept.inputs = inputs;
  return apply(kept);
}

}  // namespace

void apply_into(const Tensor& target, const Call& call) {
  check_device(target, call);
  const bool noted = thread_state.grad && (any_wants_grad(call) || wants_grad(target));
  if (noted) return write(target, apply_keeping_inputs(target, call));
  if (thread_state.recorder) return write(target, apply(call));
  engine.check_write(target);
  engine.run_into(target, call);
}

}  // namespace rp
