#pragma once
// cuBLASLt, which takes 70 ms to load: only what calls it includes this.
#include <cublasLt.h>

#include "reprise/backends/cuda/api.h"

namespace rp::cuda {

template <>
struct Status<cublasStatus_t> {
  static bool ok(cublasStatus_t status) { return status == CUBLAS_STATUS_SUCCESS; }
  static std::string text(cublasStatus_t status);
};

struct CublasLt : Table {
  CublasLt();

  RP_ENTRY(cublasLtGetVersion);
  RP_ENTRY(cublasLtGetStatusName);
  RP_ENTRY(cublasLtGetStatusString);
  RP_ENTRY(cublasLtCreate);
  RP_ENTRY(cublasLtDestroy);
  RP_ENTRY(cublasLtMatmulDescCreate);
  RP_ENTRY(cublasLtMatmulDescDestroy);
  RP_ENTRY(cublasLtMatmulDescSetAttribute);
  RP_ENTRY(cublasLtMatrixLayoutCreate);
  RP_ENTRY(cublasLtMatrixLayoutDestroy);
  RP_ENTRY(cublasLtMatrixLayoutSetAttribute);
  RP_ENTRY(cublasLtMatmulPreferenceCreate);
  RP_ENTRY(cublasLtMatmulPreferenceDestroy);
  RP_ENTRY(cublasLtMatmulPreferenceSetAttribute);
  RP_ENTRY(cublasLtMatmulAlgoGetHeuristic);
  RP_ENTRY(cublasLtMatmul);
};

/// The table in use, loaded when first asked for. An Error says why the library cannot be.
const CublasLt& cublas_lt();
void install_fake(const CublasLt* fake);

}  // namespace rp::cuda
