#pragma once
#include "reprise/core/op.h"

namespace rp {

// For the engine's table; what each does stands there.
Tensor run(const Call& call, const Layout* out);
void run_out(const Call& call, const Tensor& out);
void run_into(const Tensor& target, const Call& call);

}  // namespace rp
