#pragma once
// What the runtime hands out, given back by destructors.
#include <cstddef>
#include <utility>

#include "reprise/backends/cuda/api.h"

namespace rp::cuda {

class Stream {
 public:
  Stream() { runtime().cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); }
  ~Stream() { runtime().cudaStreamDestroy.raw(stream_); }
  Stream(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A place in a stream's work, without a time.
class Event {
 public:
  Event() { runtime().cudaEventCreateWithFlags(&event_, cudaEventDisableTiming); }
  ~Event() {
    if (event_) runtime().cudaEventDestroy.raw(event_);
  }
  Event(Event&& e) noexcept : event_(std::exchange(e.event_, nullptr)) {}
  Event& operator=(Event&& e) noexcept {
    std::swap(event_, e.event_);
    return *this;
  }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Memory of the host that the device reads and writes at the same address.
class PinnedBytes {
 public:
  explicit PinnedBytes(size_t bytes) {
    void* data = nullptr;
    runtime().cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
    data_ = static_cast<std::byte*>(data);
  }
  ~PinnedBytes() { runtime().cudaFreeHost.raw(data_); }
  PinnedBytes(const PinnedBytes&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
};

}  // namespace rp::cuda
