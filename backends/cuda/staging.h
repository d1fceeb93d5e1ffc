#pragma once
// Pinned memory that copies between host and device go through.
#include <deque>
#include <mutex>
#include <vector>

#include "reprise/backends/cuda/handles.h"

namespace rp::cuda {

/// A ring of pinned memory: parts of it are taken, used by the device, and free again when the compute stream has come
/// to the place where that was noted.
class Ring {
 public:
  /// The most that is moved at once: two such are under way while a third is filled.
  static constexpr size_t chunk = size_t{4} << 20;
  static constexpr size_t size = 4 * chunk;

  /// The start of a part that is free; waits for the oldest ones if there is none.
  size_t take(size_t bytes);
  /// The part is in use until the compute stream comes to what is queued now.
  void commit(size_t begin, size_t bytes);
  /// Waits until the part that begins there is no longer in use, and those before it.
  void wait_for(size_t begin);
  std::byte* at(size_t begin) const { return host_.data() + begin; }

 private:
  struct Part {
    size_t begin;
    Event done;
  };
  void retire();

  PinnedBytes host_{size};
  std::deque<Part> parts_;  // oldest first
  std::vector<Event> spare_;
  size_t end_ = 0;  // of the newest part
};

/// From any memory of the host.
class Uploads {
 public:
  Uploads();
  ~Uploads();
  void copy(std::byte* to, const std::byte* from, size_t bytes);

 private:
  void copy_chunk(std::byte* to, const std::byte* from, size_t bytes);

  std::mutex mutex_;
  Ring ring_;
  Event arrived_;
  std::byte* device_ = nullptr;  // a part of it for each part of the ring
};

/// To any memory of the host.
class Downloads {
 public:
  void copy(std::byte* to, const std::byte* from, size_t bytes);

 private:
  std::mutex mutex_;
  Ring ring_;
};

}  // namespace rp::cuda
