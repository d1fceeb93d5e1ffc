#include "reprise/core/expr.h"

#include <bit>
#include <cmath>
#include <limits>
#include <optional>

#include "reprise/core/fail.h"
#include "reprise/core/hash.h"

namespace rp {
namespace {

constexpr uint16_t no_inst = 0xFFFF;

bool is_float(Type t) { return t == Type::f32 || t == Type::f64; }
bool is_narrow(Type t) { return t == Type::f32 || t == Type::i32; }
bool is_comparison(Ir op) { return op >= Ir::eq && op <= Ir::ge; }

std::string_view text(Type t) {
  constexpr std::string_view names[] = {"f32", "f64", "i32", "i64", "mask"};
  return names[static_cast<size_t>(t)];
}

size_t hash_of(const Inst& i) {
  const uint64_t head =
      static_cast<uint64_t>(i.op) << 16 | static_cast<uint64_t>(i.type) << 8 | static_cast<uint64_t>(i.from);
  return hash_mix(hash_mix(head, static_cast<uint64_t>(i.a) << 32 | static_cast<uint64_t>(i.b) << 16 | i.c), i.imm);
}

uint64_t pattern_of(double v, Type type) {
  const bool fits = v >= -0x1p63 && v < 0x1p63;
  const int64_t whole = fits ? static_cast<int64_t>(v) : std::numeric_limits<int64_t>::min();
  switch (type) {
    case Type::f32:
      return std::bit_cast<uint32_t>(static_cast<float>(v));
    case Type::f64:
      return std::bit_cast<uint64_t>(v);
    case Type::i32:
      return static_cast<uint32_t>(whole);
    case Type::i64:
      return static_cast<uint64_t>(whole);
    case Type::mask:
      break;
  }
  return v != 0;
}

/// The value of a floating constant; a NaN otherwise.
double float_of(const Inst& i) {
  if (i.op == Ir::constant && i.type == Type::f32) return std::bit_cast<float>(static_cast<uint32_t>(i.imm));
  if (i.op == Ir::constant && i.type == Type::f64) return std::bit_cast<double>(i.imm);
  return std::numeric_limits<double>::quiet_NaN();
}

int exact_bit(DType dtype) { return dtype == DType::f16; }

bool is_value_of(DType dtype, uint32_t pattern) {
  const auto v = std::bit_cast<float>(pattern);
  return std::bit_cast<uint32_t>(dtype == DType::f16 ? float(Half(v)) : float(BFloat16(v))) == pattern;
}

bool is_constant(const Inst& i, uint64_t pattern) { return i.op == Ir::constant && i.imm == pattern; }

template <class T>
std::optional<T> arithmetic(Ir op, T a, T b) {
  T r;
  switch (op) {
    case Ir::add:
      r = a + b;
      break;
    case Ir::sub:
      r = a - b;
      break;
    case Ir::mul:
      r = a * b;
      break;
    case Ir::div:
      r = a / b;
      break;
    default:
      return {};
  }
  if (std::isnan(r)) return {};  // the sign of a fresh NaN is the processor's business
  return r;
}

/// The bits of `a op b` for two floating constants, where both compilers and processors agree on them.
std::optional<uint64_t> fold_constants(const Inst& i, const Inst& a, const Inst& b) {
  if (a.op != Ir::constant || b.op != Ir::constant) return {};
  if (i.type == Type::f64) {
    auto r = arithmetic(i.op, std::bit_cast<double>(a.imm), std::bit_cast<double>(b.imm));
    return r ? std::optional(std::bit_cast<uint64_t>(*r)) : std::nullopt;
  }
  if (i.type == Type::f32) {
    auto r = arithmetic(i.op, static_cast<float>(float_of(a)), static_cast<float>(float_of(b)));
    return r ? std::optional<uint64_t>(std::bit_cast<uint32_t>(*r)) : std::nullopt;
  }
  uint64_t r;
  switch (i.op) {
    case Ir::add:
      r = a.imm + b.imm;
      break;
    case Ir::sub:
      r = a.imm - b.imm;
      break;
    case Ir::mul:
      r = a.imm * b.imm;
      break;
    default:
      return {};
  }
  return i.type == Type::i32 ? static_cast<uint32_t>(r) : r;
}

/// The operand that `i` is equal to in every bit, if it is one of its operands.
std::optional<uint16_t> fold_identity(const Inst& i, const std::vector<Inst>& insts) {
  const Inst &a = insts[i.a], &b = insts[i.b];
  const bool floats = is_float(i.type);
  const uint64_t one = pattern_of(1, i.type);
  switch (i.op) {
    case Ir::add:
      if (is_constant(b, floats ? pattern_of(-0.0, i.type) : 0)) return i.a;
      if (is_constant(a, floats ? pattern_of(-0.0, i.type) : 0)) return i.b;
      break;
    case Ir::sub:
      if (is_constant(b, 0)) return i.a;
      break;
    case Ir::mul:
      if (is_constant(b, one)) return i.a;
      if (is_constant(a, one)) return i.b;
      break;
    case Ir::div:
      if (is_constant(b, one)) return i.a;
      break;
    case Ir::neg:
      if (a.op == Ir::neg) return a.a;
      break;
    case Ir::abs:
      if (a.op == Ir::abs && floats) return i.a;
      break;
    case Ir::shl:
    case Ir::shr:
    case Ir::sar:
      if (i.imm == 0) return i.a;
      break;
    case Ir::band:
    case Ir::bor:
      if (i.a == i.b) return i.a;
      break;
    case Ir::bxor:
      // not of not: both constants are the same all-ones mask
      if (i.type == Type::mask && b.op == Ir::constant && b.imm && a.op == Ir::bxor && a.b == i.b) return a.a;
      break;
    case Ir::select:
      if (i.b == i.c) return i.b;
      if (a.op == Ir::constant) return a.imm ? i.b : i.c;
      break;
    default:
      break;
  }
  return {};
}

void check_types(Ir op, Type type, const Value& a, const Value& b, const Value& c) {
  const int n = op == Ir::call ? 1 : operands_of(op);
  const bool first_is_mask = op == Ir::select;
  const Value* args[] = {&a, &b, &c};
  for (int k = 0; k < n; ++k) {
    if (!args[k]->builder) fail("expression: operand {} of an operation is missing", k);
    if (op == Ir::convert || op == Ir::bitcast || op >= Ir::store) continue;
    const Type want = first_is_mask && k == 0 ? Type::mask : type;
    if (args[k]->type != want) fail("expression: expected a value of type {}, got {}", text(want), text(args[k]->type));
  }
  const bool bits = (op >= Ir::band && op <= Ir::andnot) || op == Ir::select || op >= Ir::convert || op <= Ir::constant;
  if (type == Type::mask && !bits) fail("expression: arithmetic on bool is not defined, convert it first");
}

}  // namespace

// ---- ProgramBuilder -------------------------------------------------------------------------------------------------

int ProgramBuilder::operand(DType dtype, Access access, bool written) {
  if (program_.operands.size() == max_operands) fail("kernel: expected at most {} operands", max_operands);
  program_.operands.push_back({dtype, access, written});
  return static_cast<int>(program_.operands.size()) - 1;
}

Value ProgramBuilder::load(int operand) {
  const Type type = type_of(program_.operands.at(operand).dtype);
  return emit(Ir::load, type, {}, {}, {}, operand);
}

Value ProgramBuilder::scalar(int slot, Type type) {
  program_.scalars = std::max<uint16_t>(program_.scalars, static_cast<uint16_t>(slot + 1));
  return emit(Ir::scalar, type, {}, {}, {}, slot);
}

Value ProgramBuilder::constant(double v, Type type) { return bits(pattern_of(v, type), type); }

Value ProgramBuilder::bits(uint64_t pattern, Type type) {
  if (type == Type::mask) pattern = pattern ? ~uint64_t{0} : 0;
  if (is_narrow(type)) pattern = static_cast<uint32_t>(pattern);
  return emit(Ir::constant, type, {}, {}, {}, pattern);
}

Value ProgramBuilder::index() { return emit(Ir::index, Type::i32, {}); }

Value ProgramBuilder::emit(Ir op, Type type, Value a, Value b, Value c, uint64_t imm) {
  check_types(op, type, a, b, c);
  const Type result = is_comparison(op) ? Type::mask : type;
  Inst inst{op, type, Type::f32, a.id, b.id, c.id, imm};
  if (op == Ir::convert || op == Ir::bitcast) inst.from = a.type;
  if (!is_sink(op) && operands_of(op) > 0) {
    if (auto same = fold_identity(inst, program_.insts)) return {this, *same, result};
    if (operands_of(op) == 2)
      if (auto v = fold_constants(inst, program_.insts[a.id], program_.insts[b.id])) return bits(*v, type);
  }
  return {this, append(inst), result};
}

Value ProgramBuilder::convert(Value a, Type to) {
  if (a.type == to) return a;
  const Inst& i = program_.insts[a.id];
  if (i.op == Ir::constant && i.type == Type::i32 && is_float(to)) return constant(static_cast<int32_t>(i.imm), to);
  return emit(Ir::convert, to, a);
}

Value ProgramBuilder::bitcast(Value a, Type to) {
  if (a.type == to) return a;
  if (is_narrow(a.type) != is_narrow(to) || a.type == Type::mask || to == Type::mask)
    fail("bitcast: expected types of the same width, got {} and {}", text(a.type), text(to));
  const Inst i = program_.insts[a.id];
  if (i.op == Ir::constant) return bits(i.imm, to);
  if (i.op == Ir::bitcast) return bitcast({this, i.a, i.from}, to);
  return emit(Ir::bitcast, to, a);
}

Value ProgramBuilder::call(Function f, Value a, Value b) {
  if (a.type != Type::f64) fail("call: expected an f64 value, got {}", text(a.type));
  return emit(Ir::call, Type::f64, a, b.builder ? b : a, {}, static_cast<uint64_t>(f));
}

Value ProgramBuilder::rounded(Value a, DType dtype) {
  if (!is_short(dtype)) return a;
  a = convert(a, Type::f32);
  if (exact_[a.id] >> exact_bit(dtype) & 1) return a;
  return emit(Ir::round16, Type::f32, a, {}, {}, static_cast<uint64_t>(dtype));
}

/// Whether the value is one of the dtype. Neither choosing nor changing a sign makes other values.
bool ProgramBuilder::is_exact(const Inst& i, DType dtype) const {
  const auto exact = [&](uint16_t value) { return exact_[value] >> exact_bit(dtype) & 1; };
  if (i.type != Type::f32) return false;
  switch (i.op) {
    case Ir::load:
      return program_.operands[i.imm].dtype == dtype;
    case Ir::round16:
      return i.imm == static_cast<uint64_t>(dtype);
    case Ir::constant:
      return is_value_of(dtype, static_cast<uint32_t>(i.imm));
    case Ir::convert:
      return i.from == Type::mask;
    case Ir::neg:
    case Ir::abs:
      return exact(i.a);
    case Ir::min:
    case Ir::max:
      return exact(i.a) && exact(i.b);
    case Ir::select:
      return exact(i.b) && exact(i.c);
    default:
      return false;
  }
}

void ProgramBuilder::store(Value a, int operand) {
  a = rounded(a, program_.operands.at(operand).dtype);
  program_.operands.at(operand).written = true;
  emit(Ir::store, a.type, a, {}, {}, operand);
}

int ProgramBuilder::accumulate(Value a, Combine combine) {
  if (program_.accumulators.size() == max_accumulators)
    fail("kernel: expected at most {} reductions", max_accumulators);
  if (a.type == Type::mask) fail("accumulate: expected a number, got bool");
  const int k = static_cast<int>(program_.accumulators.size());
  program_.accumulators.push_back({combine, a.type});
  emit(Ir::accumulate, a.type, a, {}, {}, k);
  return k;
}

uint16_t ProgramBuilder::append(const Inst& inst) {
  auto& insts = program_.insts;
  if (insts.size() >= no_inst) fail("kernel: expected fewer than {} instructions", no_inst);
  const auto id = static_cast<uint16_t>(insts.size());
  insts.push_back(inst);
  exact_.push_back(0);
  for (DType d : {DType::bf16, DType::f16})
    if (is_exact(inst, d)) exact_.back() |= static_cast<uint8_t>(1 << exact_bit(d));
  if (is_sink(inst.op)) return id;
  auto slot_of = [&](const Inst& i) {
    size_t slot = hash_of(i) & (shared_.size() - 1);
    while (shared_[slot] != no_inst && insts[shared_[slot]] != i) slot = (slot + 1) & (shared_.size() - 1);
    return slot;
  };
  if (insts.size() * 2 > shared_.size()) {
    shared_.assign(std::max<size_t>(64, shared_.size() * 2), no_inst);
    for (uint16_t k = 0; k < id; ++k)
      if (!is_sink(insts[k].op)) shared_[slot_of(insts[k])] = k;
  }
  uint16_t& shared = shared_[slot_of(inst)];
  bool usable = shared != no_inst;
  if (usable && inst.op == Ir::load && program_.operands[inst.imm].written)
    for (size_t k = shared; k < id; ++k)
      if (insts[k].op == Ir::store && insts[k].imm == inst.imm) usable = false;
  if (!usable) return shared = id;
  insts.pop_back();
  exact_.pop_back();
  return shared;
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

namespace {

Value emit(Ir op, Value a, Value b) { return a.builder->emit(op, a.type, a, b); }
Value emit(Ir op, Value a) { return a.builder->emit(op, a.type, a); }
Value number(double v, Value like) { return like.builder->constant(v, like.type); }

bool is_nan_constant(Value v) {
  const Inst& i = v.builder->program().insts[v.id];
  return i.op == Ir::constant && is_float(i.type) && std::isnan(float_of(i));
}

/// max or min that gives NaN if either side is NaN. Ir::max and Ir::min give their second operand then.
Value extremum(Ir op, Value a, Value b) {
  if (a.type == Type::mask) return emit(op == Ir::max ? Ir::bor : Ir::band, a, b);
  if (!is_float(a.type)) return emit(op, a, b);
  const auto& insts = a.builder->program().insts;
  if (is_nan_constant(a)) return a;
  if (is_nan_constant(b)) return b;
  if (insts[b.id].op == Ir::constant) return emit(op, b, a);
  Value larger = emit(op, a, b);
  if (insts[a.id].op == Ir::constant) return larger;
  return select(isnan(a), a, larger);
}

}  // namespace

Value operator+(Value a, Value b) { return emit(Ir::add, a, b); }
Value operator-(Value a, Value b) { return emit(Ir::sub, a, b); }
Value operator*(Value a, Value b) { return emit(Ir::mul, a, b); }
Value operator/(Value a, Value b) { return emit(Ir::div, a, b); }
Value operator-(Value a) { return emit(Ir::neg, a); }
Value operator+(Value a, double b) { return a + number(b, a); }
Value operator-(Value a, double b) { return a - number(b, a); }
Value operator*(Value a, double b) { return a * number(b, a); }
Value operator/(Value a, double b) { return a / number(b, a); }
Value operator+(double a, Value b) { return number(a, b) + b; }
Value operator-(double a, Value b) { return number(a, b) - b; }
Value operator*(double a, Value b) { return number(a, b) * b; }
Value operator/(double a, Value b) { return number(a, b) / b; }
Value rem(Value a, Value b) { return emit(Ir::rem, a, b); }
Value fma(Value a, Value b, Value c) { return a.builder->emit(Ir::fma, a.type, a, b, c); }
Value abs(Value a) { return emit(Ir::abs, a); }
Value sqrt(Value a) { return emit(Ir::sqrt, a); }
Value floor(Value a) { return emit(Ir::floor, a); }
Value ceil(Value a) { return emit(Ir::ceil, a); }
Value trunc(Value a) { return emit(Ir::trunc, a); }
Value nearest(Value a) { return emit(Ir::nearest, a); }
Value max(Value a, Value b) { return extremum(Ir::max, a, b); }
Value max(Value a, double b) { return max(a, number(b, a)); }
Value min(Value a, Value b) { return extremum(Ir::min, a, b); }
Value min(Value a, double b) { return min(a, number(b, a)); }

// ---- comparisons ----------------------------------------------------------------------------------------------------

Value operator==(Value a, Value b) { return a.type == Type::mask ? !(a ^ b) : emit(Ir::eq, a, b); }
Value operator!=(Value a, Value b) { return a.type == Type::mask ? a ^ b : emit(Ir::ne, a, b); }
Value operator<(Value a, Value b) { return a.type == Type::mask ? andnot(a, b) : emit(Ir::lt, a, b); }
Value operator<=(Value a, Value b) { return a.type == Type::mask ? !andnot(b, a) : emit(Ir::le, a, b); }
Value operator>(Value a, Value b) { return a.type == Type::mask ? andnot(b, a) : emit(Ir::gt, a, b); }
Value operator>=(Value a, Value b) { return a.type == Type::mask ? !andnot(a, b) : emit(Ir::ge, a, b); }
Value operator<(Value a, double b) { return a < number(b, a); }
Value operator>(Value a, double b) { return a > number(b, a); }
Value operator==(Value a, double b) { return a == number(b, a); }
Value select(Value mask, Value a, Value b) { return mask.builder->emit(Ir::select, a.type, mask, a, b); }
Value select(Value mask, Value a, double b) { return select(mask, a, number(b, a)); }
Value select(Value mask, double a, Value b) { return select(mask, number(a, b), b); }

// ---- bits -----------------------------------------------------------------------------------------------------------

Value operator&(Value a, Value b) { return emit(Ir::band, a, b); }
Value operator|(Value a, Value b) { return emit(Ir::bor, a, b); }
Value operator^(Value a, Value b) { return emit(Ir::bxor, a, b); }
Value andnot(Value a, Value b) { return emit(Ir::andnot, a, b); }
Value operator!(Value mask) { return mask ^ mask.builder->bits(1, Type::mask); }
Value shl(Value a, int by) { return a.builder->emit(Ir::shl, a.type, a, {}, {}, by); }
Value shr(Value a, int by) { return a.builder->emit(Ir::shr, a.type, a, {}, {}, by); }
Value sar(Value a, int by) { return a.builder->emit(Ir::sar, a.type, a, {}, {}, by); }
Value mulhi(Value a, Value b) { return emit(Ir::mulhi, a, b); }

Value copysign(Value magnitude, Value sign) {
  const Value bit = number(-0.0, sign);
  return andnot(bit, magnitude) | (bit & sign);
}

Value isnan(Value a) { return is_float(a.type) ? a != a : a.builder->bits(0, Type::mask); }

Philox philox(const Value (&counter)[4], const Value (&key)[2]) {
  ProgramBuilder& b = *counter[0].builder;
  auto word = [&](uint32_t v) { return b.bits(v, Type::i32); };
  Value c[4] = {counter[0], counter[1], counter[2], counter[3]};
  Value k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const Value high0 = mulhi(c[0], word(0xD2511F53)), low0 = c[0] * word(0xD2511F53);
    const Value high1 = mulhi(c[2], word(0xCD9E8D57)), low1 = c[2] * word(0xCD9E8D57);
    c[0] = high1 ^ c[1] ^ k0;
    c[1] = low1;
    c[2] = high0 ^ c[3] ^ k1;
    c[3] = low0;
    if (round == 9) break;
    k0 = k0 + word(0x9E3779B9);
    k1 = k1 + word(0xBB67AE85);
  }
  return {{c[0], c[1], c[2], c[3]}};
}

}  // namespace rp
