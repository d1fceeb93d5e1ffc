#include "reprise/backends/cuda/recipe.h"

#include <algorithm>

#include "reprise/backends/cuda/conv.h"
#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/errors.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/entries.h"

namespace rp::cuda {

Step::Step(std::string text, const std::vector<Pointer>& pointers) {
  launch_.function = std::make_shared<const LazyFunction>([text = std::move(text)] { return text; });
  for (const Pointer& p : pointers) {
    const size_t at = launch_.args.add(error_words());
    if (p.kind == Pointer::Kind::operand) launch_.operands.push_back({at, p.at});
    if (p.kind == Pointer::Kind::scratch) launch_.scratch.push_back({at, p.at});
  }
}

Step& Step::add_index(int64_t value, bool wide) {
  return wide ? add(static_cast<uint64_t>(value)) : add(static_cast<uint32_t>(value));
}

Step& Step::divisor(int64_t value, bool wide) {
  add_divisor(launch_.args, static_cast<uint64_t>(value), wide);
  return *this;
}

Step& Step::threads_for(int64_t pieces) {
  launch_.args.finish();
  launch_.how.threads = threads;
  launch_.how.blocks = blocks_for(static_cast<uint64_t>((pieces + threads - 1) / threads));
  return *this;
}

Step& Step::blocks_of(int64_t pieces, size_t shared_bytes) {
  threads_for(pieces * threads);
  launch_.how.shared_bytes = shared_bytes;
  return *this;
}

Pointer Recipe::room(int64_t bytes) {
  const Pointer p{Pointer::Kind::scratch, scratch};
  scratch += (static_cast<size_t>(bytes) + 63) / 64 * 64;
  return p;
}

std::string index_text(bool wide) {
  return fmt::format(
      "typedef {} Index;\n"
      "__device__ __forceinline__ Index first_index() {{ return (Index)blockIdx.x * blockDim.x + threadIdx.x; }}\n"
      "__device__ __forceinline__ Index index_step() {{ return (Index)gridDim.x * blockDim.x; }}\n",
      wide ? "u64" : "u32");
}

std::string type_text(DType dtype, std::string_view name) {
  return fmt::format("typedef {} {};\n", c_type(dtype), name);
}

Fold fold(const Shape& shape, int64_t axis) {
  Fold f;
  for (int i = 0; i < shape.rank(); ++i) (i < axis ? f.outer : i > axis ? f.inner : f.extent) *= shape[i];
  return f;
}

std::string index_type_text(const Region& region) {
  const DType dtype = region.operands[1].layout->dtype();
  if (dtype != DType::i32 && dtype != DType::i64)
    fail("{}: indices must be i32 or i64, got {}", region.op->name, name_of(dtype));
  return type_text(dtype, "I");
}

int range_error(const Region& region, int64_t extent) {
  return error_code(fmt::format("{}: an index is out of range [0,{})", region.op->name, extent));
}

constexpr std::string_view plus_text = R"text(
__device__ __forceinline__ f32 plus(f32 a, f32 b) { return a + b; }
__device__ __forceinline__ f64 plus(f64 a, f64 b) { return a + b; }
__device__ __forceinline__ i32 plus(i32 a, i32 b) { return wrap_add(a, b); }
__device__ __forceinline__ i64 plus(i64 a, i64 b) { return wrap_add(a, b); }
)text";

namespace {

constexpr std::string_view zero_text = R"text(
struct Args {
  T* to;
  i64 count;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < args.count; i += (i64)gridDim.x * blockDim.x)
    args.to[i] = 0;
}
)text";

}  // namespace

Recipe zeros(const Region& region, size_t result) {
  const Layout& to = *region.operands[result].layout;
  Recipe r;
  r.steps.emplace_back(type_text(to.dtype(), "T") + std::string(zero_text), std::vector{operand(result)})
      .add(to.numel)
      .threads_for(to.numel);
  return r;
}

namespace {

struct Row {
  const Op* op;
  Recipe (*make)(const Region& region, bool aligned);
  bool booleans;  // whether bool elements are served too
};

constexpr Row rows[] = {
    {&argmax_op, argmax_recipe, true},
    {&argmin_op, argmin_recipe, true},
    {&index_select_op, index_select_recipe, true},
    {&index_add_op, index_add_recipe, false},
    {&gather_op, gather_recipe, true},
    {&scatter_add_op, scatter_add_recipe, false},
    {&concat_op, concat_recipe, true},
    {&conv2d_op, nullptr, false},  // products of their own
    {&conv2d_backward_data_op, nullptr, false},
    {&conv2d_backward_weights_op, nullptr, false},
    {&max_pool2d_op, max_pool2d_recipe, false},
    {&max_pool2d_backward_op, max_pool2d_backward_recipe, false},
    {&max_pool2d_pick_op, max_pool2d_pick_recipe, false},
    {&avg_pool2d_op, avg_pool2d_recipe, false},
    {&avg_pool2d_backward_op, avg_pool2d_backward_recipe, false},
};

class CallKernel final : public TextKernel {
 public:
  CallKernel(const Region& region, const Row& row)
      : operands_(region.operands.size()), empty_(!region.operands.back().layout->numel) {
    for (bool aligned : {false, true}) recipes_[aligned] = row.make(region, aligned);
  }

  void run(const RegionCall& call) const override {
    if (empty_) return;
    const bool aligned = std::all_of(call.pointers, call.pointers + operands_,
                                     [](const std::byte* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; });
    for (const Step& step : recipes_[aligned].steps) step.run(call);
  }

  std::vector<std::string> texts() const override {
    std::vector<std::string> all;
    for (const Recipe& r : recipes_)
      for (const Step& step : r.steps) all.push_back(step.text());
    return all;
  }
  std::string form() const override { return fmt::format("{} launches", recipes_[true].steps.size()); }
  size_t scratch_bytes() const override { return std::max(recipes_[false].scratch, recipes_[true].scratch); }

 private:
  size_t operands_;
  bool empty_;
  Recipe recipes_[2];
};

const Row* find_row(const Op& op) {
  const auto row = std::find_if(std::begin(rows), std::end(rows), [&](const Row& r) { return r.op == &op; });
  return row == std::end(rows) ? nullptr : row;
}

}  // namespace

bool has_kernel(const Op& op, DType dtype, std::string* why) {
  const Row* const row = find_row(op);
  if (row && (is_short(dtype) ? op.moves : dtype != DType::boolean || row->booleans)) return true;
  if (why)
    *why = row ? fmt::format("{}: not defined for {}", op.name, name_of(dtype))
               : fmt::format("{}: a CUDA device has no kernel for it", op.name);
  return false;
}

std::unique_ptr<RegionKernel> compile_call(const Region& region) {
  std::string why;
  const DType dtype = region.operands[0].layout->dtype();
  const Row* const row = find_row(*region.op);
  const bool conv = row && !row->make;
  if (!(conv && is_short(dtype)) && !has_kernel(*region.op, dtype, &why)) fail("{}", why);
  if (conv) return compile_conv(region);
  return std::make_unique<CallKernel>(region, *row);
}

}  // namespace rp::cuda
