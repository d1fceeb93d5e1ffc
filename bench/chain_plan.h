#pragma once
// The graph of a chain of pointwise ops, planned, with memory to run on.
#include <memory>

#include "reprise/core/tensor.h"

namespace bench {

class ChainPlan {
 public:
  /// `ops` additions and multiplications in turn; `fuse` false makes every op a kernel of its own.
  ChainPlan(const rp::Tensor& x, const rp::Tensor& y, int ops, bool fuse);
  ~ChainPlan();

  void run() const;
  int kernels() const;

 private:
  struct State;
  std::unique_ptr<const State> state_;
};

}  // namespace bench
