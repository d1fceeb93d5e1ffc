#include "reprise/graph/interpret.h"

#include "reprise/core/engine.h"
#include "reprise/core/infer.h"
#include "reprise/core/ops/entries.h"

namespace rp {

Interpreter::Interpreter(const Graph& graph, Tensors inputs, std::span<const uint64_t> parameters)
    : graph_(graph), inputs_(std::move(inputs)), parameters_(parameters) {
  values_.reserve(graph.nodes.size());
}

void Interpreter::step() {
  const Node& n = graph_[next()];
  if (n.op->kind == Kind::input) return values_.push_back(inputs_[input_++]);
  if (n.op == &after_op) return values_.push_back(value(n.inputs[0]));
  const Tensor* few[8];
  std::vector<const Tensor*> many(n.inputs.size() > std::size(few) ? n.inputs.size() : 0);
  const Tensor** operands = many.empty() ? few : many.data();
  for (size_t i = 0; i < n.inputs.size(); ++i) operands[i] = &value(n.inputs[i]);
  const bool writes = n.op->kind == Kind::write;  // its third operand is only the write before
  Call call{.op = n.op,
            .inputs = {operands, writes ? size_t{2} : n.inputs.size()},
            .attrs = n.attrs,
            .scalar_mask = n.scalar_mask};
  for (const ScalarSource& s : n.scalars)
    call.scalars.add_bits(s.parameter >= 0 ? parameters_[static_cast<size_t>(s.parameter)] : s.bits);
  AtForward at(n.loc);
  values_.push_back(writes ? engine.run(call, n.layout) : run_now(call));
}

Tensors values_of(const Graph& graph, Tensors inputs, std::span<const uint64_t> parameters) {
  Tensors values;
  Interpreter run(graph, std::move(inputs), parameters);
  for (int32_t i = 0; i < graph.size(); ++i) {
    run.step();
    const Kind kind = graph[i].op->kind;
    const int32_t made = kind == Kind::write ? graph[i].inputs[1] : i;
    values.push_back(kind == Kind::control ? Tensor() : run.value(made).clone());
  }
  return values;
}

}  // namespace rp
