// Views: the same elements under another layout.
#include <algorithm>

#include "reprise/core/engine.h"
#include "reprise/core/ops/define.h"

namespace rp {
namespace {

// Strides under which `in`'s elements, in row-major order, have the extents `shape`; false if there are none.
bool view_strides(const Layout& in, const Shape& shape, Strides& strides) {
  strides = packed_strides(shape);
  if (in.contiguous || !in.numel) return true;
  int to = shape.rank() - 1;
  for (int from = in.rank() - 1; from >= 0;) {
    // Join axes of the input as long as they lie behind each other, then split the joined run.
    int64_t run = in.shape()[from];
    const int64_t step = in.strides[from];
    for (--from; from >= 0 && (in.shape()[from] == 1 || in.strides[from] == run * step); --from)
      run *= in.shape()[from];
    int64_t taken = 1;
    while (to >= 0 && (taken < run || shape[to] == 1)) {
      strides[to] = taken * step;
      taken *= shape[to--];
    }
    if (taken != run) return false;
  }
  return true;
}

const Layout* reshape_shape(const ShapeCall& c) {
  Spec spec = c.inputs[0]->spec;
  spec.shape = c.attrs.as<SpecAttrs>().spec->shape();
  Strides strides;
  if (!view_strides(*c.inputs[0], spec.shape, strides)) fail("reshape: the elements do not lie in a row");
  return intern(spec, strides);
}

const Layout* permute_shape(const ShapeCall& c) {
  const auto& p = c.attrs.as<PermuteAttrs>();
  Spec spec = c.inputs[0]->spec;
  Strides strides = c.inputs[0]->strides;
  for (int i = 0; i < p.rank; ++i) {
    spec.shape[i] = c.inputs[0]->shape()[p.axes[i]];
    strides[i] = c.inputs[0]->strides[p.axes[i]];
  }
  return intern(spec, strides);
}

const Layout* expand_shape(const ShapeCall& c) {
  const Layout& in = *c.inputs[0];
  Spec spec = in.spec;
  spec.shape = c.attrs.as<SpecAttrs>().spec->shape();
  Strides strides = packed_strides(spec.shape);
  const int shift = spec.shape.rank() - in.rank();
  for (int i = 0; i < spec.shape.rank(); ++i)
    strides[i] = i < shift || in.shape()[i - shift] != spec.shape[i] ? 0 : in.strides[i - shift];
  return intern(spec, strides);
}

Section slice_section(const Attrs& attrs, const Scalars& scalars) {
  const auto& s = attrs.as<SliceAttrs>();
  return {s.axis, scalars.get<int64_t>(0), s.length, s.step};
}

Section part_section(const Attrs& attrs, const Scalars&) {
  const auto& p = attrs.as<PartAttrs>();
  return {p.axis, p.start, p.length, 1};
}

template <SectionRule rule>
const Layout* section_shape(const ShapeCall& c) {
  const Section s = rule(c.attrs, c.scalars);
  const auto axis = static_cast<int>(s.axis);
  Spec spec = c.inputs[0]->spec;
  Strides strides = c.inputs[0]->strides;
  spec.shape[axis] = s.length;
  strides[axis] *= s.step;
  return intern(spec, strides);
}

template <SectionRule rule>
int64_t section_offset(const ShapeCall& c) {
  const Section s = rule(c.attrs, c.scalars);
  return s.start * c.inputs[0]->strides[static_cast<int>(s.axis)];
}

template <SectionRule rule>
Tensors section_gradient(const GradCall& c) {
  const Section s = rule(c.attrs(), c.scalars());
  const Spec& in = c.input_spec(0);
  const Tensor dx = zeros(in.shape, in.dtype);
  const int64_t stop = s.length ? s.start + (s.length - 1) * s.step + 1 : s.start;
  dx.slice(static_cast<int>(s.axis), s.start, stop, s.step).copy_(c.dy());
  return {dx};
}

template <SectionRule rule>
constexpr Op section(std::string_view name, std::span<const Field> fields) {
  return {.name = name,
          .kind = Kind::view,
          .shape = section_shape<rule>,
          .view_offset = section_offset<rule>,
          .section = rule,
          .gradient = {section_gradient<rule>},
          .fields = fields};
}

Tensors permute_gradient(const GradCall& c) {
  const auto& p = c.attrs().as<PermuteAttrs>();
  Dims inverse;
  for (int i = 0; i < p.rank; ++i) inverse.push_back(0);
  for (int i = 0; i < p.rank; ++i) inverse[p.axes[i]] = i;
  return {c.dy().permute(inverse)};
}

Tensors expand_gradient(const GradCall& c) {
  const Shape& from = c.input_spec(0).shape;
  const Shape& to = c.dy().shape();
  const int shift = to.rank() - from.rank();
  Dims axes;
  for (int i = 0; i < to.rank(); ++i)
    if (i < shift || from[i - shift] != to[i]) axes.push_back(i);
  return {axes.rank() ? sum(c.dy(), axes).reshape(from) : c.dy().reshape(from)};
}

Tensors as_strided_gradient(const GradCall& c) {
  const Spec& in = c.input_spec(0);
  const Tensor dx = zeros(in.shape, in.dtype);
  as_strided(dx, c.attrs().as<SpecAttrs>().spec, c.scalars().get<int64_t>(0)).copy_(c.dy());
  return {dx};
}

const Layout* spec_of(const Tensor& t, const Shape& shape) { return intern({t.dtype(), shape, t.device()}); }

}  // namespace

constinit const Op reshape_op{
    .name = "reshape",
    .kind = Kind::view,
    .shape = reshape_shape,
    .gradient = {[](const GradCall& c) { return Tensors{c.dy().reshape(c.input_spec(0).shape)}; }},
    .fields = SpecAttrs::fields};
constinit const Op permute_op{.name = "permute",
                              .kind = Kind::view,
                              .shape = permute_shape,
                              .gradient = {permute_gradient},
                              .fields = PermuteAttrs::fields};
constinit const Op expand_op{.name = "expand",
                             .kind = Kind::view,
                             .shape = expand_shape,
                             .gradient = {expand_gradient},
                             .fields = SpecAttrs::fields};
constinit const Op slice_op = section<slice_section>("slice", SliceAttrs::fields);
constinit const Op part_op = section<part_section>("part", PartAttrs::fields);
constinit const Op detach_op{
    .name = "detach", .kind = Kind::view, .shape = [](const ShapeCall& c) { return c.inputs[0]; }};

static constinit const Op as_strided_op{.name = "as_strided",
                                        .kind = Kind::view,
                                        .shape = given_spec,
                                        .view_offset = [](const ShapeCall& c) { return c.scalars.get<int64_t>(0); },
                                        .gradient = {as_strided_gradient},
                                        .fields = SpecAttrs::fields};

Entries view_entries() {
  static constexpr const Op* entries[] = {&reshape_op, &permute_op, &expand_op,    &slice_op,
                                          &part_op,    &detach_op,  &as_strided_op};
  return entries;
}

Tensor as_strided(const Tensor& t, const Layout* layout, int64_t offset) {
  if (layout == t.impl()->layout && !offset) return t;
  if (layout->contiguous && layout->numel == t.numel()) return t.reshape(layout->shape());
  Scalars scalars;
  scalars.add(offset);
  return call(as_strided_op, {&t}, SpecAttrs{layout}, scalars);
}

Tensor Tensor::reshape(const Shape& wanted, Loc loc) const {
  At at(loc);
  Shape to = wanted;
  int free_axis = -1;
  int64_t known = 1;
  for (int i = 0; i < to.rank(); ++i) {
    if (to[i] == -1) {
      if (free_axis >= 0) fail("reshape: at most one extent may be -1, got {}", to_string(wanted));
      free_axis = i;
    } else {
      known *= to[i];
    }
  }
  if (free_axis >= 0) {
    if (known <= 0 || numel() % known) fail("reshape: {} elements do not fill {}", numel(), to_string(wanted));
    to[free_axis] = numel() / known;
  }
  if (to == shape()) return *this;
  if (element_count(to) != numel())
    fail("reshape: {} has {} elements, {} has {}", to_string(spec()), numel(), to_string(to), element_count(to));
  Strides strides;
  if (!view_strides(layout(), to, strides)) return clone(loc).reshape(to, loc);
  return call(reshape_op, {this}, SpecAttrs{spec_of(*this, to)});
}

Tensor Tensor::permute(const Dims& axes, Loc loc) const {
  At at(loc);
  if (axes.rank() != rank()) fail("permute: expected {} axes, got {}", rank(), to_string(axes));
  PermuteAttrs p{{}, rank()};
  int32_t seen = 0;
  bool identity = true;
  for (int i = 0; i < rank(); ++i) {
    p.axes[i] = checked_axis("permute", axes[i], rank());
    if (seen >> p.axes[i] & 1) fail("permute: axis {} is given twice", p.axes[i]);
    seen |= 1 << p.axes[i];
    identity &= p.axes[i] == i;
  }
  return identity ? *this : call(permute_op, {this}, p);
}

Tensor Tensor::transpose(int axis0, int axis1, Loc loc) const {
  At at(loc);
  Dims axes;
  for (int i = 0; i < rank(); ++i) axes.push_back(i);
  std::swap(axes[checked_axis("transpose", axis0, rank())], axes[checked_axis("transpose", axis1, rank())]);
  return permute(axes, loc);
}

Tensor Tensor::slice(int axis, int64_t start, int64_t stop, int64_t step, Loc loc) const {
  At at(loc);
  const int a = checked_axis("slice", axis, rank());
  const int64_t n = shape()[a];
  if (start < 0) start += n;
  if (stop < 0) stop += n;
  if (step < 1) fail("slice: expected a step of at least 1, got {}", step);
  if (start < 0 || start > n || stop > n || stop < start)
    fail("slice: [{}, {}) of axis {} with extent {}", start, stop, a, n);
  const int64_t length = (stop - start + step - 1) / step;
  // Parts of a body's own values: the body is traced at each call, so the number is known, and fusion may rely on it.
  const bool own = thread_state.tracing && impl()->storage->recorder == thread_state.recorder;
  if (own && step == 1 && length) return call(part_op, {this}, PartAttrs{start, length, a});
  Scalars scalars;
  scalars.add(length ? start : int64_t{0});
  return call(slice_op, {this}, SliceAttrs{length, step, a}, scalars);
}

Tensor Tensor::select(int axis, int64_t index, Loc loc) const {
  At at(loc);
  const int a = checked_axis("select", axis, rank());
  const int64_t n = shape()[a];
  if (index < -n || index >= n) fail("select: index {} of axis {} with extent {}", index, a, n);
  const int64_t i = index < 0 ? index + n : index;
  return slice(a, i, i + 1, 1, loc).squeeze(a, loc);
}

Tensor Tensor::expand(const Shape& to, Loc loc) const {
  At at(loc);
  if (to == shape()) return *this;
  if (broadcast("expand", shape(), to) != to)
    fail("expand: {} does not broadcast to {}", to_string(spec()), to_string(to));
  return call(expand_op, {this}, SpecAttrs{spec_of(*this, to)});
}

Tensor Tensor::squeeze(int axis, Loc loc) const {
  At at(loc);
  Shape to = shape();
  const int a = checked_axis("squeeze", axis, rank());
  if (to[a] != 1) fail("squeeze: axis {} of {} has extent {}", a, to_string(spec()), to[a]);
  to.erase(a);
  return reshape(to, loc);
}

Tensor Tensor::unsqueeze(int axis, Loc loc) const {
  At at(loc);
  Shape to = shape();
  to.insert(checked_axis("unsqueeze", axis, rank() + 1), 1);
  return reshape(to, loc);
}

Tensor Tensor::flatten(int first_axis, int last_axis, Loc loc) const {
  At at(loc);
  if (!rank()) return reshape({1}, loc);
  const int first = checked_axis("flatten", first_axis, rank()), last = checked_axis("flatten", last_axis, rank());
  if (first > last) fail("flatten: axes {} to {} of {}", first, last, to_string(spec()));
  Shape to;
  int64_t run = 1;
  for (int i = 0; i < rank(); ++i) {
    run = i >= first && i <= last ? run * shape()[i] : shape()[i];
    if (i < first || i >= last) to.push_back(run);
    if (i < first) run = 1;
  }
  return reshape(to, loc);
}

}  // namespace rp
