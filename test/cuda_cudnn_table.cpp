// The table of cuDNN, whose descriptors can be made without a device.
#include "reprise/backends/cuda/cudnn.h"

#include "reprise/test/catch.h"

using Catch::Matchers::Contains;
using namespace rp::cuda;

TEST_CASE("cuDNN has every function that the library knows, and makes descriptors", "[cuda]") {
  try {
    cudnn();
  } catch (const rp::Error& e) {
    WARN("skipped: " << e.what());
    return;
  }
  for (const Symbol* const symbol : cudnn().symbols()) {
    INFO(symbol->name());
    CHECK(symbol->found());
  }
  CHECK(cudnn().cudnnGetVersion() / 10000 == CUDNN_MAJOR);
  cudnnBackendDescriptor_t tensor = nullptr;
  cudnn().cudnnBackendCreateDescriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR, &tensor);
  CHECK_THROWS_WITH(cudnn().cudnnBackendFinalize(tensor), Contains("cudnnBackendFinalize: CUDNN_STATUS_"));
  const cudnnDataType_t type = CUDNN_DATA_FLOAT;
  const int64_t dims[] = {8, 16, 4, 4}, strides[] = {256, 1, 64, 16}, uid = 1, alignment = 16;
  cudnn().cudnnBackendSetAttribute(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
  cudnn().cudnnBackendSetAttribute(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
  cudnn().cudnnBackendSetAttribute(tensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
  cudnn().cudnnBackendSetAttribute(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
  cudnn().cudnnBackendSetAttribute(tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
  cudnn().cudnnBackendFinalize(tensor);
  cudnn().cudnnBackendDestroyDescriptor(tensor);
}
