#include "reprise/bench/chain_plan.h"

#include "reprise/fusion/plan.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

rp::Graph graph(const rp::Layout* layout, int ops) {
  rp::GraphBuilder builder;
  const int32_t x = builder.input(layout, -1), y = builder.input(layout, -1);
  const rp::Op *add = rp::find_op("add"), *mul = rp::find_op("mul");
  int32_t v = x;
  for (int i = 0; i < ops; i += 2) {
    v = builder.add({.op = add, .inputs = {v, y}, .layout = layout});
    v = builder.add({.op = mul, .inputs = {v, x}, .layout = layout});
  }
  builder.graph().outputs = {v};
  return builder.take();
}

}  // namespace

struct ChainPlan::State {
  State(const rp::Tensor& x, const rp::Tensor& y, int ops, bool fuse)
      : x(x), y(y), out(rp::zeros(x.shape())), plan(graph(&x.layout(), ops), fuse) {
    inputs[0] = x.bytes();
    inputs[1] = y.bytes();
    storages[0] = x.impl()->storage;
    storages[1] = y.impl()->storage;
    outputs[0] = out.bytes();
  }

  rp::Tensor x, y, out;
  rp::Plan plan;
  std::byte* inputs[2];
  rp::Storage* storages[2];
  std::byte* outputs[1];
};

ChainPlan::ChainPlan(const rp::Tensor& x, const rp::Tensor& y, int ops, bool fuse)
    : state_(std::make_unique<State>(x, y, ops, fuse)) {}
ChainPlan::~ChainPlan() = default;

void ChainPlan::run() const {
  state_->plan.run(
      {.inputs = state_->inputs, .storages = state_->storages, .outputs = state_->outputs, .scalars = nullptr});
}

int ChainPlan::kernels() const { return state_->plan.kernels(); }

}  // namespace bench
