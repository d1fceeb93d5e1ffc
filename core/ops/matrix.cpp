// Matrix products, and what is composed of them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

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

// ---- triangles ----

// Whether column - row is at most (or, of an upper triangle, at least) `diagonal`, for every element of a matrix.
Tensor in_triangle(int64_t rows, int64_t columns, int64_t diagonal, bool upper) {
  const Tensor row = arange(rows).unsqueeze(1) + diagonal, column = arange(columns);
  return upper ? column >= row : column <= row;
}

template <bool upper>
Tensor triangle_body(std::span<const Tensor> in, const Attrs& attrs, const Scalars&) {
  const Tensor& x = in[0];
  const int64_t diagonal = attrs.as<DiagonalAttrs>().diagonal;
  return where(in_triangle(x.size(-2), x.size(-1), diagonal, upper), x,
               x.dtype() == DType::boolean ? Scalar(false) : 0);
}

const Layout* triangle_shape(const ShapeCall& c) {
  if (c.inputs[0]->rank() < 2) fail("{}: expected a matrix, got {}", c.op.name, to_string(c.inputs[0]->spec));
  return same_as_input(c);
}

Tensors tril_gradient(const GradCall& c) {
  return {tril(c.dy(), static_cast<int>(c.attrs().as<DiagonalAttrs>().diagonal))};
}
Tensors triu_gradient(const GradCall& c) {
  return {triu(c.dy(), static_cast<int>(c.attrs().as<DiagonalAttrs>().diagonal))};
}

// ---- attention ----

constexpr double hidden = -std::numeric_limits<double>::infinity();

Tensor causal_or(const Tensor& scores, double otherwise) {
  return where(in_triangle(scores.size(-2), scores.size(-1), 0, false), scores, otherwise);
}

Tensor attention_body(std::span<const Tensor> in, const Attrs& attrs, const Scalars&) {
  const auto& a = attrs.as<AttentionAttrs>();
  Tensor scores = matmul(in[0], in[1].transpose()) * std::bit_cast<double>(a.scale_bits);
  if (a.causal) scores = causal_or(scores, hidden);
  if (in.size() > 3) scores = where(in[3], scores, hidden);
  return matmul(softmax(scores), in[2]);
}

// What the tape would do with the body above, op by op, so that bits are the same, and a plan shares the weights with
// the forward pass.
Tensor attention_gradient_body(std::span<const Tensor> in, const Attrs& attrs, const Scalars&) {
  const auto& a = attrs.as<AttentionAttrs>();
  const double scale = std::bit_cast<double>(a.scale_bits);
  const Tensor &q = in[0], &k = in[1], &v = in[2], &dy = in[3];
  const Tensor scores = matmul(q, k.transpose()) * scale;
  const Tensor weights = softmax(a.causal ? causal_or(scores, hidden) : scores);
  const Tensor weighted = matmul(dy, v.transpose()) * weights;
  Tensor d = weighted - weights * sum(weighted, {-1}, true);
  if (a.causal) d = causal_or(d, 0);
  d = d * scale;
  const Tensor dq = matmul(d, k), dk = matmul(d.transpose(), q), dv = matmul(weights.transpose(), dy);
  return concat({dq.flatten(), dk.flatten(), dv.flatten()}, 0);
}

Tensors attention_gradient(const GradCall& c) {
  const Tensor inputs[] = {c.input(0), c.input(1), c.input(2)};
  const Tensor all = call(attention_gradient_op, {&inputs[0], &inputs[1], &inputs[2], &c.dy()}, c.attrs());
  Tensors result;
  int64_t start = 0;
  for (const Tensor& t : inputs) {
    result.push_back(call(part_op, {&all}, PartAttrs{start, t.numel(), 0}).reshape(t.shape()));
    start += t.numel();
  }
  return result;
}

void check_matrices(const ShapeCall& c) {
  for (const Layout* in : c.inputs)
    if (in->rank() < 2 || in->rank() != c.inputs[0]->rank())
      fail("{}: expected operands of one rank, at least 2, got {}", c.op.name, to_string(in->spec));
}

const Layout* attention_shape(const ShapeCall& c) {
  check_matrices(c);
  Spec spec = c.inputs[0]->spec;
  spec.shape[spec.shape.rank() - 1] = c.inputs[2]->shape().back();
  return intern(spec);
}

