#include "reprise/backends/cuda/cudnn_plan.h"

namespace rp::cuda {
namespace {

constexpr size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

DnnPlan::DnnPlan(const DnnGraph& graph, DnnChoice choice, const DnnTarget& target)
    : choice_(std::move(choice)), plan_(empty_dnn_plan(target)) {
  plan_.set<CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION>(choice_.plan);
  plan_.finalize();
  for (size_t i = 0; i < graph.tensors.size(); ++i) {
    const DnnTensor& t = graph.tensors[i];
    const int64_t number = dnn_number(i);
    if (t.kind == DnnTensor::Kind::operand) operands_.push_back(number);
    if (t.kind == DnnTensor::Kind::constant) {
      constants_.push_back(number);
      values_.push_back(t.value);
    }
    if (t.kind == DnnTensor::Kind::scratch) {
      scratch_.push_back(number);
      offsets_.push_back(own_bytes_);
      own_bytes_ += round_up(static_cast<size_t>(element_count(t.shape)) * size_of(t.type));
    }
  }
}

}  // namespace rp::cuda
