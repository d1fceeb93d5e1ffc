#pragma once
// All steps of a scan in one launch.
#include <memory>

#include "reprise/backends/cuda/scan_choice.h"

namespace rp::cuda {

/// The kernel of a scan with so many operands, results included, spread over the device in one way; `text` is
/// `scan_text` of these. `no_tensor`: why tensor cores do not form its products, where they might, for reports.
std::unique_ptr<RegionKernel> scan_kernel(const ScanBody& body, const ScanChoice& choice, size_t operands,
                                          const std::string& text, std::string no_tensor = "");

/// What the device in use has.
ScanDevice scan_device();

}  // namespace rp::cuda
