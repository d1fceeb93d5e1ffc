#pragma once
// The text of a kernel that runs all steps of a scan.
#include <string>
#include <string_view>

#include "reprise/backends/cuda/scan_choice.h"

namespace rp::cuda {

/// Its Args are, a word of 8 bytes each: the address of each of the scan's `operands`, results included; if values are
/// handed over in device memory, the address of a word for each slice, 128 bytes apart, and that of
/// `ScanMemory::handed` bytes; the number of steps; the parameters of the body.
std::string scan_text(const ScanBody& body, const ScanChoice& choice, size_t operands);

/// Functions that such texts use, behind their constants.
extern const std::string_view scan_pieces;

}  // namespace rp::cuda
