#pragma once
// The pieces of a scan's text that products on tensor cores change.
#include <functional>
#include <string>
#include <string_view>

#include "reprise/backends/cuda/scan_choice.h"

namespace rp::cuda {

/// Functions that such texts use, behind those of `scan_pieces`.
extern const std::string_view scan_tensor_pieces;

/// How a thread comes to its unit, `lane`, and its rows, from `strip` on, on tensor cores or not.
std::string thread_text(const ScanChoice& choice);

/// The factor of product `v` as its block's threads need it, on tensor cores or not.
std::string factor_text(const ScanBody& body, const ScanChoice& choice, const ScanMemory& memory, size_t v);

/// All products of a level on tensor cores; `rows` says where the rows of an exchange begin.
std::string tiles_text(const ScanBody& body, const ScanChoice& choice, const ScanMemory& memory, int level,
                       const std::function<std::string(size_t exchange)>& rows);

}  // namespace rp::cuda
