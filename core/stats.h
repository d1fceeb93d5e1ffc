#pragma once
#include <cstdint>

namespace rp {

/// What the calling thread has launched and compiled, in any mode.
struct LaunchStats {
  int64_t kernels = 0;
  int64_t programs = 0;  // compiled for them: equal ones once
};
inline LaunchStats& launch_stats() {
  static constinit thread_local LaunchStats stats;
  return stats;
}

}  // namespace rp
