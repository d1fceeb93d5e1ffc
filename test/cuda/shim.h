#pragma once
// Stands before the text of a kernel when that is compiled for the processor: what CUDA C has and C++ has not. The
// texts themselves are the same for both. Only headers of C are included, as every kernel pays for them.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "reprise/test/cuda/shim_thread.h"

#define RP_SHIM 1

#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__

namespace rp_shim {

inline const Thread* now = nullptr;
inline const Services* services = nullptr;

inline char* shared_memory() { return now->block->shared; }
inline unsigned cluster_rank() { return now->block->cluster_rank; }
inline char* peer_shared(char* shared, unsigned rank) { return services->peer(shared, rank); }

/// The value of another lane.
template <class T>
T shuffle(int line, unsigned mask, T value, int lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  T out;
  services->exchange(&value, sizeof value, &out, lane, mask, line);
  return out;
}

// Lanes are numbered within segments of `width`. Who names a lane outside gets its own value, but for `xor`, which
// reaches segments before its own.

template <class T>
T shuffle_to(int line, unsigned mask, T value, int lane, int width = 32) {
  const int own = static_cast<int>(now->lane);
  return shuffle(line, mask, value, (own & ~(width - 1)) | (lane & (width - 1)));
}
template <class T>
T shuffle_xor(int line, unsigned mask, T value, int distance, int width = 32) {
  const int own = static_cast<int>(now->lane), lane = own ^ distance;
  return shuffle(line, mask, value, lane <= (own | (width - 1)) ? lane : own);
}
template <class T>
T shuffle_down(int line, unsigned mask, T value, unsigned distance, int width = 32) {
  const int own = static_cast<int>(now->lane), lane = own + static_cast<int>(distance);
  return shuffle(line, mask, value, lane <= (own | (width - 1)) ? lane : own);
}
template <class T>
T shuffle_up(int line, unsigned mask, T value, unsigned distance, int width = 32) {
  const int own = static_cast<int>(now->lane), lane = own - static_cast<int>(distance);
  return shuffle(line, mask, value, lane >= (own & ~(width - 1)) ? lane : own);
}

inline unsigned ballot(int line, unsigned mask, int predicate) {
  const unsigned char mine = predicate ? 1 : 0;
  unsigned char all[32];
  services->exchange(&mine, 1, all, -1, mask, line);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; ++lane) bits |= (all[lane] == 1 ? 1u : 0u) << lane;
  return bits;
}
inline int all(int line, unsigned mask, int predicate) { return ballot(line, mask, !predicate) == 0; }
inline int any(int line, unsigned mask, int predicate) { return ballot(line, mask, predicate) != 0; }

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit casts keep the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

/// One thread runs at a time, so every access is atomic.
template <class T, class F>
T exchange_with(T* place, F next) {
  const T before = *place;
  *place = next(before);
  return before;
}

template <auto Function>
struct Entry;
template <class Args, void (*Function)(Args)>
struct Entry<Function> {
  static void call(const void* args) { Function(*static_cast<const Args*>(args)); }
  static constexpr Kernel kernel(unsigned max_threads) { return {call, sizeof(Args), alignof(Args), max_threads}; }
};

}  // namespace rp_shim

extern "C" __attribute__((visibility("default"), used)) inline const rp_shim::Thread** rp_shim_connect(
    const rp_shim::Services* services) {
  rp_shim::services = services;
  return &rp_shim::now;
}

// One of these follows the text for each of its kernels.
#define RP_SHIM_KERNEL(name, max_threads)                                                               \
  extern "C" __attribute__((visibility("default"), used)) const rp_shim::Kernel rp_shim_kernel_##name = \
      rp_shim::Entry<name>::kernel(max_threads);

#define threadIdx (rp_shim::now->index)
#define blockIdx (rp_shim::now->block->index)
#define blockDim (rp_shim::now->block->size)
#define gridDim (rp_shim::now->block->grid)
#define warpSize 32

#define __syncthreads() rp_shim::services->block_barrier(__LINE__)
#define __syncwarp(...) ((void)rp_shim::ballot(__LINE__, 0xFFFFFFFFu, 0))
#define __shfl_sync(...) rp_shim::shuffle_to(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) rp_shim::shuffle_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) rp_shim::shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) rp_shim::shuffle_up(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, predicate) rp_shim::ballot(__LINE__, mask, predicate)
#define __all_sync(mask, predicate) rp_shim::all(__LINE__, mask, predicate)
#define __any_sync(mask, predicate) rp_shim::any(__LINE__, mask, predicate)
// The barriers beyond a block are instructions, which the prelude names; here they are these.
#define RP_SHIM_GRID_BARRIER() rp_shim::services->grid_barrier(__LINE__)
#define RP_SHIM_CLUSTER_BARRIER() rp_shim::services->cluster_barrier(__LINE__)

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __trap() { rp_shim::services->trap("__trap()"); }

inline unsigned __float_as_uint(float x) { return rp_shim::bits<unsigned>(x); }
inline int __float_as_int(float x) { return rp_shim::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return rp_shim::bits<float>(x); }
inline float __int_as_float(int x) { return rp_shim::bits<float>(x); }
inline long long __double_as_longlong(double x) { return rp_shim::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return rp_shim::bits<double>(x); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class T>
T __ldg(const T* place) {
  return *place;
}
template <class T>
T __ldcg(const T* place) {
  return *place;
}
template <class T>
void __stcg(T* place, T value) {
  *place = value;
}

template <class T>
T atomicAdd(T* place, T value) {
  return rp_shim::exchange_with(place, [&](T before) { return static_cast<T>(before + value); });
}
template <class T>
T atomicMax(T* place, T value) {
  return rp_shim::exchange_with(place, [&](T before) { return before < value ? value : before; });
}
template <class T>
T atomicMin(T* place, T value) {
  return rp_shim::exchange_with(place, [&](T before) { return value < before ? value : before; });
}
template <class T>
T atomicExch(T* place, T value) {
  return rp_shim::exchange_with(place, [&](T) { return value; });
}
template <class T>
T atomicCAS(T* place, T expected, T value) {
  return rp_shim::exchange_with(place, [&](T before) { return before == expected ? value : before; });
}

// ---- the vectors of two and of four ----

struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) longlong2 {
  long long x, y;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
