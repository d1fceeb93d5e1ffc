#pragma once
// cuDNN by its graph interface: only what calls it includes this.
#include <cudnn_graph.h>

#include "reprise/backends/cuda/api.h"

namespace rp::cuda {

template <>
struct Status<cudnnStatus_t> {
  static bool ok(cudnnStatus_t status) { return status == CUDNN_STATUS_SUCCESS; }
  /// With cuDNN's own words on the last call of this thread that failed, on one line.
  static std::string text(cudnnStatus_t status);
};

struct Cudnn : Table {
  Cudnn();

  RP_ENTRY(cudnnGetVersion);
  RP_ENTRY(cudnnGetErrorString);
  RP_ENTRY(cudnnGetLastErrorString);
  RP_ENTRY(cudnnCreate);
  RP_ENTRY(cudnnDestroy);
  RP_ENTRY(cudnnSetStream);
  RP_ENTRY(cudnnBackendCreateDescriptor);
  RP_ENTRY(cudnnBackendDestroyDescriptor);
  RP_ENTRY(cudnnBackendSetAttribute);
  RP_ENTRY(cudnnBackendGetAttribute);
  RP_ENTRY(cudnnBackendFinalize);
  RP_ENTRY(cudnnBackendExecute);
  RP_ENTRY(cudnnBackendPopulateCudaGraph);
};

/// The table in use, loaded when first asked for. An Error says why the library cannot be.
const Cudnn& cudnn();
void install_fake(const Cudnn* fake);

}  // namespace rp::cuda
