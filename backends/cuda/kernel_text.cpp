#include "reprise/backends/cuda/kernel_text.h"

#include <algorithm>
#include <bit>

#include "reprise/backends/cuda/element_text.h"

namespace rp::cuda {

using SlotKind = StageSlot::Kind;

void Text::append(std::string_view line) {
  if (!line.empty()) out_.append(2 * depth_, ' ');
  out_ += line;
  out_ += '\n';
}

void Text::close(std::string_view after) {
  --depth_;
  append("}" + std::string(after));
}

void Text::otherwise(std::string_view between) {
  --depth_;
  append("} " + std::string(between) + " {");
  ++depth_;
}

void Text::lines(std::string_view text) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    append(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
}

std::string slot_name(const Stage& stage, size_t slot) {
  const StageSlot& s = stage.slots[slot];
  if (s.kind == SlotKind::row_temp) return fmt::format("row{}", s.index);
  if (s.kind == SlotKind::full_temp) return fmt::format("kept{}", s.index);
  return fmt::format("{}{}", stage.program.operands[slot].written ? 'y' : 'x', s.index);
}

std::string operand_name(const RegionOperand& operand, size_t index) {
  return fmt::format("{}{}", operand.written ? 'y' : 'x', index);
}

std::string accumulator_name(const Stage& stage, size_t accumulator) {
  constexpr std::string_view names[] = {"sum", "max", "min", "product"};
  const Combine combine = stage.program.accumulators[accumulator].combine;
  return fmt::format("{}{}", names[static_cast<size_t>(combine)], accumulator);
}

std::string_view combine_name(Combine combine) {
  constexpr std::string_view names[] = {"Sum", "Max", "Min", "Product"};
  return names[static_cast<size_t>(combine)];
}

void write_stage(Text& text, const Stage& stage, const std::string& name) {
  const Program& program = stage.program;
  std::vector<std::string> parameters;
  if (program.scalars) parameters.push_back("const u64* scalars");
  if (uses_index(program)) parameters.push_back("u32 index");
  for (size_t k = 0; k < stage.slots.size(); ++k)
    parameters.push_back(c_type(program.operands[k].dtype) + (program.operands[k].written ? "& " : " ") +
                         slot_name(stage, k));
  for (size_t k = 0; k < program.accumulators.size(); ++k)
    parameters.push_back(c_type(program.accumulators[k].type) + "& " + accumulator_name(stage, k));
  text.open("__device__ __forceinline__ void {}({})", name, fmt::join(parameters, ", "));
  ElementText how;
  how.load = [&](int k) { return slot_name(stage, static_cast<size_t>(k)); };
  how.store = [&](int k, const std::string& value) {
    return fmt::format("{} = {};", slot_name(stage, static_cast<size_t>(k)), value);
  };
  how.accumulate = [&](int k, const std::string& value) {
    return fmt::format("{} = {};", accumulator_name(stage, static_cast<size_t>(k)), value);
  };
  how.index = "index";
  how.scalars = "scalars";
  text.lines(element_text(program, how));
  text.close();
}

void write_scalars_member(Text& text, int count) {
  if (count) text.line("Scalars<{}> scalars;", count);
}

void write_scalars(Text& text, int count) {
  if (!count) return;
  text.line("u64 scalars[{}];", count);
  text.line("args.scalars.get(scalars);");
}

std::string stage_call(const Stage& stage, const std::string& name, const std::string& index,
                       const std::function<std::string(const std::string& name)>& value) {
  std::vector<std::string> arguments;
  if (stage.program.scalars) arguments.push_back("scalars");
  if (uses_index(stage.program)) arguments.push_back("(u32)(" + index + ")");
  for (size_t k = 0; k < stage.slots.size(); ++k) arguments.push_back(value(slot_name(stage, k)));
  for (size_t k = 0; k < stage.program.accumulators.size(); ++k) arguments.push_back(value(accumulator_name(stage, k)));
  return fmt::format("{}({});", name, fmt::join(arguments, ", "));
}

size_t ArgsBytes::add(const void* value, size_t size, size_t alignment) {
  const size_t at = (bytes_.size() + alignment - 1) / alignment * alignment;
  bytes_.resize(at + size);
  if (value) std::memcpy(bytes_.data() + at, value, size);
  return at;
}

size_t ArgsBytes::reserve(size_t words) { return add(nullptr, words * 8, 8); }

// With 2^s the power of two that is at least d, and m = 2^w * (2^s - d) / d + 1, the quotient n / d is
// (n * m / 2^w + n) / 2^s for words of w bits.
void add_divisor(ArgsBytes& args, uint64_t value, bool wide) {
  const uint64_t d = std::max<uint64_t>(value, 1);
  const int shift = std::bit_width(d - 1);
  using Wide = unsigned __int128;
  const Wide rest = (Wide{1} << shift) - d;
  if (wide)
    for (uint64_t word : {d, static_cast<uint64_t>((rest << 64) / d + 1), static_cast<uint64_t>(shift)}) args.add(word);
  else
    for (uint32_t word :
         {static_cast<uint32_t>(d), static_cast<uint32_t>((rest << 32) / d + 1), static_cast<uint32_t>(shift)})
      args.add(word);
}

uint32_t blocks_for(uint64_t pieces) {
  constexpr uint64_t most = uint64_t{1} << 20;
  return static_cast<uint32_t>(std::min(pieces, most));
}

}  // namespace rp::cuda
