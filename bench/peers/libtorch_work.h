#pragma once
// What the parts of the program for libtorch share.
#include <torch/torch.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "reprise/bench/peers/workload.h"

namespace bench {

using Tensors = std::vector<at::Tensor>;
using Named = std::map<std::string, at::Tensor>;

/// A workload as it is asked for. `exact`: results will be checked; otherwise it will be timed.
struct Task {
  Spec spec;
  std::string form;
  bool exact;

  const Part& part(const std::string& name) const;
  /// A weight of a dense layer is kept [out, in].
  at::Tensor tensor(const Part& part) const;
  at::Tensor tensor(const std::string& name) const { return tensor(part(name)); }
  /// All but the first `first`, in order.
  Tensors tensors(size_t first) const;
};

/// As the workload has it.
inline at::Tensor as_told(const Part& part, const at::Tensor& t) { return part.linear ? t.t() : t; }

/// `call` returns what is checked and timed; `state` what calls have changed.
struct Work {
  std::function<Tensors()> call;
  std::function<Tensors()> state = {};
};

/// Runs without what gradients need.
template <class F>
std::function<Tensors()> inference(F run) {
  return [run]() mutable -> Tensors {
    const c10::InferenceMode guard;
    return run();
  };
}

/// How a network is run.
struct Setting {
  bool exact, training;
  int64_t heads;
};
using Network = at::Tensor (*)(Named& p, at::Tensor x, const Setting& how);

/// Throws for networks that it does not know.
Network find_network(const std::string& name);

/// Throws for workloads that it does not know.
Work make_work(const Task& task);
Work make_recurrence(const Task& task);

}  // namespace bench
