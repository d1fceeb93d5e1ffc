#pragma once
#include <memory>
#include <optional>
#include <string>

#include "reprise/core/graph.h"
#include "reprise/graph/facts.h"

namespace rp {

/// How long a kernel took in the runs that were timed.
class KernelTimes {
 public:
  void add(double ns);
  int64_t runs() const { return runs_; }
  /// Of the latest 63 runs; 0 if there were none.
  double median_ns() const;

 private:
  std::vector<double> latest_;
  int64_t runs_ = 0;
};
using RunTimes = std::vector<KernelTimes>;  // of the kernels of a plan

/// What one run of a compiled graph works on.
struct Frame {
  std::byte* const* inputs;   // the first element of each graph input
  Storage* const* storages;   // of the inputs
  std::byte* const* outputs;  // a buffer for the base of each graph output
  const uint64_t* scalars;    // the graph's parameters
  RunTimes* times = nullptr;  // if given, each kernel is timed
  bool poison = false;        // fills scratch memory before the run: what was not computed then shows
  bool quiet = false;         // an eager op, which has a span of its own: its kernels need none
};

/// An op that computes something else than eager.
struct Difference {
  std::string op;
  Loc loc;
  std::string kernel;  // that it is part of
  std::string inside;  // "step 3 of the scan at f.cpp:12", where the op is part of a body
  bool alone = true;   // on right operands; else they had been overwritten
};

/// A compiled graph. Immutable; runs may overlap on different threads.
class Executable {
 public:
  virtual ~Executable() = default;
  virtual void run(const Frame& frame) const = 0;
  virtual const Graph& graph() const = 0;
  /// The layout of the buffer of output j: that of its base.
  virtual const Layout* output_layout(size_t j) const = 0;
  virtual int kernels() const = 0;
  /// Tensors that one run only puts into another order.
  virtual int reorders() const = 0;
  virtual size_t arena_bytes() const = 0;
  /// Everything that reports tell of it, but for what was measured.
  virtual PlanFacts facts() const = 0;
  /// Runs kernel by kernel on copies of the frame's inputs, comparing each result with that of running the graph op by
  /// op; the first that differs, if any. Bodies of control ops are searched step by step.
  virtual std::optional<Difference> first_difference(const Frame& frame) const = 0;
};

/// Compares elements bit for bit, all NaNs being equal. Returns the index of the first that differs, -1 if none does.
int64_t first_differing(const std::byte* a, const std::byte* b, int64_t count, DType dtype);
/// The same of two contiguous tensors of one dtype and size.
int64_t first_differing(const Tensor& a, const Tensor& b);
/// How many of the elements differ.
int64_t count_differing(const std::byte* a, const std::byte* b, int64_t count, DType dtype);

}  // namespace rp
