#pragma once
#include <string_view>

namespace rp::cuda {

/// The word that kernels report to with the prelude's `raise_error`: memory of the host, at the same address on the
/// device, so that a look at it costs nothing.
int* error_words();

/// The number that stands for a message: "take: expected indices of an axis of 5, got another".
int error_code(std::string_view message);

/// Throws what kernels that have ended reported, and forgets it.
void throw_reported();

}  // namespace rp::cuda
