#pragma once
// Finding the op that makes the first NaN or Inf. While results are watched, a captured function's ops run one by one,
// so that in every mode each op passes here.
#include "reprise/core/engine.h"

namespace rp {

/// Whether this thread's results are searched for NaN and Inf.
inline bool watches_nan() { return thread_state.watch && (watched() & watch_nan); }

/// Whether no operand of a call, tensor or number, holds a NaN or Inf.
bool finite_operands(const Call& call);

/// Throws, naming the call and the element, if `out` holds a NaN or Inf though no operand does. `known_finite`: the
/// tensor operands were found finite before, and may have been overwritten since.
void check_finite(const Call& call, const Tensor& out, bool known_finite = false);

}  // namespace rp
