#pragma once
#include "reprise/graph/control_call.h"

namespace rp {

/// Takes out of a scan's loop what need not run at every step: ops on nothing but closed-over values; products of a
/// step's input with an invariant matrix, which become one product over all steps, and pointwise ops on them; and joins
/// several products of one value, with the factors side by side. Each is exact, because every element of a product is
/// summed in order whatever stands beside it.
ScanCall hoist(ScanCall call);

}  // namespace rp
