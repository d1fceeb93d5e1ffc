#include "reprise/backends/cpu/jit_plan.h"

#include <algorithm>

#include "reprise/core/expr.h"

namespace rp::jit {
namespace {

constexpr size_t node_limit = 60000;

bool narrow(Type t) { return t == Type::f32 || t == Type::i32 || t == Type::mask; }

// Of the 16-bit floats the processor rounds to f16 alone.
constexpr size_t nodes_of_rounding = 8;
bool rounds_in_steps(const Inst& inst) {
  return inst.op == Ir::round16 && inst.imm == static_cast<uint64_t>(DType::bf16);
}

bool compares(Ir op) { return op >= Ir::eq && op <= Ir::ge; }

const char* uncovered(const Program& program) {
  const auto rounds = std::count_if(program.insts.begin(), program.insts.end(), rounds_in_steps);
  if (program.insts.size() + nodes_of_rounding * static_cast<size_t>(rounds) > node_limit / 2)
    return "too many instructions";
  for (const Inst& inst : program.insts) {
    bool converts = inst.op == Ir::convert || inst.op == Ir::bitcast;
    if (!narrow(inst.type) || (converts && !narrow(inst.from)) || inst.op == Ir::call) return "64-bit types";
    bool computes = inst.op >= Ir::add && inst.op <= Ir::ge && !(inst.op >= Ir::band && inst.op <= Ir::andnot);
    if (computes && inst.type == Type::mask) return "arithmetic on masks";
  }
  for (const ProgramOperand& operand : program.operands)
    if (!narrow(type_of(operand.dtype))) return "64-bit operands";
  for (const Accumulator& accumulator : program.accumulators)
    if (accumulator.type != Type::f32 && accumulator.type != Type::i32) return "64-bit accumulators";
  return nullptr;
}

class Lowering {
 public:
  explicit Lowering(const Program& program) : program_(program) {
    nodes_.reserve(program.insts.size() + 8);
    node_of_.reserve(program.insts.size());
  }

  std::vector<Node> run() {
    for (const Inst& inst : program_.insts) node_of_.push_back(lower(inst));
    return std::move(nodes_);
  }

 private:
  uint16_t lower(const Inst& inst) {
    Node node{.op = inst.op, .type = inst.type, .imm = inst.imm};
    node.arguments = static_cast<uint8_t>(operands_of(inst.op));
    const uint16_t in[3] = {inst.a, inst.b, inst.c};
    for (int k = 0; k < node.arguments; ++k) node.in[k] = node_of_[in[k]];
    switch (inst.op) {
      case Ir::bitcast:
        return node.in[0];
      case Ir::round16:
        return rounds_in_steps(inst) ? rounded(node.in[0]) : append(node);
      case Ir::convert:
        return convert(node.in[0], inst.from, inst.type);
      case Ir::load: {
        node.type = type_of(program_.operands[inst.imm].dtype);
        return convert(append(node), node.type, inst.type);
      }
      case Ir::store: {
        node.type = type_of(program_.operands[inst.imm].dtype);
        node.in[0] = convert(node.in[0], value_type(inst.a), node.type);
        return append(node);
      }
      default:
        return append(node);
    }
  }

  Type value_type(uint16_t inst) const {
    return compares(program_.insts[inst].op) ? Type::mask : program_.insts[inst].type;
  }

  uint16_t convert(uint16_t node, Type from, Type to) {
    if (from == to) return node;
    return append({.op = Ir::convert, .type = to, .from = from, .arguments = 1, .in = {node, 0, 0}});
  }

