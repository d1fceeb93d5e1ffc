#include "reprise/backends/cuda/element_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>

#include "reprise/core/expr.h"
#include "reprise/core/fail.h"

namespace rp::cuda {
namespace {

bool is_float(Type t) { return t == Type::f32 || t == Type::f64; }

template <class T>
std::string number_text(T value, std::string_view suffix) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text.append(suffix);
}

std::string constant_text(Type type, uint64_t bits) {
  switch (type) {
    case Type::f32: {
      const auto value = std::bit_cast<float>(static_cast<uint32_t>(bits));
      return std::isfinite(value) ? number_text(value, "f") : fmt::format("f32_of(0x{:08x}u)", bits);
    }
    case Type::f64: {
      const auto value = std::bit_cast<double>(bits);
      return std::isfinite(value) ? number_text(value, "") : fmt::format("f64_of(0x{:016x}ull)", bits);
    }
    case Type::i32: {
      const auto value = static_cast<int32_t>(bits);
      return value >= 0 ? fmt::format("{}", value) : fmt::format("(i32)0x{:x}u", static_cast<uint32_t>(bits));
    }
    case Type::i64: {
      const auto value = static_cast<int64_t>(bits);
      return value >= 0 ? fmt::format("{}ll", value) : fmt::format("(i64)0x{:x}ull", bits);
    }
    case Type::mask:
      break;
  }
  return bits ? "true" : "false";
}

bool is_name(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

class Writer {
 public:
  Writer(const Program& program, const ElementText& how) : program_(program), how_(how) {}

  std::string run() {
    mark_needed();
    names_.resize(program_.insts.size());
    for (size_t id = 0; id < program_.insts.size(); ++id)
      if (needed_[id]) write(id);
    return std::move(out_);
  }

 private:
  void mark_needed() {
    needed_.assign(program_.insts.size(), false);
    for (size_t id = program_.insts.size(); id-- > 0;) {
      const Inst& i = program_.insts[id];
      if (!needed_[id] && !is_sink(i.op)) continue;
      needed_[id] = true;
      const uint16_t operands[] = {i.a, i.b, i.c};
      for (int k = 0; k < operands_of(i.op); ++k) needed_[operands[k]] = true;
    }
  }

  void write(size_t id) {
    const Inst& i = program_.insts[id];
    if (i.op == Ir::store) {
      const DType dtype = program_.operands[i.imm].dtype;
      std::string value = converted_text(names_[i.a], i.type, type_of(dtype));
      if (dtype == DType::boolean) value = "(u8)" + (is_name(value) ? value : "(" + value + ")");
      if (is_short(dtype)) value = fmt::format("to_{}({})", c_type(dtype), value);
      line(how_.store(static_cast<int>(i.imm), value));
      return;
    }
    if (i.op == Ir::accumulate) {
      const Type type = program_.accumulators[i.imm].type;
      line(how_.accumulate(static_cast<int>(i.imm), converted_text(names_[i.a], i.type, type)));
      return;
    }
    std::string value = expression(i);
    if (i.op == Ir::constant || (i.op == Ir::load && is_name(value))) {
      names_[id] = std::move(value);
      return;
    }
    names_[id] = fmt::format("v{}", id);
    const bool comparison = i.op >= Ir::eq && i.op <= Ir::ge;
    line(fmt::format("const {} {} = {};", c_type(comparison ? Type::mask : i.type), names_[id], value));
  }

  std::string expression(const Inst& i) const {
    switch (i.op) {
      case Ir::load:
        return loaded(i);
      case Ir::scalar:
        return scalar(i);
      case Ir::constant:
        return constant_text(i.type, i.imm);
      case Ir::index:
        return is_name(how_.index) ? "(i32)" + how_.index : "(i32)(" + how_.index + ")";
      case Ir::convert:
        return converted_text(names_[i.a], i.from, i.type);
      case Ir::bitcast:
        return is_float(i.type) ? fmt::format("{}_of(bits_of({}))", c_type(i.type), names_[i.a])
                                : fmt::format("({})bits_of({})", c_type(i.type), names_[i.a]);
      case Ir::select:
        return fmt::format("{} ? {} : {}", names_[i.a], names_[i.b], names_[i.c]);
      case Ir::round16:
        return fmt::format("round_{}({})", c_type(static_cast<DType>(i.imm)), names_[i.a]);
      case Ir::call:
        return called(i);
      default:
        break;
    }
    if (i.op >= Ir::band && i.op <= Ir::andnot) return bitwise(i);
    return is_float(i.type) ? of_floats(i) : of_integers(i);
  }

  std::string loaded(const Inst& i) const {
    const DType dtype = program_.operands[i.imm].dtype;
    std::string value = how_.load(static_cast<int>(i.imm));
    if (dtype == DType::boolean) value += " != 0";
    if (is_short(dtype)) value = fmt::format("to_f32({})", value);
    return converted_text(value, type_of(dtype), i.type);
  }

  std::string scalar(const Inst& i) const {
    const std::string bits = fmt::format("{}[{}]", how_.scalars, i.imm);
    switch (i.type) {
      case Type::f32:
        return fmt::format("f32_of((u32){})", bits);
      case Type::f64:
        return fmt::format("f64_of({})", bits);
      case Type::mask:
        return fmt::format("(u8){} != 0", bits);
      default:
        return fmt::format("({}){}", c_type(i.type), bits);
    }
  }

  std::string called(const Inst& i) const {
    constexpr std::string_view names[] = {"exp", "expm1", "log",  "log1p", "tanh", "erf", "sin",
                                          "cos", "tan",   "atan", "asin",  "acos", "pow"};
    const auto function = static_cast<Function>(i.imm);
    const std::string_view name = names[static_cast<size_t>(function)];
    if (function == Function::pow) return fmt::format("pow({}, {})", names_[i.a], names_[i.b]);
    return fmt::format("{}({})", name, names_[i.a]);
  }

  std::string bitwise(const Inst& i) const {
    const std::string &a = names_[i.a], &b = names_[i.b];
    const int which = static_cast<int>(i.op) - static_cast<int>(Ir::band);
    if (i.type == Type::mask) {
      constexpr std::string_view forms[] = {"{} && {}", "{} || {}", "{} != {}", "!{} && {}"};
      return fmt::format(fmt::runtime(forms[which]), a, b);
    }
    constexpr std::string_view forms[] = {"{} & {}", "{} | {}", "{} ^ {}", "~{} & {}"};
    if (!is_float(i.type)) return fmt::format(fmt::runtime(forms[which]), a, b);
    const std::string bits = fmt::format(fmt::runtime(forms[which]), "bits_of(" + a + ")", "bits_of(" + b + ")");
    return fmt::format("{}_of({})", c_type(i.type), bits);
  }

  // What floats and integers have in common.
  std::string ordered(const Inst& i) const {
    const std::string &a = names_[i.a], &b = names_[i.b];
    switch (i.op) {
      case Ir::min:
        return fmt::format("{0} < {1} ? {0} : {1}", a, b);
      case Ir::max:
        return fmt::format("{0} > {1} ? {0} : {1}", a, b);
      default:
        break;
    }
    constexpr std::string_view signs[] = {"==", "!=", "<", "<=", ">", ">="};
    if (i.op < Ir::eq || i.op > Ir::ge)
      fail("kernel: instruction {} is not defined for {}", static_cast<int>(i.op), c_type(i.type));
    return fmt::format("{} {} {}", a, signs[static_cast<int>(i.op) - static_cast<int>(Ir::eq)], b);
  }

  std::string of_floats(const Inst& i) const {
    const std::string &a = names_[i.a], &b = names_[i.b];
    const std::string_view f = i.type == Type::f32 ? "f" : "";
    switch (i.op) {
      case Ir::add:
        return fmt::format("{} + {}", a, b);
      case Ir::sub:
        return fmt::format("{} - {}", a, b);
      case Ir::mul:
        return fmt::format("{} * {}", a, b);
      case Ir::div:
        return fmt::format("{} / {}", a, b);
      case Ir::fma:
        return fmt::format("fma{}({}, {}, {})", f, a, b, names_[i.c]);
      case Ir::sqrt:
        return fmt::format("sqrt{}({})", f, a);
      case Ir::floor:
        return fmt::format("floor{}({})", f, a);
      case Ir::ceil:
        return fmt::format("ceil{}({})", f, a);
      case Ir::trunc:
        return fmt::format("trunc{}({})", f, a);
      case Ir::nearest:
        return fmt::format("rint{}({})", f, a);
      case Ir::neg:
        return a[0] == '-' ? "-(" + a + ")" : "-" + a;
      case Ir::abs:
        return fmt::format("fabs{}({})", f, a);
      default:
        return ordered(i);
    }
  }

  std::string of_integers(const Inst& i) const {
    const std::string &a = names_[i.a], &b = names_[i.b];
    const std::string type = c_type(i.type);
    switch (i.op) {
      case Ir::add:
        return fmt::format("wrap_add({}, {})", a, b);
      case Ir::sub:
        return fmt::format("wrap_sub({}, {})", a, b);
      case Ir::mul:
        return fmt::format("wrap_mul({}, {})", a, b);
      case Ir::div:
        return fmt::format("wrap_div({}, {})", a, b);
      case Ir::rem:
        return fmt::format("wrap_rem({}, {})", a, b);
      case Ir::neg:
        return fmt::format("wrap_neg({})", a);
      case Ir::abs:
        return fmt::format("wrap_abs({})", a);
      case Ir::shl:
        return fmt::format("({})(bits_of({}) << {})", type, a, i.imm);
      case Ir::shr:
        return fmt::format("({})(bits_of({}) >> {})", type, a, i.imm);
      case Ir::sar:
        return fmt::format("{} >> {}", a, i.imm);
      case Ir::mulhi:
        return fmt::format("(i32)high_product(bits_of({}), bits_of({}))", a, b);
      default:
        return ordered(i);
    }
  }

  void line(const std::string& text) { out_ += text + "\n"; }

  const Program& program_;
  const ElementText& how_;
  std::vector<bool> needed_;
  std::vector<std::string> names_;  // by instruction
  std::string out_;
};

}  // namespace

std::string element_text(const Program& program, const ElementText& how) { return Writer(program, how).run(); }

std::string c_type(DType dtype) { return dtype == DType::boolean ? "u8" : std::string(name_of(dtype)); }

std::string c_type(Type type) {
  constexpr std::string_view names[] = {"f32", "f64", "i32", "i64", "bool"};
  return std::string(names[static_cast<size_t>(type)]);
}

std::string converted_text(const std::string& value, Type from, Type to) {
  if (from == to) return value;
  if (to == Type::mask) return value + " != 0";
  const std::string operand = is_name(value) ? value : "(" + value + ")";
  const bool truncates = is_float(from) && (to == Type::i32 || to == Type::i64);
  return truncates ? fmt::format("to_{}{}", c_type(to), is_name(value) ? "(" + value + ")" : operand)
                   : fmt::format("({}){}", c_type(to), operand);
}

bool uses_index(const Program& program) {
  return std::any_of(program.insts.begin(), program.insts.end(), [](const Inst& i) { return i.op == Ir::index; });
}

}  // namespace rp::cuda
