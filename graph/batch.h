#pragma once
// Exact rewrites for loops that stand unrolled in a graph: many small products become few large ones. Each element of a
// product sums over k in order whatever its shape (backends/cpu/gemm.h), so neither changes a bit.
#include "reprise/core/graph.h"

namespace rp {

/// Sums of products, ((a0 b0 + a1 b1) + a2 b2) + ..., become one segmented product of concatenated operands: the
/// gradient of a weight that a loop has used in every step.
Graph chain_products(const Graph& graph);

/// Products with one right operand that do not depend on each other become one product of their left operands'
/// rows, where those are few.
Graph batch_products(const Graph& graph);

/// Rows [start, start + length) of a node, as a view.
int32_t rows_of(GraphBuilder& builder, int32_t node, int64_t start, int64_t length, const Where& loc);

/// The nodes under each other, or beside each other if `axis` is 1.
int32_t concat_of(GraphBuilder& builder, const std::vector<int32_t>& parts, int axis, const Where& loc);

}  // namespace rp
