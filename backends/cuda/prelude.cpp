#include "reprise/backends/cuda/prelude.h"

namespace rp::cuda {

constexpr std::string_view prelude = R"text(
typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned u32;
typedef long long i64;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;

#ifdef RP_SHIM
inline char* shared_memory() { return rp_shim::shared_memory(); }
#else
extern __shared__ uint4 dynamic_shared_memory[];
__device__ __forceinline__ char* shared_memory() { return (char*)dynamic_shared_memory; }
#endif

__device__ __forceinline__ u32 bits_of(i32 x) { return (u32)x; }
__device__ __forceinline__ u64 bits_of(i64 x) { return (u64)x; }
__device__ __forceinline__ u32 bits_of(f32 x) { return __float_as_uint(x); }
__device__ __forceinline__ u64 bits_of(f64 x) { return (u64)__double_as_longlong(x); }
__device__ __forceinline__ f32 f32_of(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ f64 f64_of(u64 bits) { return __longlong_as_double((i64)bits); }

// ---- 16-bit floats: f32 once loaded; what is stored has been rounded ----

struct f16 { u16 bits; };
struct bf16 { u16 bits; };

#ifdef RP_SHIM
inline f32 round_f16(f32 x) {
  const u32 sign = bits_of(x) & 0x80000000u, size = bits_of(x) & 0x7fffffffu;
  if (size > 0x7f800000u) return f32_of(sign | ((size | 0x400000u) & 0xffffe000u));
  if (size < 0x38800000u) return f32_of(sign | bits_of((f32_of(size) + 0.5f) - 0.5f));
  const u32 normal = (size + 0xfff + (size >> 13 & 1)) & 0xffffe000u;
  return f32_of(sign | (normal < 0x47800000u ? normal : 0x7f800000u));
}
inline f32 round_bf16(f32 x) {
  const u32 bits = bits_of(x), number = bits + 0x7fff + (bits >> 16 & 1);
  return f32_of((x != x ? bits | 0x400000u : number) & 0xffff0000u);
}
inline f32 to_f32(f16 x) {
  const u32 sign = (x.bits & 0x8000u) << 16, size = x.bits & 0x7fffu;
  if (size > 0x7c00u) return f32_of(sign | 0x7fc00000u | size << 13);
  if (size == 0x7c00u) return f32_of(sign | 0x7f800000u);
  return f32_of(sign | (size < 0x400u ? bits_of((f32)size * 5.9604645e-8f) : (size << 13) + 0x38000000u));
}
inline f16 to_f16(f32 x) {
  const u32 sign = bits_of(x) >> 16 & 0x8000u, size = bits_of(x) & 0x7fffffffu;
  if (size >= 0x7f800000u) return {(u16)(sign | 0x7c00u | (size >> 13 & 0x3ffu))};
  return {(u16)(sign | (size < 0x38800000u ? (u32)(f32_of(size) * 16777216.0f) : (size - 0x38000000u) >> 13))};
}
#else
__device__ __forceinline__ f16 to_f16(f32 x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
__device__ __forceinline__ f32 to_f32(f16 x) {
  f32 y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
__device__ __forceinline__ f32 round_f16(f32 x) { return to_f32(to_f16(x)); }
__device__ __forceinline__ f32 round_bf16(f32 x) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return f32_of((u32)bits << 16);
}
#endif
__device__ __forceinline__ f32 to_f32(bf16 x) { return f32_of((u32)x.bits << 16); }
__device__ __forceinline__ bf16 to_bf16(f32 x) {
  bf16 y;
  y.bits = (u16)(bits_of(x) >> 16);
  return y;
}

// What a kernel has of its run-time scalars: the numbers, or where on the device they are.
template <int N> struct Scalars {
  const u64* there;
  u64 here[N];
  __device__ __forceinline__ void get(u64* all) const {
#pragma unroll
    for (int i = 0; i < N; ++i) all[i] = there ? there[i] : here[i];
  }
};

// The greatest code stays, whichever thread comes first.
__device__ __forceinline__ void raise_error(int* word, int code) { atomicMax(word, code); }

// ---- integers wrap; a quotient by zero is zero ----

__device__ __forceinline__ u32 high_product(u32 a, u32 b) { return __umulhi(a, b); }
__device__ __forceinline__ u64 high_product(u64 a, u64 b) { return __umul64hi(a, b); }

__device__ __forceinline__ i32 wrap_add(i32 a, i32 b) { return (i32)((u32)a + (u32)b); }
__device__ __forceinline__ i64 wrap_add(i64 a, i64 b) { return (i64)((u64)a + (u64)b); }
__device__ __forceinline__ i32 wrap_sub(i32 a, i32 b) { return (i32)((u32)a - (u32)b); }
__device__ __forceinline__ i64 wrap_sub(i64 a, i64 b) { return (i64)((u64)a - (u64)b); }
__device__ __forceinline__ i32 wrap_mul(i32 a, i32 b) { return (i32)((u32)a * (u32)b); }
__device__ __forceinline__ i64 wrap_mul(i64 a, i64 b) { return (i64)((u64)a * (u64)b); }
__device__ __forceinline__ i32 wrap_neg(i32 a) { return (i32)(0 - (u32)a); }
__device__ __forceinline__ i64 wrap_neg(i64 a) { return (i64)(0 - (u64)a); }
__device__ __forceinline__ i32 wrap_abs(i32 a) { return a < 0 ? wrap_neg(a) : a; }
__device__ __forceinline__ i64 wrap_abs(i64 a) { return a < 0 ? wrap_neg(a) : a; }
__device__ __forceinline__ i32 wrap_div(i32 a, i32 b) { return b == 0 ? 0 : b == -1 ? wrap_neg(a) : a / b; }
__device__ __forceinline__ i64 wrap_div(i64 a, i64 b) { return b == 0 ? 0 : b == -1 ? wrap_neg(a) : a / b; }
__device__ __forceinline__ i32 wrap_rem(i32 a, i32 b) { return b == 0 || b == -1 ? 0 : a % b; }
__device__ __forceinline__ i64 wrap_rem(i64 a, i64 b) { return b == 0 || b == -1 ? 0 : a % b; }

// ---- floating numbers to integers: towards zero; the least integer for what does not fit ----

template <class T>
__device__ __forceinline__ i32 to_i32(T x) {
  return x >= (T)-2147483648.0 && x < (T)2147483648.0 ? (i32)x : -2147483647 - 1;
}
template <class T>
__device__ __forceinline__ i64 to_i64(T x) {
  const T bound = (T)9223372036854775808.0;
  return x >= -bound && x < bound ? (i64)x : -9223372036854775807LL - 1;
}

// ---- how reductions combine; a NaN stays ----

struct Sum {
  template <class T>
  __device__ __forceinline__ static T identity() { return 0; }
  __device__ __forceinline__ static f32 of(f32 a, f32 b) { return a + b; }
  __device__ __forceinline__ static f64 of(f64 a, f64 b) { return a + b; }
  __device__ __forceinline__ static i32 of(i32 a, i32 b) { return wrap_add(a, b); }
  __device__ __forceinline__ static i64 of(i64 a, i64 b) { return wrap_add(a, b); }
};
struct Product {
  template <class T>
  __device__ __forceinline__ static T identity() { return 1; }
  __device__ __forceinline__ static f32 of(f32 a, f32 b) { return a * b; }
  __device__ __forceinline__ static f64 of(f64 a, f64 b) { return a * b; }
  __device__ __forceinline__ static i32 of(i32 a, i32 b) { return wrap_mul(a, b); }
  __device__ __forceinline__ static i64 of(i64 a, i64 b) { return wrap_mul(a, b); }
};

template <class T> struct Range;
template <> struct Range<f32> {
  __device__ __forceinline__ static f32 least() { return f32_of(0xff800000u); }
  __device__ __forceinline__ static f32 most() { return f32_of(0x7f800000u); }
};
template <> struct Range<f64> {
  __device__ __forceinline__ static f64 least() { return f64_of(0xfff0000000000000ull); }
  __device__ __forceinline__ static f64 most() { return f64_of(0x7ff0000000000000ull); }
};
template <> struct Range<i32> {
  __device__ __forceinline__ static i32 least() { return -2147483647 - 1; }
  __device__ __forceinline__ static i32 most() { return 2147483647; }
};
template <> struct Range<i64> {
  __device__ __forceinline__ static i64 least() { return -9223372036854775807ll - 1; }
  __device__ __forceinline__ static i64 most() { return 9223372036854775807ll; }
};

struct Max {
  template <class T>
  __device__ __forceinline__ static T identity() { return Range<T>::least(); }
  template <class T>
  __device__ __forceinline__ static T of(T a, T b) { return b != b ? b : b > a ? b : a; }
};
struct Min {
  template <class T>
  __device__ __forceinline__ static T identity() { return Range<T>::most(); }
  template <class T>
  __device__ __forceinline__ static T of(T a, T b) { return b != b ? b : b < a ? b : a; }
};

// The combination of 16 threads' values, lane i with lane i + 8, then 4, 2, 1; every one of the 16 gets it. The whole
// warp calls it.
template <class Combine, class T>
__device__ __forceinline__ T combine_lanes(T value) {
#pragma unroll
  for (u32 apart = 8; apart; apart /= 2) value = Combine::of(value, __shfl_down_sync(0xffffffffu, value, apart, 16));
  return __shfl_sync(0xffffffffu, value, 0, 16);
}

// The combination of each leaf of 4096 values, by 16 threads each that go through it in order: into parts[0], parts[1]
// and so on. Threads from 16 * `first` on take part, for up to `leaves` leaves, an even number: whole warps.
template <class Combine, class T>
__device__ __forceinline__ void combine_leaves(const T* values, u32 count, T* parts, u32 first, u32 leaves) {
  const u32 leaf = threadIdx.x / 16 - first, lane = threadIdx.x % 16;
  if (leaf >= leaves) return;
  const u32 begin = leaf * 4096, end = begin + 4096 < count ? begin + 4096 : count;
  T value = Combine::template identity<T>();
#pragma unroll 8
  for (u32 i = begin + lane; i < end; i += 16) value = Combine::of(value, values[i]);
  value = combine_lanes<Combine>(value);
  if (lane == 0 && begin < count) parts[leaf] = value;
}

// The combination of `count` leaves: neighbours, then neighbours of those. It ends in the first value. All threads of
// the block call it, when the values are there.
template <class Combine, class T>
__device__ __forceinline__ void combine_parts(T* parts, u32 count) {
  for (u32 apart = 1; apart < count; apart *= 2) {
    for (u32 i = threadIdx.x * 2 * apart; i + apart < count; i += blockDim.x * 2 * apart)
      parts[i] = Combine::of(parts[i], parts[i + apart]);
    __syncthreads();
  }
}

// The same of parts in global memory, `results` values apart, for several results side by side: a thread gets that of
// its place. `shared` has room for count * places values.
template <class Combine, class T>
__device__ __forceinline__ T combine_apart(const T* parts, u32 count, u64 results, bool inside, u32 places, T* shared) {
  const u32 place = threadIdx.x % places, height = blockDim.x / places, y = threadIdx.x / places;
  if (inside && y < height)
    for (u32 i = y; i < count; i += height) shared[i * places + place] = parts[i * results];
  __syncthreads();
  for (u32 apart = 1; apart < count; apart *= 2) {
    if (inside && y < height)
      for (u32 i = y * 2 * apart; i + apart < count; i += height * 2 * apart)
        shared[i * places + place] = Combine::of(shared[i * places + place], shared[(i + apart) * places + place]);
    __syncthreads();
  }
  const T value = shared[place];
  __syncthreads();
  return value;
}

// The combination of 16 lanes that lie `step` values apart, in the order of `combine_lanes`: here of every `apart`th of
// them. Loops over an array would not all be unrolled, and an array with a computed index is not in registers.
template <class Combine, u32 apart = 1, class T>
__device__ __forceinline__ T combine_column(const T* lanes, u32 step) {
  if constexpr (apart == 16)
    return *lanes;
  else
    return Combine::of(combine_column<Combine, 2 * apart>(lanes, step),
                       combine_column<Combine, 2 * apart>(lanes + apart * step, step));
}

// ---- vectors: n elements that lie together, aligned as a whole (to 16 bytes at most) ----

template <class T, u32 n>
struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Vector {
  T at[n];
  __device__ __forceinline__ T& operator[](u32 i) { return at[i]; }
};
template <u32 n, class T>
__device__ __forceinline__ Vector<T, n> load_vector(const T* from) {
  return *(const Vector<T, n>*)from;
}
template <class T, u32 n>
__device__ __forceinline__ void store_vector(T* to, Vector<T, n> v) {
  *(Vector<T, n>*)to = v;
}
// The first `count` of n elements, at any alignment; the others are the first one's.
template <u32 n, class T>
__device__ __forceinline__ Vector<T, n> load_part(const T* from, u32 count) {
  Vector<T, n> v;
#pragma unroll
  for (u32 i = 0; i < n; ++i) v[i] = from[i < count ? i : 0];
  return v;
}

// ---- several tensors in one launch ----

// Which of them a block works on: the last of `count`, a power of two, whose blocks start no later.
__device__ __forceinline__ u32 member_of(const u32* first_block, u32 count, u32 block) {
  u32 member = 0;
  for (u32 half = count / 2; half; half /= 2)
    if (first_block[member + half] <= block) member += half;
  return member;
}

// ---- division by a number that is known before the launch, of numbers below 2^31 or 2^63 ----

template <class Index>
struct Divisor {
  Index value, multiplier, shift;
};
template <class Index>
__device__ __forceinline__ Index quotient(Index n, Divisor<Index> by) {
  return (high_product(n, by.multiplier) + n) >> by.shift;
}

// ---- tiles: 16 x 8 sums of 16 products each; a warp has all of it ----

#ifdef RP_SHIM
// Lane 4 * g + q has of the left operand rows g and g + 8 at columns 2 * q and 2 * q + 1, then both 8 columns on; of the
// right one column g at rows 2 * q and 2 * q + 1, then 8 rows on; of the sums rows g and g + 8 at columns 2 * q and
// 2 * q + 1.
template <class T>
inline void multiply_tile(f32 (&sums)[4], uint4 a, u32 low, u32 high) {
  struct Operands { u32 a[4], b[2]; } mine = {{a.x, a.y, a.z, a.w}, {low, high}}, all[32];
  rp_shim::services->exchange(&mine, sizeof mine, all, -1, 0xffffffffu, __LINE__);
  const u32 lane = rp_shim::now->lane;
  const auto number = [](u32 pair, u32 k) { return to_f32(T{(u16)(pair >> (k % 2 * 16))}); };
  for (u32 i = 0; i < 4; ++i)
    for (u32 k = 0; k < 16; ++k) {
      const u32 row = lane / 4 * 4 + k % 8 / 2, column = (lane % 4 * 2 + i % 2) * 4 + k % 8 / 2;
      sums[i] += number(all[row].a[i / 2 + k / 8 * 2], k) * number(all[column].b[k / 8], k);
    }
}
#else
template <class T> struct Tile;
template <> struct Tile<f16> {
  __device__ __forceinline__ static void multiply(f32 (&s)[4], uint4 a, u32 low, u32 high) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(low), "r"(high));
  }
};
template <> struct Tile<bf16> {
  __device__ __forceinline__ static void multiply(f32 (&s)[4], uint4 a, u32 low, u32 high) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(low), "r"(high));
  }
};
template <class T>
__device__ __forceinline__ void multiply_tile(f32 (&sums)[4], uint4 a, u32 low, u32 high) {
  Tile<T>::multiply(sums, a, low, high);
}
#endif

