#include "reprise/fusion/loosen.h"

#include "reprise/core/switches.h"

namespace rp {
namespace {

uint16_t operand(const Inst& inst, int k) { return k == 0 ? inst.a : k == 1 ? inst.b : inst.c; }

/// How often each instruction is used.
std::vector<int> count_uses(const Program& p) {
  std::vector<int> uses(p.insts.size());
  for (const Inst& inst : p.insts)
    for (int k = 0; k < operands_of(inst.op); ++k) ++uses[operand(inst, k)];
  return uses;
}

/// Products that go into one sum and nowhere else become part of it: a * b + c, rounded once.
Program contracted(const Program& from) {
  const std::vector<int> uses = count_uses(from);
  Program to = from;
  for (Inst& inst : to.insts) {
    if (inst.op != Ir::add || (inst.type != Type::f32 && inst.type != Type::f64)) continue;
    for (const auto& [product, other] : {std::pair(inst.a, inst.b), std::pair(inst.b, inst.a)}) {
      const Inst& p = from.insts[product];
      if (p.op != Ir::mul || uses[product] != 1) continue;
      inst = {.op = Ir::fma, .type = inst.type, .a = p.a, .b = p.b, .c = other};
      break;
    }
  }
  return to;
}

Program without_dead(const Program& from) {
  std::vector<int> uses = count_uses(from);
  for (size_t i = from.insts.size(); i-- > 0;)
    if (const Inst& inst = from.insts[i]; !uses[i] && !is_sink(inst.op))
      for (int k = 0; k < operands_of(inst.op); ++k) --uses[operand(inst, k)];
  Program to = from;
  to.insts.clear();
  std::vector<uint16_t> place(from.insts.size());
  for (size_t i = 0; i < from.insts.size(); ++i) {
    Inst inst = from.insts[i];
    if (!uses[i] && !is_sink(inst.op)) continue;
    const int count = operands_of(inst.op);
    if (count > 0) inst.a = place[inst.a];
    if (count > 1) inst.b = place[inst.b];
    if (count > 2) inst.c = place[inst.c];
    place[i] = static_cast<uint16_t>(to.insts.size());
    to.insts.push_back(inst);
  }
  return to;
}

}  // namespace

Program loosened(Program program) {
  if (disabled("contract")) return program;
  return without_dead(contracted(program));
}

}  // namespace rp
