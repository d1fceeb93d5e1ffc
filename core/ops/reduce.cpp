#include <cmath>

#include "reprise/core/ops/define.h"

namespace rp {
namespace {

Shape reduced_shape(const Shape& in, const ReduceAttrs& r) {
  Shape out;
  for (int i = 0; i < in.rank(); ++i) {
    if (!(r.axes >> i & 1))
      out.push_back(in[i]);
    else if (r.keepdim)
      out.push_back(1);
  }
  return out;
}

const Layout* reduce_shape(const ShapeCall& c) {
  const Spec& in = c.inputs[0]->spec;
  return intern({in.dtype, reduced_shape(in.shape, c.attrs.as<ReduceAttrs>()), in.device});
}

// The same elements with the reduced axes kept as extents of 1, so that they broadcast against the input.
Tensor kept(const Tensor& y, const GradCall& c) {
  ReduceAttrs r = c.attrs().as<ReduceAttrs>();
  r.keepdim = 1;
  return y.reshape(reduced_shape(c.input_spec(0).shape, r));
}

Tensors sum_gradient(const GradCall& c) { return {kept(c.dy(), c).expand(c.input_spec(0).shape)}; }

// Equal extremes share the gradient evenly.
Tensors extreme_gradient(const GradCall& c) {
  const Tensor x = c.input(0);
  const Tensor hit = cast(x == kept(c.output(), c), widened(x.dtype()));  // 16 bits could not count them
  Dims axes;
  for (int i = 0; i < x.rank(); ++i)
    if (c.attrs().as<ReduceAttrs>().axes >> i & 1) axes.push_back(i);
  const Tensor count = axes.rank() ? sum(hit, axes, true) : hit;
  return {cast(hit * (kept(c.dy(), c) / count), x.dtype())};
}

const Layout* arg_shape(const ShapeCall& c) {
  const auto& a = c.attrs.as<ArgAttrs>();
  const Spec& in = c.inputs[0]->spec;
  return intern({DType::i64, reduced_shape(in.shape, {1 << a.axis, a.keepdim}), in.device});
}

Tensor reduce(const Op& op, const Tensor& x, const Dims& axes, bool keepdim) {
  const ReduceAttrs attrs{axes_mask(op.name, axes, x.rank()), keepdim};
  if (op.combine != Combine::sum)
    for (int i = 0; i < x.rank(); ++i)
      if (attrs.axes >> i & 1 && !x.shape()[i]) fail("{}: axis {} of {} is empty", op.name, i, to_string(x.spec()));
  if (!attrs.axes) return x;  // a 0-d tensor
  return call(op, {&x}, attrs);
}

int64_t reduced_count(const Tensor& x, const Dims& axes, std::string_view op) {
  const int32_t mask = axes_mask(op, axes, x.rank());
  int64_t n = 1;
  for (int i = 0; i < x.rank(); ++i)
    if (mask >> i & 1) n *= x.shape()[i];
  return n;
}

DType floating(DType d) { return is_floating(d) ? d : DType::f32; }

// What several steps are computed in, so that only their result is rounded to a 16-bit float.
Tensor computed(const Tensor& x) { return cast(x, x.dtype() == DType::f64 ? DType::f64 : DType::f32); }

Tensor arg(const Op& op, In x, int axis, bool keepdim) {
  At at(x.loc);
  const ArgAttrs attrs{checked_axis(op.name, axis, x->rank()), keepdim};
  if (!x->shape()[attrs.axis]) fail("{}: axis {} of {} is empty", op.name, attrs.axis, to_string(x->spec()));
  const Tensor input = x->contiguous();
  return call(op, {&input}, attrs);
}

}  // namespace

constinit const Op sum_op{.name = "sum",
                          .kind = Kind::reduce,
                          .shape = reduce_shape,
                          .combine = Combine::sum,
                          .gradient = {sum_gradient},
                          .fields = ReduceAttrs::fields};
constinit const Op max_op{.name = "max",
                          .kind = Kind::reduce,
                          .shape = reduce_shape,
                          .combine = Combine::max,
                          .gradient = {extreme_gradient, Needs::both},
                          .fields = ReduceAttrs::fields};
constinit const Op min_op{.name = "min",
                          .kind = Kind::reduce,
                          .shape = reduce_shape,
                          .combine = Combine::min,
                          .gradient = {extreme_gradient, Needs::both},
                          .fields = ReduceAttrs::fields};
constinit const Op argmax_op{.name = "argmax", .kind = Kind::kernel, .shape = arg_shape, .fields = ArgAttrs::fields};
constinit const Op argmin_op{.name = "argmin", .kind = Kind::kernel, .shape = arg_shape, .fields = ArgAttrs::fields};

Entries reduce_entries() {
  static constexpr const Op* entries[] = {&sum_op, &max_op, &min_op, &argmax_op, &argmin_op};
  return entries;
}

Tensor sum(In x, const Dims& axes, bool keepdim) {
  At at(x.loc);
  return reduce(sum_op, x->dtype() < DType::i64 ? cast(x, DType::i64) : x.tensor, axes, keepdim);
}

Tensor max(In x, const Dims& axes, bool keepdim) {
  At at(x.loc);
  if (x->dtype() == DType::boolean) return any(x, axes, keepdim);
  return reduce(max_op, x, axes, keepdim);
}

Tensor min(In x, const Dims& axes, bool keepdim) {
  At at(x.loc);
  if (x->dtype() == DType::boolean) return all(x, axes, keepdim);
  return reduce(min_op, x, axes, keepdim);
}

Tensor mean(In x, const Dims& axes, bool keepdim) {
  At at(x.loc);
  const Tensor v = computed(x);
  const auto n = static_cast<double>(reduced_count(v, axes, "mean"));  // first, so that a wrong axis is mean's
  return cast(sum(v, axes, keepdim) / n, floating(x->dtype()));
}

Tensor var(In x, const Dims& axes, bool keepdim, int correction) {
  At at(x.loc);
  const Tensor v = computed(x);
  const auto n = static_cast<double>(reduced_count(v, axes, "var"));
  return cast(sum(square(v - mean(v, axes, true)), axes, keepdim) / (n - correction), floating(x->dtype()));
}

Tensor logsumexp(In x, const Dims& axes, bool keepdim) {
  At at(x.loc);
  const Tensor v = computed(x);
  // A row of minus infinities is shifted by 0, so that its result is minus infinity rather than NaN.
  const Tensor m = max(v, axes, true).detach(), shift = where(abs(m) == HUGE_VAL, 0, m);
  const Tensor y = log(sum(exp(v - shift), axes, keepdim));
  return cast(y + (keepdim || y.shape() == shift.shape() ? shift : shift.reshape(y.shape())), floating(x->dtype()));
}

Tensor any(In x, const Dims& axes, bool keepdim) {
  At at(x.loc);
  return sum(cast(x, DType::boolean), axes, keepdim) > 0;
}

Tensor all(In x, const Dims& axes, bool keepdim) {
  At at(x.loc);
  return sum(logical_not(cast(x, DType::boolean)), axes, keepdim) == 0;
}

Tensor argmax(In x, int axis, bool keepdim) { return arg(argmax_op, x, axis, keepdim); }
Tensor argmin(In x, int axis, bool keepdim) { return arg(argmin_op, x, axis, keepdim); }

}  // namespace rp