  /// Half of the last bit is added to a number, less a little if the bit is even; a NaN becomes a quiet one.
  uint16_t rounded(uint16_t x) {
    if (!almost_half_) {
      const auto constant = [&](uint32_t bits) { return append({.op = Ir::constant, .type = Type::i32, .imm = bits}); };
      one_ = constant(1), almost_half_ = constant(0x7fff), quiet_ = constant(0x400000), kept_ = constant(0xffff0000);
    }
    const uint16_t odd =
        binary(Ir::band, append({.op = Ir::shr, .type = Type::i32, .arguments = 1, .in = {x}, .imm = 16}), one_);
    const uint16_t number = binary(Ir::add, binary(Ir::add, x, almost_half_), odd);
    const uint16_t is_nan = append({.op = Ir::ne, .type = Type::f32, .arguments = 2, .in = {x, x}});
    const uint16_t nan = binary(Ir::bor, x, quiet_);
    const uint16_t chosen = append({.op = Ir::select, .type = Type::i32, .arguments = 3, .in = {is_nan, nan, number}});
    return binary(Ir::band, chosen, kept_);
  }

  uint16_t binary(Ir op, uint16_t a, uint16_t b) {
    return append({.op = op, .type = Type::i32, .arguments = 2, .in = {a, b}});
  }

  uint16_t append(Node node) {
    node.level = level_of(node);
    nodes_.push_back(node);
    return static_cast<uint16_t>(nodes_.size() - 1);
  }

  Level level_of(const Node& node) const {
    if (node.op == Ir::constant) return Level::constant;
    if (node.op == Ir::index || node.op == Ir::accumulate) return Level::column;
    Level level = Level::call;
    if (node.op == Ir::load || node.op == Ir::store)
      level = program_.operands[node.imm].access == Access::broadcast ? Level::row : Level::column;
    for (int k = 0; k < node.arguments; ++k) level = std::max(level, nodes_[node.in[k]].level);
    return level;
  }

  const Program& program_;
  std::vector<Node> nodes_;
  std::vector<uint16_t> node_of_;
  uint16_t one_ = 0, almost_half_ = 0, quiet_ = 0, kept_ = 0;  // constants of roundings, once there are any
};

/// Sorts the nodes that a sink depends on into the three sequences.
void arrange(Plan& plan) {
  auto& nodes = plan.nodes;
  std::vector<bool> needed(nodes.size());
  for (size_t i = nodes.size(); i-- > 0;) {
    if (is_sink(nodes[i].op)) needed[i] = true;
    if (!needed[i]) continue;
    for (int k = 0; k < nodes[i].arguments; ++k) {
      needed[nodes[i].in[k]] = true;
      if (nodes[nodes[i].in[k]].level != nodes[i].level) nodes[nodes[i].in[k]].leaves = true;
    }
  }
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!needed[i] || nodes[i].level == Level::constant) continue;
    Sequence& s = nodes[i].level == Level::call ? plan.call : nodes[i].level == Level::row ? plan.row : plan.column;
    s.order.push_back(static_cast<uint16_t>(i));
  }
}

void find_uses(const std::vector<Node>& nodes, Sequence& s) {
  s.offsets.assign(nodes.size() + 2, 0);
  size_t total = 0;
  for (uint16_t id : s.order)
    for (int k = 0; k < nodes[id].arguments; ++k) ++s.offsets[nodes[id].in[k] + 2], ++total;
  for (size_t i = 2; i < s.offsets.size(); ++i) s.offsets[i] += s.offsets[i - 1];
  s.uses.resize(total);
  for (size_t p = 0; p < s.order.size(); ++p)
    for (int k = 0; k < nodes[s.order[p]].arguments; ++k)
      s.uses[s.offsets[nodes[s.order[p]].in[k] + 1]++] = static_cast<uint16_t>(p);
}

/// A load may be delayed or repeated as long as nothing was stored: a written operand can be the one that is read.
void mark_lazy(const Program& program, Plan& plan) {
  const auto& order = plan.column.order;
  auto stores = [&](uint16_t id) { return plan.nodes[id].op == Ir::store; };
  size_t first_store = std::find_if(order.begin(), order.end(), stores) - order.begin();
  for (uint16_t id : order) {
    Node& node = plan.nodes[id];
    if (node.op == Ir::index) node.lazy = true;
    if (node.op == Ir::load && program.operands[node.imm].access == Access::contiguous)
      node.lazy = plan.column.uses_of(id).back() <= first_store;
  }
}

