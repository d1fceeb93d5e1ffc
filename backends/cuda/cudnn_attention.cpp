#include <algorithm>
#include <limits>

#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/core/fail.h"

namespace rp::cuda {
namespace {

/// Builds the graphs of attention in the form that cuDNN's engines for it know: operations, their order and which
/// tensors are turned are theirs.
class Attention {
 public:
  explicit Attention(const DnnAttention& of) : of_(of) {
    if (std::min({of.batch, of.heads, of.queries, of.keys, of.width, of.value_width}) < 1)
      fail("cudnn: attention: expected extents of at least 1, got q [{},{},{},{}] and v [{},{},{},{}]", of.batch,
           of.heads, of.queries, of.width, of.batch, of.heads, of.keys, of.value_width);
    if (of.type != CUDNN_DATA_BFLOAT16 && of.type != CUDNN_DATA_HALF) fail("cudnn: attention: expected bf16 or f16");
    graph_.full_products = false;
  }

  DnnGraph forward() {
    graph_.name = "attention";
    const int q = operand(of_.queries, of_.width), k = turned(operand(of_.keys, of_.width)),
              v = operand(of_.keys, of_.value_width), o = operand(of_.queries, of_.value_width);
    const int s = masked(scores(q, k));
    const int most = row_value(s, CUDNN_REDUCE_TENSOR_MAX);
    const int e = graph_.pointwise(CUDNN_POINTWISE_EXP, {graph_.pointwise(CUDNN_POINTWISE_SUB, {s, most})});
    const int sum = row_value(e, CUDNN_REDUCE_TENSOR_ADD);
    const int log = graph_.pointwise(CUDNN_POINTWISE_LOG, {sum});
    const int stats = of_.statistics ? statistics() : graph_.inner(CUDNN_DATA_FLOAT, graph_[sum].shape);
    point(CUDNN_POINTWISE_ADD, {most, log}, stats);
    const int p = graph_.inner(of_.type, graph_[s].shape);
    point(CUDNN_POINTWISE_DIV, {e, sum}, p);
    product(p, v, o);
    return std::move(graph_);
  }

  DnnGraph gradient() {
    graph_.name = "attention, gradient";
    const int q = operand(of_.queries, of_.width), k = turned(operand(of_.keys, of_.width)),
              v = turned(operand(of_.keys, of_.value_width)), o = operand(of_.queries, of_.value_width),
              d_o = operand(of_.queries, of_.value_width), stats = statistics();
    const int dq = operand(of_.queries, of_.width), dk = operand(of_.keys, of_.width),
              dv = operand(of_.keys, of_.value_width);
    const int sum = graph_.scratch(CUDNN_DATA_FLOAT, {of_.batch, of_.heads, of_.queries, 1});
    const int dots = row_value(graph_.pointwise(CUDNN_POINTWISE_MUL, {d_o, o}), CUDNN_REDUCE_TENSOR_ADD);
    point(CUDNN_POINTWISE_MUL, {dots, graph_.constant(1, 4)}, sum);
    const int scaled = scores(q, k);
    const int p =
        graph_.pointwise(CUDNN_POINTWISE_EXP, {masked(graph_.pointwise(CUDNN_POINTWISE_SUB, {scaled, stats}))});
    product(transposed(p), d_o, dv);
    const int dp = graph_.pointwise(CUDNN_POINTWISE_SUB, {product(d_o, v), sum});
    const int ds = graph_.pointwise(CUDNN_POINTWISE_MUL, {graph_.pointwise(CUDNN_POINTWISE_MUL, {dp, p}), scale_});
    product(transposed(ds), q, dk);
    product(ds, transposed(k), dq);
    return std::move(graph_);
  }

 private:
  int operand(int64_t rows, int64_t width) {
    const Dims shape{of_.batch, of_.heads, rows, width};
    const Strides between{rows * of_.heads * width, width, of_.heads * width, 1};
    return graph_.operand(of_.type, shape, of_.rows_first ? between : packed_strides(shape));
  }
  int statistics() {
    const Dims shape{of_.batch, of_.heads, of_.queries, 1};
    return graph_.operand(CUDNN_DATA_FLOAT, shape, packed_strides(shape));
  }

  // The same memory, read as the transposed matrices.
  int turned(int operand) {
    DnnTensor& t = graph_.tensors[static_cast<size_t>(operand)];
    std::swap(t.shape[2], t.shape[3]);
    std::swap(t.strides[2], t.strides[3]);
    return operand;
  }

  int transposed(int from) {
    DnnTensor t = graph_[from];
    t.kind = DnnTensor::Kind::inner;
    t.type = of_.type;
    std::swap(t.shape[2], t.shape[3]);
    std::swap(t.strides[2], t.strides[3]);
    const int output = graph_.add(t);
    graph_.operations.push_back({.kind = DnnOperation::Kind::transpose, .inputs = {from}, .output = output});
    return output;
  }

  void point(cudnnPointwiseMode_t mode, std::vector<int> inputs, int output) {
    graph_.operations.push_back(
        {.kind = DnnOperation::Kind::pointwise, .inputs = std::move(inputs), .output = output, .pointwise = mode});
  }

  void product(int a, int b, int c) {
    graph_.operations.push_back({.kind = DnnOperation::Kind::product, .inputs = {a, b}, .output = c});
  }
  int product(int a, int b) {
    const Dims &rows = graph_[a].shape, &columns = graph_[b].shape;
    const int c = graph_.inner(CUDNN_DATA_FLOAT, {rows[0], rows[1], rows[2], columns[3]});
    product(a, b, c);
    return c;
  }

  int row_value(int of, cudnnReduceTensorOp_t by) {
    const Dims& shape = graph_[of].shape;
    const int output = graph_.inner(CUDNN_DATA_FLOAT, {shape[0], shape[1], shape[2], 1});
    graph_.operations.push_back(
        {.kind = DnnOperation::Kind::reduction, .inputs = {of}, .output = output, .reduction = by});
    return output;
  }

  int scores(int q, int k) {
    const int s = product(q, k);
    scale_ = graph_.constant(of_.scale, 4);
    return graph_.pointwise(CUDNN_POINTWISE_MUL, {s, scale_});
  }

  int masked(int s) {
    if (!of_.causal) return s;
    const int row = graph_.index(s, 2), column = graph_.index(s, 3);
    const int seen = graph_.pointwise(CUDNN_POINTWISE_CMP_GE, {row, column}, CUDNN_DATA_BOOLEAN);
    const int nothing = graph_.constant(-std::numeric_limits<float>::infinity(), 4);
    return graph_.pointwise(CUDNN_POINTWISE_BINARY_SELECT, {s, nothing, seen});
  }

  const DnnAttention& of_;
  DnnGraph graph_;
  int scale_ = -1;
};

}  // namespace

DnnGraph attention_graph(const DnnAttention& of) { return Attention(of).forward(); }
DnnGraph attention_gradient_graph(const DnnAttention& of) { return Attention(of).gradient(); }

}  // namespace rp::cuda
