#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace rp::cuda {

/// The stream that kernels and copies are queued on, in the order of the calls.
cudaStream_t compute_stream();

/// Transfers from the host go ahead of the compute stream's work on this one.
cudaStream_t copy_stream();

enum class Direction : uint8_t { to_device, to_host, on_device };

/// Copies in order with what is queued on the compute stream. From the host: `from` may be changed when this returns.
/// To the host: waits until `to` is complete, and throws what kernels have reported until then. Memory of the host may
/// be any.
void copy(std::byte* to, const std::byte* from, size_t bytes, Direction direction);

/// Sets each byte, in order with what is queued on the compute stream.
void fill(std::byte* to, std::byte value, size_t bytes);

}  // namespace rp::cuda
