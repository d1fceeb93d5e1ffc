#pragma once
#include <string>

#include "reprise/core/tensor.h"

namespace rp {

/// Reads a file in IDX format (that of MNIST), plain or compressed by gzip. Bytes and 16- and 32-bit integers become
/// i32, floats f32, doubles f64. Throws if the file is missing, damaged, shorter or longer than its header says, or
/// holds more than `max_bytes`.
Tensor read_idx(const std::string& path, int64_t max_bytes = int64_t{1} << 30, Loc loc = Loc::current());

/// The same for unsigned bytes, such as grey values, as f32 between 0 and 1 (byte / 255).
Tensor read_idx_unit(const std::string& path, int64_t max_bytes = int64_t{1} << 30, Loc loc = Loc::current());

}  // namespace rp
