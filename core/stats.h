#pragma once
#include <cstdint>

namespace rp {

/// What the calling thread has launched, in any mode.
struct LaunchStats {
  int64_t kernels = 0;
};
inline LaunchStats& launch_stats() {
  static constinit thread_local LaunchStats stats;
  return stats;
}

}  // namespace rp
