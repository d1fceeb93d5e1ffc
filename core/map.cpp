#include "reprise/core/map.h"

namespace rp {

Type scalar_type(const Op& op, int k, Type common, Type out) {
  return op.scalar_type ? op.scalar_type(k, out) : common;
}

Value scalar_operand(ProgramBuilder& builder, int slot, Type type) {
  if (type != Type::mask) return builder.scalar(slot, type);
  return builder.convert(builder.scalar(slot, Type::i32), type);
}

Program map_program(const ShapeCall& call, DType out) {
  ProgramBuilder b;
  std::vector<Value> operands;
  const Type out_type = type_of(out), common = call.inputs.empty() ? out_type : type_of(call.inputs.back()->dtype());
  size_t tensor = 0;
  int scalar = 0;
  for (int k = 0; k < call.op.operands; ++k)
    if (call.scalar_mask >> k & 1)
      operands.push_back(scalar_operand(b, scalar++, scalar_type(call.op, k, common, out_type)));
    else
      operands.push_back(b.load(b.operand(call.inputs[tensor++]->dtype(), Access::contiguous)));
  const Value result = call.op.meaning(operands, call.attrs, out_type);
  b.store(result, b.operand(out, Access::contiguous, true));
  return b.take();
}

}  // namespace rp
