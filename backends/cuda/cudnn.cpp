#include "reprise/backends/cuda/cudnn.h"

namespace rp::cuda {
namespace {

Lazy<InUse<Cudnn>> in_use;

}  // namespace

Cudnn::Cudnn() : Table(fmt::format("libcudnn.so.{}", CUDNN_MAJOR)) {}

const Cudnn& cudnn() { return in_use.get().table(); }

void install_fake(const Cudnn* fake) {
  forget_everything();
  InUse<Cudnn>::fake = fake;
}

std::string Status<cudnnStatus_t>::text(cudnnStatus_t status) { return cudnn().cudnnGetErrorString(status); }

}  // namespace rp::cuda