// ---- between blocks that are there at the same time ----

#ifdef RP_SHIM

inline void cluster_barrier() { RP_SHIM_CLUSTER_BARRIER(); }
inline void grid_barrier(u64*, u32) { RP_SHIM_GRID_BARRIER(); }
template <class T>
void store_to_peer(T* place, u32 rank, T value) {
  *(T*)rp_shim::peer_shared((char*)place, rank) = value;
}
template <class T>
T load_fresh(const T* from) {
  return *from;
}
template <u32 most>
struct Copies {
  const uint4* from[most];
  uint4* to[most];
  u32 count = 0;
  void start(const void* source, void* target) {
    from[count] = (const uint4*)source;
    to[count++] = (uint4*)target;
  }
  void wait() {
    for (u32 i = 0; i < count; ++i) *to[i] = *from[i];
    count = 0;
  }
};

#else

// All threads of the cluster; what they have stored until then is seen by all.
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// All threads of `blocks` blocks. The word counts who has come below its upper half, which counts the meetings; it was
// zero once, and who comes last leaves none there.
__device__ __forceinline__ void grid_barrier(u64* word, u32 blocks) {
  __syncthreads();
  if (threadIdx.x == 0) {
    u64 before, now;
    asm volatile("atom.add.acq_rel.gpu.global.u64 %0, [%1], 1;" : "=l"(before) : "l"(word) : "memory");
    const u64 meeting = before >> 32;
    if ((u32)before + 1 == blocks)
      asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(word), "l"((meeting + 1) << 32) : "memory");
    else
      do asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(now) : "l"(word) : "memory");
      while (now >> 32 == meeting);
  }
  __syncthreads();
}

