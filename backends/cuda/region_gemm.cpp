// Matrix products with a fused epilogue.
#include "reprise/backends/cuda/matrix_kernel.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/fail.h"

namespace rp::cuda {
namespace {

class GemmKernel final : public TextKernel {
 public:
  explicit GemmKernel(const Region& region)
      : operands_(region.operands.size()), scalars_(region.scalars), product_(region, matrix_product(region)) {
    if (region.after) after_ = compile_map(*region.after);
  }

  void run(const RegionCall& call) const override {
    product_.run(call);
    if (after_)
      after_->run({call.pointers + operands_, call.scalars + scalars_, call.storages + operands_, call.scratch});
  }

  std::vector<std::string> texts() const override { return product_.texts(); }
  std::string form() const override { return product_.form() + (after_ ? ", " + after_->form() : ""); }
  size_t scratch_bytes() const override { return after_ ? after_->scratch_bytes() : 0; }

 private:
  size_t operands_;
  int scalars_;
  MatrixKernel product_;
  std::unique_ptr<RegionKernel> after_;
};

}  // namespace

std::unique_ptr<RegionKernel> compile_gemm(const Region& region) {
  if (const DType dtype = region.operands[2].layout->dtype(); is_short(dtype))
    fail("{}: not defined for {}", region.op->name, name_of(dtype));
  if (region.op->kind != Kind::contract) return compile_conv(region);
  return std::make_unique<GemmKernel>(region);
}

}  // namespace rp::cuda
