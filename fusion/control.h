#pragma once
#include "reprise/fusion/region.h"

namespace rp {

/// The kernel of a control op's region: it runs plans of the bodies, which lie in its scratch memory.
std::unique_ptr<RegionKernel> compile_control(const Region& region, bool fuse);

}  // namespace rp
