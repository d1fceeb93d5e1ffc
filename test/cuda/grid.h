#pragma once
// Runs the threads of a kernel that was compiled for the processor.
#include <cstddef>
#include <string>

#include "reprise/test/cuda/schedule.h"
#include "reprise/test/cuda/shim_thread.h"

namespace rp::fake {

struct GridShape {
  unsigned blocks = 1, threads = 1;
  size_t shared_bytes = 0;
  unsigned cluster = 1;      // blocks that may use each other's shared memory
  bool cooperative = false;  // all blocks are there at the same time
};

/// A kernel and where its text looks for the thread that runs.
struct LoadedKernel {
  std::string name;
  rp_shim::Kernel kernel;
  const rp_shim::Thread** now;
};

/// The services that a text is given when it is loaded.
const rp_shim::Services& services();

/// Runs every thread. The result says what went wrong: a barrier that not all threads reach, a write behind shared
/// memory. One call at a time.
std::string run_grid(const LoadedKernel& kernel, const void* args, const GridShape& shape, const Schedule& schedule);

}  // namespace rp::fake
