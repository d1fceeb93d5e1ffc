#pragma once
// The meaning of a program, one element at a time: what every compiled form is compared with. Types of 32 bits only.
#include <bit>
#include <cmath>
#include <cstring>

#include "reprise/core/expr.h"
#include "reprise/test/catch.h"

namespace rp::reference {

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t as_bits(float value) { return std::bit_cast<uint32_t>(value); }
inline uint32_t as_mask(bool b) { return b ? 0xffffffffu : 0u; }

inline uint32_t float_result(Ir op, float a, float b, float c) {
  switch (op) {
    case Ir::add:
      return as_bits(a + b);
    case Ir::sub:
      return as_bits(a - b);
    case Ir::mul:
      return as_bits(a * b);
    case Ir::div:
      return as_bits(a / b);
    case Ir::fma:
      return as_bits(std::fma(a, b, c));
    case Ir::min:
      return as_bits(a < b ? a : b);
    case Ir::max:
      return as_bits(a > b ? a : b);
    case Ir::sqrt:
      return as_bits(std::sqrt(a));
    case Ir::floor:
      return as_bits(std::floor(a));
    case Ir::ceil:
      return as_bits(std::ceil(a));
    case Ir::trunc:
      return as_bits(std::trunc(a));
    case Ir::nearest:
      return as_bits(std::nearbyint(a));
    case Ir::neg:
      return as_bits(a) ^ 0x80000000u;
    case Ir::abs:
      return as_bits(a) & 0x7fffffffu;
    case Ir::eq:
      return as_mask(a == b);
    case Ir::ne:
      return as_mask(a != b);
    case Ir::lt:
      return as_mask(a < b);
    case Ir::le:
      return as_mask(a <= b);
    case Ir::gt:
      return as_mask(a > b);
    case Ir::ge:
      return as_mask(a >= b);
    default:
      FAIL("not an operation on f32");
      return 0;
  }
}

inline int32_t quotient(int32_t a, int32_t b) { return b == 0 ? 0 : static_cast<int32_t>(int64_t{a} / b); }

inline uint32_t integer_result(Ir op, uint32_t a, uint32_t b, uint64_t imm) {
  auto x = static_cast<int32_t>(a), y = static_cast<int32_t>(b);
  switch (op) {
    case Ir::add:
      return a + b;
    case Ir::sub:
      return a - b;
    case Ir::mul:
      return a * b;
    case Ir::div:
      return static_cast<uint32_t>(quotient(x, y));
    case Ir::rem:
      return y == 0 ? 0 : static_cast<uint32_t>(int64_t{x} % y);
    case Ir::min:
      return x < y ? a : b;
    case Ir::max:
      return x > y ? a : b;
    case Ir::neg:
      return 0 - a;
    case Ir::abs:
      return x < 0 ? 0 - a : a;
    case Ir::shl:
      return a << imm;
    case Ir::shr:
      return a >> imm;
    case Ir::sar:
      return static_cast<uint32_t>(x >> imm);
    case Ir::mulhi:
      return static_cast<uint32_t>(uint64_t{a} * b >> 32);
    case Ir::eq:
      return as_mask(x == y);
    case Ir::ne:
      return as_mask(x != y);
    case Ir::lt:
      return as_mask(x < y);
    case Ir::le:
      return as_mask(x <= y);
    case Ir::gt:
      return as_mask(x > y);
    case Ir::ge:
      return as_mask(x >= y);
    default:
      FAIL("not an operation on i32");
      return 0;
  }
}

inline uint32_t converted(uint32_t a, Type from, Type to) {
  if (from == to) return a;
  if (to == Type::mask) return as_mask(from == Type::f32 ? as_float(a) != 0 : a != 0);
  if (from == Type::mask) return a ? (to == Type::f32 ? as_bits(1) : 1u) : 0u;
  if (to == Type::f32) return as_bits(static_cast<float>(static_cast<int32_t>(a)));
  float x = as_float(a);
  if (!(x >= -2147483648.0f && x < 2147483648.0f)) return 0x80000000u;
  return static_cast<uint32_t>(static_cast<int32_t>(x));
}

inline uint32_t combined(Combine how, Type type, uint32_t r, uint32_t x) {
  constexpr Ir ops[] = {Ir::add, Ir::max, Ir::min, Ir::mul};
  Ir op = ops[static_cast<int>(how)];
  if (type == Type::i32) return integer_result(op, r, x, 0);
  if (op != Ir::max && op != Ir::min) return float_result(op, as_float(r), as_float(x), 0);
  return std::isnan(as_float(x)) ? x : float_result(op, as_float(x), as_float(r), 0);
}

class Interpreter {
 public:
  Interpreter(const Program& program, const KernelArgs& args) : program_(program), args_(args) {}

