#pragma once
#include <optional>
#include <string>

#include "reprise/core/program.h"

namespace rp {

struct JitCode {
  KernelFn run = nullptr;
  size_t bytes = 0;  // of code and constants
  std::string form;  // "jit avx2"
};

/// Machine code for a program, or nothing with the reason in `why`: a type or dtype of 64 bits, a processor without
/// AVX2 and FMA, a host that refuses executable memory. The code lives for ever. `lanes` is how many elements a vector
/// register holds, 8 or 4; results do not depend on it.
std::optional<JitCode> jit_compile(const Program& program, std::string* why, int lanes = 8);

}  // namespace rp
