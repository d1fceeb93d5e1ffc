// cuDNN where its device is not: it plans for an H200, which it knows by a text, and runs nothing.
#include "reprise/bench/compile_only.h"

#if __has_include(<cudnn_graph.h>)
#include "reprise/backends/cuda/cudnn.h"
#include "reprise/bench/h200.h"

namespace bench {
namespace {

using rp::cuda::Cudnn;

Cudnn* own = nullptr;  // the library's functions
cudnnBackendDescriptor_t h200 = nullptr;

cudnnStatus_t describe(cudnnBackendDescriptor_t properties) {
  return own->cudnnBackendSetAttribute.raw(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                           static_cast<int64_t>(h200_properties.size()), h200_properties.data());
}

/// Where the device that is here is meant, by its number or by a handle, an H200 is.
cudnnStatus_t set(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                  int64_t count, const void* values) {
  if (name == CUDNN_ATTR_DEVICEPROP_DEVICE_ID) return describe(d);
  if (name == CUDNN_ATTR_EXECUTION_PLAN_HANDLE)
    return own->cudnnBackendSetAttribute.raw(d, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                             &h200);
  return own->cudnnBackendSetAttribute.raw(d, name, type, count, values);
}

}  // namespace

void plan_only() {
  own = new Cudnn;
  auto* const table = new Cudnn;
  try {
    own->load();
    table->load();
    own->cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &h200);
    rp::cuda::check(describe(h200), "cudnnBackendSetAttribute");
    own->cudnnBackendFinalize(h200);
  } catch (const rp::Error&) {
    return;  // then nothing is computed by it
  }
  table->cudnnBackendSetAttribute.set(set);
  table->cudnnCreate.set(
      +[](cudnnHandle_t* h) { return *h = reinterpret_cast<cudnnHandle_t>(own), CUDNN_STATUS_SUCCESS; });
  table->cudnnDestroy.set(+[](cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; });
  table->cudnnSetStream.set(+[](cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; });
  table->cudnnBackendExecute.set(
      +[](cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t) { return CUDNN_STATUS_SUCCESS; });
  rp::cuda::install_fake(table);
}

}  // namespace bench

#else

namespace bench {

void plan_only() {}

}  // namespace bench

#endif
