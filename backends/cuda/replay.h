#pragma once
#include <memory>

#include "reprise/core/backend.h"

namespace rp::cuda {

/// A plan's launches as a CUDA graph. The first runs launch piece by piece; once two runs in a row were alike the list
/// becomes a graph of kernels, libraries' works, copies and fills, in the list's order and without memory nodes. In
/// later runs the nodes whose addresses have changed are told so, and the graph is launched. Scalars that change are on
/// the device, where the graph's first node puts them: it alone is told of them, and nothing is listed anew for that.
/// As outputs are the caller's own buffers, no replay writes to what somebody holds.
std::unique_ptr<Replay> make_replay();

}  // namespace rp::cuda
