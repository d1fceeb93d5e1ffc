#pragma once
#include <memory>
#include <string>

#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// A convolution or one of its gradients by cuDNN, with the region's stage behind it. Null with the reason if cuDNN has
/// no engine for it. To be asked only where the rewrite `library` may happen.
std::unique_ptr<RegionKernel> compile_conv_cudnn(const Region& region, std::string* why);

}  // namespace rp::cuda
