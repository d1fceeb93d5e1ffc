#pragma once
#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/cuda.h"

namespace rp::cuda {

/// The device that the backend computes on, which is the first that the driver offers.
struct Device {
  Device();

  cudaDeviceProp properties{};
  int driver_version = 0, runtime_version = 0;

  /// 90 for a device of compute capability 9.0.
  int architecture() const { return properties.major * 10 + properties.minor; }
};

/// Also makes it the calling thread's current one, when that asks first: others in the process may use another. An
/// Error says why there is none.
const Device& device();

}  // namespace rp::cuda
