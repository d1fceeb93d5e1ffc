#pragma once
// What the JIT decides before it writes an instruction: which values exist, how often each is computed, in which order,
// and how many columns go side by side.
#include <optional>
#include <span>

#include "reprise/core/program.h"

namespace rp::jit {

/// How often a value is computed: never, once a call, once a row, or in every column.
enum class Level : uint8_t { constant, call, row, column };

/// An instruction of the program, with conversions made explicit and those of no effect left out.
struct Node {
  Ir op;
  Type type;
  Type from = Type::f32;
  Level level = Level::column;
  uint8_t arguments = 0;
  uint16_t in[3] = {};
  uint64_t imm = 0;
  bool lazy = false;    // a source that can be had again at any time, so that its register can be given up for nothing
  bool leaves = false;  // used beyond the sequence that computes it
};

/// Nodes in order of execution.
struct Sequence {
  std::vector<uint16_t> order;
  std::vector<uint32_t> offsets;  // of each node's uses in `uses`
  std::vector<uint16_t> uses;     // positions in `order`, ascending

  std::span<const uint16_t> uses_of(uint16_t node) const {
    return {uses.data() + offsets[node], uses.data() + offsets[node + 1]};
  }
};

/// Vector registers, by the elements in one.
constexpr int vector_registers(int lanes) { return lanes == 16 ? 32 : 16; }

struct Plan {
  std::vector<Node> nodes;
  Sequence call, row, column;
  int copies = 1;                  // vectors side by side in the main loop
  bool held_accumulators = false;  // row form: kept in registers over the main loop
  std::vector<uint16_t> pinned;    // constants and invariants kept in a register over all columns
};

/// The plan for vectors of `lanes` elements, or nothing with the reason in `why`.
std::optional<Plan> make_plan(const Program& program, int lanes, std::string* why);

}  // namespace rp::jit
