// What a CUDA device can do, measured by kernels and calls that owe nothing to the library's own, and what replaying a
// plan costs beside that.
#include <fmt/core.h>

#include <chrono>
#include <memory>

#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/handles.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/bench/cases.h"
#include "reprise/bench/chain_plan.h"
#include "reprise/bench/cuda_machine.h"
#include "reprise/bench/cuda_texts.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using namespace rp::cuda;
using rp::Mode;

Result one_time(const Timing& timing, double parts = 1) {
  Result r;
  r.captured_ns = median(timing.of[0]) / parts;
  r.spread = spread(timing.of[0]);
  return r;
}

void launch_empty() { launch_text(empty_text, {.threads = 32}, EmptyArgs{}); }

/// A chain of kernels that do nothing, as a graph made by the runtime's calls alone.
class EmptyGraph {
 public:
  explicit EmptyGraph(int nodes) {
    const Runtime& t = runtime();
    t.cudaGraphCreate(&graph_, 0);
    EmptyArgs args;
    void* argument = &args;
    cudaKernelNodeParams p{};
    p.func = const_cast<void*>(function_of(empty_text).handle());
    p.gridDim = {1, 1, 1};
    p.blockDim = {32, 1, 1};
    p.kernelParams = &argument;
    cudaGraphNode_t last{};
    for (int i = 0; i < nodes; ++i) {
      const cudaGraphNode_t before = last;
      t.cudaGraphAddKernelNode(&last, graph_, &before, i ? 1 : 0, &p);
    }
    t.cudaGraphInstantiate(&exec_, graph_, 0);
  }
  ~EmptyGraph() {
    runtime().cudaGraphExecDestroy.raw(exec_);
    runtime().cudaGraphDestroy.raw(graph_);
  }
  EmptyGraph(const EmptyGraph&) = delete;

  void launch() const { runtime().cudaGraphLaunch(exec_, compute_stream()); }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t exec_ = nullptr;
};

// ---- constants ----

Result measure_copy(size_t bytes) {
  const double gbs = cuda_copy_gbs(bytes);
  Result r;
  r.captured_ns = 2 * static_cast<double>(bytes) / gbs;
  r.more = {{"gbs", gbs}};
  r.note = fmt::format("{:.0f} GB/s read and written", gbs);
  return r;
}

Result measure_product() {
  constexpr int64_t n = 8192;
  const LibraryProduct product(n);
  Result r = one_time(interleave({{Mode::eager, [&] { product(); }}}));
  r.flops = 2.0 * n * n * n;
  return r;
}

Result measure_fma() {
  Result r;
  const double gflops = cuda_fma_gflops();
  r.captured_ns = 1;
  r.more = {{"fma_gflops", gflops}};
  r.note = fmt::format("{:.1f} TFLOP/s of f32 on registers", gflops / 1e3);
  return r;
}

Result measure_graph(int nodes) {
  const EmptyGraph graph(nodes);
  Result r = one_time(interleave({{Mode::eager, [&] { graph.launch(); }}}));
  r.more = {{"ns_per_node", *r.captured_ns / nodes}};
  r.note = fmt::format("{} a node", time_text(*r.captured_ns / nodes));
  return r;
}

Result measure_barrier() {
  constexpr uint32_t times = 1000;
  const auto blocks = static_cast<uint32_t>(device().properties.multiProcessorCount);
  const CudaBytes counter(4);
  const auto run = [&] {
    fill(counter.data(), std::byte{0}, 4);
    launch_text(barrier_text, {.blocks = blocks, .cooperative = true},
                BarrierArgs{reinterpret_cast<uint32_t*>(counter.data()), times});
  };
  Result r = one_time(interleave({{Mode::eager, run}}), times);
  r.note = fmt::format("{} blocks", blocks);
  return r;
}

