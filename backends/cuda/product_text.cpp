#include "reprise/backends/cuda/product_text.h"

namespace rp::cuda {

// A block computes a tile of ROWS x COLUMNS sums, each thread R x C of them in groups of a vector's length: lane
// (y, x) of warp (wy, wx) has rows wy * LANES_Y * R + g * LANES_Y * V + y * V + [0, V) for every group g, columns
// likewise. So what the lanes of a warp read of a tile lies together.
//
// Sums start at zero and go on by fma in the order of k, whatever the tile. Where k ends inside of a tile the left
// factor is filled up with negative zeros and the right one with zeros: their product, a negative zero, changes no sum.
constexpr std::string_view product_tile_text = R"text(
constexpr int V = 16 / sizeof(T), LANES_Y = 32 / LANES_X, WARPS_X = COLUMNS / (LANES_X * C);
constexpr int LEFT_PITCH = ROWS + (R < V ? R : V), RIGHT_PITCH = COLUMNS + (C < V ? C : V);
typedef Vector<T, V> Pack;

__device__ __forceinline__ f32 multiply_add(f32 a, f32 b, f32 c) { return fmaf(a, b, c); }
__device__ __forceinline__ f64 multiply_add(f64 a, f64 b, f64 c) { return fma(a, b, c); }
__device__ __forceinline__ i32 multiply_add(i32 a, i32 b, i32 c) { return wrap_add(wrap_mul(a, b), c); }
__device__ __forceinline__ i64 multiply_add(i64 a, i64 b, i64 c) { return wrap_add(wrap_mul(a, b), c); }
__device__ __forceinline__ f32 plus(f32 a, f32 b) { return a + b; }
__device__ __forceinline__ f64 plus(f64 a, f64 b) { return a + b; }
__device__ __forceinline__ i32 plus(i32 a, i32 b) { return wrap_add(a, b); }
__device__ __forceinline__ i64 plus(i64 a, i64 b) { return wrap_add(a, b); }

__device__ __forceinline__ i64 least(i64 a, i64 b) { return a < b ? a : b; }

// Which packs of a factor's tile (SIDE x DEPTH elements) a thread brings: along k, up to eight of one row lie in
// neighbouring threads; otherwise those of one k do.
template <int SIDE, bool along_k>
struct Packs {
  static constexpr int COUNT = SIDE * DEPTH / (THREADS * V), NEAR = DEPTH / V < 8 ? DEPTH / V : 8;
  __device__ __forceinline__ static int side(int i) {
    const int e = threadIdx.x + i * THREADS;
    return along_k ? e / NEAR % SIDE : e % (SIDE / V) * V;
  }
  __device__ __forceinline__ static int depth(int i) {
    const int e = threadIdx.x + i * THREADS;
    return along_k ? (e / (NEAR * SIDE) * NEAR + e % NEAR) * V : e / (SIDE / V);
  }
  // Into a tile whose element (side, k) stands at k * PITCH + side.
  template <int PITCH>
  __device__ __forceinline__ static void store(const Pack (&packs)[COUNT], T* tile) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      T* const to = tile + depth(i) * PITCH + side(i);
      if (!along_k && PITCH % V == 0)
        store_vector(to, packs[i]);
      else
#pragma unroll
        for (int j = 0; j < V; ++j) to[along_k ? j * PITCH : j] = packs[i].at[j];
    }
  }
};

template <int N>
__device__ __forceinline__ void read_groups(const T* from, int apart, T (&to)[N]) {
  constexpr int W = N < V ? N : V;
#pragma unroll
  for (int g = 0; g < N / W; ++g) {
    const Vector<T, W> group = load_vector<W>(from + g * apart);
#pragma unroll
    for (int j = 0; j < W; ++j) to[g * W + j] = group.at[j];
  }
}

__device__ __forceinline__ void multiply(const T* left, const T* right, T (&sums)[R][C]) {
#pragma unroll UNROLL
  for (int k = 0; k < DEPTH; ++k) {
    T a[R], b[C];
    read_groups(left + k * LEFT_PITCH, LANES_Y * V, a);
    read_groups(right + k * RIGHT_PITCH, LANES_X * V, b);
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < C; ++j) sums[i][j] = multiply_add(a[i], b[j], sums[i][j]);
  }
}
)text";

// Two tiles of each factor are in shared memory: while one is multiplied, the next is on its way through registers.
// Finished sums go through shared memory in PARTS, so that the threads of a warp finish neighbours in a row. What they
// read is read before anything is written: loads do not wait for each other.
constexpr std::string_view product_kernel_text = R"text(
constexpr int LEFT_TILE = DEPTH * LEFT_PITCH, RIGHT_TILE = DEPTH * RIGHT_PITCH;
constexpr int PART_ROWS = ROWS / PARTS, EACH = R / PARTS, PART_PITCH = COLUMNS + V;
constexpr int AT_ONCE = PART_ROWS * COLUMNS / THREADS < 4 ? PART_ROWS * COLUMNS / THREADS : 4;

