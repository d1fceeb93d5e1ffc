#pragma once
// Kernels that only measure, and device memory for them.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "reprise/backends/cuda/memory.h"
#include "reprise/backends/cuda/module.h"

namespace bench {

/// Device memory for the life of this object.
class CudaBytes {
 public:
  explicit CudaBytes(size_t bytes) : bytes_(bytes), data_(rp::cuda::allocate_bytes(bytes)) {}
  ~CudaBytes() { rp::cuda::release_bytes(data_, bytes_); }
  CudaBytes(const CudaBytes&) = delete;
  std::byte* data() const { return data_; }

 private:
  size_t bytes_;
  std::byte* data_;
};

/// Launches a text whose Args has the layout of `args`.
template <class Args>
void launch_text(const char* text, const rp::cuda::Launch& how, const Args& args) {
  rp::cuda::launch(rp::cuda::function_of(text), how, std::as_bytes(std::span(&args, 1)));
}

inline constexpr const char* copy_text = R"(
struct Args { const uint4* from; uint4* to; u64 count; };
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const u64 step = (u64)gridDim.x * 256;
  for (u64 i = (u64)blockIdx.x * 256 + threadIdx.x; i < args.count; i += step) args.to[i] = args.from[i];
}
)";
struct CopyArgs {
  const std::byte* from;
  std::byte* to;
  uint64_t count;  // of 16 bytes
};

/// Eight independent chains of fused multiply-adds in each thread.
inline constexpr const char* fma_text = R"(
struct Args { f32* out; f32 a; f32 b; u32 turns; };
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  f32 v[8], sum = 0;
  for (u32 i = 0; i < 8; ++i) v[i] = (f32)(threadIdx.x + i);
  for (u32 t = 0; t < args.turns; ++t)
#pragma unroll
    for (u32 i = 0; i < 8; ++i) v[i] = __fmaf_rn(v[i], args.a, args.b);
  for (u32 i = 0; i < 8; ++i) sum += v[i];
  if (sum == -1) *args.out = sum;
}
)";
inline constexpr int fmas_a_turn = 8;
struct FmaArgs {
  float* out;
  float a, b;
  uint32_t turns;
};

inline constexpr const char* empty_text = R"(
struct Args { u32 nothing; };
extern "C" __global__ void __launch_bounds__(32) kernel_entry(const __grid_constant__ Args args) {}
)";
struct EmptyArgs {
  uint32_t nothing = 0;
};

/// All blocks meet `times` times. The counter begins at 0.
inline constexpr const char* barrier_text = R"(
struct Args { u32* counter; u32 times; };
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  for (u32 t = 1; t <= args.times; ++t) {
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(args.counter, 1u);
      while (*(volatile u32*)args.counter < t * gridDim.x) {}
      __threadfence();
    }
    __syncthreads();
  }
}
)";
struct BarrierArgs {
  uint32_t* counter;
  uint32_t times;
};

/// What cuDNN says of the device, in its own words.
nlohmann::json cudnn_json();
/// Makes that product of bf16 with f32 accumulation by cuBLASLt's first choice of algorithm, on random bits; calls run
/// it once.
class LibraryProduct {
 public:
  explicit LibraryProduct(int64_t n);
  ~LibraryProduct();
  LibraryProduct(const LibraryProduct&) = delete;
  void operator()() const;

 private:
  struct State;
  State* state_;
};

}  // namespace bench
