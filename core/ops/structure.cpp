// Parameters, writes, copies, casts and creation.
#include <cstring>

#include "reprise/core/infer.h"
#include "reprise/core/ops/define.h"

namespace rp {
namespace {

const Layout* cast_shape(const ShapeCall& c) {
  Spec spec = c.inputs[0]->spec;
  spec.dtype = static_cast<DType>(c.attrs.as<CastAttrs>().dtype);
  return intern(spec);
}

Tensors cast_gradient(const GradCall& c) {
  const DType from = c.input_spec(0).dtype;
  return {is_floating(from) ? cast(c.dy(), from) : Tensor()};
}

Value cast_meaning(std::span<const Value> v, const Attrs&, Type out) { return v[0].builder->convert(v[0], out); }

Tensors transfer_gradient(const GradCall& c) { return {c.dy().to(c.input_spec(0).device)}; }

Value identity(std::span<const Value> v, const Attrs&, Type) { return v[0]; }

// start + step * index, all in the result's type
Value arange_meaning(std::span<const Value> v, const Attrs&, Type out) {
  return v[0] + v[1] * v[0].builder->convert(v[0].builder->index(), out);
}

}  // namespace

constinit const Op input_op{.name = "input", .kind = Kind::input, .operands = 0};
constinit const Op write_op{
    .name = "write", .kind = Kind::write, .operands = 2, .shape = [](const ShapeCall& c) { return c.inputs[0]; }};
constinit const Op full_op{.name = "full",
                           .kind = Kind::pointwise,
                           .operands = 1,
                           .shape = given_spec,
                           .meaning = identity,
                           .fields = SpecAttrs::fields};
constinit const Op copy_op{.name = "copy",
                           .kind = Kind::pointwise,
                           .operands = 1,
                           .shape = same_as_input,
                           .meaning = identity,
                           .gradient = {[](const GradCall& c) { return Tensors{c.dy()}; }},
                           .samples = {.booleans = true}};
constinit const Op cast_op{.name = "cast",
                           .kind = Kind::pointwise,
                           .operands = 1,
                           .shape = cast_shape,
                           .meaning = cast_meaning,
                           .gradient = {cast_gradient},
                           .fields = CastAttrs::fields,
                           .samples = {.booleans = true}};
static constinit const Op transfer_op{.name = "transfer",
                                      .kind = Kind::transfer,
                                      .shape = given_spec,
                                      .gradient = {transfer_gradient},
                                      .fields = SpecAttrs::fields};
static constinit const Op arange_op{.name = "arange",
                                    .kind = Kind::pointwise,
                                    .operands = 2,
                                    .shape = given_spec,
                                    .meaning = arange_meaning,
                                    .fields = SpecAttrs::fields};

Entries structure_entries() {
  static constexpr const Op* entries[] = {&input_op, &write_op, &full_op, &copy_op, &cast_op, &transfer_op, &arange_op};
  return entries;
}

// ---- creation -------------------------------------------------------------------------------------------------------

Tensor full(const Shape& shape, Scalar value, DType dtype, Loc loc) {
  At at(loc);
  Call c{.op = &full_op, .inputs = {}, .attrs = SpecAttrs{intern({dtype, shape, default_device()})}, .scalar_mask = 1};
  add_scalar(c.scalars, value, dtype);
  return apply(c);
}

Tensor zeros(const Shape& shape, DType dtype, Loc loc) { return full(shape, 0, dtype, loc); }
Tensor ones(const Shape& shape, DType dtype, Loc loc) { return full(shape, 1, dtype, loc); }
Tensor full_like(In x, Scalar value) {
  const DeviceScope on(x->device());
  return full(x->shape(), value, x->dtype(), x.loc);
}
Tensor zeros_like(In x) { return full_like(x, 0); }
Tensor ones_like(In x) { return full_like(x, 1); }
Tensor scalar(Scalar value, DType dtype, Loc loc) { return full({}, value, dtype, loc); }

Tensor arange(int64_t count, Scalar start, Scalar step, DType dtype, Loc loc) {
  At at(loc);
  if (count < 0 || count >= int64_t{1} << 31) fail("arange: expected a count in [0, 2^31), got {}", count);
  if (dtype == DType::boolean) fail("arange: expected a number dtype, got bool");
  Call c{
      .op = &arange_op, .inputs = {}, .attrs = SpecAttrs{intern({dtype, {count}, default_device()})}, .scalar_mask = 3};
  add_scalar(c.scalars, start, dtype);
  add_scalar(c.scalars, step, dtype);
  return apply(c);
}

template <class T>
Tensor tensor(std::span<const T> values, const Shape& shape, Loc loc) {
  At at(loc);
  Tensor t = allocate(intern({dtype_of<T>(), shape, default_device()}));
  if (static_cast<int64_t>(values.size()) != t.numel())
    fail("tensor: expected {} values for shape {}, got {}", t.numel(), to_string(shape), values.size());
  if (!values.empty())
    engine.backend(t.device()).write(t.bytes(), reinterpret_cast<const std::byte*>(values.data()), values.size_bytes());
  return t;
}

template <class T>
Tensor from_blob(T* data, const Shape& shape, void (*release)(void*), void* context, Loc loc) {
  At at(loc);
  const Layout* layout = intern({dtype_of<T>(), shape, {}});
  if (!data && layout->numel) fail("from_blob: expected {} elements, got a null pointer", layout->numel);
  return adopt(data, layout, release, context);
}

#define RP_INSTANTIATE(T)                                           \
  template Tensor tensor<T>(std::span<const T>, const Shape&, Loc); \
  template Tensor from_blob<T>(T*, const Shape&, void (*)(void*), void*, Loc);
RP_INSTANTIATE(bool)
RP_INSTANTIATE(int32_t)
RP_INSTANTIATE(int64_t)
RP_INSTANTIATE(BFloat16)
RP_INSTANTIATE(Half)
RP_INSTANTIATE(float)
RP_INSTANTIATE(double)
#undef RP_INSTANTIATE

// ---- casts, copies, in-place forms ----------------------------------------------------------------------------------

Tensor cast(In x, DType dtype) {
  At at(x.loc);
  if (x->dtype() == dtype) return x;
  const CastAttrs attrs{static_cast<int32_t>(dtype)};
  const std::optional<Dims> order = order_of(x.tensor);
  if (!order) return call(cast_op, {&x.tensor}, attrs);
  const Tensor as_it_lies = x->permute(*order);
  return call(cast_op, {&as_it_lies}, attrs).permute(undone(*order));
}

Tensor Tensor::to(DType dtype, Loc loc) const { return cast(In(*this, loc), dtype); }

Tensor Tensor::to(Device device, Loc loc) const {
  At at(loc);
  if (this->device() == device) return *this;
  engine.backend(device);  // says why it cannot be used
  return call(transfer_op, {this}, SpecAttrs{intern({dtype(), shape(), device})});
}

Tensor Tensor::clone(Loc loc) const {
  At at(loc);
  layout();
  return call(copy_op, {this});
}

Tensor Tensor::contiguous(Loc loc) const {
  At at(loc);
  return is_contiguous() ? *this : clone(loc);
}

const Tensor& Tensor::copy_(const Tensor& source, Loc loc) const {
  At at(loc);
  Tensor value = source.to(device(), loc).to(dtype(), loc);
  if (broadcast("copy_", value.shape(), shape()) != shape())
    fail("copy_: {} does not fit into {}", rp::to_string(source.spec()), rp::to_string(spec()));
  value = value.expand(shape());
  if (source.dtype() == dtype() &&
      source.device() == device()) {  // a fresh tensor is a fresh tensor: nothing to copy twice
    const Tensor* inputs[] = {&value};
    apply_into(*this, {.op = &copy_op, .inputs = inputs});
  } else {
    write(*this, value);
  }
  return *this;
}

const Tensor& Tensor::fill_(Scalar value, Loc loc) const {
  At at(loc);
  Spec spec = this->spec();
  Call c{.op = &full_op, .inputs = {}, .attrs = SpecAttrs{intern(spec)}, .scalar_mask = 1};
  add_scalar(c.scalars, value, dtype());
  apply_into(*this, c);
  return *this;
}

}  // namespace rp
