#pragma once
// What a plan asks of the device, as a list: it is launched piece by piece, or made into a CUDA graph that is launched
// at once.
#include <cuda_runtime_api.h>

#include <span>
#include <string>
#include <vector>

#include "reprise/backends/cuda/module.h"

namespace rp::cuda {

/// What a library does at a launch. It may be asked to do so more than once.
class LibraryWork {
 public:
  virtual ~LibraryWork() = default;
  /// Queues it on a stream. `args` is what was launched with.
  virtual void queue(std::span<const std::byte> args, cudaStream_t stream) const = 0;
};

/// Queues it on the compute stream, or adds it to the thread's active LaunchList. `work` must live as long as the list,
/// and what it makes of `args` must not depend on anything else.
void launch(const LibraryWork& work, std::span<const std::byte> args);

class LaunchList {
 public:
  enum class Kind : uint8_t { kernel, copy, fill, library };
  struct Work {
    Kind kind;
    const Function* function = nullptr;
    Launch how{};
    size_t args = 0, args_bytes = 0;  // in the list's bytes
    std::byte* to = nullptr;
    const std::byte* from = nullptr;
    size_t bytes = 0;
    std::byte value{};
    const LibraryWork* library = nullptr;
  };

  /// The list that the calling thread's launches, copies and fills go to, null if they go to the device.
  static LaunchList* active();

  /// While it lives, a list is active on the calling thread.
  class Scope {
   public:
    explicit Scope(LaunchList& list);
    ~Scope();
    Scope(const Scope&) = delete;
  };

  void add(const Function& function, const Launch& how, std::span<const std::byte> args);
  void add(const LibraryWork& work, std::span<const std::byte> args);
  void add_copy(std::byte* to, const std::byte* from, size_t bytes);
  void add_fill(std::byte* to, std::byte value, size_t bytes);

  /// Something is about to happen that no list can hold (a read on the host, say): what is listed is launched now, and
  /// the rest of the scope goes to the device at once.
  void leave(std::string why);
  /// Why it was left; empty if it was not.
  const std::string& left() const { return left_; }

  /// Begins anew, for launches that take `scalars`, which must live while the list is active, or others. If there is a
  /// block, launches find their scalars there, as many as it has room for: kernels in front of the list, whose
  /// arguments have the numbers, bring it up to date.
  void begin(std::span<const uint64_t> scalars, std::span<uint64_t> block);
  /// Where a launch's scalars will be on the device; null if it has to bring them.
  const uint64_t* place(std::span<const uint64_t> scalars);
  /// How many scalars launches had that were not among those the list began with.
  size_t others() const { return others_; }
  /// The kernels in front.
  size_t loads() const { return loads_; }
  /// Gives one of them what it has of the scalars that the list began with. Whether any are new.
  bool load(size_t i, std::span<const uint64_t> scalars);
  const std::vector<Work>& works() const { return works_; }
  std::span<const std::byte> args(const Work& work) const { return {args_.data() + work.args, work.args_bytes}; }
  /// Puts everything on the compute stream, piece by piece.
  void launch() const;
  /// The same kernels, transfers and libraries' works on as many blocks and bytes, though on other addresses and
  /// numbers.
  bool same_shape(const LaunchList& other) const;
  /// The same but for the kernels in front.
  bool alike(const LaunchList& other) const;
  /// Whether piece `i`, of the same shape in both, has the same addresses and numbers.
  bool same_work(const LaunchList& other, size_t i) const;

 private:
  size_t keep(std::span<const std::byte> args);
  std::byte* loaded(size_t i) { return args_.data() + works_[i].args; }
  bool same_from(const LaunchList& other, size_t own, size_t others) const;

  std::vector<Work> works_;
  std::vector<std::byte> args_;
  std::string left_;
  std::span<const uint64_t> scalars_;
  std::span<uint64_t> block_;  // on the device
  size_t placed_ = 0, others_ = 0, loads_ = 0;
};

}  // namespace rp::cuda
