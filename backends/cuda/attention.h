#pragma once
#include <memory>
#include <string>

#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// Whether an op is attention, or its gradient, that cuDNN has kernels for: where the rewrite `library` may happen,
/// without a mask, of 16-bit floats. If only cuDNN or the operands forbid it, `why` says so.
bool takes_attention(const Op& op, const Attrs& attrs, std::span<const Layout* const> inputs, std::string* why);
/// Whether it might be: by the operands alone.
bool may_take_attention(const Op& op, std::span<const Layout* const> inputs);
std::unique_ptr<RegionKernel> compile_attention(const Region& region);

}  // namespace rp::cuda
