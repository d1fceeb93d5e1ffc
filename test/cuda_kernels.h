#pragma once
// Small kernels and what runs them, for tests of the backend itself.
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "reprise/backends/cuda/memory.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/backends/cuda/stream.h"

namespace rp::cuda {

/// Device memory for n elements of T, for the life of this object.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t n) : n_(n), data_(allocate_bytes(n * sizeof(T))) {}
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { write(values); }
  ~Buffer() { release_bytes(data_, n_ * sizeof(T)); }
  Buffer(const Buffer&) = delete;

  void write(const std::vector<T>& values) const {
    copy(data_, reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T), Direction::to_device);
  }
  std::vector<T> read() const {
    std::vector<T> values(n_);
    copy(reinterpret_cast<std::byte*>(values.data()), data_, n_ * sizeof(T), Direction::to_host);
    return values;
  }
  T* data() const { return reinterpret_cast<T*>(data_); }
  std::byte* bytes() const { return data_; }

 private:
  size_t n_;
  std::byte* data_;
};

/// Launches a text whose Args has the layout of `args`.
template <class Args>
void launch_text(const std::string& text, const Launch& how, const Args& args) {
  launch(function_of(text), how, std::as_bytes(std::span(&args, 1)));
}

/// y[i] = x[i] * factor + i for i < n, in blocks of 64 threads.
inline constexpr const char* scale_text = R"(
struct Args { const f32* x; f32* y; f32 factor; u32 n; };
extern "C" __global__ void __launch_bounds__(64) kernel_entry(const __grid_constant__ Args args) {
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < args.n) args.y[i] = args.x[i] * args.factor + (f32)i;
}
)";
struct ScaleArgs {
  const float* x;
  float* y;
  float factor;
  uint32_t n;
};

}  // namespace rp::cuda
