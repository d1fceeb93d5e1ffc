// Gradients of convolutions' weights.
#include <algorithm>
#include <climits>

#include "reprise/backends/cuda/conv.h"
#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/epilogue.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/product_text.h"
#include "reprise/backends/cuda/tiles.h"

namespace rp::cuda {
namespace {

using cpu::ConvShape;

// Planes [out, taps, channels] are added up in order, and the sum is stored as [out, channels, taps].
constexpr std::string_view planes_text = R"text(
struct Args {
  const T* planes;
  T* weights;
  i64 count, out, channels, taps;
};
__device__ __forceinline__ f32 plus(f32 a, f32 b) { return a + b; }
__device__ __forceinline__ f64 plus(f64 a, f64 b) { return a + b; }
__device__ __forceinline__ i32 plus(i32 a, i32 b) { return wrap_add(a, b); }
__device__ __forceinline__ i64 plus(i64 a, i64 b) { return wrap_add(a, b); }

extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const i64 plane = args.out * args.taps * args.channels, step = (i64)gridDim.x * blockDim.x;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < plane; i += step) {
    T sum = args.planes[i];
#pragma unroll 4
    for (i64 p = 1; p < args.count; ++p) sum = plus(sum, args.planes[p * plane + i]);
    const i64 window = i / args.channels, c = i - window * args.channels, o = window / args.taps;
    args.weights[(o * args.channels + c) * args.taps + window - o * args.taps] = sum;
  }
}
)text";

// Rows of outputs are summed up in segments of about this many positions, and segments added up: sums of many terms
// lose less.
int64_t segment_of(const ConvShape& s) {
  constexpr int64_t wanted = 400;
  int64_t rows = std::clamp<int64_t>(wanted / std::max<int64_t>(1, s.ow), 1, std::max<int64_t>(1, s.oh));
  while (s.oh % rows) --rows;
  return std::max<int64_t>(1, rows * s.ow);
}

class WeightsKernel final : public TextKernel {
 public:
  explicit WeightsKernel(const Region& region)
      : region_(region), shape_(conv_shape(region)), dtype_(region.operands[2].layout->dtype()) {
    const ConvShape& s = shape_;
    const int64_t columns = s.kh * s.kw * s.c, positions = s.n * s.oh * s.ow;
    tile_ = choose_tile(dtype_, {s.out, columns, 1}, {.segmented = true, .rows = 32}).tile;
    const int64_t tiles_m = tiles_along(s.out, tile_->rows), tiles_n = tiles_along(columns, tile_->columns);
    cut(positions, tiles_m * tiles_n);
    tiles_ = splits_ * tiles_m * tiles_n;
    args_.reserve(3);
    add_seen(*region.operands[1].layout, {s.oh, s.ow, 1, 1, 0, 0, 1, 1, 1, s.out});
    add_seen(*region.operands[0].layout,
             {s.h, s.w, s.stride_h, s.stride_w, s.top, s.left, s.dilation_h, s.dilation_w, s.kw, s.c});
    for (int64_t number :
         {s.oh, s.ow, s.out, columns, positions, stretch_, segment_of(s), tiles_, tiles_m, tiles_n, int64_t{1}})
      args_.add(number);
  }

  void run(const RegionCall& call) const override {
    if (!tiles_) return;
    static thread_local ArgsBytes args;
    args = args_;
    args.set(0, call.pointers[0]);
    args.set(8, call.pointers[1]);
    args.set(16, adds_planes() ? call.scratch : call.pointers[2]);
    const bool left = has_vectors(shape_.out) && is_aligned(call.pointers[1]);
    const bool right = has_vectors(shape_.c) && is_aligned(call.pointers[0]);
    const LazyFunction& function = functions_[left][right];
    const auto blocks = static_cast<uint32_t>(std::min<int64_t>(tiles_, INT_MAX));
    launch(function.get(), {.blocks = blocks, .threads = tile_threads, .shared_bytes = tile_bytes(*tile_, dtype_)},
           args.bytes());
    if (adds_planes()) add_planes(call);
  }

  std::vector<std::string> texts() const override {
    return {text(has_vectors(shape_.out), has_vectors(shape_.c)), text(false, false), add_text()};
  }
  std::string form() const override {
    return fmt::format("conv weights {}x{}, {} parts", tile_->rows, tile_->columns, splits_);
  }
  size_t scratch_bytes() const override {
    return adds_planes() ? static_cast<size_t>(splits_ * shape_.weights()) * size_of(dtype_) : 0;
  }

 private:
  bool adds_planes() const { return splits_ > 1 || shape_.kh * shape_.kw > 1; }

  // Into stretches of whole segments, so that there are some four tiles for each of a large device's multiprocessors.
  void cut(int64_t positions, int64_t tiles) {
    constexpr int64_t wanted = 528;
    const int64_t segments = positions / segment_of(shape_);
    const int64_t parts = std::clamp<int64_t>(wanted / std::max<int64_t>(1, tiles), 1, std::max<int64_t>(1, segments));
    const int64_t each = std::max<int64_t>(1, divide_up(segments, parts));
    splits_ = std::max<int64_t>(1, divide_up(segments, each));
    stretch_ = each * segment_of(shape_);
  }

  void add_seen(const Layout& layout, std::initializer_list<int64_t> numbers) {
    args_.add(image_moves(layout, shape_.nhwc));
    for (int64_t number : numbers) args_.add(number);
  }

  bool has_vectors(int64_t channels) const {
    return shape_.nhwc && channels % static_cast<int64_t>(16 / size_of(dtype_)) == 0;
  }
  static bool is_aligned(const std::byte* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

  std::string text(bool left, bool right) const {
    std::string text = tile_text(*tile_, dtype_, true, true);
    text += fmt::format("constexpr int OPERANDS = 3;\nconstexpr bool LEFT_VECTORS = {}, RIGHT_VECTORS = {};\n", left,
                        right);
    text += product_tile_text;
    text += position_text;
    text += epilogue_text(region_);
    text += product_kernel_text;
    return text;
  }

  std::string add_text() const { return "typedef " + c_type(dtype_) + " T;\n" + std::string(planes_text); }

  void add_planes(const RegionCall& call) const {
    ArgsBytes args;
    args.add(static_cast<const std::byte*>(call.scratch));
    args.add(call.pointers[2]);
    for (int64_t number : {splits_, shape_.out, shape_.c, shape_.kh * shape_.kw}) args.add(number);
    launch(planes_.get(), {.blocks = blocks_for(static_cast<uint64_t>(divide_up(shape_.weights(), 256)))},
           args.bytes());
  }

  Region region_;
  ConvShape shape_;
  DType dtype_;
  const Tile* tile_ = nullptr;
  int64_t tiles_ = 0, splits_ = 1, stretch_ = 1;
  ArgsBytes args_;
  const LazyFunction planes_{[this] { return add_text(); }};
  const LazyFunction functions_[2][2] = {
      // by whether gradients are loaded as vectors, and pixels
      {LazyFunction([this] { return text(false, false); }), LazyFunction([this] { return text(false, true); })},
      {LazyFunction([this] { return text(true, false); }), LazyFunction([this] { return text(true, true); })}};
};

}  // namespace

std::unique_ptr<RegionKernel> compile_conv_weights(const Region& region) {
  return std::make_unique<WeightsKernel>(region);
}

}  // namespace rp::cuda
