#include "reprise/backends/cuda/replay.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/handles.h"
#include "reprise/backends/cuda/launch_list.h"
#include "reprise/backends/cuda/memory.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

constexpr size_t least_nodes = 3, most_nodes = 20'000;

cudaKernelNodeParams kernel_params(const LaunchList& list, const LaunchList::Work& w, void** argument) {
  cudaKernelNodeParams p{};
  *argument = const_cast<std::byte*>(list.args(w).data());
  p.func = const_cast<void*>(w.function->handle());
  p.gridDim = {w.how.blocks, 1, 1};
  p.blockDim = {w.how.threads, 1, 1};
  p.sharedMemBytes = static_cast<unsigned>(w.how.shared_bytes);
  p.kernelParams = argument;
  return p;
}

cudaMemsetParams fill_params(const LaunchList::Work& w) {
  cudaMemsetParams p{};
  p.dst = w.to;
  p.value = std::to_integer<unsigned>(w.value);
  p.elementSize = 1;
  p.width = w.bytes;
  p.height = 1;
  return p;
}

// Why a library's work cannot be a part of a graph.
struct Uncapturable {
  std::string why;
};

// What a library queues, as a graph. It has run before, so that it has loaded all that it needs.
class Captured {
 public:
  Captured(const LibraryWork& work, std::span<const std::byte> args) {
    const Runtime& cuda = runtime();
    const Stream stream;
    cuda.cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    std::string why;
    try {
      work.queue(args, stream);
    } catch (const std::exception& e) {
      why = e.what();
    }
    const cudaError_t ended = cuda.cudaStreamEndCapture.raw(stream, &graph_);
    if (why.empty() && ended == cudaSuccess) return;
    if (graph_) cuda.cudaGraphDestroy.raw(graph_);
    throw Uncapturable{why.empty() ? "cudaStreamEndCapture: " + Status<cudaError_t>::text(ended) : why};
  }
  ~Captured() { runtime().cudaGraphDestroy.raw(graph_); }
  Captured(const Captured&) = delete;
  cudaGraph_t graph() const { return graph_; }

 private:
  cudaGraph_t graph_{};
};

// A list made into a graph, with the list as the graph has it.
class Graph {
 public:
  explicit Graph(const LaunchList& list) : list_(list) {
    const Runtime& cuda = runtime();
    cuda.cudaGraphCreate(&graph_, 0);
    try {
      for (const LaunchList::Work& w : list_.works()) nodes_.push_back(add(w));
      cuda.cudaGraphInstantiate(&exec_, graph_, 0);
    } catch (...) {
      cuda.cudaGraphDestroy.raw(graph_);
      throw;
    }
  }
  ~Graph() {
    runtime().cudaGraphExecDestroy.raw(exec_);
    runtime().cudaGraphDestroy.raw(graph_);
  }
  Graph(const Graph&) = delete;

  size_t size() const { return nodes_.size(); }
  const LaunchList& list() const { return list_; }

  // Tells nodes that only scalars are new, which all of the list's launches find on the device.
  void load(std::span<const uint64_t> scalars) {
    for (size_t i = 0; i < list_.loads(); ++i)
      if (list_.load(i, scalars)) tell(list_, i);
  }

  // Tells nodes what is new in a list of the same shape; returns how many were told.
  int update(const LaunchList& list) {
    int told = 0;
    for (size_t i = 0; i < nodes_.size(); ++i) {
      if (list.same_work(list_, i)) continue;
      tell(list, i);
      ++told;
    }
    if (told) list_ = list;
    return told;
  }

  void launch() const { runtime().cudaGraphLaunch(exec_, compute_stream()); }

