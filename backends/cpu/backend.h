#pragma once
// The CPU: generated loops (machine code or tile kernels), matrix products with fused epilogues, and library kernels,
// on one thread pool and one allocator.
#include "reprise/core/backend.h"

namespace rp {

Backend& cpu_backend();

}  // namespace rp
