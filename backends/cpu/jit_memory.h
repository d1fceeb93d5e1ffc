#pragma once
#include <cstddef>
#include <span>

namespace rp::jit {

/// Copies position-independent code to executable memory, 64-byte aligned, where it stays for ever and is never
/// writable at the address returned. Null where the host refuses executable memory.
const std::byte* publish(std::span<const std::byte> code);

}  // namespace rp::jit
