#pragma once
#include <memory>

#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// Whether an op is attention that cuDNN computes by one kernel: where the rewrite `library` may happen, without a
/// mask, of 16-bit floats.
bool takes_attention(const Op& op, const Attrs& attrs, std::span<const Layout* const> inputs);
std::unique_ptr<RegionKernel> compile_attention(const Region& region);

}  // namespace rp::cuda
