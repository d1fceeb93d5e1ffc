// The cases of views, products, compositions and kernels.
#include <bit>
#include <functional>
#include <map>

#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/test/op_cases.h"

namespace rp::test {
namespace {

using Cases = std::vector<OpCase>;

const Layout* spec_of(DType d, const Shape& shape) { return intern({d, shape, {}}); }
Input values(const Shape& shape, DType d) {
  if (d == DType::boolean) return {shape, d, 0, 1};
  return is_floating(d) ? Input{shape, d} : Input{shape, d, -9, 9};
}
Input indices(const Shape& shape, double below, DType d = DType::i64) { return {shape, d, 0, below, true}; }

// ---- views ----

Cases reshape_cases(const Op& op, DType d) {
  Cases cases;
  const std::pair<Shape, Shape> pairs[] = {
      {{3, 4}, {2, 6}}, {{}, {1, 1}}, {{0, 3}, {3, 0}}, {{2, 3, 4}, {24}}, {{6}, {3, 1, 2}}};
  for (const auto& [from, to] : pairs)
    cases.push_back({.op = &op, .inputs = {values(from, d)}, .attrs = SpecAttrs{spec_of(d, to)}, .out = to});
  return cases;
}

Cases permute_cases(const Op& op, DType d) {
  return {{.op = &op, .inputs = {values({2, 3, 4}, d)}, .attrs = PermuteAttrs{{2, 0, 1}, 3}, .out = {4, 2, 3}},
          {.op = &op, .inputs = {values({5, 7}, d)}, .attrs = PermuteAttrs{{1, 0}, 2}, .out = {7, 5}},
          {.op = &op, .inputs = {values({0, 7}, d)}, .attrs = PermuteAttrs{{1, 0}, 2}, .out = {7, 0}}};
}

Cases expand_cases(const Op& op, DType d) {
  Cases cases;
  const std::pair<Shape, Shape> pairs[] = {
      {{3, 1}, {2, 3, 4}}, {{}, {2, 2}}, {{1, 5}, {4, 5}}, {{1}, {0}}, {{2, 1, 3}, {2, 6, 3}}};
  for (const auto& [from, to] : pairs)
    cases.push_back({.op = &op, .inputs = {values(from, d)}, .attrs = SpecAttrs{spec_of(d, to)}, .out = to});
  return cases;
}

Cases slice_cases(const Op& op, DType d) {
  Cases cases;
  struct Part {
    int64_t axis, start, length, step;
  };
  for (const Part& p : {Part{1, 1, 2, 2}, Part{0, 2, 3, 1}, Part{0, 0, 0, 1}, Part{1, 0, 2, 3}}) {
    OpCase c{.op = &op, .inputs = {values({5, 6}, d)}, .attrs = SliceAttrs{p.length, p.step, p.axis}, .out = {5, 6}};
    c.scalars.add(p.start);
    c.out[static_cast<int>(p.axis)] = p.length;
    cases.push_back(c);
  }
  return cases;
}

Cases part_cases(const Op& op, DType d) {
  Cases cases;
  for (const PartAttrs& p : {PartAttrs{1, 2, 1}, PartAttrs{2, 3, 0}, PartAttrs{0, 0, 0}, PartAttrs{3, 3, 1}}) {
    OpCase c{.op = &op, .inputs = {values({5, 6}, d)}, .attrs = p, .out = {5, 6}};
    c.out[static_cast<int>(p.axis)] = p.length;
    cases.push_back(c);
  }
  return cases;
}

Cases as_strided_cases(const Op& op, DType d) {
  Cases cases;
  const std::pair<Strides, int64_t> parts[] = {{{5, 2}, 1}, {{1, 2}, 0}, {{4, 1}, 3}};
  for (const auto& [strides, offset] : parts) {
    const Spec spec{d, {2, 3}, {}};
    OpCase c{.op = &op, .inputs = {values({12}, d)}, .attrs = SpecAttrs{intern(spec, strides)}, .out = {2, 3}};
    c.scalars.add(offset);
    cases.push_back(c);
  }
  return cases;
}

Cases detach_cases(const Op& op, DType d) { return {{.op = &op, .inputs = {values({3, 4}, d)}, .out = {3, 4}}}; }

// ---- products and compositions ----

Cases matmul_cases(const Op& op, DType d) {
  Cases cases;
  struct Sizes {
    Shape a, b, out;
  };
  const Sizes list[] = {{{3, 4}, {4, 5}, {3, 5}},   {{2, 3, 4}, {2, 4, 2}, {2, 3, 2}},
                        {{1, 1}, {1, 1}, {1, 1}},   {{33, 70}, {70, 45}, {33, 45}},
                        {{0, 3}, {3, 2}, {0, 2}},   {{2, 0}, {0, 3}, {2, 3}},
                        {{1, 19}, {19, 1}, {1, 1}}, {{2, 2, 1, 5}, {2, 2, 5, 3}, {2, 2, 1, 3}}};
  for (const Sizes& s : list) cases.push_back({.op = &op, .inputs = {values(s.a, d), values(s.b, d)}, .out = s.out});
  return cases;
}

Cases segmented_cases(const Op& op, DType d) {
  Cases cases = matmul_cases(op, d);
  for (OpCase& c : cases) {
    const int64_t k = c.inputs[0].shape.back();
    c.attrs = SegmentAttrs{k % 7 == 0 && k ? k / 7 : k % 2 == 0 && k ? k / 2 : 1};
  }
  return cases;
}

Cases softmax_cases(const Op& op, DType d) {
  Cases cases;
  for (int axis = 0; axis < 3; ++axis)
    cases.push_back({.op = &op, .inputs = {values({3, 4, 5}, d)}, .attrs = AxisAttrs{axis}, .out = {3, 4, 5}});
  cases.push_back({.op = &op, .inputs = {values({7, 300}, d)}, .attrs = AxisAttrs{1}, .out = {7, 300}});
  return cases;
}

Cases layer_norm_cases(const Op& op, DType d) {
  const EpsAttrs eps{std::bit_cast<int64_t>(1e-5)};
  const Input x = values({4, 6}, d), vector = values({6}, d);
  return {{.op = &op, .inputs = {x}, .attrs = eps, .out = {4, 6}},
          {.op = &op, .inputs = {x, vector}, .attrs = eps, .out = {4, 6}},
          {.op = &op, .inputs = {x, vector, vector}, .attrs = eps, .out = {4, 6}},
          {.op = &op, .inputs = {values({2, 3, 40}, d)}, .attrs = eps, .out = {2, 3, 40}}};
}

Cases triangle_cases(const Op& op, DType d) {
  Cases cases;
  for (const Shape& s : {Shape{4, 5}, Shape{2, 6, 3}, Shape{1, 1}})
    for (int64_t diagonal : {0, 1, -2, 9})
      cases.push_back({.op = &op, .inputs = {values(s, d)}, .attrs = DiagonalAttrs{diagonal}, .out = s});
  return cases;
}

Cases attention_cases(const Op& op, DType d) {
  const AttentionAttrs all{std::bit_cast<int64_t>(0.5), 0}, causal{std::bit_cast<int64_t>(0.25), 1};
  const Input q = values({2, 3, 5, 4}, d), k = values({2, 3, 6, 4}, d), v = values({2, 3, 6, 7}, d);
  const Input open = {{2, 3, 5, 6}, DType::boolean, 1, 1};
  return {
      {.op = &op, .inputs = {q, k, v}, .attrs = all, .out = {2, 3, 5, 7}},
      {.op = &op, .inputs = {q, k, v}, .attrs = causal, .out = {2, 3, 5, 7}},
      {.op = &op, .inputs = {q, k, v, open}, .attrs = causal, .out = {2, 3, 5, 7}},
      {.op = &op, .inputs = {values({9, 3}, d), values({4, 3}, d), values({4, 2}, d)}, .attrs = causal, .out = {9, 2}}};
}

Cases attention_gradient_cases(const Op& op, DType d) {
  Cases cases;
  for (OpCase c : attention_cases(op, d)) {
    if (c.inputs.size() > 3) continue;
    int64_t elements = 0;
    for (const Input& in : c.inputs) elements += element_count(in.shape);
    c.inputs.push_back(values(c.out, d));
    c.out = {elements};
    cases.push_back(c);
  }
  return cases;
}

// ---- windows ----

constexpr auto nchw = static_cast<int32_t>(DataFormat::nchw), nhwc = static_cast<int32_t>(DataFormat::nhwc);

struct Convolution {
  Shape x, w, y;
  ConvAttrs attrs;
};
std::vector<Convolution> convolutions() {
  return {{{2, 3, 6, 7}, {4, 3, 3, 2}, {2, 4, 3, 7}, {2, 1, 1, 0, 1, 1, 1, 1, nchw, 1, nullptr}},
          {{2, 6, 7, 3}, {4, 3, 3, 2}, {2, 3, 7, 4}, {2, 1, 1, 0, 1, 1, 1, 1, nhwc, 1, nullptr}},
          {{1, 2, 7, 7}, {3, 2, 3, 3}, {1, 3, 3, 3}, {1, 1, 0, 0, 0, 0, 2, 2, nchw, 1, nullptr}},
          {{3, 1, 5, 5}, {2, 1, 1, 1}, {3, 2, 5, 5}, {1, 1, 0, 0, 0, 0, 1, 1, nchw, 1, nullptr}},
          {{0, 2, 4, 4}, {2, 2, 3, 3}, {0, 2, 2, 2}, {1, 1, 0, 0, 0, 0, 1, 1, nchw, 1, nullptr}}};
}

Cases conv_cases(const Op& op, DType d) {
  Cases cases;
  for (Convolution c : convolutions()) {
    const Input x = values(c.x, d), w = values(c.w, d), y = values(c.y, d);
    OpCase made{.op = &op};
    if (op.name == "conv2d") {
      made.inputs = {x, w}, made.out = c.y;
    } else {
      const bool data = op.name == "conv2d_backward_data";
      made.inputs = data ? std::vector{y, w} : std::vector{x, y};
      made.out = data ? c.x : c.w;
      c.attrs.spec = spec_of(d, made.out);
    }
    made.attrs = c.attrs;
    cases.push_back(made);
  }
  return cases;
}

struct Pooling {
  Shape x, y;
  PoolAttrs attrs;
};
std::vector<Pooling> poolings() {
  return {{{2, 3, 6, 8}, {2, 3, 3, 4}, {2, 2, 2, 2, 0, 0, 0, 0, nchw, 0, nullptr}},
          {{2, 6, 8, 3}, {2, 3, 4, 3}, {2, 2, 2, 2, 0, 0, 0, 0, nhwc, 0, nullptr}},
          {{1, 2, 5, 5}, {1, 2, 5, 3}, {3, 2, 1, 2, 1, 0, 1, 1, nchw, 0, nullptr}},
          {{0, 2, 4, 4}, {0, 2, 2, 2}, {2, 2, 2, 2, 0, 0, 0, 0, nchw, 0, nullptr}}};
}

Cases pool_cases(const Op& op, DType d) {
  Cases cases;
  if (op.name.starts_with("avg") && !is_floating(d)) return cases;
  for (Pooling p : poolings()) {
    const Input x = values(p.x, d), y = values(p.y, d);
    OpCase c{.op = &op};
    if (op.name == "avg_pool2d_backward") {
      c.inputs = {y}, c.out = p.x;
      p.attrs.spec = spec_of(d, p.x);
    } else if (op.name == "max_pool2d_backward") {
      c.inputs = {x, y}, c.out = p.x;
    } else if (op.name == "max_pool2d_pick") {
      c.inputs = {x, x}, c.out = p.y;
    } else {
      c.inputs = {x}, c.out = p.y;
    }
    c.attrs = p.attrs;
    cases.push_back(c);
  }
  return cases;
}

// ---- indexing ----

Cases arg_cases(const Op& op, DType d) {
  const Input x = values({3, 4, 5}, d);
  return {{.op = &op, .inputs = {x}, .attrs = ArgAttrs{0, 0}, .out = {4, 5}},
          {.op = &op, .inputs = {x}, .attrs = ArgAttrs{1, 1}, .out = {3, 1, 5}},
          {.op = &op, .inputs = {x}, .attrs = ArgAttrs{2, 0}, .out = {3, 4}},
          {.op = &op, .inputs = {values({2, 700}, d)}, .attrs = ArgAttrs{1, 0}, .out = {2}},
          {.op = &op, .inputs = {values({3, 0}, d)}, .attrs = ArgAttrs{0, 0}, .out = {0}}};
}

Cases index_select_cases(const Op& op, DType d) {
  const Input x = values({4, 5}, d);
  return {{.op = &op, .inputs = {x, indices({3}, 4)}, .attrs = AxisAttrs{0}, .out = {3, 5}},
          {.op = &op, .inputs = {x, indices({2, 3}, 5, DType::i32)}, .attrs = AxisAttrs{1}, .out = {4, 2, 3}},
          {.op = &op, .inputs = {x, indices({}, 5)}, .attrs = AxisAttrs{1}, .out = {4}},
          {.op = &op, .inputs = {x, indices({0}, 4)}, .attrs = AxisAttrs{0}, .out = {0, 5}},
          {.op = &op, .inputs = {values({3, 4, 5}, d), indices({6}, 4)}, .attrs = AxisAttrs{1}, .out = {3, 6, 5}}};
}

Cases index_add_cases(const Op& op, DType d) {
  const Shape a{4, 5}, b{3, 4, 5};
  return {
      {.op = &op, .inputs = {values({3, 5}, d), indices({3}, 4)}, .attrs = ScatterAttrs{spec_of(d, a), 0}, .out = a},
      {.op = &op,
       .inputs = {values({4, 2, 3}, d), indices({2, 3}, 5, DType::i32)},
       .attrs = ScatterAttrs{spec_of(d, a), 1},
       .out = a},
      {.op = &op, .inputs = {values({3, 6, 5}, d), indices({6}, 4)}, .attrs = ScatterAttrs{spec_of(d, b), 1}, .out = b},
      {.op = &op, .inputs = {values({0, 5}, d), indices({0}, 4)}, .attrs = ScatterAttrs{spec_of(d, a), 0}, .out = a}};
}

Cases gather_cases(const Op& op, DType d) {
  return {
      {.op = &op, .inputs = {values({4, 5}, d), indices({4, 3}, 5)}, .attrs = AxisAttrs{1}, .out = {4, 3}},
      {.op = &op, .inputs = {values({4, 5}, d), indices({6, 5}, 4, DType::i32)}, .attrs = AxisAttrs{0}, .out = {6, 5}},
      {.op = &op, .inputs = {values({2, 3, 4}, d), indices({2, 7, 4}, 3)}, .attrs = AxisAttrs{1}, .out = {2, 7, 4}}};
}

Cases scatter_add_cases(const Op& op, DType d) {
  const Shape a{4, 5}, b{2, 3, 4};
  return {
      {.op = &op, .inputs = {values({4, 3}, d), indices({4, 3}, 5)}, .attrs = ScatterAttrs{spec_of(d, a), 1}, .out = a},
      {.op = &op,
       .inputs = {values({6, 5}, d), indices({6, 5}, 4, DType::i32)},
       .attrs = ScatterAttrs{spec_of(d, a), 0},
       .out = a},
      {.op = &op,
       .inputs = {values({2, 7, 4}, d), indices({2, 7, 4}, 3)},
       .attrs = ScatterAttrs{spec_of(d, b), 1},
       .out = b}};
}

Cases concat_cases(const Op& op, DType d) {
  return {{.op = &op,
           .inputs = {values({2, 3}, d), values({2, 1}, d), values({2, 0}, d)},
           .attrs = AxisAttrs{1},
           .out = {2, 4}},
          {.op = &op, .inputs = {values({2, 3}, d), values({5, 3}, d)}, .attrs = AxisAttrs{0}, .out = {7, 3}},
          {.op = &op, .inputs = {values({3}, d)}, .attrs = AxisAttrs{0}, .out = {3}},
          {.op = &op, .inputs = std::vector<Input>(11, values({2, 2}, d)), .attrs = AxisAttrs{1}, .out = {2, 22}}};
}

struct List {
  Cases (*cases)(const Op&, DType);
  DType least = DType::boolean;  // the first dtype it works for
};

const std::map<std::string_view, List>& lists() {
  static const std::map<std::string_view, List> table{
      {"reshape", {reshape_cases}},
      {"permute", {permute_cases}},
      {"expand", {expand_cases}},
      {"slice", {slice_cases}},
      {"part", {part_cases}},
      {"detach", {detach_cases}},
      {"as_strided", {as_strided_cases}},
      {"matmul", {matmul_cases, DType::i32}},
      {"segmented_matmul", {segmented_cases, DType::i32}},
      {"softmax", {softmax_cases, DType::bf16}},
      {"log_softmax", {softmax_cases, DType::bf16}},
      {"layer_norm", {layer_norm_cases, DType::bf16}},
      {"tril", {triangle_cases}},
      {"triu", {triangle_cases}},
      {"scaled_dot_product_attention", {attention_cases, DType::bf16}},
      {"attention_gradient", {attention_gradient_cases, DType::bf16}},
      {"conv2d", {conv_cases, DType::i32}},
      {"conv2d_backward_data", {conv_cases, DType::i32}},
      {"conv2d_backward_weights", {conv_cases, DType::i32}},
      {"max_pool2d", {pool_cases, DType::i32}},
      {"max_pool2d_backward", {pool_cases, DType::i32}},
      {"max_pool2d_pick", {pool_cases, DType::i32}},
      {"avg_pool2d", {pool_cases, DType::bf16}},
      {"avg_pool2d_backward", {pool_cases, DType::bf16}},
      {"argmax", {arg_cases}},
      {"argmin", {arg_cases}},
      {"index_select", {index_select_cases}},
      {"index_add", {index_add_cases, DType::i32}},
      {"gather", {gather_cases}},
      {"scatter_add", {scatter_add_cases, DType::i32}},
      {"concat", {concat_cases}},
  };
  return table;
}

}  // namespace

std::vector<OpCase> listed_cases(const Op& op, DType dtype) {
  const auto it = lists().find(op.name);
  if (it == lists().end() || dtype < it->second.least) return {};
  return it->second.cases(op, dtype);
}

}  // namespace rp::test
