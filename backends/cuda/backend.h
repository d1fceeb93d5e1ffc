#pragma once
#include "reprise/core/backend.h"

namespace rp {

/// The first CUDA device. Throws, with the reason and what to do, where there is none.
Backend& cuda_backend(Device device);

}  // namespace rp
