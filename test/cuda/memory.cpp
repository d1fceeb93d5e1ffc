// Memory of the device and of the host, and what moves it.
#include <fmt/core.h>

#include <cstdlib>
#include <cstring>

#include "reprise/test/cuda/state.h"

namespace rp::fake {
namespace {

cudaError_t malloc_async(void** data, size_t bytes, cudaStream_t stream) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t wrong = state->forbidden("cudaMallocAsync"); wrong != cudaSuccess) return wrong;
  if (bytes == 0) return state->find("an allocation of no bytes");
  *data = state->arena.allocate(bytes);
  if (!*data) {
    state->run_everything();  // what is freed in queues that have not run
    *data = state->arena.allocate(bytes);
  }
  return *data ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t free_async(void* data, cudaStream_t stream) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t wrong = state->forbidden("cudaFreeAsync"); wrong != cudaSuccess) return wrong;
  if (!state->arena.is_start(data)) return state->find("a release of what is not allocated");
  s->queue.push_back([data] {
    if (state->arena.is_start(data))
      state->arena.free(data);
    else
      state->fault("an allocation that is released twice", cudaErrorIllegalAddress);
  });
  return cudaSuccess;
}

cudaError_t default_pool(cudaMemPool_t* pool, int device) {
  *pool = reinterpret_cast<cudaMemPool_t>(state);
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t set_pool(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }

cudaError_t get_pool(cudaMemPool_t, cudaMemPoolAttr attribute, void* value) {
  if (attribute != cudaMemPoolAttrUsedMemCurrent && attribute != cudaMemPoolAttrReservedMemCurrent)
    return cudaErrorNotSupported;
  const uint64_t bytes = state->arena.in_use();
  std::memcpy(value, &bytes, sizeof bytes);
  return cudaSuccess;
}

cudaError_t trim_pool(cudaMemPool_t, size_t) { return state->forbidden("cudaMemPoolTrimTo"); }

cudaError_t memory_info(size_t* free, size_t* total) {
  *total = state->options.memory;
  *free = *total - state->arena.in_use();
  return cudaSuccess;
}

cudaError_t host_alloc(void** data, size_t bytes, unsigned) {
  if (const cudaError_t wrong = state->forbidden("cudaHostAlloc"); wrong != cudaSuccess) return wrong;
  *data = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!*data) return cudaErrorMemoryAllocation;
  state->host[static_cast<char*>(*data)] = bytes;
  return cudaSuccess;
}

/// The real one waits for the device, too.
cudaError_t host_free(void* data) {
  if (const cudaError_t wrong = state->forbidden("cudaFreeHost"); wrong != cudaSuccess) return wrong;
  state->run_everything();
  if (!state->host.erase(static_cast<char*>(data))) return state->find("a release of what is not pinned memory");
  std::free(data);
  return cudaSuccess;
}

cudaError_t copy_async(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = state->arena.contains(to), from_device = state->arena.contains(from);
  const cudaMemcpyKind is = to_device     ? from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice
                            : from_device ? cudaMemcpyDeviceToHost
                                          : cudaMemcpyHostToHost;
  if (kind != is && kind != cudaMemcpyDefault)
    return state->find(
        fmt::format("a copy of kind {} that is of kind {}", static_cast<int>(kind), static_cast<int>(is)),
        cudaErrorInvalidMemcpyDirection);
  return state->queue(state->stream(stream), {.kind = Work::Kind::copy, .to = to, .from = from, .bytes = bytes});
}

cudaError_t fill_async(void* to, int value, size_t bytes, cudaStream_t stream) {
  return state->queue(state->stream(stream), {.kind = Work::Kind::fill, .to = to, .bytes = bytes, .value = value});
}

}  // namespace

void put_memory(cuda::Runtime& table) {
  put<malloc_async>(table.cudaMallocAsync);
  put<free_async>(table.cudaFreeAsync);
  put<default_pool>(table.cudaDeviceGetDefaultMemPool);
  put<set_pool>(table.cudaMemPoolSetAttribute);
  put<get_pool>(table.cudaMemPoolGetAttribute);
  put<trim_pool>(table.cudaMemPoolTrimTo);
  put<memory_info>(table.cudaMemGetInfo);
  put<host_alloc>(table.cudaHostAlloc);
  put<host_free>(table.cudaFreeHost);
  put<copy_async>(table.cudaMemcpyAsync);
  put<fill_async>(table.cudaMemsetAsync);
}

}  // namespace rp::fake
