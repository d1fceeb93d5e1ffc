#pragma once
// The structural arguments of the ops that have any. Each struct lists its members once, for printing and parsing.
#include "reprise/core/op.h"

namespace rp {

/// A wanted result: creation, reshape, expand and gradients that must know the shape they belong to.
struct SpecAttrs {
  const Layout* spec;  // contiguous
  static constexpr Field fields[] = {{"spec", FieldType::spec, 0}};
};

struct ReduceAttrs {
  int32_t axes;  // bit a: axis a is reduced
  int32_t keepdim;
  static constexpr Field fields[] = {{"axes", FieldType::i32, 0}, {"keepdim", FieldType::boolean, 4}};
};

struct AxisAttrs {
  int32_t axis;
  static constexpr Field fields[] = {{"axis", FieldType::i32, 0}};
};

/// The inner axis of a product, cut into segments of equal length.
struct SegmentAttrs {
  int64_t segment;
  static constexpr Field fields[] = {{"segment", FieldType::i64, 0}};
};

struct ArgAttrs {
  int32_t axis;
  int32_t keepdim;
  static constexpr Field fields[] = {{"axis", FieldType::i32, 0}, {"keepdim", FieldType::boolean, 4}};
};

/// Scatter: the axis and the result's shape.
struct ScatterAttrs {
  const Layout* spec;
  int64_t axis;
  static constexpr Field fields[] = {{"spec", FieldType::spec, 0}, {"axis", FieldType::i64, 8}};
};

struct PermuteAttrs {
  int32_t axes[max_rank];  // axis i of the result is axis axes[i] of the input; unused places are 0
  int32_t rank;
  static constexpr Field fields[] = {{"axes", FieldType::i32, 0, max_rank}, {"rank", FieldType::i32, 32}};
};

/// Part of one axis. The start is a run-time scalar (i64): it changes no shape.
struct SliceAttrs {
  int64_t length, step;
  int64_t axis;
  static constexpr Field fields[] = {
      {"length", FieldType::i64, 0}, {"step", FieldType::i64, 8}, {"axis", FieldType::i64, 16}};
};

struct Graph;

/// Of the control ops. Their tensor inputs are the carries, then the inputs, then what the bodies close over
/// (while_loop: first that of the condition); their scalars are those of the bodies.
struct ControlAttrs {
  const Graph* body;   // scan: one step; cond: the branch taken; while_loop: one trip
  const Graph* other;  // scan: the step without results saved for the gradient; cond: the other branch; while_loop: the
                       // condition
  int64_t length;      // scan: steps; while_loop: the greatest number of trips, -1 if unbounded
  int64_t draws;       // positions of the random generator that one step takes
  int64_t wanted;      // bit i: input i takes part in the gradient (63: all from there on)
  int32_t carries, inputs;
  int32_t results;  // in all: carries, then outputs
  int32_t saved;    // how many of them, the last ones, exist for the gradient only
  int32_t reverse, closed;
  static constexpr Field fields[] = {
      {"body", FieldType::graph, 0},       {"other", FieldType::graph, 8},  {"length", FieldType::i64, 16},
      {"draws", FieldType::i64, 24},       {"wanted", FieldType::i64, 32},  {"carries", FieldType::i32, 40},
      {"inputs", FieldType::i32, 44},      {"results", FieldType::i32, 48}, {"saved", FieldType::i32, 52},
      {"reverse", FieldType::boolean, 56}, {"closed", FieldType::i32, 60}};
};

struct ResultAttrs {
  const Layout* spec;
  int64_t index;
  static constexpr Field fields[] = {{"spec", FieldType::spec, 0}, {"index", FieldType::i64, 8}};
};

/// Part of one axis whose start is fixed, such as one of several equal parts.
struct PartAttrs {
  int64_t start, length;
  int64_t axis;
  static constexpr Field fields[] = {
      {"start", FieldType::i64, 0}, {"length", FieldType::i64, 8}, {"axis", FieldType::i64, 16}};
};

struct CastAttrs {
  int32_t dtype;  // a DType
  static constexpr Field fields[] = {{"dtype", FieldType::dtype, 0}};
};

/// A small number added for stability, by the bits of its double: it is part of the structure, not a run-time scalar.
struct EpsAttrs {
  int64_t bits;
  static constexpr Field fields[] = {{"eps_bits", FieldType::i64, 0}};
};

/// Which diagonal a triangle ends at: 0 the main one, above it positive.
struct DiagonalAttrs {
  int64_t diagonal;
  static constexpr Field fields[] = {{"diagonal", FieldType::i64, 0}};
};

/// Attention: what the products are scaled by (the bits of a double), and whether a row sees only columns up to its
/// own.
struct AttentionAttrs {
  int64_t scale_bits, causal;
  static constexpr Field fields[] = {{"scale_bits", FieldType::i64, 0}, {"causal", FieldType::i64, 8}};
};

/// A convolution's geometry: strides, padding on each side, dilation, data format (a DataFormat). `spec`, in the
/// gradient ops, is the shape of the result; null in conv2d.
struct ConvAttrs {
  int32_t stride_h, stride_w, top, left, bottom, right, dilation_h, dilation_w, format, groups;
  const Layout* spec;
  static constexpr Field fields[] = {{"stride", FieldType::i32, 0, 2},    {"padding", FieldType::i32, 8, 4},
                                     {"dilation", FieldType::i32, 24, 2}, {"format", FieldType::i32, 32},
                                     {"groups", FieldType::i32, 36},      {"spec", FieldType::spec, 40}};
};

struct PoolAttrs {
  int32_t window_h, window_w, stride_h, stride_w, top, left, bottom, right, format, unused;
  const Layout* spec;  // avg_pool2d_backward: the shape of the result; null otherwise
  static constexpr Field fields[] = {{"window", FieldType::i32, 0, 2},   {"stride", FieldType::i32, 8, 2},
                                     {"padding", FieldType::i32, 16, 4}, {"format", FieldType::i32, 32},
                                     {"unused", FieldType::i32, 36},     {"spec", FieldType::spec, 40}};
};

}  // namespace rp
