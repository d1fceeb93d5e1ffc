#include "reprise/backends/cuda/scan_text.h"

namespace rp::cuda {

// BLOCKS share the units of a slice of ROWS rows of a batch of BATCH; a thread has EACH of those rows.
constexpr std::string_view scan_pieces = R"text(
// Behind the last row of the batch it is there again: threads without a row do as others, and store nothing.
__device__ __forceinline__ u32 row_of(u32 row) { return row < BATCH ? row : BATCH - 1; }

__device__ __forceinline__ f32 multiply_add(f32 a, f32 b, f32 c) { return fmaf(a, b, c); }
__device__ __forceinline__ f64 multiply_add(f64 a, f64 b, f64 c) { return fma(a, b, c); }

// The columns of a factor that a block needs. Column `lane` of group g is that of the block's unit `lane`; V elements
// along k lie together, then those of the next lane.
template <class T, u32 INNER, u32 GROUPS, u32 LANES, u32 UNITS>
__device__ __forceinline__ void take_factor(const T* from, i64 row, i64 column, u32 first, T* to) {
  constexpr u32 V = 16 / sizeof(T);
  for (u32 e = threadIdx.x; e < INNER * GROUPS * LANES; e += THREADS) {
    const u32 lane = e % LANES, g = e / LANES % GROUPS, k = e / (LANES * GROUPS);
    const u32 unit = first + lane < UNITS ? first + lane : UNITS - 1;
    to[((k / V * GROUPS + g) * LANES + lane) * V + k % V] = from[k * row + (i64)(g * UNITS + unit) * column];
  }
}

template <class T, u32 COUNT, u32 GROUPS, u32 LANES, u32 PITCH, bool ALIGNED>
__device__ __forceinline__ void add_products(const T* left, const T* factor, T (&sums)[GROUPS][EACH]) {
  constexpr u32 V = 16 / sizeof(T);
  Vector<T, V> a, b[GROUPS];
#pragma unroll
  for (u32 g = 0; g < GROUPS; ++g) b[g] = load_vector<V>(factor + g * LANES * V);
#pragma unroll
  for (u32 j = 0; j < EACH; ++j) {
    a = ALIGNED ? load_vector<V>(left + j * PITCH) : load_part<V>(left + j * PITCH, COUNT);
#pragma unroll
    for (u32 i = 0; i < COUNT; ++i)
#pragma unroll
      for (u32 g = 0; g < GROUPS; ++g) sums[g][j] = multiply_add(a[i], b[g][i], sums[g][j]);
  }
}

template <class T, u32 INNER, u32 GROUPS, u32 LANES, u32 PITCH, bool ALIGNED>
__device__ __forceinline__ void add_all_products(const T* left, const T* factor, T (&sums)[GROUPS][EACH]) {
  constexpr u32 V = 16 / sizeof(T), WHOLE = INNER / V * V, TURNS = 64 / (V * GROUPS * EACH);
#pragma unroll (TURNS < 2 ? 2 : TURNS)
  for (u32 k = 0; k < WHOLE; k += V)
    add_products<T, V, GROUPS, LANES, PITCH, ALIGNED>(left + k, factor + k * (GROUPS * LANES), sums);
  if (WHOLE < INNER)
    add_products<T, INNER - WHOLE, GROUPS, LANES, PITCH, ALIGNED>(left + WHOLE, factor + WHOLE * (GROUPS * LANES),
                                                                  sums);
}

template <class T, u32 GROUPS>
__device__ __forceinline__ void clear(T (&sums)[GROUPS][EACH]) {
#pragma unroll
  for (u32 g = 0; g < GROUPS; ++g)
#pragma unroll
    for (u32 j = 0; j < EACH; ++j) sums[g][j] = 0;
}

// A thread's rows times the columns of its unit: each sum starts at zero and goes on in the order of k.
template <class T, u32 INNER, u32 GROUPS, u32 LANES, u32 PITCH, bool ALIGNED>
__device__ __forceinline__ void multiply(const T* left, const T* factor, T (&sums)[GROUPS][EACH]) {
  clear(sums);
  add_all_products<T, INNER, GROUPS, LANES, PITCH, ALIGNED>(left, factor, sums);
}

// As many of the slice's columns as `COUNT`, without those that a vector begins behind.
template <class T, u32 COUNT, u32 FROM, u32 PITCH, class All>
__device__ __forceinline__ void start_rows(All& copies, const T* from, T* to) {
  constexpr u32 V = 16 / sizeof(T), EACH_ROW = (COUNT + V - 1) / V;
  for (u32 e = threadIdx.x; e < ROWS * EACH_ROW; e += THREADS)
    copies.start(from + e / EACH_ROW * FROM + e % EACH_ROW * V, to + e / EACH_ROW * PITCH + e % EACH_ROW * V);
}

// The same with rows that others have handed over, FROM apart, CHUNK columns at a time: while these are multiplied, the
// next ones are on their way. `buffers` holds two of them. Threads that do not multiply take part in that.
template <class T, u32 INNER, u32 GROUPS, u32 LANES, u32 FROM, u32 CHUNK>
__device__ __forceinline__ void multiply_handed(const T* from, u32 strip, const T* factor, bool multiplies, T* buffers,
                                                T (&sums)[GROUPS][EACH]) {
  constexpr u32 V = 16 / sizeof(T), PITCH = CHUNK + V, WHOLE = (INNER - 1) / CHUNK, LAST = INNER - WHOLE * CHUNK;
  constexpr u32 FIRST = WHOLE ? CHUNK : LAST;
  Copies<(ROWS * (CHUNK / V) + THREADS - 1) / THREADS> copies;
  clear(sums);
  __syncthreads();
  start_rows<T, FIRST, FROM, PITCH>(copies, from, buffers);
#pragma unroll 1
  for (u32 c = 0; c < WHOLE; ++c) {
    copies.wait();
    __syncthreads();
    T* const next = buffers + (c + 1) % 2 * (ROWS * PITCH);
    if (c + 1 < WHOLE)
      start_rows<T, CHUNK, FROM, PITCH>(copies, from + (c + 1) * CHUNK, next);
    else
      start_rows<T, LAST, FROM, PITCH>(copies, from + (c + 1) * CHUNK, next);
    if (multiplies)
      add_all_products<T, CHUNK, GROUPS, LANES, PITCH, true>(buffers + (c % 2 * ROWS + strip) * PITCH,
                                                             factor + c * (CHUNK * GROUPS * LANES), sums);
  }
  copies.wait();
  __syncthreads();
  if (multiplies)
    add_all_products<T, LAST, GROUPS, LANES, PITCH, true>(buffers + (WHOLE % 2 * ROWS + strip) * PITCH,
                                                          factor + WHOLE * (CHUNK * GROUPS * LANES), sums);
}

// The slice's rows of a matrix.
template <class T, u32 COLUMNS, u32 PITCH>
__device__ __forceinline__ void take_rows(const T* from, i64 row, u32 first, T* to) {
  for (u32 e = threadIdx.x; e < ROWS * COLUMNS; e += THREADS)
    to[e / COLUMNS * PITCH + e % COLUMNS] = from[row_of(first + e / COLUMNS) * row + e % COLUMNS];
}

// What all blocks have handed over, FROM apart.
template <class T, u32 COLUMNS, u32 FROM, u32 PITCH>
__device__ __forceinline__ void fetch_rows(const T* from, T* to) {
  constexpr u32 V = 16 / sizeof(T);
  if (COLUMNS % V == 0) {
    Copies<(ROWS * (COLUMNS / V) + THREADS - 1) / THREADS> copies;
    start_rows<T, COLUMNS, FROM, PITCH>(copies, from, to);
    copies.wait();
    return;
  }
  for (u32 e = threadIdx.x; e < ROWS * COLUMNS; e += THREADS)
    to[e / COLUMNS * PITCH + e % COLUMNS] = load_fresh(from + e / COLUMNS * FROM + e % COLUMNS);
}

// What elements are added up as, and what becomes of a sum.
template <class T> struct Wide {
  typedef T Type;
  __device__ __forceinline__ static T of(T x) { return x; }
  __device__ __forceinline__ static T back(T x) { return x; }
};
template <> struct Wide<f16> {
  typedef f32 Type;
  __device__ __forceinline__ static f32 of(f16 x) { return to_f32(x); }
  __device__ __forceinline__ static f16 back(f32 x) { return to_f16(round_f16(x)); }
};
template <> struct Wide<bf16> {
  typedef f32 Type;
  __device__ __forceinline__ static f32 of(bf16 x) { return to_f32(x); }
  __device__ __forceinline__ static bf16 back(f32 x) { return to_bf16(round_bf16(x)); }
};

// A value for each row: 16 threads take its columns in turn, then combine what they have.
template <class Combine, class T, u32 COLUMNS, u32 PITCH>
__device__ __forceinline__ void reduce_rows(const T* from, T* to) {
  typedef typename Wide<T>::Type W;
  const u32 lane = threadIdx.x % 16;
  for (u32 first = 0; first < ROWS; first += THREADS / 16) {
    const u32 row = first + threadIdx.x / 16;
    const T* const of_row = from + (row < ROWS ? row : 0) * PITCH;
    W value = Combine::template identity<W>();
    for (u32 c = lane; c < COLUMNS; c += 16) value = Combine::of(value, Wide<T>::of(of_row[c]));
    value = combine_lanes<Combine>(value);
    if (lane == 0 && row < ROWS) to[row] = Wide<T>::back(value);
  }
}

template <class T>
__device__ __forceinline__ void share(T* place, T value) {
  if (CLUSTER)
#pragma unroll
    for (u32 block = 0; block < BLOCKS; ++block) store_to_peer(place, block, value);
  else
    *place = value;
}
)text";

}  // namespace rp::cuda
