#pragma once
// Control ops at run time, op by op.
#include <span>
#include <vector>

#include "reprise/core/op.h"

namespace rp {

/// The scalars of one step: random positions go on by `draws` from step to step.
class StepScalars {
 public:
  StepScalars(std::span<const uint64_t> first, std::vector<int32_t> positions, int64_t draws)
      : first_(first.begin(), first.end()), now_(first_), positions_(std::move(positions)), draws_(draws) {}
  std::span<const uint64_t> at(int64_t step);

 private:
  std::vector<uint64_t> first_, now_;
  std::vector<int32_t> positions_;
  int64_t draws_;
};

/// Sees the inputs and scalars of a body before it runs: of a scan the step, of a cond the branch taken (0: if true),
/// of a while_loop the condition (0) and the trip (1). `number` counts steps and trips.
using BodyWatch =
    std::function<void(size_t body, const Tensors& inputs, std::span<const uint64_t> scalars, int64_t number)>;

/// The results of a control call, computed op by op.
Tensors watch_control(const Call& call, const BodyWatch& watch);

// For the engine's table.
void run_control(const Call& call, const Tensor& token);
Tensor result_of(const Tensor& token, int64_t index);
Tensors scan_gradient(const GradCall& call);
Tensors cond_gradient(const GradCall& call);

}  // namespace rp
