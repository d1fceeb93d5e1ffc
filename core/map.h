#pragma once
// A pointwise op as a program.
#include "reprise/core/op.h"

namespace rp {

/// The type of scalar operand k of a pointwise op whose result is of type `out`. `common`: the type of its last tensor
/// operand, or of the result if it has none.
Type scalar_type(const Op& op, int k, Type common, Type out);

/// A number that the kernel is called with, as an operand of that type: bools come as i32.
Value scalar_operand(ProgramBuilder& builder, int slot, Type type);

/// One op alone on contiguous elements: tensor operands, then the result, are the program's operands.
Program map_program(const ShapeCall& call, DType out);

}  // namespace rp
