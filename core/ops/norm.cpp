// Softmax, normalisation and losses: composites whose bodies are public ops.
#include <bit>
#include <cmath>

#include "reprise/core/ops/define.h"

namespace rp {
namespace {

Tensor softmax_body(std::span<const Tensor> in, const Attrs& attrs, const Scalars&) {
  const Dims axis{attrs.as<AxisAttrs>().axis};
  const Tensor e = exp(in[0] - max(in[0], axis, true));
  return e * (1 / sum(e, axis, true));  // a division for the row, not for every element
}

Tensors softmax_gradient(const GradCall& c) {
  const Dims axis{c.attrs().as<AxisAttrs>().axis};
  const Tensor weighted = c.dy() * c.output();
  return {weighted - c.output() * sum(weighted, axis, true)};
}

Tensor log_softmax_body(std::span<const Tensor> in, const Attrs& attrs, const Scalars&) {
  const Dims axis{attrs.as<AxisAttrs>().axis};
  const Tensor shifted = in[0] - max(in[0], axis, true);
  return shifted - log(sum(exp(shifted), axis, true));
}

Tensors log_softmax_gradient(const GradCall& c) {
  const Dims axis{c.attrs().as<AxisAttrs>().axis};
  return {c.dy() - exp(c.output()) * sum(c.dy(), axis, true)};
}

Tensor layer_norm_body(std::span<const Tensor> in, const Attrs& attrs, const Scalars&) {
  const Tensor& x = in[0];
  const Tensor centred = x - mean(x, {-1}, true);
  const Tensor variance = mean(square(centred), {-1}, true);
  Tensor y = centred * rsqrt(variance + std::bit_cast<double>(attrs.as<EpsAttrs>().bits));
  if (in.size() > 1) y = y * in[1];
  if (in.size() > 2) y = y + in[2];
  return y;
}

}  // namespace

static constinit const Op softmax_op{.name = "softmax",
                                     .kind = Kind::composite,
                                     .shape = same_as_input,
                                     .body = softmax_body,
                                     .gradient = {softmax_gradient, Needs::output},
                                     .fields = AxisAttrs::fields};
static constinit const Op log_softmax_op{.name = "log_softmax",
                                         .kind = Kind::composite,
                                         .shape = same_as_input,
                                         .body = log_softmax_body,
                                         .gradient = {log_softmax_gradient, Needs::output},
                                         .fields = AxisAttrs::fields};
static constinit const Op layer_norm_op{.name = "layer_norm",
                                        .kind = Kind::composite,
                                        .operands = -1,
                                        .shape = same_as_input,
                                        .body = layer_norm_body,
                                        .fields = EpsAttrs::fields};

Entries norm_entries() {
  static constexpr const Op* entries[] = {&softmax_op, &log_softmax_op, &layer_norm_op};
  return entries;
}

namespace {

Tensor along_axis(const Op& op, In x, int axis) {
  At at(x.loc);
  const Tensor v = is_floating(x->dtype()) ? x.tensor : cast(x, DType::f32);
  if (!v.rank()) fail("{}: expected at least one axis, got {}", op.name, to_string(x->spec()));
  const int a = checked_axis(op.name, axis, v.rank());
  if (!v.numel()) return v;
  return call(op, {&v}, AxisAttrs{a});
}

void check_vector(const char* op, const char* what, const Tensor& t, int64_t n) {
  if (t.defined() && t.shape() != Shape{n})
    fail("{}: expected {} of shape [{}], got {}", op, what, n, to_string(t.spec()));
}

}  // namespace

Tensor softmax(In x, int axis) { return along_axis(softmax_op, x, axis); }
Tensor log_softmax(In x, int axis) { return along_axis(log_softmax_op, x, axis); }

Tensor layer_norm(In x, const Tensor& scale, const Tensor& shift, double eps) {
  At at(x.loc);
  DType dtype = is_floating(x->dtype()) ? x->dtype() : DType::f32;
  for (const Tensor* t : {&scale, &shift})
    if (t->defined()) dtype = promoted(dtype, t->dtype());
  const Tensor v = cast(x, dtype), s = scale.defined() ? cast(scale, dtype) : scale,
               b = shift.defined() ? cast(shift, dtype) : shift;
  if (!v.rank()) fail("layer_norm: expected at least one axis, got {}", to_string(x->spec()));
  check_vector("layer_norm", "a scale", scale, v.shape().back());
  check_vector("layer_norm", "a shift", shift, v.shape().back());
  const EpsAttrs attrs{std::bit_cast<int64_t>(eps)};
  if (!v.numel()) return v;
  if (!s.defined()) {
    const Tensor y = call(layer_norm_op, {&v}, attrs);
    return b.defined() ? y + b : y;
  }
  return b.defined() ? call(layer_norm_op, {&v, &s, &b}, attrs) : call(layer_norm_op, {&v, &s}, attrs);
}

Tensor batch_norm(In x, In mean, In variance, const Tensor& scale, const Tensor& shift, int channel_axis, double eps) {
  At at(x.loc);
  const int axis = checked_axis("batch_norm", channel_axis, x->rank());
  const int64_t channels = x->shape()[axis];
  check_vector("batch_norm", "a mean", mean, channels);
  check_vector("batch_norm", "a variance", variance, channels);
  check_vector("batch_norm", "a scale", scale, channels);
  check_vector("batch_norm", "a shift", shift, channels);
  Shape to;
  for (int i = axis; i < x->rank(); ++i) to.push_back(i == axis ? channels : 1);
  if (is_short(x->dtype()))  // rounded once
    return cast(batch_norm(cast(x, DType::f32), mean, variance, scale, shift, axis, eps), x->dtype());
  Tensor factor = rsqrt(variance.tensor + eps);
  if (scale.defined()) factor = factor * scale;
  Tensor y = (x.tensor - mean->reshape(to)) * factor.reshape(to);
  return shift.defined() ? y + shift.reshape(to) : y;
}

Tensor cross_entropy(In logits, In labels) {
  At at(logits.loc);
  if (logits->rank() != 2 || labels->rank() != 1 || labels->shape()[0] != logits->shape()[0])
    fail("cross_entropy: expected logits [n, classes] and labels [n], got {} and {}", to_string(logits->spec()),
         to_string(labels->spec()));
  if (is_floating(labels->dtype()) || labels->dtype() == DType::boolean)
    fail("cross_entropy: expected integer labels, got {}", to_string(labels->spec()));
  return -mean(gather(log_softmax(logits), labels->unsqueeze(1), 1));
}

Tensor mse_loss(In prediction, In target) {
  At at(prediction.loc);
  if (prediction->shape() != target->shape())
    fail("mse_loss: expected equal shapes, got {} and {}", to_string(prediction->spec()), to_string(target->spec()));
  return mean(square(prediction.tensor - target.tensor));
}

}  // namespace rp