  void run() {
    for (int64_t row = 0; row < args_.rows; ++row)
      for (int64_t column = 0; column < args_.columns; ++column) element(row, column);
  }

 private:
  void element(int64_t row, int64_t column) {
    values_.assign(program_.insts.size(), 0);
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = result(program_.insts[i], row, column);
  }

  std::byte* address(const Inst& inst, int64_t row, int64_t column) const {
    const ProgramOperand& operand = program_.operands[inst.imm];
    int64_t moved = operand.access == Access::broadcast ? 0 : column * static_cast<int64_t>(size_of(operand.dtype));
    return args_.pointers[inst.imm] + row * args_.row_strides[inst.imm] + moved;
  }

  uint32_t load(const Inst& inst, const std::byte* from) const {
    DType dtype = program_.operands[inst.imm].dtype;
    uint32_t bits = 0;
    std::memcpy(&bits, from, size_of(dtype));
    if (dtype == DType::f16) bits = as_bits(f16_value(static_cast<uint16_t>(bits)));
    if (dtype == DType::bf16) bits = as_bits(bf16_value(static_cast<uint16_t>(bits)));
    return converted(dtype == DType::boolean ? as_mask(bits != 0) : bits, type_of(dtype), inst.type);
  }

  void store(const Inst& inst, std::byte* to) const {
    DType dtype = program_.operands[inst.imm].dtype;
    uint32_t bits = converted(values_[inst.a], inst.type, type_of(dtype));
    if (dtype == DType::boolean) bits &= 1;
    if (dtype == DType::f16) bits = f16_bits(as_float(bits));
    if (dtype == DType::bf16) bits = bf16_bits(as_float(bits));
    std::memcpy(to, &bits, size_of(dtype));
  }

  void accumulate(const Inst& inst, int64_t row, int64_t column) const {
    const Accumulator& accumulator = program_.accumulators[inst.imm];
    std::byte* at = args_.accumulators[inst.imm];
    at += program_.column_form ? ((row % 16) * args_.columns + column) * 4
                               : row * args_.accumulator_row_stride + column % 16 * 4;
    uint32_t r;
    std::memcpy(&r, at, 4);
    r = combined(accumulator.combine, accumulator.type, r, values_[inst.a]);
    std::memcpy(at, &r, 4);
  }

  uint32_t result(const Inst& inst, int64_t row, int64_t column) const {
    uint32_t a = values_[inst.a], b = values_[inst.b], c = values_[inst.c];
    switch (inst.op) {
      case Ir::load:
        return load(inst, address(inst, row, column));
      case Ir::scalar:
        return static_cast<uint32_t>(args_.scalars[inst.imm]);
      case Ir::constant:
        return inst.type == Type::mask ? as_mask(inst.imm) : static_cast<uint32_t>(inst.imm);
      case Ir::index:
        return static_cast<uint32_t>(args_.index + row * args_.index_row + column);
      case Ir::band:
        return a & b;
      case Ir::bor:
        return a | b;
      case Ir::bxor:
        return a ^ b;
      case Ir::andnot:
        return ~a & b;
      case Ir::select:
        return a ? b : c;
      case Ir::bitcast:
        return a;
      case Ir::convert:
        return converted(a, inst.from, inst.type);
      case Ir::round16:
        return as_bits(inst.imm == static_cast<uint64_t>(DType::f16) ? f16_value(f16_bits(as_float(a)))
                                                                     : bf16_value(bf16_bits(as_float(a))));
      case Ir::store:
        store(inst, address(inst, row, column));
        return 0;
      case Ir::accumulate:
        accumulate(inst, row, column);
        return 0;
      default:
        break;
    }
    if (inst.type == Type::f32) return float_result(inst.op, as_float(a), as_float(b), as_float(c));
    return integer_result(inst.op, a, b, inst.imm);
  }

  const Program& program_;
  const KernelArgs& args_;
  std::vector<uint32_t> values_;
};

}  // namespace rp::reference
