#pragma once
// A device that runs on the processor, in the place of CUDA's runtime and compiler. It knows no other truth than
// theirs: the library does not know that it is there.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "reprise/test/cuda/schedule.h"

namespace rp::fake {

/// A call of a function of the runtime or the compiler; pointers and numbers as words, structs as 0.
struct Call {
  std::string name;
  std::vector<uint64_t> arguments;
  int status = 0;
};

/// A kernel that was queued, be it by a launch or by a graph.
struct Launched {
  std::string name;
  unsigned blocks, threads;
  size_t shared_bytes;
  unsigned cluster;
  bool cooperative;
};

struct DeviceOptions {
  size_t memory = size_t{8} << 30;  // what an allocation beyond is refused for
  bool keep_memory = false;         // the library's pool keeps what is released; off, each release shows its misuse
  int driver = 13000;               // 0: there is none
  int devices = 1;
  bool clusters = true;  // whether any cluster of several blocks fits
  std::string cache{};   // the folder for compiled kernels; by default a fresh one
};

/// While it lives, the library computes on this device. What was queued runs only when something waits for it, so that
/// a wait that is missing shows. One at a time, and nothing of it may be in use at the end.
class Device {
 public:
  explicit Device(const DeviceOptions& options = {});
  /// Ends the process if there are findings that nobody has asked for.
  ~Device();
  Device(const Device&) = delete;

  /// How kernels run from now on. At first what SHIM_SCHEDULE in the environment says, else ascending.
  void use(const Schedule& schedule);

  /// The calls of a function since the log was cleared, or of all.
  std::vector<Call> calls(std::string_view name = {}) const;
  size_t count(std::string_view name) const { return calls(name).size(); }
  const std::vector<Launched>& launches() const;
  void clear_log();

  /// The n-th call of a function from now on (1 is the next) does nothing and returns this status.
  void fail(std::string_view name, int n, int status);
  /// Whether such a call has come.
  bool failed() const;

  /// What programs must not do and what kernels did wrong, such as writes beside an allocation; forgets them.
  std::vector<std::string> take_findings();

  /// Allocations that are not freed, and bytes of them.
  size_t allocations() const;
  size_t bytes_in_use() const;

 private:
  struct Installed;
  std::unique_ptr<Installed> installed_;
};

}  // namespace rp::fake