const Layout* attention_gradient_shape(const ShapeCall& c) {
  check_matrices(c);
  Spec spec = c.inputs[0]->spec;
  spec.shape = {c.inputs[0]->numel + c.inputs[1]->numel + c.inputs[2]->numel};
  return intern(spec);
}

}  // namespace

static constinit const Op tril_op{.name = "tril",
                                  .kind = Kind::composite,
                                  .shape = triangle_shape,
                                  .body = triangle_body<false>,
                                  .gradient = {tril_gradient},
                                  .fields = DiagonalAttrs::fields};
static constinit const Op triu_op{.name = "triu",
                                  .kind = Kind::composite,
                                  .shape = triangle_shape,
                                  .body = triangle_body<true>,
                                  .gradient = {triu_gradient},
                                  .fields = DiagonalAttrs::fields};
constinit const Op attention_op{.name = "scaled_dot_product_attention",
                                .kind = Kind::composite,
                                .operands = -1,
                                .shape = attention_shape,
                                .body = attention_body,
                                .gradient = {attention_gradient, Needs::inputs},
                                .fields = AttentionAttrs::fields,
                                .whole = true};
constinit const Op attention_gradient_op{.name = "attention_gradient",
                                         .kind = Kind::composite,
                                         .operands = 4,
                                         .shape = attention_gradient_shape,
                                         .body = attention_gradient_body,
                                         .fields = AttentionAttrs::fields};

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
  static constexpr const Op* entries[] = {&matmul_op, &segmented_matmul_op, &tril_op,
                                          &triu_op,   &attention_op,        &attention_gradient_op};
  return entries;
}

Tensor matmul(In a, In b) {
  At at(a.loc);
  if (!a->rank() || !b->rank())
    fail("matmul: expected at least one axis each, got {} and {}", to_string(a->spec()), to_string(b->spec()));
  const DType dtype = promoted(promoted(a->dtype(), b->dtype()), DType::i32);
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

namespace {

Tensor triangle(const Op& op, In x, int diagonal) {
  At at(x.loc);
  if (x->rank() < 2) fail("{}: expected a matrix, got {}", op.name, to_string(x->spec()));
  return x->numel() ? call(op, {&x.tensor}, DiagonalAttrs{diagonal}) : x.tensor;
}

// An operand of attention, its batch axes as wide as `batch`.
Tensor attended(const Tensor& x, const Shape& batch, DType dtype) { return with_batch(cast(x, dtype), batch); }

}  // namespace

Tensor tril(In x, int diagonal) { return triangle(tril_op, x, diagonal); }
Tensor triu(In x, int diagonal) { return triangle(triu_op, x, diagonal); }

Tensor scaled_dot_product_attention(In q, In k, In v, const Tensor& mask, AttentionOptions options) {
  At at(q.loc);
  constexpr auto op = "scaled_dot_product_attention";
  for (const Tensor* t : {&q.tensor, &k.tensor, &v.tensor})
    if (t->rank() < 2) fail("{}: expected matrices [..., length, width], got {}", op, to_string(t->spec()));
  if (q->size(-1) != k->size(-1) || k->size(-2) != v->size(-2))
    fail("{}: queries {}, keys {} and values {} do not fit together", op, to_string(q->spec()), to_string(k->spec()),
         to_string(v->spec()));
  Shape batch = broadcast(op, broadcast(op, batch_of(q), batch_of(k)), batch_of(v));
  const DType common = promoted(promoted(q->dtype(), k->dtype()), v->dtype());
  const DType dtype = is_floating(common) ? common : DType::f32;
  const Tensor x = attended(q, batch, dtype), y = attended(k, batch, dtype), z = attended(v, batch, dtype);
  const double scale =
      options.scale ? options.scale : 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, q->size(-1))));
  const AttentionAttrs attrs{std::bit_cast<int64_t>(scale), options.causal};
  if (!x.numel() || !y.numel() || !z.numel()) return matmul(matmul(x, y.transpose()), z);
  if (!mask.defined()) return call(attention_op, {&x, &y, &z}, attrs);
  if (mask.dtype() != DType::boolean) fail("{}: expected a bool mask, got {}", op, to_string(mask.spec()));
  Shape scores = batch;
  scores.push_back(q->size(-2));
  scores.push_back(k->size(-2));
  const Tensor seen = mask.expand(scores);
  return call(attention_op, {&x, &y, &z, &seen}, attrs);
}

}  // namespace rp
