#include "reprise/backends/cuda/conv_cudnn.h"

#include <algorithm>
#include <atomic>

#include "reprise/backends/cuda/conv.h"
#include "reprise/backends/cuda/cudnn_patterns.h"
#include "reprise/backends/cuda/cudnn_plan.h"
#include "reprise/backends/cuda/element_text.h"
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

/// The stage behind a convolution as a map over the finished result.
Region map_behind(const Region& region) {
  Region map;
  map.kind = RegionKind::map;
  map.operands = region.operands;
  map.stages = region.stages;
  map.scalars = region.scalars;
  const Nest& nest = region.members[0];
  Shape shape = nest.outer;
  shape.push_back(nest.rows);
  shape.push_back(nest.columns);
  std::vector<Strides> strides;
  for (const Nest::Steps& s : nest.operands) {
    strides.push_back(s.outer);
    strides.back().push_back(s.row);
    strides.back().push_back(s.column);
  }
  const std::optional<Nest> joined = make_nest(RegionKind::map, shape, 0, strides);
  map.members.push_back(joined ? *joined : nest);
  return map;
}

/// The operands of a stage that is max(product + bias, 0) with one bias for each column, and stores that alone.
struct BiasRelu {
  size_t bias, result;
};
std::optional<BiasRelu> bias_relu(const Region& region) {
  const Stage& stage = region.stages[0];
  const std::vector<Inst>& code = stage.program.insts;
  const auto find = [&](Ir op) { return std::ranges::find(code, op, &Inst::op); };
  const auto sum = find(Ir::add), relu = find(Ir::max), store = find(Ir::store), zero = find(Ir::constant);
  const auto number = [&](auto it) { return static_cast<uint16_t>(it - code.begin()); };
  const bool whole = code.size() == 6 && sum != code.end() && relu != code.end() && store != code.end() &&
                     zero != code.end() && zero->imm == 0 &&
                     std::minmax(relu->a, relu->b) == std::minmax(number(sum), number(zero)) &&
                     store->a == number(relu) && code[sum->a].op == Ir::load && code[sum->b].op == Ir::load;
  if (!whole) return {};
  const auto operand = [&](const Inst& i) { return static_cast<size_t>(stage.slots[i.imm].index); };
  size_t a = operand(code[sum->a]), b = operand(code[sum->b]);
  if (b == product) std::swap(a, b);
  const Nest::Steps& steps = region.members[0].operands[b];
  const bool per_column =
      steps.column == 1 && !steps.row && std::ranges::all_of(steps.outer, [](int64_t s) { return !s; });
  const size_t result = operand(*store);
  const bool same = region.operands[result].layout == region.operands[product].layout;
  const DType dtype = region.operands[product].layout->dtype();
  const bool one_type = region.operands[b].layout->dtype() == dtype;
  if (a != product || b == product || !per_column || !same || !one_type) return {};
  return BiasRelu{b, result};
}

class CudnnConv final : public RegionKernel {
 public:
  CudnnConv(const Region& region, const ConvShape& shape, DType dtype, cudnnDataType_t type)
      : plan_(dnn_plan(convolution_graph({shape, type}))) {
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
    fused_operands_ = bias_relu(region);
    if (fused_operands_) plan_with_bias(shape, type);
  }

  void run(const RegionCall& call) const override {
    const bool after = moved_ == product;
    if (move_ && !after) move_->run(call);
    const auto at = [&](size_t k) { return moved_ == k ? call.scratch : call.pointers[k]; };
    std::byte* const workspace = call.scratch + weights_bytes_;
    const bool together = fused_ && call.pointers[fused_operands_->result] == call.pointers[product];
    together_ = together;
    if (together) {
      const auto [bias, result] = *fused_operands_;
      return fused_->run(std::array{at(0), at(1), at(bias), at(result)}, workspace);
    }
    plan_.run(std::array{at(0), at(1), at(product)}, workspace);
    if (move_ && after) move_->run(call);
    if (behind_) behind_->run({call.pointers, call.scalars, call.storages, call.scratch + bytes_});
  }

  std::string form() const override {
    if (together_) return fused_->form() + " with bias and relu";
    return behind_ ? plan_.form() + ", " + behind_->form() : plan_.form();
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
  const DnnPlan* fused_ = nullptr;              // does it all, where nothing else wants the product
  mutable std::atomic<bool> together_ = false;  // in the last run
  std::optional<BiasRelu> fused_operands_;
  std::optional<WeightsMove> move_;
  size_t moved_ = static_cast<size_t>(-1);  // the operand that the plan finds at the front of the scratch
  size_t weights_bytes_ = 0, bytes_ = 0;
  std::unique_ptr<RegionKernel> behind_;
};

}  // namespace

std::unique_ptr<RegionKernel> compile_conv_cudnn(const Region& region, std::string* why) {
  const DType dtype = region.operands[product].layout->dtype();
  if (dtype != DType::f32 && dtype != DType::f64)
    *why = fmt::format("cuDNN has no convolution of {}", name_of(dtype));
  else if (std::ranges::any_of(region.operands, [](const RegionOperand& o) { return !o.layout->numel; }))
    *why = "there is nothing to add up";
  else
    try {
      const cudnnDataType_t type = dtype == DType::f32 ? CUDNN_DATA_FLOAT : CUDNN_DATA_DOUBLE;
      return std::make_unique<CudnnConv>(region, conv_shape(region), dtype, type);
    } catch (const Error& e) {
      *why = e.what();
    }
  return nullptr;
}

}  // namespace rp::cuda
