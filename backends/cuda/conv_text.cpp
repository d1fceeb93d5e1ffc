#include "reprise/backends/cuda/product_text.h"

namespace rp::cuda {

// Rows are elements of the result but for channels, k is tap by tap the channels of the image, columns are the
// result's channels. Before it: BACKWARD, LEFT_VECTORS, RIGHT_VECTORS.
//
// Backward, the result is the image's gradient, and what is read ("the image") are gradients of outputs. With strides,
// an element gets something through some taps only: those of one phase, the remainder of its position by the stride,
// have the same taps, so each phase is a product of its own. Taps are taken from the last to the first, as those of a
// convolution with the window turned around.
//
// Padding is multiplied as zeros, as on the CPU.
constexpr std::string_view image_text = R"text(
struct Moves {
  i64 n, h, w, c;
};
// Of images' rows, or of their columns. `cycle` is the stride over its greatest common divisor with the dilation.
struct Axis {
  i64 image, result, taps, stride, before, dilation, cycle;
};
struct Args {
  char* pointers[OPERANDS];
  Scalars<SCALARS> scalars;
  const T* filter;  // [taps, taps, channels, columns]
  Moves moves[OPERANDS], index;
  Axis high, wide;
  i64 images, channels, columns, segment, tiles, tiles_m, tiles_n, stores_product;
};

// One axis of one phase: result positions, taps; the pixel of position 0 and tap 0 and how far a position and a tap
// are apart; and which of the filter's taps the first is.
struct Window {
  int positions, taps, origin, position, tap, first, step;
};
__device__ inline Window window(const Axis& axis, int phase) {
  const int taps = (int)axis.taps, stride = (int)axis.stride, before = (int)axis.before, dilation = (int)axis.dilation;
  if (!BACKWARD) return {(int)axis.result, taps, -before, stride, dilation, 0, 1};
  const int positions = ((int)axis.result - phase + stride - 1) / stride, cycle = (int)axis.cycle;
  int least = 0;
  while (least < taps && least < cycle && (phase + before - least * dilation) % stride) ++least;
  if (least == taps || least == cycle) return {positions, 0, 0, 1, 0, 0, 0};
  const int count = (taps - 1 - least) / cycle + 1, last = least + (count - 1) * cycle;
  return {positions, count, (phase + before - last * dilation) / stride, 1, cycle * dilation / stride, last, -cycle};
}

struct Spot {
  int n, h, w, c;
  u32 index;
};
__device__ __forceinline__ i64 offset(const Args& args, const Spot& spot, int operand) {
  const Moves& m = args.moves[operand];
  return spot.n * m.n + spot.h * m.h + spot.w * m.w + spot.c * m.c;
}

struct Row {
  int n, h, w;
};
// `all` are the rows' places in the result.
struct Place {
  Window high, wide;
  i64 row, begin, end;
  int column, rows, columns;
  const Row* all;
  const Moves* index;

  __device__ Place(const Args& args, i64 tile, char* memory) : begin(0), all((const Row*)memory), index(&args.index) {
    const i64 each = args.tiles_m * args.tiles_n, phase = tile / each, rest = tile - phase * each;
    const int phases = BACKWARD ? (int)args.wide.stride : 1;
    const int y = (int)(phase / phases), x = (int)(phase % phases);
    high = window(args.high, y);
    wide = window(args.wide, x);
    row = rest / args.tiles_n * ROWS;
    column = (int)(rest % args.tiles_n) * COLUMNS;
    rows = (int)least(ROWS, args.images * high.positions * wide.positions - row);
    columns = (int)least(COLUMNS, args.columns - column);
    end = (i64)high.taps * wide.taps * args.channels;
    for (int r = threadIdx.x; r < rows; r += THREADS) {
      const Row at = position(row + r);
      ((Row*)memory)[r] = {at.n, BACKWARD ? y + at.h * (int)args.high.stride : at.h,
                           BACKWARD ? x + at.w * (int)args.wide.stride : at.w};
    }
  }
  // Image and position in the phase of a row.
  __device__ __forceinline__ Row position(i64 r) const {
    const i64 line = r / wide.positions, image = line / high.positions;
    return {(int)image, (int)(line - image * high.positions), (int)(r - line * wide.positions)};
  }
  // The element, or the nearest one inside of the result.
  __device__ __forceinline__ Spot at(int r, int c) const {
    const Row x = all[r < rows ? r : rows - 1];
    const int j = column + (c < columns ? c : columns - 1);
    return {x.n, x.h, x.w, j, (u32)x.n * (u32)index->n + (u32)x.h * (u32)index->h + (u32)x.w * (u32)index->w +
                                  (u32)j * (u32)index->c};
  }
};

// A place along k.
struct Tap {
  int c, x, y;
  __device__ __forceinline__ void advance(int by, int channels, int taps) {
    for (c += by; c >= channels; c -= channels)
      if (++x == taps) {
        x = 0;
        ++y;
      }
  }
};

struct Left {
  typedef Packs<ROWS, true> Where;
  const Args& args;
  const Window &high, &wide;
  i64 image[Where::COUNT];
  int h[Where::COUNT], w[Where::COUNT];
  Tap tap;
  Pack packs[Where::COUNT];

