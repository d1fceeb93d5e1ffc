#pragma once
#include <cstddef>

namespace rp::cuda {

/// At least `bytes` of device memory, aligned to 256 bytes, uninitialised. It may be used by what is queued on the
/// compute stream from now on.
std::byte* allocate_bytes(size_t bytes);

/// Takes memory back, once what is queued on the compute stream until now is done with it; `bytes` is what was asked
/// for. Any thread may do that, whichever allocated.
void release_bytes(std::byte* data, size_t bytes) noexcept;

/// Off: every allocation and release is the driver's, so that tools see each. Nothing may be allocated at the change.
void keep_memory(bool on);

}  // namespace rp::cuda
