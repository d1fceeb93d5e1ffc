// Convolutions and gradients of images, with a fused epilogue.
#include <algorithm>
#include <climits>
#include <numeric>

#include "reprise/backends/cuda/conv.h"
#include "reprise/backends/cuda/conv_cudnn.h"
#include "reprise/backends/cuda/epilogue.h"
#include "reprise/backends/cuda/matrix_kernel.h"
#include "reprise/backends/cuda/product_text.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

using cpu::ConvPass;
using cpu::ConvShape;

// How the places of a region's operands move with the four axes of the result.
std::vector<ImageMoves> moves_of(const Region& region, const ConvShape& s) {
  std::vector<ImageMoves> all;
  for (size_t k = 0; k < region.operands.size(); ++k) {
    if (k < 2 || region.members.empty()) {
      all.push_back(k == 1 ? ImageMoves{} : image_moves(*region.operands[k].layout, s.nhwc));
      continue;
    }
    const Nest::Steps& n = region.members[0].operands[k];
    all.push_back(image_moves({n.outer[0], n.outer[1], n.row, n.column}, s.nhwc));
  }
  return all;
}

bool is_pointwise(const ConvShape& s) {
  return s.nhwc && s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && !s.top && !s.left && !s.bottom &&
         !s.right;
}

// Whether all positions of all images are evenly spaced.
bool is_flat(const ImageMoves& m, const ConvShape& s) { return m.h == m.w * s.w && (s.n == 1 || m.n == m.h * s.h); }

// A window of one pixel: the image is a matrix.
class PointwiseKernel final : public TextKernel {
 public:
  PointwiseKernel(const Region& region, const ConvShape& s, const std::vector<ImageMoves>& moves)
      : product_(region, product_of(region, s, moves)) {}
  void run(const RegionCall& call) const override { product_.run(call); }
  std::vector<std::string> texts() const override { return product_.texts(); }
  std::string form() const override { return product_.form(); }

 private:
  static MatrixProduct product_of(const Region& region, const ConvShape& s, const std::vector<ImageMoves>& moves) {
    const bool forward = s.pass == ConvPass::forward;
    const int64_t columns = forward ? s.out : s.c;
    MatrixProduct p{region.operands[2].layout->dtype(), s.n * s.h * s.w, columns, forward ? s.c : s.out, 0, {}, {}};
    for (const ImageMoves& m : moves) p.moves.push_back({m.w, m.c, {}});
    p.moves[1] = forward ? Moves{1, s.c, {}} : Moves{s.c, 1, {}};
    return p;
  }

  MatrixKernel product_;
};

class ImageKernel final : public TextKernel {
 public:
  ImageKernel(const Region& region, const ConvShape& shape, std::vector<ImageMoves> moves)
      : region_(region), shape_(shape), dtype_(region.operands[2].layout->dtype()), moves_(std::move(moves)) {
    const bool empty = !region.operands[0].layout->numel || !region.operands[1].layout->numel;
    if (empty) shape_.kh = shape_.kw = 0;
    const int64_t phases = forward() ? 1 : int64_t{shape_.stride_h} * shape_.stride_w;
    const int64_t height = forward() ? shape_.oh : divide_up(shape_.h, shape_.stride_h);
    const int64_t width = forward() ? shape_.ow : divide_up(shape_.w, shape_.stride_w);
    const TileLimits limits{.rows = 32, .sums = 32};
    tile_ = choose_tile(dtype_, {shape_.n * height * width, columns(), phases}, limits).tile;
    tiles_m_ = tiles_along(shape_.n * height * width, tile_->rows);
    tiles_n_ = tiles_along(columns(), tile_->columns);
    tiles_ = phases * tiles_m_ * tiles_n_;
    add_args();
  }

  void run(const RegionCall& call) const override {
    if (!tiles_) return;
    auto* const filter = call.scratch;
    if (shape_.weights()) order_weights(order_, shape_, dtype_, call.pointers[1], filter);
    static thread_local ArgsBytes args;
    args = args_;
    for (size_t k = 0; k < moves_.size(); ++k) args.set(8 * k, call.pointers[k]);
    set_scalars(args, scalars_at_, {call.scalars, static_cast<size_t>(region_.scalars)});
    args.set(filter_at_, filter);
    args.set(stores_at_, int64_t{stores_product(call)});
    const auto blocks = static_cast<uint32_t>(std::min<int64_t>(tiles_, INT_MAX));
    const size_t shared =
        tile_bytes(*tile_, dtype_) + shared_scalar_bytes(region_) + 12 * static_cast<size_t>(tile_->rows);
    const bool aligned = reinterpret_cast<uintptr_t>(call.pointers[0]) % 16 == 0;
    launch(functions_[aligned && has_vectors()].get(),
           {.blocks = blocks, .threads = tile_threads, .shared_bytes = shared}, args.bytes());
  }

  std::vector<std::string> texts() const override {
    return {order_weights_text(shape_.pass, dtype_), text(has_vectors()), text(false)};
  }
  std::string form() const override {
    return fmt::format("conv {}x{}{}", tile_->rows, tile_->columns, region_.stages.empty() ? "" : ", epilogue");
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(shape_.weights()) * size_of(dtype_); }

 private:
  bool forward() const { return shape_.pass == ConvPass::forward; }
  int64_t columns() const { return forward() ? shape_.out : shape_.c; }
  int64_t channels() const { return forward() ? shape_.c : shape_.out; }

