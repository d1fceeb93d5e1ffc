#pragma once
// The tile interpreter: runs any Program without compiling it, some 256 elements at a time, each instruction as one
// loop. It serves where machine code does not: types without an emitter, hosts that forbid generated code, other
// processors.
#include <memory>
#include <string_view>

#include "reprise/core/program.h"

namespace rp {

/// A Program as a list of loops to call and buffers to call them with.
struct TileProgram;
struct TileProgramDelete {
  void operator()(const TileProgram* program) const;
};
using TileProgramPtr = std::unique_ptr<const TileProgram, TileProgramDelete>;

/// Prepares a program for `run_tile`, with the loops of `isa` if this processor has it. Throws Error for an instruction
/// that the IR has not.
TileProgramPtr decode(const Program& program, std::string_view isa = "avx2");

/// Runs the TileProgram at args->context. Elements go through the instructions in program order, a tile at a time, so
/// an operand may be written that another operand reads at the same address with the same strides. Safe to call from
/// several threads at once.
void run_tile(const KernelArgs* args);

/// The instruction set of the loops that `decode` takes: "avx2" or "baseline".
std::string_view tile_isa(std::string_view wanted = "avx2");

}  // namespace rp
