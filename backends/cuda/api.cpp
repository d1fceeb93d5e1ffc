#include "reprise/backends/cuda/api.h"

namespace rp::cuda {
namespace {

Lazy<InUse<Runtime>> runtime_in_use;
Lazy<InUse<Nvrtc>> nvrtc_in_use;

}  // namespace

Runtime::Runtime() : Table(fmt::format("libcudart.so.{}", CUDART_VERSION / 1000)) {}
Nvrtc::Nvrtc() : Table(fmt::format("libnvrtc.so.{}", CUDART_VERSION / 1000)) {}

const Runtime& runtime() { return runtime_in_use.get().table(); }
const Nvrtc& nvrtc() { return nvrtc_in_use.get().table(); }

void install_fake(const Runtime* fake) {
  forget_everything();
  InUse<Runtime>::fake = fake;
}

void install_fake(const Nvrtc* fake) {
  forget_everything();
  InUse<Nvrtc>::fake = fake;
}

std::string Status<cudaError_t>::text(cudaError_t status) {
  return fmt::format("{}: {}", runtime().cudaGetErrorName(status), runtime().cudaGetErrorString(status));
}

std::string Status<nvrtcResult>::text(nvrtcResult status) { return nvrtc().nvrtcGetErrorString(status); }

}  // namespace rp::cuda
