#pragma once
// The recurrences of peers/workload.py as a user of Reprise writes them.
#include "reprise/bench/peers.h"
#include "reprise/bench/peers/workload.h"
#include "reprise/reprise.h"

namespace bench {

/// When a C++ loop transposes the weights.
enum class Transposed : uint8_t { once, each_step };

/// One of the cells over all steps of an input, with the workload's values.
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
  rp::Tensors parameters_;  // in the workload's order
};

/// What the workload checks.
RecurrentChecks checks_of(const rp::Tensor& h, const rp::Tensors& gradients);

const RecurrentCell& recurrent_cell(const std::string& name);

/// Throws if calls of `captured` do not give the same bits as in eager mode. Returns eager's result.
rp::Tensors same_bits(const std::string& name, const std::function<rp::Tensors()>& captured);

}  // namespace bench
