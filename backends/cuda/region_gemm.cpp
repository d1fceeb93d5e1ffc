// Matrix products with a fused epilogue.
#include <algorithm>

#include "reprise/backends/cuda/lt_product.h"
#include "reprise/backends/cuda/matrix_kernel.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/expr.h"
#include "reprise/core/fail.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

constexpr size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/// Factors of 16 bits as f32, at the same steps from the scratch's start; others as they are.
class WideFactors {
 public:
  explicit WideFactors(const Region& region) : region_(region) {
    for (size_t k = 0; k < 2; ++k) {
      const Layout& l = *region.operands[k].layout;
      if (!is_short(l.dtype())) continue;
      region_.operands[k].layout = intern({DType::f32, l.shape(), l.spec.device}, l.strides);
      casts_[k] = compile_map(cast_region(l));
      at_[k] = bytes_;
      bytes_ += round_up(static_cast<size_t>(extent_of(l)) * sizeof(float));
    }
  }

  /// The region with them in the factors' place.
  const Region& region() const { return region_; }
  size_t scratch_bytes() const { return bytes_; }

  /// Makes them, and puts their addresses into those of a call.
  void make(const RegionCall& call, std::vector<std::byte*>& pointers) const {
    for (size_t k = 0; k < 2; ++k) {
      if (!casts_[k]) continue;
      std::byte* const both[] = {pointers[k], call.scratch + at_[k]};
      casts_[k]->run({both, nullptr, nullptr, nullptr});
      pointers[k] = both[1];
    }
  }

 private:
  static Region cast_region(const Layout& l) {
    const Shape shape{extent_of(l)};
    Region r;
    ProgramBuilder b;
    Stage stage;
    for (const DType dtype : {l.dtype(), DType::f32}) {
      const bool written = !r.operands.empty();
      stage.slots.push_back({StageSlot::Kind::operand, b.operand(dtype, Access::contiguous, written)});
      r.operands.push_back({intern({dtype, shape, l.spec.device}), written});
    }
    b.store(b.load(0), 1);
    stage.program = b.take();
    r.stages.push_back(std::move(stage));
    r.members.push_back(*make_nest(RegionKind::map, shape, 0, {Strides{1}, Strides{1}}));
    return r;
  }

  Region region_;
  std::unique_ptr<RegionKernel> casts_[2];
  size_t at_[2] = {}, bytes_ = 0;
};

class GemmKernel final : public TextKernel {
 public:
  explicit GemmKernel(const Region& region)
      : operands_(region.operands.size()),
        scalars_(region.scalars),
        factors_(region),
        product_(factors_.region(), matrix_product(region)) {
    if (!disabled("library")) ask_library(region);
    if (region.after) after_ = compile_map(*region.after);
  }

  void run(const RegionCall& call) const override {
    if (library_ && library_->takes(call))
      library_->run(call);
    else
      run_own(call);
    if (after_)
      after_->run({call.pointers + operands_, call.scalars + scalars_, call.storages + operands_, call.scratch});
  }

  std::vector<std::string> texts() const override { return product_.texts(); }
  std::string form() const override {
    std::string text = library_ ? library_->form() : product_.form();
    if (after_) text += ", " + after_->form();
    return why_.empty() ? text : text + "; not cuBLASLt: " + why_;
  }
  size_t scratch_bytes() const override {
    return std::max(
        {factors_.scratch_bytes(), library_ ? library_->scratch_bytes() : 0, after_ ? after_->scratch_bytes() : 0});
  }

 private:
  void ask_library(const Region& region) {
    try {
      library_ = LtProduct::make(region, &why_);
      if (library_) why_.clear();
    } catch (const Error& e) {
      why_ = e.what();
    }
  }

  void run_own(const RegionCall& call) const {
    if (!factors_.scratch_bytes()) return product_.run(call);
    std::vector<std::byte*> pointers(call.pointers, call.pointers + operands_);
    factors_.make(call, pointers);
    product_.run({pointers.data(), call.scalars, call.storages, call.scratch});
  }

  size_t operands_;
  int scalars_;
  WideFactors factors_;
  MatrixKernel product_;
  std::unique_ptr<LtProduct> library_;
  std::string why_;  // no library serves, where one might
  std::unique_ptr<RegionKernel> after_;
};

}  // namespace

bool product_reads_short(const Op& op, const Attrs& attrs, std::span<const Layout* const> factors,
                         const Layout& result) {
  if (factors[0]->dtype() != factors[1]->dtype() || is_short(result.dtype())) return false;
  Region r;
  r.kind = RegionKind::gemm;
  r.op = &op;
  r.attrs = attrs;
  r.operands = {{factors[0]}, {factors[1]}, {&result, true}};
  r.members = {matrix_nest(result.shape(), {result.strides, result.strides, result.strides})};
  std::string why;
  try {
    return LtProduct::make(r, &why) != nullptr;
  } catch (const Error&) {  // our own kernels do without
    return false;
  }
}

std::unique_ptr<RegionKernel> compile_gemm(const Region& region) {
  if (const DType dtype = region.operands[2].layout->dtype(); is_short(dtype))
    fail("{}: not defined for {}", region.op->name, name_of(dtype));
  if (region.op->kind != Kind::contract) return compile_conv(region);
  return std::make_unique<GemmKernel>(region);
}

}  // namespace rp::cuda
