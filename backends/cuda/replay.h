#pragma once
#include <memory>

#include "reprise/core/backend.h"

namespace rp::cuda {

/// A plan's launches as a CUDA graph. The first runs launch piece by piece; once two runs in a row were alike the list
/// becomes a graph of kernels, libraries' works, copies and fills, in the list's order and without memory nodes. In
/// later runs the nodes whose addresses or numbers have changed are told so, and the graph is launched. As outputs are
/// the caller's own buffers, no replay writes to what somebody holds.
std::unique_ptr<Replay> make_replay();

}  // namespace rp::cuda
