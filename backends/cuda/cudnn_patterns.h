#pragma once
// The computations that cuDNN is asked for, as graphs.
#include "reprise/backends/cpu/conv.h"
#include "reprise/backends/cuda/cudnn_graph.h"

namespace rp::cuda {

enum class DnnAfter : uint8_t {
  nothing,
  bias_relu,            // max(y + bias, 0)
  sum_bias_relu,        // max(y + z + bias, 0)
  scale_bias_sum_relu,  // max(y * scale + bias + z, 0)
};

/// A convolution or one of its gradients. Weights lie as the image does: with its channels last, [out, kh, kw, c].
struct DnnConvolution {
  cpu::ConvShape shape;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  DnnAfter after = DnnAfter::nothing;  // of a forward pass
};

/// Operands: image, weights, result; the gradient of the image takes the gradient of the result, weights, result;
/// that of the weights the image, the gradient of the result, result. Behind a forward pass stand, before the result,
/// what is named in `after`: bias; z and bias; scale, bias and z.
DnnGraph convolution_graph(const DnnConvolution& of);

/// softmax(scale * q k', and 0 above the diagonal if causal) v, for matrices [queries, width], [keys, width] and
/// [keys, value_width] of each head.
struct DnnAttention {
  int64_t batch, heads, queries, keys, width, value_width;
  cudnnDataType_t type = CUDNN_DATA_BFLOAT16;
  bool causal = false;
  bool statistics = false;  // forward: whether the logarithms of the rows' sums are stored, for the gradient
  bool rows_first = false;  // in memory [batch, rows, heads, width] instead of [batch, heads, rows, width]
  float scale = 1;
};

/// Operands: q, k, v, result, and f32 statistics [batch, heads, queries, 1] if they are stored.
DnnGraph attention_graph(const DnnAttention& of);
/// Operands: q, k, v, result, its gradient, statistics, then the gradients of q, k and v.
DnnGraph attention_gradient_graph(const DnnAttention& of);

}  // namespace rp::cuda
