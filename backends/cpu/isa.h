#pragma once
#include <cstdint>

namespace rp {

/// Vector instructions that kernels of the CPU are made of.
enum class Isa : uint8_t { baseline, avx2, avx512 };

/// Whether the processor and the build have all of it that kernels use.
bool has_isa(Isa isa);

/// What kernels use: what REPRISE_ISA names, else AVX2 where there is AVX2. Throws Error if that is unknown or missing.
Isa isa_in_use();

}  // namespace rp
