#pragma once
// Plans of cuDNN that can run.
#include <span>

#include "reprise/backends/cuda/cudnn_engine.h"
#include "reprise/backends/cuda/launch_list.h"

namespace rp::cuda {

/// A plan that can run, on the device that is here. `target` must outlive it. Safe to run from several threads at once.
class DnnPlan final : public LibraryWork {
 public:
  DnnPlan(const DnnGraph& graph, DnnChoice choice, const DnnTarget& target);

  /// "cudnn engine 62"
  std::string form() const { return fmt::format("cudnn engine {}", choice_.engine); }
  const DnnChoice& choice() const { return choice_; }
  /// Memory that one run needs beside its operands.
  size_t workspace_bytes() const { return own_bytes_ + static_cast<size_t>(choice_.workspace); }

  /// Launches it. Operands stand in the graph's order; those that are not aligned as the graph says are moved through
  /// the workspace, which is aligned to 16 bytes.
  void run(std::span<std::byte* const> operands, std::byte* workspace) const;
  void queue(std::span<const std::byte> args, cudaStream_t stream) const override;

 private:
  const DnnTarget& target_;
  DnnChoice choice_;
  Descriptor plan_;
  struct Operand {
    size_t bytes, element, place;  // in the workspace, should it not be aligned
    bool written;
  };

  size_t reserve(size_t bytes);  // a place in the workspace
  std::vector<std::byte*> aligned(std::span<std::byte* const> operands, std::byte* workspace) const;

  std::vector<int64_t> numbers_;  // of the tensors that have memory: operands, scratch, constants
  std::vector<Operand> operands_;
  std::vector<size_t> offsets_;  // of scratch in the workspace
  std::vector<float> values_;    // of constants
  size_t alignment_ = 1, own_bytes_ = 0;
};

/// The plan of a graph on the device here: made once, kept in memory and on disk. An Error says why there is none.
const DnnPlan& dnn_plan(const DnnGraph& graph);

}  // namespace rp::cuda