 private:
  cudaGraphNode_t add(const LaunchList::Work& w) {
    const Runtime& cuda = runtime();
    const cudaGraphNode_t* before = nodes_.empty() ? nullptr : &nodes_.back();
    const size_t count = nodes_.empty() ? 0 : 1;
    cudaGraphNode_t node{};
    if (w.kind == LaunchList::Kind::kernel) {
      void* argument;
      const cudaKernelNodeParams p = kernel_params(list_, w, &argument);
      cuda.cudaGraphAddKernelNode(&node, graph_, before, count, &p);
      set_attributes(node, w.how);
    } else if (w.kind == LaunchList::Kind::library) {
      const Captured part(*w.library, list_.args(w));
      accepted([&] { cuda.cudaGraphAddChildGraphNode(&node, graph_, before, count, part.graph()); });
    } else if (w.kind == LaunchList::Kind::copy) {
      cuda.cudaGraphAddMemcpyNode1D(&node, graph_, before, count, w.to, w.from, w.bytes, cudaMemcpyDeviceToDevice);
    } else {
      const cudaMemsetParams p = fill_params(w);
      cuda.cudaGraphAddMemsetNode(&node, graph_, before, count, &p);
    }
    return node;
  }

  // A library may do what graphs do not take, or something else for other addresses.
  template <class F>
  static void accepted(F&& call) {
    try {
      call();
    } catch (const Error& e) {
      throw Uncapturable{e.what()};
    }
  }

  static void set_attributes(cudaGraphNode_t node, const Launch& how) {
    cudaLaunchAttributeValue value{};
    if (how.cooperative) {
      value.cooperative = 1;
      runtime().cudaGraphKernelNodeSetAttribute(node, cudaLaunchAttributeCooperative, &value);
    }
    if (how.cluster > 1) {
      value = {};
      value.clusterDim = {how.cluster, 1, 1};
      runtime().cudaGraphKernelNodeSetAttribute(node, cudaLaunchAttributeClusterDimension, &value);
    }
  }

  void tell(const LaunchList& list, size_t i) {
    const Runtime& cuda = runtime();
    const LaunchList::Work& w = list.works()[i];
    if (w.kind == LaunchList::Kind::kernel) {
      void* argument;
      const cudaKernelNodeParams p = kernel_params(list, w, &argument);
      cuda.cudaGraphExecKernelNodeSetParams(exec_, nodes_[i], &p);
    } else if (w.kind == LaunchList::Kind::library) {
      const Captured part(*w.library, list.args(w));
      accepted([&] { cuda.cudaGraphExecChildGraphNodeSetParams(exec_, nodes_[i], part.graph()); });
    } else if (w.kind == LaunchList::Kind::copy) {
      cuda.cudaGraphExecMemcpyNodeSetParams1D(exec_, nodes_[i], w.to, w.from, w.bytes, cudaMemcpyDeviceToDevice);
    } else {
      const cudaMemsetParams p = fill_params(w);
      cuda.cudaGraphExecMemsetNodeSetParams(exec_, nodes_[i], &p);
    }
  }

  LaunchList list_;
  cudaGraph_t graph_{};
  cudaGraphExec_t exec_{};
  std::vector<cudaGraphNode_t> nodes_;
};

// Memory of the device for scalars. All that uses it is on one stream, so a run does not write what an earlier one is
// yet to read, and who has the memory next comes later.
class ScalarBlock {
 public:
  explicit ScalarBlock(size_t count)
      : numbers_(reinterpret_cast<uint64_t*>(allocate_bytes(count * sizeof(uint64_t))), count) {}
  ~ScalarBlock() { release_bytes(reinterpret_cast<std::byte*>(numbers_.data()), numbers_.size_bytes()); }
  ScalarBlock(const ScalarBlock&) = delete;
  std::span<uint64_t> numbers() const { return numbers_; }

 private:
  std::span<uint64_t> numbers_;
};

