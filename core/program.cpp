#include "reprise/core/program.h"

#include <fmt/format.h>

#include <bit>
#include <iterator>

#include "reprise/core/hash.h"

namespace rp {
namespace {

constexpr std::string_view ir_names[] = {
    "load", "scalar", "constant", "index",  "add",     "sub",     "mul",     "div",  "rem",   "fma",
    "min",  "max",    "sqrt",     "floor",  "ceil",    "trunc",   "nearest", "neg",  "abs",   "band",
    "bor",  "bxor",   "andnot",   "shl",    "shr",     "sar",     "mulhi",   "eq",   "ne",    "lt",
    "le",   "gt",     "ge",       "select", "convert", "bitcast", "round16", "call", "store", "accumulate"};
static_assert(std::size(ir_names) == static_cast<size_t>(Ir::accumulate) + 1);

constexpr std::string_view type_names[] = {"f32", "f64", "i32", "i64", "mask"};

constexpr std::string_view function_names[] = {"exp", "expm1", "log",  "log1p", "tanh", "erf", "sin",
                                               "cos", "tan",   "atan", "asin",  "acos", "pow"};
static_assert(std::size(function_names) == static_cast<size_t>(Function::pow) + 1);

constexpr std::string_view combine_names[] = {"sum", "max", "min", "product"};

template <class E>
std::string_view name_in(std::span<const std::string_view> names, E e) {
  return names[static_cast<size_t>(e)];
}

std::string constant_text(const Inst& i) {
  switch (i.type) {
    case Type::f32:
      return fmt::format("{}", std::bit_cast<float>(static_cast<uint32_t>(i.imm)));
    case Type::f64:
      return fmt::format("{}", std::bit_cast<double>(i.imm));
    case Type::i32:
      return fmt::format("{}", static_cast<int32_t>(i.imm));
    case Type::i64:
      return fmt::format("{}", static_cast<int64_t>(i.imm));
    case Type::mask:
      break;
  }
  return i.imm ? "true" : "false";
}

int values_of(const Inst& i) {
  if (i.op == Ir::call) return static_cast<Function>(i.imm) == Function::pow ? 2 : 1;
  return operands_of(i.op);
}

void print(std::string& out, size_t id, const Inst& i) {
  auto to = std::back_inserter(out);
  if (!is_sink(i.op)) fmt::format_to(to, "%{} = ", id);
  fmt::format_to(to, "{} {}", name_in(ir_names, i.op), name_in(type_names, i.type));
  if (i.op == Ir::convert || i.op == Ir::bitcast) fmt::format_to(to, " from {}", name_in(type_names, i.from));
  const uint16_t args[] = {i.a, i.b, i.c};
  for (int k = 0; k < values_of(i); ++k) fmt::format_to(to, "{} %{}", k ? "," : "", args[k]);
  switch (i.op) {
    case Ir::load:
      fmt::format_to(to, " #{}", i.imm);
      break;
    case Ir::scalar:
      fmt::format_to(to, " ${}", i.imm);
      break;
    case Ir::constant:
      fmt::format_to(to, " {}", constant_text(i));
      break;
    case Ir::shl:
    case Ir::shr:
    case Ir::sar:
      fmt::format_to(to, ", {}", i.imm);
      break;
    case Ir::round16:
      fmt::format_to(to, " {}", name_of(static_cast<DType>(i.imm)));
      break;
    case Ir::call:
      fmt::format_to(to, " {}", name_in(function_names, static_cast<Function>(i.imm)));
      break;
    case Ir::store:
      fmt::format_to(to, " -> #{}", i.imm);
      break;
    case Ir::accumulate:
      fmt::format_to(to, " -> @{}", i.imm);
      break;
    default:
      break;
  }
  out += '\n';
}

}  // namespace

size_t Program::hash() const {
  size_t h = hash_mix(insts.size(), operands.size() << 32 | accumulators.size() << 24 | scalars << 1 | column_form);
  for (const Inst& i : insts) {
    const uint64_t head =
        static_cast<uint64_t>(i.op) << 16 | static_cast<uint64_t>(i.type) << 8 | static_cast<uint64_t>(i.from);
    const uint64_t args = static_cast<uint64_t>(i.a) << 32 | static_cast<uint64_t>(i.b) << 16 | i.c;
    h = hash_mix(hash_mix(h, head << 40 ^ args), i.imm);
  }
  for (const ProgramOperand& o : operands)
    h = hash_mix(h, static_cast<size_t>(o.dtype) << 16 | static_cast<size_t>(o.access) << 8 | o.written);
  for (const Accumulator& a : accumulators)
    h = hash_mix(h, static_cast<size_t>(a.combine) << 8 | static_cast<size_t>(a.type));
  return h;
}

std::string to_string(const Program& program) {
  std::string out;
  auto to = std::back_inserter(out);
  for (size_t k = 0; k < program.operands.size(); ++k) {
    const ProgramOperand& o = program.operands[k];
    fmt::format_to(to, "#{}: {} {}{}\n", k, name_of(o.dtype),
                   o.access == Access::broadcast ? "broadcast" : "contiguous", o.written ? " written" : "");
  }
  for (size_t k = 0; k < program.accumulators.size(); ++k) {
    const Accumulator& a = program.accumulators[k];
    fmt::format_to(to, "@{}: {} {} {}\n", k, name_in(combine_names, a.combine), name_in(type_names, a.type),
                   program.column_form ? "per column" : "per row");
  }
  for (size_t id = 0; id < program.insts.size(); ++id) print(out, id, program.insts[id]);
  return out;
}

}  // namespace rp
