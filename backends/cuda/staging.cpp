#include "reprise/backends/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "reprise/backends/cuda/stream.h"

namespace rp::cuda {
namespace {

/// Larger uploads cross to the device while the compute stream is busy; for smaller ones that is not worth the calls.
constexpr size_t ahead_bytes = 64 << 10;

size_t rounded(size_t bytes) {
  constexpr size_t alignment = 256;
  return (bytes + alignment - 1) / alignment * alignment;
}

/// After a failure: what is under way from a part that was not committed must not meet the next copy.
void settle() noexcept {
  runtime().cudaStreamSynchronize.raw(copy_stream());
  runtime().cudaStreamSynchronize.raw(compute_stream());
}

}  // namespace

void Ring::retire() {
  Part& oldest = parts_.front();
  runtime().cudaEventSynchronize(oldest.done);
  spare_.push_back(std::move(oldest.done));
  parts_.pop_front();
}

size_t Ring::take(size_t bytes) {
  bytes = rounded(bytes);
  for (; !parts_.empty(); retire()) {
    const size_t oldest = parts_.front().begin;
    if (end_ > oldest) {  // free: what follows the newest part, and what stands before the oldest
      if (end_ + bytes <= size) return end_;
      if (bytes <= oldest) return 0;
    } else if (end_ + bytes <= oldest) {
      return end_;
    }
  }
  return 0;
}

void Ring::commit(size_t begin, size_t bytes) {
  if (spare_.empty()) spare_.emplace_back();
  runtime().cudaEventRecord(spare_.back(), compute_stream());
  parts_.push_back({begin, std::move(spare_.back())});
  spare_.pop_back();
  end_ = begin + rounded(bytes);
}

void Ring::wait_for(size_t begin) {
  for (bool found = false; !found;) {
    found = parts_.front().begin == begin;
    retire();
  }
}

Uploads::Uploads() {
  void* data = nullptr;
  runtime().cudaMallocAsync(&data, Ring::size, compute_stream());
  const cudaError_t status = runtime().cudaStreamSynchronize.raw(compute_stream());  // the copy stream uses it, too
  if (status != cudaSuccess) runtime().cudaFreeAsync.raw(data, compute_stream());
  check(status, "cudaStreamSynchronize");
  device_ = static_cast<std::byte*>(data);
}

Uploads::~Uploads() { runtime().cudaFreeAsync.raw(device_, compute_stream()); }

void Uploads::copy(std::byte* to, const std::byte* from, size_t bytes) {
  const std::lock_guard lock(mutex_);
  try {
    for (size_t at = 0; at < bytes; at += Ring::chunk)
      copy_chunk(to + at, from + at, std::min(Ring::chunk, bytes - at));
  } catch (...) {
    settle();
    throw;
  }
}

void Uploads::copy_chunk(std::byte* to, const std::byte* from, size_t bytes) {
  const Runtime& cuda = runtime();
  const size_t begin = ring_.take(bytes);
  std::memcpy(ring_.at(begin), from, bytes);
  if (bytes < ahead_bytes) {
    cuda.cudaMemcpyAsync(to, ring_.at(begin), bytes, cudaMemcpyHostToDevice, compute_stream());
  } else {
    cuda.cudaMemcpyAsync(device_ + begin, ring_.at(begin), bytes, cudaMemcpyHostToDevice, copy_stream());
    cuda.cudaEventRecord(arrived_, copy_stream());
    cuda.cudaStreamWaitEvent(compute_stream(), arrived_, 0);
    cuda.cudaMemcpyAsync(to, device_ + begin, bytes, cudaMemcpyDeviceToDevice, compute_stream());
  }
  ring_.commit(begin, bytes);
}

void Downloads::copy(std::byte* to, const std::byte* from, size_t bytes) {
  const std::lock_guard lock(mutex_);
  struct Chunk {
    std::byte* to;
    size_t bytes, begin;
  };
  std::deque<Chunk> under_way;
  const auto finish = [&] {
    const Chunk c = under_way.front();
    under_way.pop_front();
    ring_.wait_for(c.begin);
    std::memcpy(c.to, ring_.at(c.begin), c.bytes);
  };
  try {
    for (size_t at = 0; at < bytes; at += Ring::chunk) {
      if (under_way.size() == 2) finish();
      const size_t n = std::min(Ring::chunk, bytes - at), begin = ring_.take(n);
      runtime().cudaMemcpyAsync(ring_.at(begin), from + at, n, cudaMemcpyDeviceToHost, compute_stream());
      ring_.commit(begin, n);
      under_way.push_back({to + at, n, begin});
    }
    while (!under_way.empty()) finish();
  } catch (...) {
    settle();
    throw;
  }
}

}  // namespace rp::cuda
