#pragma once
#include <cstdint>
#include <string_view>

namespace rp {

/// Vector instructions that kernels of the CPU are made of.
enum class Isa : uint8_t { baseline, avx2, avx512 };

/// Whether the processor and the build have all of it that kernels use.
bool has_isa(Isa isa);

/// By the name that REPRISE_ISA takes: avx2 or avx512, or empty for the widest there is. Throws Error for another name,
/// and for instructions that are missing.
Isa parse_isa(std::string_view name);

/// What kernels use, by REPRISE_ISA.
Isa isa_in_use();

}  // namespace rp