  __device__ __forceinline__ Left(const Args& args, const Place& place, i64)
      : args(args), high(place.high), wide(place.wide), tap{0, 0, 0} {
    static_assert(DEPTH / V <= 8, "packs of one thread have one place along k");
    tap.advance(Where::depth(0), (int)args.channels, wide.taps);
#pragma unroll
    for (int i = 0; i < Where::COUNT; ++i) {
      const Row at = place.position(place.row + Where::side(i));
      const bool inside = Where::side(i) < place.rows;
      image[i] = at.n * args.moves[0].n;
      h[i] = inside ? high.origin + at.h * high.position : -(1 << 30);
      w[i] = wide.origin + at.w * wide.position;
    }
  }
  __device__ __forceinline__ const T* pixel(int i, const Tap& t) const {
    const int y = h[i] + t.y * high.tap, x = w[i] + t.x * wide.tap;
    if ((u32)y >= (u32)args.high.image || (u32)x >= (u32)args.wide.image) return nullptr;
    return (const T*)args.pointers[0] + image[i] + y * args.moves[0].h + x * args.moves[0].w + t.c * args.moves[0].c;
  }
  // What stands for a pixel outside of the image, or for what lies behind the last tap.
  __device__ __forceinline__ T nothing(const Tap& t) const { return t.y < high.taps ? T(0) : -T(0); }
  __device__ __forceinline__ T element(int i, const Tap& t) const {
    const T* const from = t.y < high.taps ? pixel(i, t) : nullptr;
    return from ? *from : nothing(t);
  }
  __device__ __forceinline__ void load(int) {
    if (LEFT_VECTORS) {
#pragma unroll
      for (int i = 0; i < Where::COUNT; ++i) {
        const T* const from = tap.y < high.taps ? pixel(i, tap) : nullptr;
        if (from)
          packs[i] = load_vector<V>(from);
        else
#pragma unroll
          for (int j = 0; j < V; ++j) packs[i].at[j] = nothing(tap);
      }
    } else {
      Tap t = tap;
#pragma unroll
      for (int j = 0; j < V; ++j) {
#pragma unroll
        for (int i = 0; i < Where::COUNT; ++i) packs[i].at[j] = element(i, t);
        t.advance(1, (int)args.channels, wide.taps);
      }
    }
    tap.advance(DEPTH, (int)args.channels, wide.taps);
  }
  __device__ __forceinline__ void store(T* tile) const { Where::store<LEFT_PITCH>(packs, tile); }
};

struct Right {
  typedef Packs<COLUMNS, false> Where;
  const Args& args;
  const Window &high, &wide;
  const T* from;
  int columns;
  Tap taps[Where::COUNT];
  Pack packs[Where::COUNT];

  __device__ __forceinline__ Right(const Args& args, const Place& place, i64)
      : args(args), high(place.high), wide(place.wide), from(args.filter + place.column), columns(place.columns) {
#pragma unroll
    for (int i = 0; i < Where::COUNT; ++i) {
      taps[i] = {0, 0, 0};
      taps[i].advance(Where::depth(i), (int)args.channels, wide.taps);
    }
  }
  __device__ __forceinline__ void load(int) {
#pragma unroll
    for (int i = 0; i < Where::COUNT; ++i) {
      const Tap& t = taps[i];
      const int y = high.first + t.y * high.step, x = wide.first + t.x * wide.step, side = Where::side(i);
      const bool inside = t.y < high.taps;
      const T* const row = from + ((y * args.wide.taps + x) * args.channels + t.c) * args.columns + side;
      if (RIGHT_VECTORS && inside && side < columns)
        packs[i] = load_vector<V>(row);
      else
#pragma unroll
        for (int j = 0; j < V; ++j) packs[i].at[j] = inside && side + j < columns ? row[j] : T(0);
      taps[i].advance(DEPTH, (int)args.channels, wide.taps);
    }
  }
  __device__ __forceinline__ void store(T* tile) const { Where::store<RIGHT_PITCH>(packs, tile); }
};
)text";

// Rows are the outputs' channels, columns tap by tap the image's, k is position by position of the outputs, cut into
// segments. `splits` stretches of k have a product each, in planes of the result. Before it: LEFT_VECTORS,
// RIGHT_VECTORS.
constexpr std::string_view position_text = R"text(
struct Moves {
  i64 n, h, w, c;
};
// A tensor, and the pixels that a position sees in it.
struct Seen {
  Moves moves;
  i64 height, width, stride_h, stride_w, top, left, dilation_h, dilation_w, taps_w, channels;
};
struct Args {
  char* pointers[OPERANDS];
  Seen outputs, image;
  i64 height, width;  // of the outputs
  i64 m, n, k, stretch, segment, tiles, tiles_m, tiles_n, stores_product;
};

