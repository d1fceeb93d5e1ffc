#include "reprise/backends/cuda/cudnn_graph.h"

#include "reprise/core/fail.h"

namespace rp::cuda {
namespace {

constexpr std::string_view kind_names[] = {"operand", "inner", "scratch", "constant"};
constexpr std::string_view operation_names[] = {"convolution", "image_gradient", "weights_gradient", "pointwise",
                                                "product",     "reduction",      "transpose"};

std::string_view name_of(cudnnDataType_t type) {
  switch (type) {
    case CUDNN_DATA_FLOAT:
      return "f32";
    case CUDNN_DATA_DOUBLE:
      return "f64";
    case CUDNN_DATA_HALF:
      return "f16";
    case CUDNN_DATA_BFLOAT16:
      return "bf16";
    case CUDNN_DATA_INT32:
      return "i32";
    case CUDNN_DATA_BOOLEAN:
      return "bool";
    default:
      fail("cudnn: expected a type of float, i32 or bool, got number {} of cuDNN's", static_cast<int>(type));
  }
}

void print(std::string& out, const DnnTensor& t) {
  out += fmt::format("{} {} {} by {}", kind_names[static_cast<int>(t.kind)], name_of(t.type), to_string(t.shape),
                     to_string(t.strides));
  if (t.kind == DnnTensor::Kind::constant) out += fmt::format(" = {:a}", t.value);
}

void print(std::string& out, const DnnOperation& o) {
  out += fmt::format("{} {} (", operation_names[static_cast<int>(o.kind)], name_of(o.compute));
  for (const int in : o.inputs) out += fmt::format(" {}", in);
  out += fmt::format(" ) -> {}", o.output);
  if (o.kind == DnnOperation::Kind::pointwise)
    out += fmt::format(" by {} along {}", static_cast<int>(o.pointwise), o.axis);
  if (o.kind == DnnOperation::Kind::reduction) out += fmt::format(" by {}", static_cast<int>(o.reduction));
  if (o.window.strides.rank())
    out += fmt::format(" before {} after {} strides {} dilation {}", to_string(o.window.before),
                       to_string(o.window.after), to_string(o.window.strides), to_string(o.window.dilation));
}

}  // namespace

size_t size_of(cudnnDataType_t type) {
  switch (type) {
    case CUDNN_DATA_DOUBLE:
      return 8;
    case CUDNN_DATA_HALF:
    case CUDNN_DATA_BFLOAT16:
      return 2;
    case CUDNN_DATA_BOOLEAN:
      return 1;
    default:
      return 4;
  }
}

int DnnGraph::add(DnnTensor tensor) {
  tensors.push_back(std::move(tensor));
  return static_cast<int>(tensors.size()) - 1;
}

int DnnGraph::constant(float value, int rank) {
  Dims ones;
  for (int i = 0; i < rank; ++i) ones.push_back(1);
  return add({DnnTensor::Kind::constant, CUDNN_DATA_FLOAT, ones, ones, value});
}

int DnnGraph::pointwise(cudnnPointwiseMode_t mode, std::vector<int> inputs, cudnnDataType_t type) {
  DnnTensor result = (*this)[inputs[0]];
  result.kind = DnnTensor::Kind::inner;
  result.type = type;
  const int output = add(result);
  operations.push_back({.kind = DnnOperation::Kind::pointwise,
                        .inputs = std::move(inputs),
                        .output = output,
                        .compute = type,
                        .pointwise = mode});
  return output;
}

int DnnGraph::index(int like, int64_t axis) {
  const int output = pointwise(CUDNN_POINTWISE_GEN_INDEX, {like}, CUDNN_DATA_INT32);
  operations.back().axis = axis;
  return output;
}

std::string to_string(const DnnGraph& graph) {
  std::string text = fmt::format("{}, {} products, aligned to {}\n", graph.name, graph.full_products ? "full" : "any",
                                 graph.alignment);
  for (size_t i = 0; i < graph.tensors.size(); ++i) {
    text += fmt::format("{}: ", i);
    print(text, graph.tensors[i]);
    text += '\n';
  }
  for (const DnnOperation& o : graph.operations) {
    print(text, o);
    text += '\n';
  }
  return text;
}

}  // namespace rp::cuda
