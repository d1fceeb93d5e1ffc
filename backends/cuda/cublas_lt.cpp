#include "reprise/backends/cuda/cublas_lt.h"

namespace rp::cuda {
namespace {

Lazy<InUse<CublasLt>> in_use;

}  // namespace

CublasLt::CublasLt() : Table(fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR)) {}

const CublasLt& cublas_lt() { return in_use.get().table(); }

void install_fake(const CublasLt* fake) {
  forget_everything();
  InUse<CublasLt>::fake = fake;
}

std::string Status<cublasStatus_t>::text(cublasStatus_t status) {
  return fmt::format("{}: {}", cublas_lt().cublasLtGetStatusName(status), cublas_lt().cublasLtGetStatusString(status));
}

}  // namespace rp::cuda
