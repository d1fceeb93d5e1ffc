#pragma once
#include "reprise/core/program.h"

namespace rp {

/// The program after the rewrite "contract", if that is allowed.
Program loosened(Program program);

}  // namespace rp
