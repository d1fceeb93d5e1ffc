#pragma once
// The loop IR. A Program is the straight-line body of a loop over `rows` x `columns` elements, in SSA form: what a
// fused kernel computes for one element, from typed loads, run-time scalars and constants to typed stores and
// accumulators. From it come machine code, the tile interpreter's steps and, on a GPU, CUDA C text; all compute the
// same bits, because each instruction is one correctly rounded IEEE operation (or an integer one) and nothing is ever
// contracted.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "reprise/core/dtype.h"

namespace rp {

/// Types of IR values. A mask is all ones or all zeros in a lane.
enum class Type : uint8_t { f32, f64, i32, i64, mask };

enum class Ir : uint8_t {
  // sources: `imm` says which
  load,      // operand imm, converted from its dtype to `type` (bool -> mask)
  scalar,    // runtime scalar imm: the low bytes of scalars[imm] hold a value of `type`
  constant,  // the bits of imm, in `type`
  index,     // i32: linear number of the element, args.index + row * args.index_row + column (wraps at 2^32)
  // arithmetic on f32, f64, i32, i64 (integers wrap)
  add,
  sub,
  mul,
  div,  // integer div truncates; by zero gives zero, and INT_MIN / -1 wraps
  rem,  // integer only; takes the sign of the dividend; by zero gives zero
  fma,  // a * b + c, rounded once; floats only
  min,
  max,  // exactly x86's: a < b ? a : b and a > b ? a : b (so b, if a NaN is present)
  sqrt,
  floor,
  ceil,
  trunc,
  nearest,  // floats only; nearest rounds ties to even
  neg,
  abs,  // floats: sign bit only; integers wrap
  // bits: i32, i64; and, or, xor, andnot also on masks, and on floats as bit patterns
  band,
  bor,
  bxor,
  andnot,  // andnot is ~a & b
  shl,
  shr,
  sar,    // by the constant imm
  mulhi,  // i32: high half of the unsigned 64-bit product
  // comparisons give a mask; `type` is that of the compared values; ordered (false if a NaN is present) except ne
  eq,
  ne,
  lt,
  le,
  gt,
  ge,
  select,  // a is a mask: a ? b : c
  // conversions: `type` is the result; the operand's type stands in `from`
  convert,  // float -> integer truncates (out of range or NaN: the least integer of that type, as x86 does);
            // mask -> number gives 0 or 1; number -> mask is != 0; f64 -> f32 and integer -> float round to nearest
  bitcast,  // same width
  round16,  // f32 only: the nearest value of the dtype imm, f16 or bf16 (core/dtype.h)
  call,     // f64 only: the out-of-line function imm (see Function), the same one in every compiled form
  // sinks
  store,       // a to operand imm, converted from `type` to its dtype (mask -> bool); a 16-bit float must be rounded
  accumulate,  // a into accumulator imm
};

/// Functions that f32 has recipes for (core/math.cpp) and f64 takes from the C library: of a, or of a and b for pow.
enum class Function : uint8_t { exp, expm1, log, log1p, tanh, erf, sin, cos, tan, atan, asin, acos, pow };

struct Inst {
  Ir op;
  Type type;
  Type from = Type::f32;  // convert and bitcast only
  uint16_t a = 0, b = 0, c = 0;
  uint64_t imm = 0;
  bool operator==(const Inst&) const = default;
};

/// How many of a, b and c an instruction reads (a call: at most that many).
constexpr int operands_of(Ir op) {
  if (op <= Ir::index) return 0;
  if (op == Ir::fma || op == Ir::select) return 3;
  if (op >= Ir::sqrt && op <= Ir::abs) return 1;
  if (op >= Ir::shl && op <= Ir::sar) return 1;
  if (op == Ir::convert || op == Ir::bitcast || op == Ir::round16 || op >= Ir::store) return 1;
  return 2;
}
constexpr bool is_sink(Ir op) { return op >= Ir::store; }

/// How an operand's address moves with the column. With the row it moves by a run-time stride in every case.
enum class Access : uint8_t { contiguous, broadcast };

struct ProgramOperand {
  DType dtype;
  Access access;
  bool written = false;
  bool streamed = false;  // stores may pass the caches by; needs addresses of whole vectors
  bool operator==(const ProgramOperand&) const = default;
};

enum class Combine : uint8_t { sum, max, min, product };

/// A running combination r with a value x: r + x, r * x, or for max `isnan(x) ? x : x > r ? x : r` (min likewise,
/// with <): a NaN stays, and only one comparison waits for r. In row form the 16 lanes at args.accumulators[k] belong
/// to one row: column j goes to lane j mod 16. In column form element (row, column) goes to lane row mod 16 of that
/// column: the accumulator of imm k is a table of 16 x columns values at args.accumulators[k]. Both combine in the
/// order of growing row, then column.
struct Accumulator {
  Combine combine;
  Type type;
  bool operator==(const Accumulator&) const = default;
};

struct Program {
  std::vector<Inst> insts;
  std::vector<ProgramOperand> operands;
  std::vector<Accumulator> accumulators;
  bool column_form = false;  // how the accumulators are indexed
  uint16_t scalars = 0;      // how many run-time scalars

  bool operator==(const Program&) const = default;
  size_t hash() const;
};

/// The program as text, one instruction a line.
std::string to_string(const Program& program);

inline constexpr int max_operands = 24;
inline constexpr int max_accumulators = 4;
inline constexpr int lanes = 16;

/// What every compiled Program is called with.
struct KernelArgs {
  std::byte* pointers[max_operands];  // each operand's element (0, 0)
  int64_t row_strides[max_operands];  // in bytes
  int64_t rows = 0, columns = 0;
  const uint64_t* scalars = nullptr;
  uint32_t index = 0, index_row = 0;  // of element (0, 0), and what a row adds
  std::byte* accumulators[max_accumulators];
  int64_t accumulator_row_stride = 0;  // row form: bytes from one row's 16 lanes to the next row's
  const void* context = nullptr;       // what the compiled form itself needs
};
using KernelFn = void (*)(const KernelArgs*);

}  // namespace rp
