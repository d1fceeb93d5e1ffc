// Matrix products with a fused epilogue.
#include <algorithm>

#include "reprise/backends/cuda/lt_product.h"
#include "reprise/backends/cuda/matrix_kernel.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/fail.h"
#include "reprise/core/switches.h"

namespace rp::cuda {
namespace {

class GemmKernel final : public TextKernel {
 public:
  explicit GemmKernel(const Region& region)
      : operands_(region.operands.size()), scalars_(region.scalars), product_(region, matrix_product(region)) {
    if (!disabled("library")) ask_library(region);
    if (region.after) after_ = compile_map(*region.after);
  }

  void run(const RegionCall& call) const override {
    if (library_ && library_->takes(call))
      library_->run(call);
    else
      product_.run(call);
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
    return std::max(library_ ? library_->scratch_bytes() : 0, after_ ? after_->scratch_bytes() : 0);
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

  size_t operands_;
  int scalars_;
  MatrixKernel product_;
  std::unique_ptr<LtProduct> library_;
  std::string why_;  // no library serves, where one might
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
