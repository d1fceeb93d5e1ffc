#pragma once
// The CUDA device as a program sees it. Libraries of CUDA are looked for when first needed; a machine without them is
// no error until the device is used.
#include <cstddef>
#include <string>

namespace rp::cuda {

/// Whether there is a device to compute on. The first call looks for the CUDA runtime and a driver, later ones know.
bool is_available() noexcept;

/// Why there is none, and what to do about it, in one sentence; empty if there is one.
std::string why_not();

/// How many devices the driver offers; 0 if none is available.
int device_count() noexcept;

/// "NVIDIA H200"
std::string device_name(int device = 0);

/// One line: name, memory, compute capability, multiprocessors, versions of driver and runtime.
std::string describe(int device = 0);

struct MemoryStats {
  size_t in_use = 0;        // bytes handed out and not yet released, as rounded up
  size_t peak = 0;          // the most that were in use
  size_t reserved = 0;      // bytes that the pool holds, in use or kept for reuse
  size_t allocations = 0;   // tensors and temporaries that were given memory
  size_t driver_calls = 0;  // times that memory was taken from or given to the driver
};
/// The memory of the device that this process uses; all zero before its first use.
MemoryStats memory_stats();

/// Makes the present use the peak.
void reset_memory_peak();

/// Gives memory that is kept for reuse back to the driver.
void trim_memory();

/// Waits for everything that was queued on the device. Throws what went wrong there, such as an index out of bounds.
void synchronize();

}  // namespace rp::cuda