class GraphReplay final : public Replay {
 public:
  void run(std::span<std::byte* const> pointers, std::span<const uint64_t> scalars, size_t seen,
           const std::function<void()>& steps) override {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    // Inside another plan the launches belong to that one's list; on a second thread they go their own way.
    if (LaunchList::active() || !lock || !direct_.empty() || disabled("replay")) return steps();
    const bool same_scalars = same(scalars, scalars.size());
    varies_ |= !same_scalars && scalars.size() == scalars_.size();
    if (graph_ && std::ranges::equal(pointers, pointers_)) {
      if (same_scalars) return graph_->launch();
      if (graph_->list().loads() && same(scalars, seen) && succeeds([&] { graph_->load(scalars); }))
        return launch(pointers, scalars);
    }
    record(scalars, steps);
    if (refuses()) return;
    const bool alike = list_.alike(graph_ ? graph_->list() : before_);
    if (graph_ && !list_.same_shape(graph_->list())) graph_.reset();
    if (graph_ ? succeeds([&] { graph_->update(list_); }) : alike && succeeds([&] { make_graph(); }))
      return launch(pointers, scalars);
    list_.launch();
    before_ = list_;
    remember(pointers, scalars);
  }

  std::string form() const override {
    const std::lock_guard lock(mutex_);
    if (!direct_.empty()) return "launched one by one: " + direct_;
    return graph_ ? fmt::format("replayed as a CUDA graph of {} nodes", graph_->size())
                  : "launched one by one: it has not run twice alike";
  }

 private:
  bool same(std::span<const uint64_t> scalars, size_t count) const {
    return scalars.size() == scalars_.size() &&
           std::ranges::equal(scalars.first(count), std::span(scalars_).first(count));
  }

  // Makes the list of what a run launches. Scalars that have changed once are on the device from then on; others cost
  // less as arguments.
  void record(std::span<const uint64_t> scalars, const std::function<void()>& steps) {
    const size_t room = scalars.size() + list_.others();
    if (varies_ && !(graph_ && graph_->list().loads()) && (!block_ || block_->numbers().size() < room))
      block_ = std::make_unique<ScalarBlock>(room);
    list_.begin(scalars, block_ ? block_->numbers() : std::span<uint64_t>{});
    const LaunchList::Scope scope(list_);
    steps();
  }

  // Whether the list cannot be a graph; then it has been launched.
  bool refuses() {
    direct_ = list_.left();
    if (!direct_.empty()) return true;
    const size_t n = list_.works().size() - list_.loads();
    if (n >= least_nodes && n <= most_nodes) return false;
    direct_ = fmt::format("{} launches, a graph has {} to {}", n, least_nodes, most_nodes);
    list_.launch();
    return true;
  }

  void make_graph() {
    graph_ = std::make_unique<Graph>(list_);
    before_ = {};
  }

  // Makes a graph or changes it. False, with the reason, if a library does what cannot be captured, or something else
  // for other addresses. A graph that was not told all is of no use.
  template <class F>
  bool succeeds(F&& change) {
    try {
      change();
      return true;
    } catch (const Uncapturable& part) {
      graph_.reset();
      direct_ = part.why;
      return false;
    } catch (...) {
      graph_.reset();
      throw;
    }
  }

  void remember(std::span<std::byte* const> pointers, std::span<const uint64_t> scalars) {
    pointers_.assign(pointers.begin(), pointers.end());
    scalars_.assign(scalars.begin(), scalars.end());
  }
  void launch(std::span<std::byte* const> pointers, std::span<const uint64_t> scalars) {
    remember(pointers, scalars);
    graph_->launch();
  }

  mutable std::mutex mutex_;
  LaunchList list_, before_;
  std::unique_ptr<Graph> graph_;
  std::vector<std::byte*> pointers_;  // of the latest run
  std::vector<uint64_t> scalars_;
  bool varies_ = false;  // whether runs had different scalars
  std::unique_ptr<ScalarBlock> block_;
  std::string direct_;  // why there is no graph
};

}  // namespace

std::unique_ptr<Replay> make_replay() { return std::make_unique<GraphReplay>(); }

}  // namespace rp::cuda
