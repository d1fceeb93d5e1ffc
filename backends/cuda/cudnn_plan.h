#pragma once
// Plans of cuDNN that can run.
#include "reprise/backends/cuda/cudnn_engine.h"

namespace rp::cuda {

/// A plan that can run. Safe to run from several threads at once.
class DnnPlan {
 public:
  DnnPlan(const DnnGraph& graph, DnnChoice choice, const DnnTarget& target);

  /// "cudnn engine 62"
  std::string form() const { return fmt::format("cudnn engine {}", choice_.engine); }
  const DnnChoice& choice() const { return choice_; }
  /// Memory that one run needs beside its operands.
  size_t workspace_bytes() const { return own_bytes_ + static_cast<size_t>(choice_.workspace); }

 private:
  DnnChoice choice_;
  Descriptor plan_;
  std::vector<int64_t> operands_, scratch_, constants_;  // numbers of tensors
  std::vector<size_t> offsets_;                          // of scratch in the workspace
  std::vector<float> values_;                            // of constants
  size_t own_bytes_ = 0;
};

}  // namespace rp::cuda
