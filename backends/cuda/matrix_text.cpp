#include "reprise/backends/cuda/product_text.h"

namespace rp::cuda {

// Before it: LEFT_ALONG_K, LEFT_VECTORS, RIGHT_ALONG_K, RIGHT_VECTORS: whether packs of a factor lie along k, and
// whether they can be loaded as vectors. Tiles come in bands of eight rows of tiles, so that those at work at one time
// share what they read.
constexpr std::string_view matrix_text = R"text(
struct Moves {
  i64 row, column, batch[6];
};
struct Args {
  char* pointers[OPERANDS];
  Scalars<SCALARS> scalars;
  Moves moves[OPERANDS];
  i64 batch[6], rank, m, n, k, segment, tiles, tiles_m, tiles_n, index_batch, index_row, index_column, stores_product;
};

struct Spot {
  const i64* origin;
  i64 row, column;
  u32 index;
};
__device__ __forceinline__ i64 offset(const Args& args, const Spot& spot, int operand) {
  return spot.origin[operand] + spot.row * args.moves[operand].row + spot.column * args.moves[operand].column;
}

// Where a tile stands. `origin` are the operands' offsets of the tile's matrix.
struct Place {
  i64 row, column, begin, end;
  int rows, columns;
  const i64* origin;
  u32 index, index_row, index_column;

  __device__ Place(const Args& args, i64 tile, char* memory) : begin(0), end(args.k), origin((i64*)memory) {
    const i64 each = args.tiles_m * args.tiles_n, batch = tile / each, rest = tile - batch * each;
    const i64 band = 8 * args.tiles_n, first = rest / band * 8, high = least(8, args.tiles_m - first), at = rest % band;
    row = (first + at % high) * ROWS;
    column = at / high * COLUMNS;
    rows = (int)least(ROWS, args.m - row);
    columns = (int)least(COLUMNS, args.n - column);
    index = (u32)(batch * args.index_batch);
    index_row = (u32)args.index_row;
    index_column = (u32)args.index_column;
    if (threadIdx.x < OPERANDS) {
      i64 sum = 0, left = batch;
      for (int axis = (int)args.rank - 1; axis >= 0; --axis) {
        sum += left % args.batch[axis] * args.moves[threadIdx.x].batch[axis];
        left /= args.batch[axis];
      }
      ((i64*)memory)[threadIdx.x] = sum;
    }
  }
  // The element, or the nearest one inside of the result.
  __device__ __forceinline__ Spot at(int r, int c) const {
    const i64 i = row + (r < rows ? r : rows - 1), j = column + (c < columns ? c : columns - 1);
    return {origin, i, j, index + (u32)i * index_row + (u32)j * index_column};
  }
};

template <int SIDE, bool along_k, bool vectors>
struct Matrix {
  typedef Packs<SIDE, along_k> Where;
  const T* at[Where::COUNT];
  Pack packs[Where::COUNT];
  i64 step_side, step_k;
  int sides;

  __device__ __forceinline__ Matrix(const T* from, i64 step_side, i64 step_k, int sides, i64 begin)
      : step_side(step_side), step_k(step_k), sides(sides) {
#pragma unroll
    for (int i = 0; i < Where::COUNT; ++i)
      at[i] = from + Where::side(i) * step_side + (begin + Where::depth(i)) * step_k;
  }
  // The next packs; `none` stands for what lies `depths` and more steps of k away.
  __device__ __forceinline__ void load(int depths, T none) {
#pragma unroll
    for (int i = 0; i < Where::COUNT; ++i) {
      const int side = Where::side(i), depth = Where::depth(i);
      const bool inside = along_k ? side < sides : depth < depths;
      const int left = along_k ? depths - depth : sides - side;
      const i64 step = vectors ? 1 : along_k ? step_k : step_side;
      if (vectors && inside && left >= V)
        packs[i] = load_vector<V>(at[i]);
      else
#pragma unroll
        for (int j = 0; j < V; ++j) packs[i].at[j] = inside && j < left ? at[i][j * step] : none;
      at[i] += DEPTH * step_k;
    }
  }
};

struct Left : Matrix<ROWS, LEFT_ALONG_K, LEFT_VECTORS> {
  __device__ __forceinline__ Left(const Args& args, const Place& place, i64 begin)
      : Matrix((const T*)args.pointers[0] + place.origin[0] + place.row * args.moves[0].row, args.moves[0].row,
               args.moves[0].column, place.rows, begin) {}
  __device__ __forceinline__ void load(int depths) { Matrix::load(depths, -T(0)); }
  __device__ __forceinline__ void store(T* tile) const { Where::store<LEFT_PITCH>(packs, tile); }
};

struct Right : Matrix<COLUMNS, RIGHT_ALONG_K, RIGHT_VECTORS> {
  __device__ __forceinline__ Right(const Args& args, const Place& place, i64 begin)
      : Matrix((const T*)args.pointers[1] + place.origin[1] + place.column * args.moves[1].column, args.moves[1].column,
               args.moves[1].row, place.columns, begin) {}
  __device__ __forceinline__ void load(int depths) { Matrix::load(depths, T(0)); }
  __device__ __forceinline__ void store(T* tile) const { Where::store<RIGHT_PITCH>(packs, tile); }
};
)text";

}  // namespace rp::cuda
