#pragma once
// What cuDNN is to compute: tensors and operations between them, as plain data. Made from sizes alone, without a device
// and without the library.
#include <cudnn_graph.h>

#include <cstdint>
#include <string>
#include <vector>

#include "reprise/core/layout.h"

namespace rp::cuda {

struct DnnTensor {
  enum class Kind : uint8_t {
    operand,   // the caller's memory
    inner,     // goes from operation to operation and is never in memory
    scratch,   // in memory that a run needs beside its operands
    constant,  // one number
  };
  Kind kind;
  cudnnDataType_t type;
  Dims shape, strides;
  float value = 0;  // of a constant
};

/// The window of a convolution, and how it moves over the rows and columns of an image.
struct DnnWindow {
  Dims before, after, strides, dilation;
};

struct DnnOperation {
  enum class Kind : uint8_t {
    convolution,       // image, weights -> result
    image_gradient,    // gradient of the result, weights -> gradient of the image
    weights_gradient,  // image, gradient of the result -> gradient of the weights
    pointwise,         // up to three inputs -> result
    product,           // two matrices -> matrix, in the last two axes
    reduction,         // along the axes that the result has once
    transpose,         // of the last two axes, as a view
  };
  Kind kind = Kind::pointwise;
  std::vector<int> inputs{};
  int output = 0;
  cudnnDataType_t compute = CUDNN_DATA_FLOAT;
  DnnWindow window{};
  cudnnPointwiseMode_t pointwise = CUDNN_POINTWISE_ADD;
  int64_t axis = -1;  // of an index
  cudnnReduceTensorOp_t reduction = CUDNN_REDUCE_TENSOR_ADD;
};

/// Tensors are named by their numbers; operations stand in an order in which they can run.
struct DnnGraph {
  std::string name;
  std::vector<DnnTensor> tensors;
  std::vector<DnnOperation> operations;
  /// Products of f32 with all their bits: no engine that rounds factors to fewer.
  bool full_products = true;
  /// What operands are aligned to, in bytes.
  size_t alignment = 16;

  int operand(cudnnDataType_t type, const Dims& shape, const Dims& strides) {
    return add({DnnTensor::Kind::operand, type, shape, strides});
  }
  int inner(cudnnDataType_t type, const Dims& shape) {
    return add({DnnTensor::Kind::inner, type, shape, packed_strides(shape)});
  }
  int scratch(cudnnDataType_t type, const Dims& shape) {
    return add({DnnTensor::Kind::scratch, type, shape, packed_strides(shape)});
  }
  int constant(float value, int rank);
  /// Adds a pointwise operation whose result is a new inner tensor that lies as the first input does.
  int pointwise(cudnnPointwiseMode_t mode, std::vector<int> inputs, cudnnDataType_t type = CUDNN_DATA_FLOAT);
  int index(int like, int64_t axis);

  const DnnTensor& operator[](int tensor) const { return tensors[static_cast<size_t>(tensor)]; }
  int add(DnnTensor tensor);
};

/// Bytes of an element.
size_t size_of(cudnnDataType_t type);

/// The graph as text: equal texts, equal graphs.
std::string to_string(const DnnGraph& graph);

}  // namespace rp::cuda
