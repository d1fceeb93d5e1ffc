#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace rp::cuda {

/// SHA-256. Kernels are kept on disk under their hash and run without a look at their text, so two texts must not share
/// one, whoever wrote them.
std::array<uint8_t, 32> sha256(std::string_view data);

std::string hex(std::array<uint8_t, 32> digest);

}  // namespace rp::cuda
