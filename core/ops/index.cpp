// Indexing and assembly.
#include <algorithm>

#include "reprise/core/ops/define.h"

namespace rp {
namespace {

const Layout* index_select_shape(const ShapeCall& c) {
  const int axis = c.attrs.as<AxisAttrs>().axis;
  Spec spec = c.inputs[0]->spec;
  spec.shape.erase(axis);
  const Shape& indices = c.inputs[1]->shape();
  for (int i = 0; i < indices.rank(); ++i) spec.shape.insert(axis + i, indices[i]);
  return intern(spec);
}

const Layout* gather_shape(const ShapeCall& c) {
  Spec spec = c.inputs[0]->spec;
  spec.shape = c.inputs[1]->shape();
  return intern(spec);
}

const Layout* scatter_shape(const ShapeCall& c) { return c.attrs.as<ScatterAttrs>().spec; }

const Layout* concat_shape(const ShapeCall& c) {
  const int axis = c.attrs.as<AxisAttrs>().axis;
  Spec spec = c.inputs[0]->spec;
  for (size_t i = 1; i < c.inputs.size(); ++i) spec.shape[axis] += c.inputs[i]->shape()[axis];
  return intern(spec);
}

// A gather-like rule's adjoint is its scatter, and the other way round.
template <const Op& adjoint>
Tensors to_scatter(const GradCall& c) {
  const Tensor dy = c.dy().contiguous(), indices = c.input(1);
  return {call(adjoint, {&dy, &indices}, ScatterAttrs{intern(c.input_spec(0)), c.attrs().as<AxisAttrs>().axis}), {}};
}
template <const Op& adjoint>
Tensors to_gather(const GradCall& c) {
  const Tensor dy = c.dy().contiguous(), indices = c.input(1);
  return {call(adjoint, {&dy, &indices}, AxisAttrs{static_cast<int32_t>(c.attrs().as<ScatterAttrs>().axis)}), {}};
}

Tensors concat_gradient(const GradCall& c) {
  const int axis = c.attrs().as<AxisAttrs>().axis;
  Tensors parts;
  int64_t start = 0;
  for (int i = 0; i < c.inputs(); ++i) {
    const int64_t n = c.input_spec(i).shape[axis];
    parts.push_back(c.wanted(i) ? c.dy().slice(axis, start, start + n) : Tensor());
    start += n;
  }
  return parts;
}

}  // namespace

constinit const Op index_select_op{.name = "index_select",
                                   .kind = Kind::kernel,
                                   .operands = 2,
                                   .shape = index_select_shape,
                                   .gradient = {to_scatter<index_add_op>, Needs::inputs},
                                   .fields = AxisAttrs::fields,
                                   .moves = true};
constinit const Op index_add_op{.name = "index_add",
                                .kind = Kind::kernel,
                                .operands = 2,
                                .shape = scatter_shape,
                                .gradient = {to_gather<index_select_op>, Needs::inputs},
                                .fields = ScatterAttrs::fields};
constinit const Op gather_op{.name = "gather",
                             .kind = Kind::kernel,
                             .operands = 2,
                             .shape = gather_shape,
                             .gradient = {to_scatter<scatter_add_op>, Needs::inputs},
                             .fields = AxisAttrs::fields,
                             .moves = true};
constinit const Op scatter_add_op{.name = "scatter_add",
                                  .kind = Kind::kernel,
                                  .operands = 2,
                                  .shape = scatter_shape,
                                  .gradient = {to_gather<gather_op>, Needs::inputs},
                                  .fields = ScatterAttrs::fields};
constinit const Op concat_op{.name = "concat",
                             .kind = Kind::kernel,
                             .operands = -1,
                             .shape = concat_shape,
                             .gradient = {concat_gradient},
                             .fields = AxisAttrs::fields,
                             .moves = true};

Entries index_entries() {
  static constexpr const Op* entries[] = {&index_select_op, &index_add_op, &gather_op, &scatter_add_op, &concat_op};
  return entries;
}

namespace {

void check_indices(const char* op, const Tensor& indices) {
  if (indices.dtype() != DType::i32 && indices.dtype() != DType::i64)
    fail("{}: expected integer indices, got {}", op, to_string(indices.spec()));
}

// Same rank, and same extents but along `axis`.
void check_alike(const char* op, const Shape& a, const Shape& b, int axis) {
  bool alike = a.rank() == b.rank();
  for (int i = 0; alike && i < a.rank(); ++i) alike = i == axis || a[i] == b[i];
  if (!alike) fail("{}: {} and {} must agree but for axis {}", op, to_string(a), to_string(b), axis);
}

}  // namespace

Tensor index_select(In x, In indices, int axis) {
  At at(x.loc);
  check_indices("index_select", indices);
  const Tensor v = x->contiguous(), i = indices->contiguous();
  return call(index_select_op, {&v, &i}, AxisAttrs{checked_axis("index_select", axis, x->rank())});
}

Tensor gather(In x, In indices, int axis) {
  At at(x.loc);
  check_indices("gather", indices);
  const int a = checked_axis("gather", axis, x->rank());
  check_alike("gather", x->shape(), indices->shape(), a);
  const Tensor v = x->contiguous(), i = indices->contiguous();
  return call(gather_op, {&v, &i}, AxisAttrs{a});
}

Tensor scatter_add(In src, In indices, const Shape& shape, int axis) {
  At at(src.loc);
  check_indices("scatter_add", indices);
  const int a = checked_axis("scatter_add", axis, shape.rank());
  if (src->shape() != indices->shape())
    fail("scatter_add: expected equal shapes, got {} and {}", to_string(src->spec()), to_string(indices->spec()));
  check_alike("scatter_add", shape, src->shape(), a);
  const Tensor v = src->contiguous(), i = indices->contiguous();
  return call(scatter_add_op, {&v, &i}, ScatterAttrs{intern({src->dtype(), shape, src->device()}), a});
}

Tensor one_hot(In indices, int64_t classes, DType dtype) {
  At at(indices.loc);
  check_indices("one_hot", indices);
  if (classes < 0) fail("one_hot: expected a number of classes, got {}", classes);
  const DeviceScope on(indices->device());
  return cast(indices->unsqueeze(-1) == arange(classes, 0, 1, indices->dtype()), dtype);
}

Tensor concat(const Tensors& tensors, int axis, Loc loc) {
  At at(loc);
  if (tensors.empty()) fail("concat: expected at least one tensor");
  const int a = checked_axis("concat", axis, tensors[0].rank());
  DType dtype = DType::boolean;
  for (const Tensor& t : tensors) {
    check_alike("concat", tensors[0].shape(), t.shape(), a);
    dtype = promoted(dtype, t.dtype());
  }
  Tensors parts;
  for (const Tensor& t : tensors) parts.push_back(cast(t, dtype).contiguous());
  std::vector<const Tensor*> inputs;
  for (const Tensor& t : parts) inputs.push_back(&t);
  return apply({.op = &concat_op, .inputs = inputs, .attrs = AxisAttrs{a}});
}

Tensor stack(const Tensors& tensors, int axis, Loc loc) {
  At at(loc);
  if (tensors.empty()) fail("stack: expected at least one tensor");
  Tensors parts;
  for (const Tensor& t : tensors) {
    if (t.shape() != tensors[0].shape())
      fail("stack: expected equal shapes, got {} and {}", to_string(tensors[0].spec()), to_string(t.spec()));
    parts.push_back(t.unsqueeze(axis));
  }
  return concat(parts, axis, loc);
}

Tensor pad(In x, const Dims& before, const Dims& after, Scalar value) {
  At at(x.loc);
  Shape shape = x->shape();
  if (before.rank() != shape.rank() || after.rank() != shape.rank())
    fail("pad: expected {} entries before and after, got {} and {}", shape.rank(), to_string(before), to_string(after));
  for (int i = 0; i < shape.rank(); ++i) {
    if (before[i] < 0 || after[i] < 0)
      fail("pad: expected no negative entry, got {} and {}", to_string(before), to_string(after));
    shape[i] += before[i] + after[i];
  }
  const DeviceScope on(x->device());
  const Tensor y = full(shape, value, x->dtype());
  Tensor inner = y;
  for (int i = 0; i < shape.rank(); ++i) inner = inner.slice(i, before[i], before[i] + x->shape()[i]);
  inner.copy_(x);
  return y;
}

Tensors split(In x, int64_t parts, int axis) {
  At at(x.loc);
  const int a = checked_axis("split", axis, x->rank());
  const int64_t n = x->shape()[a];
  if (parts < 1 || n % parts) fail("split: an extent of {} does not split into {} equal parts", n, parts);
  Tensors result;
  for (int64_t i = 0; i < parts; ++i)
    result.push_back(call(part_op, {&x.tensor}, PartAttrs{i * (n / parts), n / parts, a}));
  return result;
}

}  // namespace rp
