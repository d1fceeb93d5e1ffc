#pragma once
#include "reprise/core/op.h"
#include "reprise/graph/executable.h"

namespace rp {

// For the engine's table; what each does stands there.
void run_plan(const Call& call, const Tensor& out);
std::unique_ptr<Executable> compile(Graph graph);

}  // namespace rp
