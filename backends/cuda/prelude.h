#pragma once
#include <string_view>

namespace rp::cuda {

/// What every kernel's text starts with: types, memory, vectors, the loop IR's operations where C has other rules, and
/// the tree of the reductions. It includes nothing. Where RP_SHIM is defined, what a host compiler lacks stands before
/// it (test/cuda/shim.h).
extern const std::string_view prelude;

}  // namespace rp::cuda