int temporaries_of(const Node& node) {
  switch (node.op) {
    case Ir::mulhi:
    case Ir::accumulate:
      return 2;
    case Ir::div:
    case Ir::rem:
      return node.type == Type::i32 ? 4 : 1;
    default:
      return 1;
  }
}

struct Pressure {
  int live = 0;         // values alive at once, in one copy of the columns
  int temporaries = 0;  // what one instruction takes besides
  int steps = 0;        // instructions other than loads
};

Pressure pressure_of(const Plan& plan) {
  Pressure pressure;
  std::vector<int> change(plan.column.order.size() + 2);
  for (size_t p = 0; p < plan.column.order.size(); ++p) {
    const Node& node = plan.nodes[plan.column.order[p]];
    pressure.temporaries = std::max(pressure.temporaries, temporaries_of(node));
    pressure.steps += node.op != Ir::load;
    auto uses = plan.column.uses_of(plan.column.order[p]);
    if (uses.empty()) continue;
    ++change[node.lazy ? uses.front() : p];
    --change[uses.back()];
  }
  int live = 0;
  for (int c : change) pressure.live = std::max(pressure.live, live += c);
  return pressure;
}

/// Up to `count` constants and invariants, those used most.
void pin(Plan& plan, int count) {
  std::vector<uint16_t> candidates;
  for (size_t i = 0; i < plan.nodes.size(); ++i)
    if (plan.nodes[i].level != Level::column && !plan.column.uses_of(static_cast<uint16_t>(i)).empty())
      candidates.push_back(static_cast<uint16_t>(i));
  auto used_more = [&](uint16_t a, uint16_t b) {
    size_t uses_a = plan.column.uses_of(a).size(), uses_b = plan.column.uses_of(b).size();
    return uses_a != uses_b ? uses_a > uses_b : a < b;
  };
  std::sort(candidates.begin(), candidates.end(), used_more);
  if (candidates.size() > static_cast<size_t>(std::max(count, 0))) candidates.resize(std::max(count, 0));
  plan.pinned = std::move(candidates);
}

void choose_registers(const Program& program, Plan& plan, int lanes) {
  Pressure pressure = pressure_of(plan);
  int held = program.column_form ? 0 : static_cast<int>(program.accumulators.size()) * (rp::lanes / lanes);
  auto needs = [&](int copies) { return copies * std::max(pressure.live, 1) + pressure.temporaries; };
  auto fits = [&](int copies, int available) {
    bool holds = copies * lanes % rp::lanes == 0;
    return needs(copies) + (holds ? held : 0) <= available;
  };
  const int registers = vector_registers(lanes);
  // Two copies with some spills are still faster than one that waits for its own results.
  constexpr int worth_spilling = 12;
  plan.copies = pressure.steps <= 8 && fits(4, registers - 2) ? 4 : fits(2, registers + worth_spilling) ? 2 : 1;
  plan.held_accumulators = held > 0 && held <= 8 && plan.copies * lanes % rp::lanes == 0;
  if (!plan.held_accumulators) held = 0;
  // One register is left to the mask of the last columns, and eight to any one instruction.
  pin(plan, std::min(registers - 1 - needs(plan.copies), registers - 8) - held);
}

}  // namespace

std::optional<Plan> make_plan(const Program& program, int lanes, std::string* why) {
  if (const char* reason = uncovered(program)) {
    if (why) *why = reason;
    return std::nullopt;
  }
  Plan plan;
  plan.nodes = Lowering(program).run();
  arrange(plan);
  for (Sequence* s : {&plan.call, &plan.row, &plan.column}) find_uses(plan.nodes, *s);
  mark_lazy(program, plan);
  choose_registers(program, plan, lanes);
  return plan;
}

}  // namespace rp::jit
