#pragma once
// What a call, an end or a plan has in it that the recording has not: the texts of misses and recompiles.
#include <string>
#include <string_view>
#include <vector>

#include "reprise/graph/trace.h"

namespace rp {

/// A call that none of the ops recorded after `before` matches: which was expected, and what differs from it, the
/// recorded value first. `refs` are the call's operands.
std::string divergence(const TraceOp& before, const Call& call, const std::vector<OperandRef>& refs);

/// A segment that ended behind `last`, where no recorded one did.
std::string early_end(const TraceOp& last, std::string_view reason);

/// A plan that keeps the values of other slots than before.
std::string rebuilt(const TraceOp& end, const std::vector<int32_t>& before, const std::vector<int32_t>& now);

}  // namespace rp