struct Thread {
  int wy, wx, y, x;
  __device__ Thread()
      : wy(threadIdx.x / 32 / WARPS_X),
        wx(threadIdx.x / 32 % WARPS_X),
        y(threadIdx.x % 32 / LANES_X),
        x(threadIdx.x % LANES_X) {}
  // Of group 0; a group has the length of a vector or of all that a thread has.
  __device__ int row() const { return wy * LANES_Y * R + y * (R < V ? R : V); }
  __device__ int column() const { return wx * LANES_X * C + x * (C < V ? C : V); }
};

__device__ __forceinline__ void clear(T (&sums)[R][C]) {
#pragma unroll
  for (int i = 0; i < R; ++i)
#pragma unroll
    for (int j = 0; j < C; ++j) sums[i][j] = 0;
}

// Adds the products of k in [begin, end) to the sums.
__device__ __forceinline__ void add_products(const Args& args, const Place& place, const Thread& at, i64 begin, i64 end,
                                             T* tiles, T (&sums)[R][C]) {
  Left left(args, place, begin);
  Right right(args, place, begin);
  T *a = tiles, *b = tiles + 2 * LEFT_TILE;
  const bool needed = at.wy * LANES_Y * R < place.rows && at.wx * LANES_X * C < place.columns;
  i64 depths = end - begin;
  if (depths > 0) {
    left.load((int)least(depths, DEPTH));
    right.load((int)least(depths, DEPTH));
    left.store(a);
    right.store(b);
  }
  __syncthreads();
  int now = 0;
  for (; depths > 0; now ^= 1) {
    depths -= DEPTH;
    const bool more = depths > 0;
    if (more) {
      left.load((int)least(depths, DEPTH));
      right.load((int)least(depths, DEPTH));
    }
    if (needed) multiply(a + now * LEFT_TILE + at.row(), b + now * RIGHT_TILE + at.column(), sums);
    if (more) {
      left.store(a + (now ^ 1) * LEFT_TILE);
      right.store(b + (now ^ 1) * RIGHT_TILE);
    }
    __syncthreads();
  }
}

// Rows [part * EACH, (part + 1) * EACH) of every thread's sums, as PART_ROWS rows.
__device__ __forceinline__ void lay_out(int part, const Thread& at, const T (&sums)[R][C], T* to) {
  constexpr int W = C < V ? C : V;
#pragma unroll
  for (int i = 0; i < R; ++i) {
    if (i / EACH != part) continue;
    T* const row = to + ((at.wy * LANES_Y + at.y) * EACH + i % EACH) * PART_PITCH + at.column();
#pragma unroll
    for (int g = 0; g < C / W; ++g) {
      Vector<T, W> group;
#pragma unroll
      for (int j = 0; j < W; ++j) group.at[j] = sums[i][g * W + j];
      store_vector(row + g * LANES_X * V, group);
    }
  }
}

// The row of the tile that row `row` of a part is.
__device__ __forceinline__ int row_of(int part, int row) {
  constexpr int W = R < V ? R : V;
  const int lane = row / EACH, i = part * EACH + row % EACH;
  return lane / LANES_Y * LANES_Y * R + i / W * LANES_Y * W + lane % LANES_Y * W + i % W;
}

__device__ __forceinline__ void finish_part(const Args& args, const Place& place, int part, const T* sums) {
#pragma unroll 1
  for (int first = threadIdx.x; first < PART_ROWS * COLUMNS; first += AT_ONCE * THREADS) {
    Finished done[AT_ONCE];
    T product[AT_ONCE];
#pragma unroll
    for (int u = 0; u < AT_ONCE; ++u) {
      const int e = first + u * THREADS, row = row_of(part, e / COLUMNS), column = e % COLUMNS;
      product[u] = sums[e / COLUMNS * PART_PITCH + column];
      done[u] = finish(args, place.at(row, column), product[u]);
    }
#pragma unroll
    for (int u = 0; u < AT_ONCE; ++u) {
      const int e = first + u * THREADS, row = row_of(part, e / COLUMNS), column = e % COLUMNS;
      if (row < place.rows && column < place.columns) put(args, place.at(row, column), product[u], done[u]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) kernel_entry(const __grid_constant__ Args args) {
  T* const tiles = (T*)shared_memory();
  const Thread at;
  keep_scalars(args);
  for (i64 tile = blockIdx.x; tile < args.tiles; tile += gridDim.x) {
    Place place(args, tile, shared_memory() + SHARED_PLACE);
    if (place.rows <= 0) continue;
    __syncthreads();
    T sums[R][C];
    clear(sums);
    if (SEGMENTED) {
      T segment[R][C];
      for (i64 k = place.begin; k < place.end; k += args.segment) {
        clear(segment);
        add_products(args, place, at, k, k + args.segment, tiles, segment);
#pragma unroll
        for (int i = 0; i < R; ++i)
#pragma unroll
          for (int j = 0; j < C; ++j) sums[i][j] = k == place.begin ? segment[i][j] : plus(sums[i][j], segment[i][j]);
      }
    } else {
      add_products(args, place, at, place.begin, place.end, tiles, sums);
    }
#pragma unroll 1
    for (int part = 0; part < PARTS; ++part) {
      lay_out(part, at, sums, tiles);
      __syncthreads();
      finish_part(args, place, part, tiles);
      __syncthreads();
    }
  }
}
)text";

}  // namespace rp::cuda
