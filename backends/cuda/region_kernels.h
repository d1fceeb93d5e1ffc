#pragma once
// One kernel for each kind of region: text for the device, and how it is launched.
#include <memory>

#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// More than this many elements, rows or columns are counted with 64 bits.
inline constexpr int64_t most_narrow = INT32_MAX - 65536;

std::unique_ptr<RegionKernel> compile_map(const Region& region, int64_t narrow = most_narrow);
std::unique_ptr<RegionKernel> compile_rows(const Region& region, int64_t narrow = most_narrow);
std::unique_ptr<RegionKernel> compile_columns(const Region& region, int64_t narrow = most_narrow);
std::unique_ptr<RegionKernel> compile_copy(const Region& region, int64_t narrow = most_narrow);
std::unique_ptr<RegionKernel> compile_gemm(const Region& region);
/// Whether a library takes factors of 16 bits as they lie (Backend::reads_short). Its result is f32.
bool product_reads_short(const Op& op, const Attrs& attrs, std::span<const Layout* const> factors,
                         const Layout& result);
std::unique_ptr<RegionKernel> compile_conv(const Region& region);
/// Whether a library takes a convolution or one of its gradients for 16 bits (Backend::reads_short). So is its result.
bool conv_reads_short(const Op& op, const Attrs& attrs, std::span<const Layout* const> inputs, const Layout& result,
                      std::string* why);
std::unique_ptr<RegionKernel> compile_call(const Region& region);
/// All steps of a scan; null, with the reason, if that is not one kernel (scan.h).
std::unique_ptr<RegionKernel> compile_scan(const Region& region, std::string* why);

}  // namespace rp::cuda
