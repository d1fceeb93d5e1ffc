#pragma once
// The loops of the tile interpreter: one per instruction and type, compiled once per instruction set. A tile holds
// values of f32, i32 and masks in 4-byte lanes, of f64 and i64 in 8-byte lanes.
#include "reprise/core/program.h"

namespace rp::tile {

/// Loops over values run in whole blocks, so n is rounded up to them; buffers are that long.
inline constexpr int64_t block = 16;
inline constexpr int64_t width = 256;

/// out, a, b and c are tiles of n values, n a multiple of `block`; out overlaps none of the others.
using Compute = void (*)(void* out, const void* a, const void* b, const void* c, uint64_t imm, int64_t n);
/// Between tiles and elements of fewer bits; any n.
using Move = void (*)(void* out, const void* in, int64_t n);
using Fill = void (*)(void* out, uint64_t bits, int64_t n);
/// Into 16 lanes starting at lane 0, or into n columns of a table's row; any n.
using Gather = void (*)(void* accumulator, const void* values, int64_t n);

inline constexpr int ir_count = static_cast<int>(Ir::accumulate) + 1;
inline constexpr int type_count = 5;

struct Kernels {
  Compute compute[ir_count][type_count]{};    // [op][type]; null where the IR has no such instruction
  Compute convert[type_count][type_count]{};  // [from][to]
  Move mask_from_bool = nullptr, bool_from_mask = nullptr;
  Move f32_from_f16 = nullptr, f16_from_f32 = nullptr;  // of numbers that need no rounding
  Move f32_from_bf16 = nullptr, bf16_from_f32 = nullptr;
  Fill fill4 = nullptr, fill8 = nullptr, iota = nullptr;
  Gather lanes[4][type_count]{}, columns[4][type_count]{};  // [combine][type]
  const char* name = nullptr;
};

namespace baseline {
const Kernels& kernels();
}
#if defined(__x86_64__)
namespace avx2 {
const Kernels& kernels();
}
#endif

}  // namespace rp::tile