/// Pinned memory, and the library's own way with memory of any kind.
Result measure_transfer(bool to_device) {
  constexpr size_t bytes = size_t{256} << 20;
  const PinnedBytes pinned(bytes);
  const CudaBytes there(bytes);
  std::vector<std::byte> pageable(bytes, std::byte{1});
  const auto raw = [&] {
    if (to_device)
      runtime().cudaMemcpyAsync(there.data(), pinned.data(), bytes, cudaMemcpyHostToDevice, compute_stream());
    else
      runtime().cudaMemcpyAsync(pinned.data(), there.data(), bytes, cudaMemcpyDeviceToHost, compute_stream());
  };
  const auto own = [&] {
    if (to_device)
      copy(there.data(), pageable.data(), bytes, Direction::to_device);
    else
      copy(pageable.data(), there.data(), bytes, Direction::to_host);
  };
  const Timing timing = interleave({{Mode::eager, raw}, {Mode::eager, own}});
  Result r = one_time(timing);
  const double gbs = bytes / *r.captured_ns, own_gbs = bytes / median(timing.of[1]);
  r.more = {{"gbs", gbs}, {"own_gbs", own_gbs}};
  r.note = fmt::format("{:.1f} GB/s of pinned memory, own copy of any {:.1f}", gbs, own_gbs);
  return r;
}

// ---- replay ----

/// Host time of a launch: few at a time, so that no queue is full, the waits between them not counted.
Timed without_waiting(std::function<void()> run) {
  return [run = std::move(run)](int64_t calls) {
    constexpr int64_t few = 8;
    double ns = 0;
    for (int64_t left = calls; left > 0; left -= few) {
      effort().wait();
      const auto start = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < std::min(few, left); ++i) run();
      ns += std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
    }
    effort().wait();
    return ns;
  };
}

/// A plan of tiny kernels beside a raw graph of as many that do nothing.
Result measure_replay(int nodes) {
  const rp::Tensor x = rp::uniform({1024}, 0.25, 0.75), y = rp::uniform({1024}, 0.25, 0.75);
  const ChainPlan plan(x, y, nodes, false);
  for (int call = 0; call < 4; ++call) plan.run();
  const EmptyGraph raw(plan.kernels());
  const auto own = [&] { plan.run(); };
  const auto empty = [&] { raw.launch(); };
  const Timing timing = interleave({{Mode::eager, own}, {Mode::eager, empty}});
  const Timing host = take_turns({without_waiting(own), without_waiting(empty)});
  for (const std::string& why : host.failed)
    if (!why.empty()) throw std::runtime_error(why);
  const double device_ratio = median(timing.of[0]) / median(timing.of[1]);
  const double host_ratio = median(host.of[0]) / median(host.of[1]);
  Result r = one_time(timing);
  r.limit_ns = median(timing.of[1]);
  r.met = device_ratio <= 1.05 && host_ratio <= 1.1;
  r.more = {{"kernels", plan.kernels()},
            {"raw_graph_ns", median(timing.of[1])},
            {"host_ns", median(host.of[0])},
            {"raw_graph_host_ns", median(host.of[1])}};
  r.note = fmt::format("{} kernels, {:.2f} x the raw graph; the host {}, {:.2f} x", plan.kernels(), device_ratio,
                       time_text(median(host.of[0])), host_ratio);
  return r;
}

}  // namespace

std::vector<Case> constant_cases() {
  std::vector<Case> cases{
      {"constant.copy.dram", {}, [] { return measure_copy(size_t{512} << 20); }},
      {"constant.copy.l2", {}, [] { return measure_copy(size_t{4} << 20); }},
      {"constant.fma.f32", {}, measure_fma},
      {"constant.launch.stream", {}, [] { return one_time(interleave({{Mode::eager, launch_empty}})); }},
      {"constant.grid_barrier", {}, measure_barrier},
      {"constant.to_device", {}, [] { return measure_transfer(true); }},
      {"constant.to_host", {}, [] { return measure_transfer(false); }},
  };
  for (const int nodes : {1, 10, 100, 1000})
    cases.push_back({fmt::format("constant.graph.{}", nodes), {}, [nodes] { return measure_graph(nodes); }});
  cases.push_back({"constant.product.bf16.8192", {}, measure_product, /*needs_device=*/true});
  cases.push_back({"G2.replay.100", stated("<= 1.05 x raw graph, host 1.1 x"), [] { return measure_replay(100); }});
  return cases;
}

}  // namespace bench
