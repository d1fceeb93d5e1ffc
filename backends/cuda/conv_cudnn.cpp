#include "reprise/backends/cuda/conv_cudnn.h"

#include <algorithm>

#include "reprise/backends/cuda/conv.h"
#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/backends/cuda/cudnn_plan.h"
#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/epilogue.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/region_kernels.h"

namespace rp::cuda {
namespace {

using cpu::ConvPass;
using cpu::ConvShape;

constexpr size_t product = 2;  // the operand that holds the convolution itself
constexpr size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Each of some matrices [rows, columns] is transposed.
constexpr std::string_view transpose_text = R"text(
struct Args {
  const T* from;
  T* to;
  i64 count, rows, columns;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const i64 elements = args.rows * args.columns, step = (i64)gridDim.x * blockDim.x;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < args.count; i += step) {
    const i64 matrix = i / elements, at = i - matrix * elements, column = at / args.rows;
    args.to[i] = args.from[matrix * elements + (at - column * args.rows) * args.columns + column];
  }
}
)text";

/// Weights between our order, [out, c, taps], and that of images with their channels last, [out, taps, c].
class WeightsMove {
 public:
  /// Of `operand` into the front of the scratch, or back from there.
  WeightsMove(const ConvShape& s, DType dtype, size_t operand, bool back) {
    launch_.function = std::make_shared<const LazyFunction>(
        [dtype] { return "typedef " + c_type(dtype) + " T;\n" + std::string(transpose_text); });
    launch_.how.blocks = blocks_for(static_cast<uint64_t>(divide_up(s.weights(), threads)));
    const size_t from = launch_.args.reserve(1), to = launch_.args.reserve(1);
    launch_.operands.push_back({back ? to : from, operand});
    launch_.scratch.push_back({back ? from : to, 0});
    const int64_t taps = s.kh * s.kw;
    for (const int64_t n : {s.weights(), back ? taps : s.c, back ? s.c : taps}) launch_.args.add(n);
  }
  void run(const RegionCall& call) const { launch_.run(call); }

 private:
  PlannedLaunch launch_;
};

std::optional<cudnnDataType_t> dnn_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDNN_DATA_FLOAT;
    case DType::f64:
      return CUDNN_DATA_DOUBLE;
    case DType::f16:
      return CUDNN_DATA_HALF;
    case DType::bf16:
      return CUDNN_DATA_BFLOAT16;
    default:
      return {};
  }
}

class CudnnConv final : public RegionKernel {
 public:
  CudnnConv(const Region& region, const ConvShape& shape, DType dtype, cudnnDataType_t type)
      : plan_(dnn_plan(convolution_graph({shape, type}))), dtype_(dtype) {
    const bool weights_last = shape.nhwc && shape.c > 1 && shape.kh * shape.kw > 1;
    const bool gradient = shape.pass == ConvPass::backward_weights;
    if (weights_last) {
      move_.emplace(shape, dtype, gradient ? product : 1, gradient);
      moved_ = gradient ? product : 1;
      weights_bytes_ = round_up(static_cast<size_t>(shape.weights()) * size_of(dtype));
    }
    bytes_ = weights_bytes_ + round_up(plan_.workspace_bytes());
    if (region.stages.empty()) return;
    behind_ = compile_map(map_behind(region));
    if (shape.pass != ConvPass::forward || !shape.nhwc) return;
    if (region.keeps_product) return;
    stage_ = plain_stage(region);
    if (!stage_ || !stage_->bias || !stage_->relu) return;
    const bool same = region.operands[stage_->result].layout == region.operands[product].layout;
    if (same) plan_with_bias(shape, type);
  }

  void run(const RegionCall& call) const override {
    const bool after = moved_ == product;
    if (move_ && !after) move_->run(call);
    const auto at = [&](size_t k) { return moved_ == k ? call.scratch : call.pointers[k]; };
    std::byte* const workspace = call.scratch + weights_bytes_;
    if (fused_) return fused_->run(std::array{at(0), at(1), at(stage_->bias), at(stage_->result)}, workspace);
    plan_.run(std::array{at(0), at(1), at(product)}, workspace);
    if (move_ && after) move_->run(call);
    if (behind_) behind_->run({call.pointers, call.scalars, call.storages, call.scratch + bytes_});
  }

  std::string form() const override {
    const std::string form =
        (fused_ ? *fused_ : plan_).form() + (is_short(dtype_) ? fmt::format(" of {}", name_of(dtype_)) : std::string());
    if (fused_) return form + " with bias and relu";
    return behind_ ? form + ", " + behind_->form() : form;
  }
  size_t scratch_bytes() const override { return bytes_ + (behind_ ? behind_->scratch_bytes() : 0); }

 private:
  // Not all that has a plan alone has one with what stands behind it.
  void plan_with_bias(const ConvShape& shape, cudnnDataType_t type) {
    try {
      fused_ = &dnn_plan(convolution_graph({shape, type, DnnAfter::bias_relu}));
      bytes_ = std::max(bytes_, weights_bytes_ + round_up(fused_->workspace_bytes()));
    } catch (const Error&) {
      fused_ = nullptr;
    }
  }

  const DnnPlan& plan_;
  DType dtype_;
  const DnnPlan* fused_ = nullptr;  // does it all, where nothing else wants the product
  std::optional<PlainStage> stage_;
  std::optional<WeightsMove> move_;
  size_t moved_ = static_cast<size_t>(-1);  // the operand that the plan finds at the front of the scratch
  size_t weights_bytes_ = 0, bytes_ = 0;
  std::unique_ptr<RegionKernel> behind_;
};

}  // namespace

std::unique_ptr<RegionKernel> compile_conv_cudnn(const Region& region, std::string* why) {
  const DType dtype = region.operands[product].layout->dtype();
  const std::optional<cudnnDataType_t> type = dnn_type(dtype);
  if (!type)
    *why = fmt::format("cuDNN has no convolution of {}", name_of(dtype));
  else if (std::ranges::any_of(region.operands, [](const RegionOperand& o) { return !o.layout->numel; }))
    *why = "there is nothing to add up";
  else
    try {
      return std::make_unique<CudnnConv>(region, conv_shape(region), dtype, *type);
    } catch (const Error& e) {
      *why = e.what();
    }
  return nullptr;
}

}  // namespace rp::cuda
