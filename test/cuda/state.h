#pragma once
// What the fake runtime consists of.
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "reprise/backends/cuda/api.h"
#include "reprise/test/cuda/arena.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda/grid.h"

namespace rp::fake {

struct LoadedFunction : LoadedKernel {
  size_t shared_allowed = 48 << 10;
  bool large_clusters = false;
};

struct Library {
  std::map<std::string, std::unique_ptr<LoadedFunction>> functions;
  void* object = nullptr;
  const rp_shim::Thread** now = nullptr;
};

/// A launch, a copy, a fill or what another library does, with all that it needs.
struct Work {
  enum class Kind : uint8_t { kernel, copy, fill, call } kind;
  LoadedFunction* function = nullptr;
  GridShape shape{};
  std::vector<std::byte> args{};
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
  int value = 0;
  std::function<void()> call{};
};

struct Node {
  Work work;
  std::vector<Node*> before;
  std::vector<Node*> child;  // the nodes of another graph that this one waits for
};

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;
};

struct Exec {
  std::vector<Work> work;
  std::vector<size_t> order;  // in which it runs
  std::map<const Node*, size_t> index;
};

struct Capture {
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  std::thread::id thread = std::this_thread::get_id();
  bool broken = false;
};

struct StreamState {
  std::deque<std::function<void()>> queue;
  std::shared_ptr<Capture> capture;
  std::vector<Node*> tails;  // the last nodes of this stream in the capture
  bool origin = false;
};

/// A record of an event: reached when the stream has come to it.
struct Mark {
  StreamState* stream = nullptr;
  bool reached = false;
  std::shared_ptr<Capture> capture;
  std::vector<Node*> tails;
};

struct EventState {
  std::shared_ptr<Mark> mark;
};

/// Everything, under one lock.
class State {
 public:
  explicit State(const DeviceOptions& options) : options(options), arena(options.memory) {}
  /// Takes back what is left, as the end of a process does.
  ~State();

  /// Notes a call. The status that it has to return without doing anything, if it must.
  std::optional<int> enter(const char* name, std::vector<uint64_t> arguments, bool has_status);

  /// Notes a finding; the result is `status`.
  cudaError_t find(std::string text, cudaError_t status = cudaErrorInvalidValue);
  /// An error that all calls return from now on, as after a fault of a real device.
  void fault(std::string text, cudaError_t status);

  /// Queues work on a stream, or adds it to the graph that the stream is being captured into.
  cudaError_t queue(StreamState* stream, Work work);
  cudaError_t check(const Work& work);
  void run(const Work& work);
  bool run_one(StreamState* stream);
  void run_all(StreamState* stream);
  void run_until(const std::shared_ptr<Mark>& mark);
  void run_everything();
  /// Of a call that must not be made by a thread that captures: an error, which breaks the capture.
  cudaError_t forbidden(const char* what);
  StreamState* stream(cudaStream_t handle);
  bool pinned(const void* data, size_t bytes) const;

  std::recursive_mutex mutex;
  DeviceOptions options;
  Schedule schedule;
  Arena arena;
  std::map<char*, size_t> host;  // pinned memory by address
  std::set<StreamState*> streams;
  std::set<EventState*> events;
  std::set<Graph*> graphs;
  std::set<Exec*> execs;
  std::vector<std::unique_ptr<Library>> libraries;
  std::set<std::shared_ptr<void>> programs;        // the compiler's
  std::vector<std::shared_ptr<Capture>> captures;  // under way
  std::vector<Call> log;
  std::vector<Launched> launched;
  std::vector<std::string> findings;
  cudaError_t sticky = cudaSuccess;
  std::string fail_name;
  int fail_after = 0, fail_status = 0;
  bool has_failed = false;
};

/// Of the device that lives.
extern State* state;

/// What a launch with these parameters is; `extra` has its cluster and whether it is cooperative.
cudaError_t kernel_work(Work& work, const cudaKernelNodeParams& parameters, const GridShape& extra);
/// Whether a real device would take it.
cudaError_t check_shape(const LoadedFunction& f, const GridShape& shape);

void put_memory(cuda::Runtime& table);
void put_streams(cuda::Runtime& table);
void put_kernels(cuda::Runtime& table);
void put_graphs(cuda::Runtime& table);
void put_compiler(cuda::Nvrtc& table);

/// A call of a fake, noted in the log and possibly made to fail.
template <auto function>
struct Noted;
template <class R, class... P, R (*function)(P...)>
struct Noted<function> {
  static inline const char* name = nullptr;

  template <class T>
  static uint64_t word(const T& value) {
    if constexpr (std::is_pointer_v<T>)
      return reinterpret_cast<uint64_t>(value);
    else if constexpr (std::is_integral_v<T> || std::is_enum_v<T>)
      return static_cast<uint64_t>(value);
    else
      return 0;
  }

  static R call(P... p) {
    const std::lock_guard lock(state->mutex);
    constexpr bool has_status = std::is_enum_v<R>;
    const std::optional<int> refused = state->enter(name, {word(p)...}, has_status);
    if constexpr (has_status) {
      const size_t at = state->log.size() - 1;
      const R result = refused ? static_cast<R>(*refused) : function(p...);
      if (at < state->log.size()) state->log[at].status = static_cast<int>(result);
      return result;
    } else {
      return function(p...);
    }
  }
};

/// Puts a fake behind an entry of a table.
template <auto function, class Entry>
void put(Entry& entry) {
  Noted<function>::name = entry.name();
  entry.set(&Noted<function>::call);
}

}  // namespace rp::fake
