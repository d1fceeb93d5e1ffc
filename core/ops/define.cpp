#include "reprise/core/ops/define.h"

#include <algorithm>

#include "reprise/core/infer.h"

namespace rp {

const Layout* same_as_input(const ShapeCall& c) { return c.inputs[0]->packed; }

const Layout* bool_as_input(const ShapeCall& c) {
  Spec spec = c.inputs[0]->spec;
  spec.dtype = DType::boolean;
  return intern(spec);
}

const Layout* given_spec(const ShapeCall& c) { return c.attrs.as<SpecAttrs>().spec; }

void add_scalar(Scalars& scalars, const Scalar& v, DType dtype) {
  visit_dtype(dtype, [&]<class E>(E) {
    using T = Computed<E>;
    if constexpr (std::is_same_v<T, bool>)
      scalars.add<int32_t>(v.f != 0);
    else if constexpr (std::is_integral_v<T>)
      scalars.add(static_cast<T>(v.i));
    else
      scalars.add(v.kind == Scalar::Kind::integer ? static_cast<T>(v.i) : static_cast<T>(v.f));
  });
}

Shape broadcast(std::string_view op, const Shape& a, const Shape& b) {
  Shape out = a.rank() >= b.rank() ? a : b;
  const Shape& other = a.rank() >= b.rank() ? b : a;
  const int shift = out.rank() - other.rank();
  for (int i = 0; i < other.rank(); ++i) {
    int64_t& d = out[i + shift];
    if (d == other[i] || other[i] == 1) continue;
    if (d != 1)
      fail("{}: shapes {} and {} do not broadcast (axis {}: {} and {})", op, to_string(a), to_string(b), i + shift, d,
           other[i]);
    d = other[i];
  }
  return out;
}

int checked_axis(std::string_view op, int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) fail("{}: axis {} of a tensor with {} axes", op, axis, rank);
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

int32_t axes_mask(std::string_view op, const Dims& axes, int rank) {
  if (!axes.rank()) return (1 << rank) - 1;
  int32_t mask = 0;
  for (int64_t axis : axes) {
    const int32_t bit = 1 << checked_axis(op, axis, rank);
    if (mask & bit) fail("{}: axis {} is given twice", op, axis);
    mask |= bit;
  }
  return mask;
}

namespace {

DType common_dtype(const Op& op, std::initializer_list<const Operand*> operands, Promote promote) {
  bool any = false;
  DType dtype = DType::boolean;
  for (const Operand* o : operands)
    if (o->tensor) {
      dtype = promoted(dtype, o->tensor->dtype());
      any = true;
    }
  if (!any) fail("{}: expected a tensor among the operands, got numbers only", op.name);
  if (promote == Promote::boolean) {
    if (dtype != DType::boolean) fail("{}: expected bool, got {}", op.name, name_of(dtype));
    return dtype;
  }
  for (const Operand* o : operands) {
    if (o->tensor) continue;
    if (o->scalar.kind == Scalar::Kind::real && !is_floating(dtype)) dtype = DType::f32;
    if (o->scalar.kind == Scalar::Kind::integer && dtype == DType::boolean) dtype = DType::i64;
  }
  if (promote == Promote::same && dtype == DType::boolean && !op.samples.booleans)
    fail("{}: arithmetic on bool is not defined; cast to a number dtype first", op.name);
  return promote == Promote::floating && !is_floating(dtype) ? DType::f32 : dtype;
}

}  // namespace

std::optional<Dims> order_of(const Tensor& x) {
  return x.rank() > 2 && !x.is_contiguous() ? memory_order(x.layout()) : std::nullopt;
}

Dims undone(const Dims& order) {
  Dims back = order;
  for (int i = 0; i < order.rank(); ++i) back[static_cast<int>(order[i])] = i;
  return back;
}

namespace {

// A pointwise call with its promoted and broadcast operands.
struct Prepared {
  const Tensor* inputs[3];
  Tensor made[3];  // what promotion and broadcasting had to make
  Call call;