struct Spot {
  i64 at;
};
__device__ __forceinline__ i64 offset(const Args&, const Spot& spot, int) { return spot.at; }

struct Place {
  i64 row, column, begin, end, width, plane;
  int rows, columns;
  __device__ Place(const Args& args, i64 tile, char*) : width(args.n) {
    const i64 each = args.tiles_m * args.tiles_n, split = tile / each, rest = tile - split * each;
    row = rest / args.tiles_n * ROWS;
    column = rest % args.tiles_n * COLUMNS;
    begin = split * args.stretch;
    end = least(args.k, begin + args.stretch);
    plane = split * args.m * args.n;
    rows = (int)least(ROWS, args.m - row);
    columns = (int)least(COLUMNS, args.n - column);
  }
  __device__ __forceinline__ Spot at(int r, int c) const { return {plane + (row + r) * width + column + c}; }
};

// Packs of channels at positions of the outputs.
template <int SIDE, bool vectors>
struct Pixels {
  typedef Packs<SIDE, false> Where;
  static constexpr int KINDS = vectors ? 1 : V;  // elements of a pack that may belong to different taps
  const Seen& seen;
  const T* data;
  int height, width;                                                // of the outputs
  i64 n[Where::COUNT];                                              // images,
  int y[Where::COUNT], x[Where::COUNT];                             // and positions
  int dy[Where::COUNT][KINDS], dx[Where::COUNT][KINDS], c[Where::COUNT][KINDS];  // from a position to a tap's pixel
  Pack packs[Where::COUNT];

  __device__ __forceinline__ Pixels(const Seen& seen, const char* data, const Args& args, i64 first, int sides,
                                    i64 begin)
      : seen(seen), data((const T*)data), height((int)args.height), width((int)args.width) {
#pragma unroll
    for (int i = 0; i < Where::COUNT; ++i) {
      const i64 line = (begin + Where::depth(i)) / width;
      n[i] = line / height;
      y[i] = (int)(line - n[i] * height);
      x[i] = (int)(begin + Where::depth(i) - line * width);
#pragma unroll
      for (int j = 0; j < KINDS; ++j) {
        const u32 side = (u32)(first + Where::side(i)) + j, tap = side / (u32)seen.channels;
        dy[i][j] = (int)(tap / (u32)seen.taps_w * (u32)seen.dilation_h) - (int)seen.top;
        dx[i][j] = (int)(tap % (u32)seen.taps_w * (u32)seen.dilation_w) - (int)seen.left;
        c[i][j] = Where::side(i) + j < sides ? (int)(side % (u32)seen.channels) : -1;
      }
    }
  }
  __device__ __forceinline__ const T* pixel(int i, int j) const {
    const int h = y[i] * (int)seen.stride_h + dy[i][j], w = x[i] * (int)seen.stride_w + dx[i][j];
    if (c[i][j] < 0 || (u32)h >= (u32)seen.height || (u32)w >= (u32)seen.width) return nullptr;
    return data + n[i] * seen.moves.n + h * seen.moves.h + w * seen.moves.w + c[i][j] * seen.moves.c;
  }
  __device__ __forceinline__ void load(int depths, T none) {
#pragma unroll
    for (int i = 0; i < Where::COUNT; ++i) {
      const bool inside = Where::depth(i) < depths;
      if (vectors) {
        const T* const from = inside ? pixel(i, 0) : nullptr;
        if (from)
          packs[i] = load_vector<V>(from);
        else
#pragma unroll
          for (int j = 0; j < V; ++j) packs[i].at[j] = inside ? T(0) : none;
      } else {
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const T* const from = inside ? pixel(i, vectors ? 0 : j) : nullptr;
          packs[i].at[j] = from ? *from : inside ? T(0) : none;
        }
      }
      for (x[i] += DEPTH; x[i] >= width; x[i] -= width)
        if (++y[i] == height) {
          y[i] = 0;
          ++n[i];
        }
    }
  }
};

struct Left : Pixels<ROWS, LEFT_VECTORS> {
  __device__ __forceinline__ Left(const Args& args, const Place& place, i64 begin)
      : Pixels(args.outputs, args.pointers[1], args, place.row, place.rows, begin) {}
  __device__ __forceinline__ void load(int depths) { Pixels::load(depths, -T(0)); }
  __device__ __forceinline__ void store(T* tile) const { Where::store<LEFT_PITCH>(packs, tile); }
};
struct Right : Pixels<COLUMNS, RIGHT_VECTORS> {
  __device__ __forceinline__ Right(const Args& args, const Place& place, i64 begin)
      : Pixels(args.image, args.pointers[0], args, place.column, place.columns, begin) {}
  __device__ __forceinline__ void load(int depths) { Pixels::load(depths, T(0)); }
  __device__ __forceinline__ void store(T* tile) const { Where::store<RIGHT_PITCH>(packs, tile); }
};
)text";

}  // namespace rp::cuda
