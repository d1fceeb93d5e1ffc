#include "reprise/bench/contest.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "reprise/backends/cpu/memory.h"
#include "reprise/bench/measure.h"
#include "reprise/core/stats.h"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

/// What one step did.
struct Sample {
  double ms = 0;
  int64_t kernels = 0, bytes = 0, system_calls = 0;
  bool building = false;  // it recorded or compiled
  uint32_t loss = 0;
};

/// Makes `own` the thread's generator for a scope, so that each copy draws its own sequence.
class DrawFrom {
 public:
  explicit DrawFrom(rp::Generator& own) : own_(own) { std::swap(own_, rp::generator()); }
  ~DrawFrom() { std::swap(own_, rp::generator()); }
  DrawFrom(const DrawFrom&) = delete;

 private:
  rp::Generator& own_;
};

class Runner {
 public:
  Runner(rp::Mode mode, uint64_t seed, const Workload& workload) : mode_(mode) {
    rp::ModeGuard guard(mode_);
    DrawFrom scope(generator_);
    rp::manual_seed(seed);
    trainee_ = workload.make();
    samples_.reserve(static_cast<size_t>(workload.steps));
  }

  void step() {
    rp::ModeGuard guard(mode_);
    DrawFrom scope(generator_);
    auto [x, y] = trainee_.next();
    const rp::CaptureStats stats = trainee_.stats();
    const rp::MemoryStats memory = rp::memory_stats();
    const int64_t kernels = rp::launch_stats().kernels;
    const auto start = Clock::now();
    rp::Tensor loss = trainee_.step(x, y);
    const auto end = Clock::now();
    Sample s;
    s.ms = std::chrono::duration<double, std::milli>(end - start).count();
    s.kernels = rp::launch_stats().kernels - kernels;
    const rp::MemoryStats memory_now = rp::memory_stats();
    s.bytes = static_cast<int64_t>(memory_now.allocated_bytes - memory.allocated_bytes);
    s.system_calls = static_cast<int64_t>(memory_now.system_calls - memory.system_calls);
    const rp::CaptureStats now = trainee_.stats();
    s.building = now.plan_builds != stats.plan_builds || now.recordings != stats.recordings ||
                 now.divergences != stats.divergences;
    s.loss = std::bit_cast<uint32_t>(loss.item<float>());
    samples_.push_back(s);
  }

  const std::vector<Sample>& samples() const { return samples_; }
  float last_loss() const { return std::bit_cast<float>(samples_.back().loss); }
  rp::NamedTensors parameters() const { return trainee_.parameters(); }

 private:
  rp::Mode mode_;
  rp::Generator generator_;
  Trainee trainee_;
  std::vector<Sample> samples_;
};

/// Steps in which nothing was recorded or compiled, nor in the one before: that one still finds its memory cold. If
/// there are none, the last.
std::vector<size_t> steady_steps(const std::vector<Sample>& graph) {
  std::vector<size_t> steady;
  for (size_t i = 2; i < graph.size(); ++i)
    if (!graph[i].building && !graph[i - 1].building) steady.push_back(i);
  if (steady.empty()) steady.push_back(graph.size() - 1);
  return steady;
}

template <class Get>
double median_of(const std::vector<Sample>& samples, const std::vector<size_t>& which, Get get) {
  std::vector<double> values;
  for (size_t i : which) values.push_back(static_cast<double>(get(samples[i])));
  return median(values);
}

/// Of all steps but those in `except`.
double total_ms(const std::vector<Sample>& samples, const std::vector<size_t>& except) {
  double ms = 0;
  for (const Sample& s : samples) ms += s.ms;
  for (size_t i : except) ms -= samples[i].ms;
  return ms;
}

int64_t differing_bits(const Runner& eager, const Runner& graph) {
  int64_t bits = 0;
  for (size_t i = 0; i < eager.samples().size(); ++i)
    bits += std::popcount(eager.samples()[i].loss ^ graph.samples()[i].loss);
  const rp::NamedTensors a = eager.parameters(), b = graph.parameters();
  if (a.size() != b.size()) throw std::runtime_error("the two copies have not the same parameters");
  for (size_t k = 0; k < a.size(); ++k) {
    if (a[k].first != b[k].first || a[k].second.shape() != b[k].second.shape())
      throw std::runtime_error("parameter " + a[k].first + " differs in name or shape between the copies");
    const std::vector<float> x = a[k].second.to_vector<float>(), y = b[k].second.to_vector<float>();
    for (size_t i = 0; i < x.size(); ++i)
      bits += std::popcount(std::bit_cast<uint32_t>(x[i]) ^ std::bit_cast<uint32_t>(y[i]));
  }
  return bits;
}

void set_times(Row& row, const Runner& eager, const Runner& graph) {
  const auto &e = eager.samples(), &g = graph.samples();
  const std::vector<size_t> steady = steady_steps(g);
  row.eager_ms = median_of(e, steady, [](const Sample& s) { return s.ms; });
  row.graph_ms = median_of(g, steady, [](const Sample& s) { return s.ms; });
  std::vector<double> gains;
  for (size_t i : steady) gains.push_back(e[i].ms - g[i].ms);
  const double off = std::min(0.5, 1 / std::sqrt(static_cast<double>(gains.size())));  // two standard errors of a rank
  row.gain_low_ms = quantile(gains, 0.5 - off);
  row.gain_high_ms = quantile(gains, 0.5 + off);

  row.capture_ms = total_ms(g, steady) - total_ms(e, steady);
  if (const double gain = row.eager_ms - row.graph_ms; gain > 0)
    row.break_even = static_cast<int64_t>(g.size() - steady.size() + std::ceil(std::max(row.capture_ms, 0.0) / gain));

  row.kernels_eager = static_cast<int64_t>(median_of(e, steady, [](const Sample& s) { return s.kernels; }));
  row.kernels_graph = static_cast<int64_t>(median_of(g, steady, [](const Sample& s) { return s.kernels; }));
  row.bytes_eager = static_cast<int64_t>(median_of(e, steady, [](const Sample& s) { return s.bytes; }));
  row.bytes_graph = static_cast<int64_t>(median_of(g, steady, [](const Sample& s) { return s.bytes; }));
  for (size_t i : steady) row.system_calls += e[i].system_calls + g[i].system_calls;
}

}  // namespace

std::function<rp::Batch<2>()> endless(rp::Dataset<2> loader) {
  struct State {
    rp::Dataset<2> loader;
    std::optional<rp::Dataset<2>::Iterator> at;
  };
  return [state = std::make_shared<State>(State{std::move(loader), {}})] {
    if (state->at) ++*state->at;
    if (!state->at || *state->at == state->loader.end()) state->at.emplace(state->loader.begin());
    return **state->at;
  };
}

Row compete(const Workload& workload, uint64_t seed) {
  {
    // What both modes pay once in a process shall not be paid by the one that comes first.
    Runner warm_up(rp::Mode::eager, seed, workload);
    for (int i = 0; i < 2; ++i) warm_up.step();
  }
  Runner eager(rp::Mode::eager, seed, workload), graph(rp::Mode::graph, seed, workload);
  {
    rp::Progress progress(workload.name, workload.steps);
    for (int i = 0; i < workload.steps; ++i) {
      eager.step();
      graph.step();
      progress.step();
    }
  }
  Row row;
  row.name = workload.name;
  row.steps = workload.steps;
  set_times(row, eager, graph);
  row.loss_eager = eager.last_loss();
  row.loss_graph = graph.last_loss();
  row.differing_bits = differing_bits(eager, graph);
  return row;
}

}  // namespace bench
