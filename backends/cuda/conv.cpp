#include "reprise/backends/cuda/conv.h"

#include <algorithm>
#include <climits>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/kernel_text.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/entries.h"

namespace rp::cuda {
namespace {

using cpu::ConvPass;
using cpu::ConvShape;

constexpr std::string_view weights_args = R"text(
struct Args {
  const T* weights;
  T* to;
  i64 out, channels, taps;
};
)text";

// [out, channels * taps] is turned around in squares of 32 x 32, so that both sides are read and written in rows.
constexpr std::string_view forward_text = R"text(
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  constexpr int SIDE = 32;
  T* const square = (T*)shared_memory();
  const i64 depth = args.channels * args.taps, across = (depth + SIDE - 1) / SIDE;
  const i64 squares = (args.out + SIDE - 1) / SIDE * across;
  const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
  for (i64 i = blockIdx.x; i < squares; i += gridDim.x) {
    const i64 row = i / across * SIDE, column = i % across * SIDE;
    for (int r = y; r < SIDE; r += 8)
      if (row + r < args.out && column + x < depth)
        square[r * (SIDE + 1) + x] = args.weights[(row + r) * depth + column + x];
    __syncthreads();
    for (int r = y; r < SIDE; r += 8) {
      const i64 k = column + r, c = k / args.taps;
      if (k < depth && row + x < args.out)
        args.to[((k - c * args.taps) * args.channels + c) * args.out + row + x] = square[x * (SIDE + 1) + r];
    }
    __syncthreads();
  }
}
)text";

constexpr std::string_view backward_text = R"text(
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const i64 filters = args.out * args.channels, step = (i64)gridDim.x * blockDim.x;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < filters; i += step)
    for (i64 t = 0; t < args.taps; ++t) args.to[t * filters + i] = args.weights[i * args.taps + t];
}
)text";

ConvPass pass_of(const Op& op) {
  if (&op == &conv2d_op) return ConvPass::forward;
  return &op == &conv2d_backward_data_op ? ConvPass::backward_data : ConvPass::backward_weights;
}

}  // namespace

ImageMoves image_moves(const std::array<int64_t, 4>& s, bool nhwc) {
  return nhwc ? ImageMoves{s[0], s[1], s[2], s[3]} : ImageMoves{s[0], s[2], s[3], s[1]};
}

ImageMoves image_moves(const Layout& layout, bool nhwc) {
  const Strides& s = layout.strides;
  return image_moves({s[0], s[1], s[2], s[3]}, nhwc);
}

ConvShape conv_shape(const Region& region) {
  View views[3];
  for (size_t k = 0; k < 3; ++k) views[k].layout = region.operands[k].layout;
  const Scalars none;
  const ConvShape s = cpu::conv_shape(pass_of(*region.op), {*region.op, {views, 2}, views[2], region.attrs, none});
  constexpr int64_t most = 1 << 30;  // pixels are counted in 32 bits, along an axis
  if (std::max({s.n, s.c, s.h, s.w, s.out, s.oh, s.ow, s.c * s.kh * s.kw}) >= most)
    fail("{}: an extent reaches 2^30", region.op->name);
  return s;
}

std::string order_weights_text(ConvPass pass, DType dtype) {
  const std::string text = "typedef " + c_type(dtype) + " T;\n" + std::string(weights_args);
  return text + std::string(pass == ConvPass::forward ? forward_text : backward_text);
}

void order_weights(const LazyFunction& function, const ConvShape& s, DType dtype, const std::byte* weights,
                   std::byte* to) {
  ArgsBytes args;
  args.add(weights);
  args.add(to);
  for (int64_t extent : {s.out, s.c, s.kh * s.kw}) args.add(extent);
  const int64_t pieces = s.pass == ConvPass::forward ? divide_up(s.out, 32) * divide_up(s.c * s.kh * s.kw, 32)
                                                     : divide_up(s.out * s.c, 256);
  launch(function.get(),
         {.blocks = blocks_for(static_cast<uint64_t>(pieces)), .shared_bytes = 32 * 33 * size_of(dtype)}, args.bytes());
}

}  // namespace rp::cuda
