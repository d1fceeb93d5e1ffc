#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace rp::cuda {

struct Launch {
  uint32_t blocks = 1, threads = 256;
  size_t shared_bytes = 0;
  bool cooperative = false;
  uint32_t cluster = 1;
  bool operator==(const Launch&) const = default;
};

/// A kernel of our own, loaded on the device.
class Function {
 public:
  /// What it takes on the device, for reports.
  struct Resources {
    int registers = 0;       // of a thread
    size_t local_bytes = 0;  // of a thread: what did not fit into registers
    int max_threads = 0;     // of a block
    size_t code_bytes = 0;
  };

  Function(std::string name, const void* kernel, size_t code_bytes);
  Function(const Function&) = delete;

  const std::string& name() const { return name_; }
  const Resources& resources() const { return resources_; }
  /// The size of its Args.
  size_t argument_bytes() const { return argument_bytes_; }
  /// What the runtime's functions for kernels want (a cudaKernel_t).
  const void* handle() const { return kernel_; }
  /// Lets launches have what they ask for beyond what every kernel may have. Costs nothing the second time.
  void allow(const Launch& how) const;

 private:
  std::string name_;
  const void* kernel_;
  Resources resources_;
  size_t argument_bytes_ = 0;
  mutable std::mutex mutex_;
  mutable std::atomic<size_t> shared_allowed_{48 << 10};
  mutable std::atomic<uint32_t> cluster_allowed_{8};
};

/// `text` is CUDA C that follows the prelude: it defines `struct Args {...}` and
/// `extern "C" __global__ void __launch_bounds__(N) kernel_entry(const __grid_constant__ Args args)`. The token
/// kernel_entry is replaced by a name made from the hash of the text. Compiled, or taken from the cache on disk, at the
/// first call with this text; lives for ever.
const Function& function_of(const std::string& text);

/// The name that `function_of` gives to a text, and all that it has compiled: the prelude and the text with that name.
std::string kernel_name(const std::string& text);
std::string whole_source(const std::string& text);

/// Queues it on the compute stream, or adds it to the thread's active LaunchList. `args` is the bytes of the text's
/// Args; they are copied. No blocks are nothing to do.
void launch(const Function& f, const Launch& how, std::span<const std::byte> args);

}  // namespace rp::cuda
