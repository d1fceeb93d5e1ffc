// Loading and launching what the fake compiler made.
#include <dlfcn.h>
#include <fmt/core.h>

#include <algorithm>

#include "reprise/test/cuda/state.h"

namespace rp::fake {
namespace {

constexpr size_t shared_of_block = 232448, shared_of_multiprocessor = 233472, shared_reserved = 1024;
constexpr int multiprocessors = 132;

LoadedFunction* function_of(const void* kernel) {
  for (const auto& library : state->libraries)
    for (const auto& [name, function] : library->functions)
      if (function.get() == kernel) return function.get();
  state->find("a kernel that does not exist");
  return nullptr;
}

/// An image is a mark and the path of a shared object.
cudaError_t load_library(cudaLibrary_t* library, const void* code, cudaJitOption*, void**, unsigned, cudaLibraryOption*,
                         void**, unsigned) {
  if (const cudaError_t wrong = state->forbidden("cudaLibraryLoadData"); wrong != cudaSuccess) return wrong;
  const std::string text(static_cast<const char*>(code));
  constexpr std::string_view mark = "shim ";
  if (!text.starts_with(mark)) return cudaErrorInvalidKernelImage;
  void* const object = dlopen(text.c_str() + mark.size(), RTLD_NOW | RTLD_LOCAL);
  if (!object) return cudaErrorInvalidKernelImage;
  const auto connect = reinterpret_cast<rp_shim::Connect>(dlsym(object, "rp_shim_connect"));
  if (!connect) return cudaErrorInvalidKernelImage;
  auto made = std::make_unique<Library>();
  made->object = object;
  made->now = connect(&services());
  *library = reinterpret_cast<cudaLibrary_t>(made.get());
  state->libraries.push_back(std::move(made));
  return cudaSuccess;
}

/// Objects stay open: the next device may load them again.
cudaError_t unload_library(cudaLibrary_t library) {
  std::erase_if(state->libraries, [&](const auto& l) { return l.get() == reinterpret_cast<Library*>(library); });
  return cudaSuccess;
}

cudaError_t get_kernel(cudaKernel_t* kernel, cudaLibrary_t library, const char* name) {
  auto* const l = reinterpret_cast<Library*>(library);
  const std::string symbol = fmt::format("rp_shim_kernel_{}", name);
  const auto* const found = static_cast<const rp_shim::Kernel*>(dlsym(l->object, symbol.c_str()));
  if (!found) return cudaErrorSymbolNotFound;
  auto& function = l->functions[name];
  if (!function) function = std::make_unique<LoadedFunction>(LoadedFunction{{name, *found, l->now}});
  *kernel = reinterpret_cast<cudaKernel_t>(function.get());
  return cudaSuccess;
}

cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel) {
  const LoadedFunction* const f = function_of(kernel);
  if (!f) return cudaErrorInvalidDeviceFunction;
  *attributes = {};
  attributes->numRegs = 32;
  attributes->maxThreadsPerBlock = static_cast<int>(f->kernel.max_threads);
  attributes->maxDynamicSharedSizeBytes = static_cast<int>(f->shared_allowed);
  return cudaSuccess;
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  LoadedFunction* const f = function_of(kernel);
  if (!f) return cudaErrorInvalidDeviceFunction;
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    f->large_clusters = value;
    return cudaSuccess;
  }
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorNotSupported;
  if (value < 0 || static_cast<size_t>(value) > shared_of_block)
    return state->find(fmt::format("{} bytes of shared memory", value));
  f->shared_allowed = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t parameter(const void* kernel, size_t index, size_t* offset, size_t* bytes) {
  const LoadedFunction* const f = function_of(kernel);
  if (!f) return cudaErrorInvalidDeviceFunction;
  if (index > 0) return cudaErrorInvalidValue;
  *offset = 0;
  *bytes = f->kernel.argument_bytes;
  return cudaSuccess;
}

/// Blocks of a kernel that fit on a multiprocessor: by threads and shared memory; registers are not known here.
int resident(const LoadedFunction&, size_t threads, size_t shared_bytes) {
  const size_t by_threads = 2048 / ((threads + 31) / 32 * 32);
  return static_cast<int>(
      std::min({by_threads, shared_of_multiprocessor / (shared_bytes + shared_reserved), size_t{32}}));
}

cudaError_t occupancy(int* blocks, const void* kernel, int threads, size_t shared_bytes) {
  const LoadedFunction* const f = function_of(kernel);
  if (!f || threads <= 0) return cudaErrorInvalidValue;
  *blocks = resident(*f, static_cast<size_t>(threads), shared_bytes);
  return cudaSuccess;
}

cudaError_t cluster_occupancy(int* clusters, const void* kernel, const cudaLaunchConfig_t* config) {
  const LoadedFunction* const f = function_of(kernel);
  if (!f) return cudaErrorInvalidValue;
  unsigned cluster = 1;
  for (unsigned a = 0; a < config->numAttrs; ++a)
    if (config->attrs[a].id == cudaLaunchAttributeClusterDimension) cluster = config->attrs[a].val.clusterDim.x;
  if (cluster > 1 && !state->options.clusters) return *clusters = 0, cudaSuccess;
  *clusters = multiprocessors * resident(*f, config->blockDim.x, config->dynamicSmemBytes) / static_cast<int>(cluster);
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t* config, const void* kernel, void** args) {
  GridShape extra;
  for (unsigned a = 0; a < config->numAttrs; ++a) {
    const cudaLaunchAttribute& attribute = config->attrs[a];
    if (attribute.id == cudaLaunchAttributeCooperative)
      extra.cooperative = attribute.val.cooperative;
    else if (attribute.id == cudaLaunchAttributeClusterDimension)
      extra.cluster = attribute.val.clusterDim.x;
    else
      return state->find("an attribute of a launch that this device does not know");
  }
  const cudaKernelNodeParams parameters{const_cast<void*>(kernel),
                                        config->gridDim,
                                        config->blockDim,
                                        static_cast<unsigned>(config->dynamicSmemBytes),
                                        args,
                                        nullptr};
  Work work{.kind = Work::Kind::kernel};
  const cudaError_t wrong = kernel_work(work, parameters, extra);
  return wrong != cudaSuccess ? wrong : state->queue(state->stream(config->stream), std::move(work));
}

}  // namespace

