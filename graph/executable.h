#pragma once
#include <memory>
#include <optional>
#include <string>

#include "reprise/core/graph.h"

namespace rp {

/// What one run of a compiled graph works on.
struct Frame {
  std::byte* const* inputs;   // the first element of each graph input
  Storage* const* storages;   // of the inputs
  std::byte* const* outputs;  // a buffer for the base of each graph output
  const uint64_t* scalars;    // the graph's parameters
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
  virtual size_t arena_bytes() const = 0;
  virtual std::string explain() const = 0;
  /// Runs kernel by kernel on copies of the frame's inputs, comparing each result with that of running the graph op by
  /// op; describes the first kernel and op that differ, if any.
  virtual std::optional<std::string> first_difference(const Frame& frame) const = 0;
};

/// Compares elements bit for bit, all NaNs being equal. Returns the index of the first that differs, -1 if none does.
int64_t first_differing(const std::byte* a, const std::byte* b, int64_t count, DType dtype);
/// How many of the elements differ.
int64_t count_differing(const std::byte* a, const std::byte* b, int64_t count, DType dtype);

}  // namespace rp
