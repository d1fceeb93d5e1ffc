#include <algorithm>

#include "reprise/core/ops/define.h"

namespace rp {
namespace {

const Layout* matmul_shape(const ShapeCall& c) {
  Spec spec = c.inputs[0]->spec;
  const int last = spec.shape.rank() - 1;
  spec.shape[last] = c.inputs[1]->shape()[last];
  return intern(spec);
}

Tensors matmul_gradient(const GradCall& c) {
  Tensor da, db;
  if (c.wanted(0)) da = matmul(c.dy(), c.input(1).transpose());
  if (c.wanted(1)) db = matmul(c.input(0).transpose(), c.dy());
  return {da, db};
}

// Batch axes in front of a matrix, as wide as `batch`.
Tensor with_batch(const Tensor& x, const Shape& batch) {
  Shape to = batch;
  to.push_back(x.shape()[x.rank() - 2]);
  to.push_back(x.shape()[x.rank() - 1]);
  return x.expand(to);
}

Shape batch_of(const Tensor& x) {
  Shape batch = x.shape();
  batch.erase(batch.rank() - 1);
  batch.erase(batch.rank() - 1);
  return batch;
}

void check_inner(const Tensor& a, const Tensor& b) {
  const int64_t left = a.shape().back(), right = b.shape()[b.rank() - 2];
  if (left != right)
    fail("matmul: inner sizes differ: {} · {} (axis {} is {}, axis {} is {})", to_string(a.spec()), to_string(b.spec()),
         a.rank() - 1, left, b.rank() - 2, right);
}

}  // namespace

constinit const Op matmul_op{.name = "matmul",
                             .kind = Kind::contract,
                             .operands = 2,
                             .shape = matmul_shape,
                             .gradient = {matmul_gradient, Needs::inputs}};

constinit const Op segmented_matmul_op{.name = "segmented_matmul",
                                       .kind = Kind::contract,
                                       .operands = 2,
                                       .shape = matmul_shape,
                                       .gradient = {matmul_gradient, Needs::inputs},
                                       .fields = SegmentAttrs::fields};

Entries matrix_entries() {
  static constexpr const Op* entries[] = {&matmul_op, &segmented_matmul_op};
  return entries;
}

Tensor matmul(In a, In b) {
  At at(a.loc);
  if (!a->rank() || !b->rank())
    fail("matmul: expected at least one axis each, got {} and {}", to_string(a->spec()), to_string(b->spec()));
  const DType dtype = std::max({a->dtype(), b->dtype(), DType::i32});
  Tensor x = cast(a, dtype), y = cast(b, dtype);
  if (a->rank() == 1) x = x.unsqueeze(0);
  if (b->rank() == 1) y = y.unsqueeze(1);
  check_inner(x, y);
  if (x.rank() > 2 || y.rank() > 2) {
    const Shape batch = broadcast("matmul", batch_of(x), batch_of(y));
    x = with_batch(x, batch);
    y = with_batch(y, batch);
  }
  Tensor z = call(matmul_op, {&x, &y});
  if (a->rank() == 1) z = z.squeeze(z.rank() - 2);
  if (b->rank() == 1) z = z.squeeze(z.rank() - 1);
  return z;
}

Tensor linear(In x, In w, const Tensor& b) {
  At at(x.loc);
  if (w->rank() != 2) fail("linear: expected a weight of two axes, got {}", to_string(w->spec()));
  if (!x->rank()) fail("linear: expected at least one axis, got {}", to_string(x->spec()));
  Shape out = x->shape();
  out[out.rank() - 1] = w->shape()[1];
  const Tensor rows = x->rank() > 2 ? x->reshape({-1, x->shape().back()}) : x.tensor;
  Tensor y = matmul(rows, w);
  if (b.defined()) {
    if (b.shape() != Shape{w->shape()[1]})
      fail("linear: expected a bias [{}], got {}", w->shape()[1], to_string(b.spec()));
    y = y + b;
  }
  return x->rank() > 2 ? y.reshape(out) : y;
}

}  // namespace rp
