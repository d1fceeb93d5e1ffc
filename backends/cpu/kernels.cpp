#include "reprise/backends/cpu/kernels.h"

#include <fmt/core.h>

#include "reprise/core/ops/entries.h"

namespace rp {

namespace {

struct Row {
  const Op* op;
  Kernel kernel;
  bool booleans;  // whether bool elements are served too
};

constexpr Row rows[] = {
    {&argmax_op, cpu::argmax, true},
    {&argmin_op, cpu::argmin, true},
    {&index_select_op, cpu::index_select, true},
    {&index_add_op, cpu::index_add, false},
    {&gather_op, cpu::gather, true},
    {&scatter_add_op, cpu::scatter_add, false},
    {&concat_op, cpu::concat, true},
    {&conv2d_op, cpu::conv2d, false},
    {&conv2d_backward_data_op, cpu::conv2d_backward_data, false},
    {&conv2d_backward_weights_op, cpu::conv2d_backward_weights, false},
    {&max_pool2d_op, cpu::max_pool2d, false},
    {&max_pool2d_backward_op, cpu::max_pool2d_backward, false},
    {&max_pool2d_pick_op, cpu::max_pool2d_pick, false},
    {&avg_pool2d_op, cpu::avg_pool2d, false},
    {&avg_pool2d_backward_op, cpu::avg_pool2d_backward, false},
};

}  // namespace

Kernel find_kernel(const Op& op, DType dtype, std::string* why) {
  std::string reason = fmt::format("{}: the CPU has no kernel for it", op.name);
  for (const Row& row : rows) {
    if (row.op != &op) continue;
    if (is_short(dtype) ? op.moves : dtype != DType::boolean || row.booleans) return row.kernel;
    reason = fmt::format("{}: not defined for {}", op.name, name_of(dtype));
  }
  if (why) *why = reason;
  return nullptr;
}

}  // namespace rp
