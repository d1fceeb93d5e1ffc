#pragma once
// The entries that code outside their family file names: backends look kernels up by them, passes recognise them.
#include "reprise/core/op.h"

namespace rp {

struct ControlAttrs;

// structure
extern const Op input_op, write_op;
// views
extern const Op reshape_op, permute_op, expand_op, slice_op, part_op, detach_op;
// pointwise
extern const Op full_op, cast_op, copy_op, add_op, mul_op;
// Random ops: their first scalars are the low and high words of the seed, then those of the position.
inline constexpr int position_scalar = 2;
// reductions
extern const Op sum_op, max_op, min_op;
// contraction: inputs a [batch..., m, k] and b [batch..., k, n] of equal batch axes and dtype, any strides
extern const Op matmul_op;
extern const Op segmented_matmul_op;  // SegmentAttrs: the product of each segment of k, added up in their order
// composites that a backend may compute as a whole
extern const Op attention_op;           // AttentionAttrs: (q, k, v) or (q, k, v, mask)
extern const Op attention_gradient_op;  // AttentionAttrs: (q, k, v, dy) -> the gradients of q, k and v, one behind the
                                        // other

// control flow (ControlAttrs) and what takes its results (ResultAttrs)
extern const Op scan_op, cond_op, while_op, result_op;
/// The layout of one step of a stacked value: its leading axis dropped.
const Layout* step_layout(const Layout* stacked);
/// The layout of result k of a control op: a value, or what a scan's steps give, stacked.
const Layout* result_layout(const Op& op, const ControlAttrs& attrs, int64_t k);

// Kernels. Inputs are contiguous; the output is contiguous and does not overlap them.
extern const Op argmax_op, argmin_op;           // ArgAttrs: x -> i64
extern const Op index_select_op, index_add_op;  // AxisAttrs: (x, indices) -> x with the axis replaced by indices' axes;
                                                // ScatterAttrs: (src, indices) -> spec, its adjoint, adding in order
extern const Op gather_op, scatter_add_op;      // AxisAttrs: (x, indices); ScatterAttrs: (src, indices) -> spec
extern const Op concat_op;                      // AxisAttrs: any number of inputs
extern const Op conv2d_op;                      // ConvAttrs: (x, w)
extern const Op conv2d_backward_data_op;        // ConvAttrs: (dy, w) -> spec
extern const Op conv2d_backward_weights_op;     // ConvAttrs: (x, dy) -> spec
extern const Op max_pool2d_op;                  // PoolAttrs: x
extern const Op max_pool2d_backward_op;  // PoolAttrs: (x, dy) -> x's shape: dy goes to each window's first maximum
extern const Op max_pool2d_pick_op;      // PoolAttrs: (x, v) -> pooled shape: v at each window's first maximum of x
extern const Op avg_pool2d_op;           // PoolAttrs: x
extern const Op avg_pool2d_backward_op;  // PoolAttrs: dy -> spec

}  // namespace rp
