#pragma once
// The same training twice from one seed, eager and captured, a step of each in turn: what both cost and whether they
// agree.
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "reprise/reprise.h"

namespace bench {

/// A network in training and the order of its data: what each mode has a copy of.
struct Trainee {
  std::function<rp::Tensor(const rp::Tensor& x, const rp::Tensor& y)> step;  ///< captured; returns the loss
  std::function<rp::CaptureStats()> stats;                                   ///< of that capture
  std::function<rp::NamedTensors()> parameters;
  std::function<rp::Batch<2>()> next;  ///< the next batch, without end
};

/// A training step of `net`: the gradients of loss(net, x, y), then the optimiser.
template <class Net, class Optimizer, class Loss>
Trainee make_trainee(Net net, std::shared_ptr<Optimizer> optimizer, Loss loss) {
  auto step = rp::capture([=](const rp::Tensor& x, const rp::Tensor& y) {
    optimizer->zero_grad();
    rp::Tensor value = loss(net, x, y);
    value.backward();
    optimizer->step();
    return value;
  });
  return {step, [step] { return step.stats(); }, [net] { return net.parameters(); }, {}};
}

/// Batches of `loader`, epoch after epoch.
std::function<rp::Batch<2>()> endless(rp::Dataset<2> loader);

struct Workload {
  std::string name;
  int steps;
  std::function<Trainee()> make;
};

/// What a workload cost in both modes. Times are medians over the steady steps: those without recording or compiling.
struct Row {
  std::string name;
  int steps = 0;
  double eager_ms = 0, graph_ms = 0;
  double gain_low_ms = 0, gain_high_ms = 0;  ///< 95% interval of the median of eager - graph
  int64_t kernels_eager = 0, kernels_graph = 0;
  int64_t bytes_eager = 0, bytes_graph = 0;
  int64_t system_calls = 0;  ///< to get or return memory, by all steady steps of both
  double capture_ms = 0;     ///< what the steps that recorded or compiled took beyond the same steps of the eager copy
  std::optional<int64_t> break_even;  ///< the step from which on the captured run is ahead in total
  float loss_eager = 0, loss_graph = 0;
  int64_t differing_bits = 0;  ///< over all losses and the final parameters

  double speedup() const { return eager_ms / graph_ms; }
};

/// Runs a workload in both modes. Throws if the copies do not have the same parameters.
Row compete(const Workload& workload, uint64_t seed);

}  // namespace bench
