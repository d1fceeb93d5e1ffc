// In place of the backend where the toolkit's headers were not found.
#include "reprise/backends/cuda/backend.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/core/fail.h"

namespace rp::cuda {

bool is_available() noexcept { return false; }

std::string why_not() {
  return "this build is without CUDA: configure it with the headers of the CUDA toolkit (13 or newer) and "
         "-Dcuda=enabled";
}

int device_count() noexcept { return 0; }
std::string device_name(int) { fail("cuda: {}", why_not()); }
std::string describe(int) { fail("cuda: {}", why_not()); }
MemoryStats memory_stats() { return {}; }
void reset_memory_peak() {}
void trim_memory() {}
void synchronize() { fail("cuda: {}", why_not()); }

}  // namespace rp::cuda

namespace rp {

Backend& cuda_backend(Device device) { fail("device: {} cannot be used: {}", to_string(device), cuda::why_not()); }

}  // namespace rp
