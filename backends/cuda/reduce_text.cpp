#include "reprise/backends/cuda/reduce_text.h"

#include <algorithm>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/core/expr.h"

namespace rp::cuda {

using SlotKind = StageSlot::Kind;

std::vector<Kept> kept_values(const Region& region, bool operands) {
  std::vector<Kept> kept;
  for (size_t s = 0; s < region.stages.size(); ++s) {
    const Stage& stage = region.stages[s];
    for (size_t k = 0; k < stage.slots.size(); ++k) {
      const ProgramOperand& o = stage.program.operands[k];
      const SlotKind kind = stage.slots[k].kind;
      const bool reads = kind == SlotKind::operand && operands && !o.written && o.access == Access::contiguous;
      if (!stage.full || (kind != SlotKind::full_temp && !reads)) continue;
      const std::string name = slot_name(stage, k);
      const auto it = std::find_if(kept.begin(), kept.end(), [&](const Kept& v) { return v.name == name; });
      if (it != kept.end())
        it->last = s;
      else
        kept.push_back({name, o.dtype, s, s});
    }
  }
  std::erase_if(kept, [](const Kept& v) { return v.first == v.last; });
  return kept;
}

int kept_as(const Stage& stage, size_t accumulator, const std::vector<Kept>& kept) {
  const Program& program = stage.program;
  const auto number = [&](size_t operand) {
    const DType dtype = program.operands[operand].dtype;
    if (dtype == DType::boolean || is_short(dtype) || rp::type_of(dtype) != program.accumulators[accumulator].type)
      return -1;
    const std::string name = slot_name(stage, operand);
    const auto it = std::find_if(kept.begin(), kept.end(), [&](const Kept& v) { return v.name == name; });
    return it == kept.end() ? -1 : static_cast<int>(it - kept.begin());
  };
  for (const Inst& sink : program.insts) {
    if (sink.op != Ir::accumulate || sink.imm != accumulator) continue;
    const Inst& value = program.insts[sink.a];
    if (value.op == Ir::load && value.type == sink.type)
      if (const int k = number(value.imm); k >= 0) return k;
    for (const Inst& store : program.insts)
      if (store.op == Ir::store && store.a == sink.a && store.type == sink.type)
        if (const int k = number(store.imm); k >= 0) return k;
  }
  return -1;
}

std::string ReduceText::operand_type(size_t k) const { return c_type(region_.operands[k].layout->dtype()); }

std::string ReduceText::type_of(const Stage& stage, size_t accumulator) const {
  return c_type(stage.program.accumulators[accumulator].type);
}

ReduceText::Slot ReduceText::slot(const Stage& stage, size_t k) const {
  const ProgramOperand& o = stage.program.operands[k];
  const SlotKind kind = stage.slots[k].kind;
  return {slot_name(stage, k),
          c_type(o.dtype),
          kind == SlotKind::operand,
          kind == SlotKind::full_temp,
          o.access == Access::contiguous,
          o.written};
}

std::vector<ReduceText::Slot> ReduceText::slots(const Stage& stage) const {
  std::vector<Slot> all;
  for (size_t k = 0; k < stage.slots.size(); ++k) all.push_back(slot(stage, k));
  return all;
}

void ReduceText::begin_args(bool rows) {
  text_.line("typedef {} Index;", wide_ ? "u64" : "u32");
  text_.open("struct Args");
  for (size_t k = 0; k < region_.operands.size(); ++k)
    text_.line("{}{}* {};", region_.operands[k].written ? "" : "const ", operand_type(k), operand(k));
  for (size_t k = 0; k < region_.operands.size(); ++k)
    if (!region_.operands[k].per_row) text_.line("i64 {}_steps[{}];", operand(k), axes());
  const int divided = axes() - (rows ? 1 : 2);
  if (divided > 0) text_.line("Divisor<Index> extents[{}];  // of all axes but the outermost", divided);
}

void ReduceText::end_args() {
  write_scalars_member(text_, region_.scalars);
  text_.close(";");
  text_.line("");
}

std::vector<size_t> add_operands(ArgsBytes& args, const Region& region, bool rows, bool wide) {
  const Nest& nest = region.members[0];
  std::vector<size_t> pointers;
  for (size_t k = 0; k < region.operands.size(); ++k) pointers.push_back(args.reserve(1));
  for (size_t k = 0; k < region.operands.size(); ++k) {
    if (region.operands[k].per_row) continue;
    for (int64_t step : nest.operands[k].outer) args.add(step);
    args.add(nest.operands[k].row);
  }
  for (int a = 1; a < nest.outer.rank(); ++a) add_divisor(args, static_cast<uint64_t>(nest.outer[a]), wide);
  if (rows && nest.outer.rank()) add_divisor(args, static_cast<uint64_t>(nest.rows), wide);
  return pointers;
}

void ReduceText::begin_kernel(uint32_t threads, std::string_view more) {
  text_.line("");
  text_.open("extern \"C\" __global__ void __launch_bounds__({}{}) kernel_entry(const __grid_constant__ Args args)",
             threads, more);
  write_scalars(text_, region_.scalars);
}

std::string ReduceText::finish() {
  text_.close();
  return text_.take();
}

void ReduceText::write_places(const std::string& row, bool outer) {
  const int count = axes() - (outer ? 1 : 0);
  std::string rest = row;
  for (int a = count - 1; a > 0; --a) {
    text_.line("const Index above{0} = quotient({1}, args.extents[{2}]);", a, rest, a - 1);
    text_.line("const Index at{0} = {1} - above{0} * args.extents[{2}].value;", a, rest, a - 1);
    rest = fmt::format("above{}", a);
  }
  for (size_t k = 0; k < region_.operands.size(); ++k) {
    if (region_.operands[k].per_row) continue;
    std::string steps;
    for (int a = 0; a < count; ++a)
      steps += fmt::format(" + (i64){} * args.{}_steps[{}]", a ? fmt::format("at{}", a) : rest, operand(k), a);
    text_.line("{0}{1}* {2}_at = args.{2}{3};", region_.operands[k].written ? "" : "const ", operand_type(k),
               operand(k), steps);
  }
}

void ReduceText::write_temps() {
  for (size_t i = 0; i < region_.row_temps.size(); ++i) text_.line("{} row{};", c_type(region_.row_temps[i]), i);
}

void ReduceText::write_broadcast_loads(const Stage& stage) {
  for (const Slot& s : slots(stage))
    if (s.operand && !s.contiguous) text_.line("const {0} {1} = *{1}_at;", s.type, s.name);
}

void ReduceText::write_row_stage(size_t s, const std::string& number, const std::string& storing) {
  const Stage& stage = region_.stages[s];
  text_.open("");
  for (const Slot& slot : slots(stage)) {
    if (!slot.operand) continue;
    if (slot.written)
      text_.line("{} {};", slot.type, slot.name);
    else
      text_.line("const {0} {1} = args.{1}[{2}];", slot.type, slot.name, slot.contiguous ? number : "0");
  }
  text_.line("{}", stage_call(stage, stage_name(s), number, [](const std::string& name) { return name; }));
  for (const Slot& slot : slots(stage))
    if (slot.operand && slot.written)
      text_.line("{0}args.{1}[{2}] = {1};", storing.empty() ? "" : "if (" + storing + ") ", slot.name, number);
  text_.close();
}

}  // namespace rp::cuda
