#pragma once
// What the engine needs from a device. Everything else about a device stays inside its folder.
#include <memory>
#include <string>
#include <string_view>

#include "reprise/core/op.h"

namespace rp {

/// A tensor as kernels see it: the address of its first element and its layout.
struct View {
  std::byte* data = nullptr;
  const Layout* layout = nullptr;
};

struct KernelCall {
  const Op& op;
  std::span<const View> inputs;
  View output;
  const Attrs& attrs;
  const Scalars& scalars;
};

/// A Program made executable.
struct Compiled {
  KernelFn run = nullptr;
  const void* context = nullptr;  // goes into KernelArgs::context
  Program program;
  std::string form;  // "jit avx2", "tile"
  size_t code_bytes = 0;
};

struct Region;     // fusion/region.h
class Executable;  // graph/executable.h

/// One run of a region.
struct RegionCall {
  std::byte* const* pointers;  // the first element of each operand of the region, in order
  const uint64_t* scalars;     // its run-time scalars; only kernels with `bodies` look at them on the host of a device
  Storage* const* storages;    // per operand: the storage of an input, null for what the plan itself holds
  std::byte* scratch;          // the kernel's `scratch_bytes`
};

/// A region made executable for fixed layouts. Safe to run from several threads at once.
class RegionKernel {
 public:
  virtual ~RegionKernel() = default;
  virtual void run(const RegionCall& call) const = 0;
  /// How it runs ("jit avx2", "tile", a library's name), for reports.
  virtual std::string form() const = 0;
  /// How many tensors it only puts into another order, before or after its work or as its work.
  virtual int reorders() const { return 0; }
  /// Memory that one run needs beside its operands.
  virtual size_t scratch_bytes() const { return 0; }
  /// Plans that the kernel runs, and how often in one run of its own (1 where that is not known).
  struct Body {
    std::string role;
    const Executable* plan;
    int64_t runs;
  };
  virtual std::vector<Body> bodies() const { return {}; }
};

/// Runs what a plan launches as one, where that costs less than launching kernel by kernel.
class Replay {
 public:
  virtual ~Replay() = default;
  /// Does what `steps` does. Runs with equal `pointers` (scratch memory's among them) and `scalars` do the same, unless
  /// they read on the host. The first `seen` scalars are looked at on the host; of the others, kernels on the device
  /// alone know the values.
  virtual void run(std::span<std::byte* const> pointers, std::span<const uint64_t> scalars, size_t seen,
                   const std::function<void()>& steps) = 0;
  /// How the last run went ("CUDA graph of 12 nodes"), or why not at once; for reports.
  virtual std::string form() const = 0;
};

/// What a device can do at most, for predictions; rates are per second.
struct Limits {
  double flops = 0;                          // of the matrix product in f32
  double memory_bytes = 0, cache_bytes = 0;  // read and written by a simple map
  double launch_ns = 0;                      // of a kernel that has next to nothing to do
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  virtual std::byte* allocate(size_t bytes) = 0;  // 64-byte aligned
  virtual void release(std::byte* data, size_t bytes) noexcept = 0;
  /// Within the device, in the order of calls.
  virtual void copy(std::byte* to, const std::byte* from, size_t bytes) = 0;
  virtual void fill(std::byte* to, std::byte value, size_t bytes) = 0;
  /// To and from the host's memory, which may change as soon as the call returns.
  virtual void read(std::byte* host, const std::byte* from, size_t bytes) = 0;
  virtual void write(std::byte* to, const std::byte* host, size_t bytes) = 0;
  /// Waits until everything that was asked for is done.
  virtual void synchronize() = 0;
  /// The kernel of an op of kind contract or kernel for elements of `dtype`, or null with the reason in `why`.
  virtual Kernel find(const Op& op, DType dtype, std::string* why) = 0;
  /// Compiled form of a program; equal programs give the same object, which lives for ever.
  virtual const Compiled* compile(const Program& program) = 0;
  virtual std::unique_ptr<RegionKernel> compile(const Region& region) = 0;
  /// Whether a composite op is one kernel, which `compile` makes of a region of that op; otherwise its body takes its
  /// place. `why` says what forbids it, where such kernels exist and may be used.
  virtual bool takes_whole(const Op&, const Attrs&, std::span<const Layout* const> /*inputs*/, std::string* /*why*/) {
    return false;
  }
  /// Whether a composite op that is differentiated stays one op, and so does its gradient, because kernels for both may
  /// exist. Asked where nothing is known of what may happen to bits: it must not depend on that.
  virtual bool keeps_whole(const Op&, std::span<const Layout* const> /*inputs*/) { return false; }
  /// All steps of a scan as one kernel. Null if there is none; `why` says what forbids it, where such kernels exist.
  virtual std::unique_ptr<RegionKernel> compile_scan(const Region&, std::string* /*why*/) { return nullptr; }
  /// Where bits may change: whether an op that is defined for f32 is better off with inputs of 16 bits, as they lie,
  /// than with f32 copies of them, and gives `result`: f32, or what the inputs are. `why` says what forbids it, where
  /// kernels for that exist and the op's kernel for f32 does not say so itself.
  virtual bool reads_short(const Op&, const Attrs&, std::span<const Layout* const> /*inputs*/, const Layout& /*result*/,
                           std::string* /*why*/) {
    return false;
  }
  /// For one plan; null where launching is cheap.
  virtual std::unique_ptr<Replay> replay() { return nullptr; }
  /// The limits of one thread, or of all that kernels may use now. Measured when first asked for, in a few ms.
  virtual Limits limits(bool all_threads) = 0;
  /// Kernels that touch more than this leave the cache.
  virtual size_t cache_size() = 0;
};

}  // namespace rp
