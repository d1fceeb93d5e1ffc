#include "reprise/backends/cpu/isa.h"

#include "reprise/core/fail.h"
#include "reprise/core/switches.h"

namespace rp {

Isa parse_isa(std::string_view name) {
  if (name.empty())
    for (const Isa widest : {Isa::avx512, Isa::avx2, Isa::baseline})
      if (has_isa(widest)) return widest;
  if (name != "avx2" && name != "avx512") fail("REPRISE_ISA: expected avx2 or avx512, got \"{}\"", name);
  const Isa isa = name == "avx2" ? Isa::avx2 : Isa::avx512;
  if (!has_isa(isa))
    fail("REPRISE_ISA: expected instructions that this processor has, got {}, which takes {}", name,
         isa == Isa::avx2 ? "AVX2, FMA and F16C" : "AVX2, FMA, F16C and AVX-512 F, DQ, BW and VL");
  return isa;
}

bool has_isa([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == Isa::baseline;
}

Isa isa_in_use() {
  static const Isa isa = parse_isa(switch_value("REPRISE_ISA"));
  return isa;
}

}  // namespace rp
