#pragma once
// What this machine can do, measured once in a process: the roof under which kernels are predicted.
#include "reprise/core/backend.h"

namespace rp {

/// Of one thread, or of `thread_count()` of them.
Limits cpu_limits(Backend& backend, bool all_threads);

/// Half of the second-level cache: operands that fit there stay there from one kernel to the next.
size_t cpu_cache_size();

}  // namespace rp