  void add_axis(int64_t image, int64_t result, int64_t taps, int64_t stride, int64_t before, int64_t dilation) {
    for (int64_t number : {image, result, taps, stride, before, dilation, stride / std::gcd(stride, dilation)})
      args_.add(number);
  }

  void add_args() {
    const ConvShape& s = shape_;
    args_.reserve(moves_.size());
    scalars_at_ = args_.reserve_scalars(static_cast<size_t>(std::max(1, region_.scalars)));
    filter_at_ = args_.reserve(1);
    for (const ImageMoves& m : moves_) args_.add(m);
    const int64_t h = forward() ? s.oh : s.h, w = forward() ? s.ow : s.w;
    args_.add(s.nhwc ? ImageMoves{h * w * columns(), w * columns(), columns(), 1}
                     : ImageMoves{h * w * columns(), w, 1, h * w});
    add_axis(forward() ? s.h : s.oh, h, s.kh, s.stride_h, s.top, s.dilation_h);
    add_axis(forward() ? s.w : s.ow, w, s.kw, s.stride_w, s.left, s.dilation_w);
    for (int64_t number : {s.n, std::max<int64_t>(1, channels()), columns(), int64_t{0}, tiles_, tiles_m_, tiles_n_})
      args_.add(number);
    stores_at_ = args_.add(int64_t{1});
  }

  bool has_vectors() const { return moves_[0].c == 1 && is_whole(channels()); }
  bool is_whole(int64_t channels) const { return channels % static_cast<int64_t>(16 / size_of(dtype_)) == 0; }

  std::string text(bool vectors) const {
    std::string text = tile_text(*tile_, dtype_, false, false);
    text += fmt::format("constexpr int OPERANDS = {}, SCALARS = {};\n", moves_.size(), std::max(1, region_.scalars));
    text += fmt::format("constexpr bool BACKWARD = {}, LEFT_VECTORS = {}, RIGHT_VECTORS = {};\n", !forward(), vectors,
                        is_whole(columns()));
    text += product_tile_text;
    text += image_text;
    text += epilogue_text(region_);
    text += product_kernel_text;
    return text;
  }

  // Not where a result takes the product's place.
  bool stores_product(const RegionCall& call) const {
    for (size_t k = product_operand + 1; k < moves_.size(); ++k)
      if (region_.operands[k].written && call.pointers[k] == call.pointers[product_operand] &&
          region_.operands[k].layout->dtype() == dtype_ && moves_[k] == moves_[product_operand])
        return false;
    return true;
  }

  Region region_;
  ConvShape shape_;
  DType dtype_;
  std::vector<ImageMoves> moves_;
  const Tile* tile_ = nullptr;
  int64_t tiles_m_ = 0, tiles_n_ = 0, tiles_ = 0;
  ArgsBytes args_;
  size_t scalars_at_ = 0, filter_at_ = 0, stores_at_ = 0;
  const LazyFunction order_{[this] { return order_weights_text(shape_.pass, dtype_); }};
  const LazyFunction functions_[2] = {LazyFunction([this] { return text(false); }),  // by whether channels are loaded
                                      LazyFunction([this] { return text(true); })};  // as vectors
};

// Our own kernel, and why it is not the library's.
class OwnKernel final : public RegionKernel {
 public:
  OwnKernel(std::unique_ptr<RegionKernel> kernel, std::string why) : kernel_(std::move(kernel)), why_(std::move(why)) {}
  void run(const RegionCall& call) const override { kernel_->run(call); }
  std::string form() const override { return fmt::format("{}; not the library's: {}", kernel_->form(), why_); }
  size_t scratch_bytes() const override { return kernel_->scratch_bytes(); }

 private:
  std::unique_ptr<RegionKernel> kernel_;
  std::string why_;
};

std::unique_ptr<RegionKernel> compile_own(const Region& region) {
  if (region.op == &conv2d_backward_weights_op) return compile_conv_weights(region);
  const ConvShape s = conv_shape(region);
  std::vector<ImageMoves> moves = moves_of(region, s);
  const bool matrix =
      is_pointwise(s) && std::all_of(moves.begin(), moves.end(), [&](const ImageMoves& m) { return is_flat(m, s); });
  if (matrix) return std::make_unique<PointwiseKernel>(region, s, moves);
  return std::make_unique<ImageKernel>(region, s, std::move(moves));
}

}  // namespace

std::unique_ptr<RegionKernel> compile_conv(const Region& region) {
  const bool library = !disabled("library");
  std::string why = "no kernel of our own";
  if (library)
    if (auto kernel = compile_conv_cudnn(region, &why)) return kernel;
  if (const DType dtype = region.operands[product_operand].layout->dtype(); is_short(dtype))
    fail("{}: not defined for {}: {}", region.op->name, name_of(dtype), why);
  return library ? std::make_unique<OwnKernel>(compile_own(region), std::move(why)) : compile_own(region);
}

bool conv_reads_short(const Op& op, const Attrs& attrs, std::span<const Layout* const> inputs, const Layout& result,
                      std::string* why) {
  const bool conv = &op == &conv2d_op || &op == &conv2d_backward_data_op || &op == &conv2d_backward_weights_op;
  if (!conv || inputs[0]->dtype() != result.dtype() || inputs[1]->dtype() != result.dtype()) return false;
  Region r;
  r.op = &op;
  r.attrs = attrs;
  r.operands = {{inputs[0]}, {inputs[1]}, {&result, true}};
  return compile_conv_cudnn(r, why) != nullptr;
}

}  // namespace rp::cuda