  Prepared(const Op& op, std::initializer_list<const Operand*> operands, Promote promote, const Attrs& attrs) {
    const DType dtype = common_dtype(op, operands, promote);
    call.op = &op;
    call.attrs = attrs;
    int n = 0, k = 0;
    bool alike = true;
    for (const Operand* o : operands) {
      if (o->tensor) {
        inputs[n] = o->tensor;
        if (o->tensor->dtype() != dtype && !(op.operands == 3 && k == 0)) {  // the condition of `where` stays bool
          made[n] = cast(In(*o->tensor, o->loc), dtype);
          inputs[n] = &made[n];
        }
        alike &= &inputs[n]->layout() == &inputs[0]->layout() || inputs[n]->shape() == inputs[0]->shape();
        ++n;
      } else {
        add_scalar(call.scalars, o->scalar, dtype);
        call.scalar_mask |= static_cast<uint8_t>(1 << k);
      }
      ++k;
    }
    if (!alike) expand_all(op, n);
    call.inputs = {inputs, static_cast<size_t>(n)};
  }

  // That of the first operand that has one.
  std::optional<Dims> order() const {
    for (const Tensor* t : call.inputs)
      if (auto order = order_of(*t)) return order;
    return {};
  }

  void permute(const Dims& order) {
    for (size_t i = 0; i < call.inputs.size(); ++i) {
      made[i] = inputs[i]->permute(order);
      inputs[i] = &made[i];
    }
  }

  // The result, computed and stored in that order.
  Tensor apply_in(const Dims& order) {
    permute(order);
    return apply(call).permute(undone(order));
  }

  void expand_all(const Op& op, int n) {
    Shape shape = inputs[0]->shape();
    for (int i = 1; i < n; ++i) shape = broadcast(op.name, shape, inputs[i]->shape());
    for (int i = 0; i < n; ++i)
      if (inputs[i]->shape() != shape) {
        made[i] = inputs[i]->expand(shape);
        inputs[i] = &made[i];
      }
  }
};

const Loc& loc_of(std::initializer_list<const Operand*> operands) { return (*operands.begin())->loc; }

}  // namespace

Tensor elementwise(const Op& op, std::initializer_list<const Operand*> operands, Promote promote, const Attrs& attrs) {
  At at(loc_of(operands));
  // One or two tensors of one layout, the most frequent call, need neither promotion nor broadcasting.
  const Tensor *first = (*operands.begin())->tensor, *last = (*(operands.end() - 1))->tensor;
  if (operands.size() <= 2 && first && last && &first->layout() == &last->layout() && !attrs.size() &&
      first->dtype() != DType::boolean && first->is_contiguous() &&
      (promote == Promote::same || (promote == Promote::floating && is_floating(first->dtype())))) {
    const Tensor* inputs[] = {first, last};
    return apply({.op = &op, .inputs = {inputs, operands.size()}});
  }
  Prepared prepared(op, operands, promote, attrs);
  if (const auto order = prepared.order()) return prepared.apply_in(*order);
  return apply(prepared.call);
}

void elementwise_into(const Tensor& target, const Op& op, std::initializer_list<const Operand*> operands,
                      Promote promote) {
  At at(loc_of(operands));
  Prepared prepared(op, operands, promote, {});
  const Layout* out = infer(prepared.call);
  if (out->shape() != target.shape())
    fail("{}_: the result {} does not fit into {}", op.name, to_string(out->spec), to_string(target.spec()));
  if (out->dtype() == target.dtype()) {
    const auto order = target.rank() > 2 ? memory_order(target.layout()) : std::nullopt;
    if (!order) return apply_into(target, prepared.call);
    prepared.permute(*order);
    return apply_into(target.permute(*order), prepared.call);
  }
  if (out->dtype() > target.dtype() && is_floating(out->dtype()) != is_floating(target.dtype()))
    fail("{}_: the result is {}, the tensor {}; cast one of them", op.name, name_of(out->dtype()),
         name_of(target.dtype()));
  write(target, cast(apply(prepared.call), target.dtype()));
}

Tensor call(const Op& op, std::initializer_list<const Tensor*> inputs, const Attrs& attrs, const Scalars& scalars) {
  return apply({.op = &op, .inputs = {inputs.begin(), inputs.size()}, .attrs = attrs, .scalars = scalars});
}

}  // namespace rp