cudaError_t check_shape(const LoadedFunction& f, const GridShape& shape) {
  const auto wrong = [&](std::string why) {
    return state->find(fmt::format("kernel {}: {}", f.name, why), cudaErrorInvalidValue);
  };
  if (shape.blocks == 0 || shape.blocks > 0x7FFFFFFF) return wrong(fmt::format("{} blocks", shape.blocks));
  if (shape.threads == 0 || shape.threads > 1024 || shape.threads > f.kernel.max_threads)
    return wrong(fmt::format("{} threads in a block of at most {}", shape.threads, f.kernel.max_threads));
  if (shape.shared_bytes > f.shared_allowed)
    return wrong(fmt::format("{} bytes of shared memory, {} allowed", shape.shared_bytes, f.shared_allowed));
  if (shape.cluster == 0 || shape.cluster > (f.large_clusters ? 16 : 8) || shape.blocks % shape.cluster)
    return wrong(fmt::format("{} blocks in clusters of {}", shape.blocks, shape.cluster));
  const int places = multiprocessors * resident(f, shape.threads, shape.shared_bytes);
  if (shape.cooperative && shape.blocks > static_cast<unsigned>(places))
    return state->find(fmt::format("kernel {}: {} blocks at once, {} fit", f.name, shape.blocks, places),
                       cudaErrorCooperativeLaunchTooLarge);
  return cudaSuccess;
}

cudaError_t kernel_work(Work& work, const cudaKernelNodeParams& p, const GridShape& extra) {
  LoadedFunction* const f = function_of(p.func);
  if (!f) return cudaErrorInvalidDeviceFunction;
  if (p.gridDim.y != 1 || p.gridDim.z != 1 || p.blockDim.y != 1 || p.blockDim.z != 1)
    return state->find(fmt::format("kernel {}: more than one dimension", f->name));
  if (!p.kernelParams || p.extra) return state->find(fmt::format("kernel {}: no arguments", f->name));
  work.function = f;
  work.shape = {p.gridDim.x, p.blockDim.x, p.sharedMemBytes, extra.cluster, extra.cooperative};
  const auto* const bytes = static_cast<const std::byte*>(p.kernelParams[0]);
  work.args.assign(bytes, bytes + f->kernel.argument_bytes);
  return check_shape(*f, work.shape);
}

void put_kernels(cuda::Runtime& table) {
  put<load_library>(table.cudaLibraryLoadData);
  put<unload_library>(table.cudaLibraryUnload);
  put<get_kernel>(table.cudaLibraryGetKernel);
  put<get_attributes>(table.cudaFuncGetAttributes);
  put<set_attribute>(table.cudaFuncSetAttribute);
  put<parameter>(table.cudaFuncGetParamInfo);
  put<occupancy>(table.cudaOccupancyMaxActiveBlocksPerMultiprocessor);
  put<cluster_occupancy>(table.cudaOccupancyMaxActiveClusters);
  put<launch>(table.cudaLaunchKernelExC);
}

}  // namespace rp::fake
