#pragma once
// How cuDNN computes a graph: the choice of an engine, which depends on the graph and the device's properties alone.
#include <memory>
#include <mutex>

#include "reprise/backends/cuda/cudnn_descriptor.h"
#include "reprise/backends/cuda/cudnn_graph.h"

namespace rp::cuda {

/// cuDNN on the device that the backend computes on.
class DnnHandle {
 public:
  DnnHandle() { cudnn().cudnnCreate(&handle_); }
  ~DnnHandle() { cudnn().cudnnDestroy.raw(handle_); }
  DnnHandle(const DnnHandle&) = delete;

  cudnnHandle_t raw() const { return handle_; }
  /// Runs a plan on a stream.
  void execute(const Descriptor& plan, const Descriptor& pack, cudaStream_t stream);

 private:
  std::mutex mutex_;  // it serves one call at a time
  cudnnHandle_t handle_ = nullptr;
};

/// The device that plans are for. It need not be here.
class DnnTarget {
 public:
  /// A device that is described by cuDNN's text of its properties (JSON).
  explicit DnnTarget(std::string properties);
  /// The device that the backend computes on.
  static const DnnTarget& here();

  const Descriptor& descriptor() const { return descriptor_; }
  /// The text: equal texts, equal plans.
  const std::string& properties() const { return properties_; }
  /// Null if the device is not here.
  DnnHandle* handle() const { return handle_.get(); }

 private:
  friend class Here;
  explicit DnnTarget(Descriptor descriptor, std::unique_ptr<DnnHandle> handle = nullptr);
  std::unique_ptr<DnnHandle> handle_;
  Descriptor descriptor_;
  std::string properties_;
};

/// A way to compute a graph that cuDNN proposes.
struct DnnEngine {
  Descriptor configuration;
  int64_t number = 0;
  std::vector<cudnnBackendNumericalNote_t> notes;
};

/// cuDNN's proposals of one kind, best first by its own estimate.
std::vector<DnnEngine> dnn_engines(const DnnGraph& graph, const DnnTarget& target, cudnnBackendHeurMode_t mode);

/// Why an engine must not be taken, as the name of its numerical note, or empty: results must be the same in every run;
/// f32 keeps its bits.
std::string_view objection(const DnnEngine& engine, const DnnGraph& graph);

/// A choice, as it is stored.
struct DnnChoice {
  int64_t engine = 0;
  int64_t workspace = 0;  // bytes that the engine needs
  std::string plan;       // cuDNN's text of the plan (JSON)
};

/// The first of cuDNN's proposals, best ones before fallbacks, that nothing speaks against and that it supports. An
/// Error lists why there is none.
DnnChoice choose_engine(const DnnGraph& graph, const DnnTarget& target);

/// The number under which cuDNN knows a tensor of a graph.
constexpr int64_t dnn_number(size_t tensor) { return static_cast<int64_t>(tensor) + 1; }
/// A plan without an engine, for a device.
Descriptor empty_dnn_plan(const DnnTarget& target);

}  // namespace rp::cuda
