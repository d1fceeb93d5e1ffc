// In place of cuDNN where its headers were not found.
#include "reprise/backends/cuda/conv_cudnn.h"

namespace rp::cuda {

std::unique_ptr<RegionKernel> compile_conv_cudnn(const Region&, std::string* why) {
  *why = "this build is without cuDNN (9.11 or newer)";
  return nullptr;
}

}  // namespace rp::cuda
