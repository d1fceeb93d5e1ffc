#pragma once
// Recurrent cells over all steps of an input, as a user of Reprise writes them; bench/README.md has their formulas.
#include "reprise/bench/compare.h"

namespace bench {

struct RecurrentSize {
  std::string name;
  int64_t batch, hidden, steps;  ///< as many inputs as hidden units
  rp::DType dtype = rp::DType::f32;
};
const std::vector<RecurrentSize>& recurrent_sizes();

struct RecurrentCell {
  std::string name;
  int64_t gates;
  bool has_layer;  ///< libraries have it as a layer
};
const std::vector<RecurrentCell>& recurrent_cells();
const RecurrentCell& recurrent_cell(const std::string& name);

/// x, then the parameters.
Spec recurrence_spec(const RecurrentCell& cell, const RecurrentSize& size);

/// When a C++ loop transposes the weights.
enum class Transposed : uint8_t { once, each_step };

/// One of the cells with the workload's values.
class Recurrence {
 public:
  Recurrence(const RecurrentCell& cell, const RecurrentSize& size);

  rp::Tensor by_scan() const;                 ///< h of all steps: [steps, batch, hidden]
  rp::Tensor by_loop(Transposed when) const;  ///< the same from a C++ loop over the steps
  /// Gradients of the sum of h of all steps: of x, then of the parameters.
  rp::Tensors gradients(const rp::Tensor& h) const;

  const rp::Tensor& x() const { return x_; }
  const rp::Tensors& parameters() const { return parameters_; }

 private:
  using Step = rp::Tensors (*)(const rp::Tensor& x, const rp::Tensors& state, const rp::Tensors& parameters);
  static Step step_of(const std::string& cell);
  rp::Tensors initial_state() const;
  rp::Tensors transposed() const;  // the parameters, W and U transposed

  Step step_;
  size_t states_;
  RecurrentSize size_;
  rp::Tensor x_;
  rp::Tensors parameters_;  // in the order of the spec
};

}  // namespace bench
