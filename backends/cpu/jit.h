#pragma once
#include <optional>
#include <span>
#include <string>

#include "reprise/core/program.h"

namespace rp {

struct JitCode {
  KernelFn run = nullptr;
  size_t bytes = 0;  // of code and constants
  std::string form;  // "jit avx2"
};

/// Elements in a vector register of the instruction set in use: 16 with AVX-512, else 8.
int jit_lanes();

/// Machine code for a program, or nothing with the reason in `why`: a type or dtype of 64 bits, a processor without the
/// instructions, a host that refuses executable memory. The code lives for ever. `lanes` is how many elements a vector
/// register holds: 16, which takes AVX-512, or 8 or 4, which take AVX2 and FMA; results do not depend on it.
std::optional<JitCode> jit_compile(const Program& program, std::string* why, int lanes = jit_lanes());

/// The same code where it was written, which need not be able to run here.
struct Assembled {
  std::span<const std::byte> bytes;  // of constants, then code; until this thread assembles again
  size_t entry = 0;                  // where the code begins
};
std::optional<Assembled> jit_assemble(const Program& program, std::string* why, int lanes);

}  // namespace rp