// Into the same place of the shared memory of a block of the cluster.
template <class T>
__device__ __forceinline__ void store_to_peer(T* place, u32 rank, T value) {
  const u32 own = (u32)__cvta_generic_to_shared(place);
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(own), "r"(rank));
  if (sizeof(T) == 8)
    asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(there), "l"(*(u64*)&value) : "memory");
  else if (sizeof(T) == 2)
    asm volatile("st.shared::cluster.u16 [%0], %1;" ::"r"(there), "h"(*(u16*)&value) : "memory");
  else
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(*(u32*)&value) : "memory");
}

// 2, 4 or 8 bytes as other blocks have stored them.
template <class T>
__device__ __forceinline__ T load_fresh(const T* from) {
  union {
    u64 wide;
    u32 word;
    u16 half;
    T value;
  } bits;
  if (sizeof(T) == 8)
    bits.wide = __ldcg((const u64*)from);
  else if (sizeof(T) == 2)
    bits.half = __ldcg((const u16*)from);
  else
    bits.word = __ldcg((const u32*)from);
  return bits.value;
}

// A thread's copies of 16 bytes, at most so many at once, from what other blocks have stored to shared memory: they go
// on while it computes, and are there after `wait`.
template <u32 most>
struct Copies {
  __device__ __forceinline__ void start(const void* from, void* to) {
    const u32 place = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
  }
  __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
};

#endif
)text";

}  // namespace rp::cuda
