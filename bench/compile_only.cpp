#include "reprise/bench/compile_only.h"

#include <elf.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/cache.h"
#include "reprise/backends/cuda/compile.h"
#include "reprise/backends/cuda/prelude.h"

namespace bench {
namespace {

namespace fs = std::filesystem;
using rp::cuda::Runtime;

int sm = 90;

/// Handles and addresses that differ from each other and that nobody looks behind.
template <class Handle>
Handle fresh(size_t bytes = 1) {
  static uintptr_t next = uintptr_t{1} << 40;
  const uintptr_t here = next;
  next += (bytes + 511) / 512 * 512;
  return reinterpret_cast<Handle>(here);
}

struct Image {
  std::map<std::string, size_t> argument_bytes;  // by the kernel's name
};

/// What stands in a section about a kernel: attributes of two bytes each, most with a value of two bytes, those of
/// format 4 with as many bytes behind as the value says. One of them is the size of its arguments.
size_t argument_bytes(const char* data, size_t bytes) {
  constexpr unsigned char sized = 4, size_of_arguments = 0x19;
  for (size_t at = 0; at + 4 <= bytes;) {
    uint16_t value = 0;
    std::memcpy(&value, data + at + 2, sizeof value);
    if (data[at + 1] == size_of_arguments) return value;
    at += 4 + (data[at] == sized ? value : 0u);
  }
  return 0;
}

Image image_of(const char* code) {
  constexpr std::string_view prefix = ".nv.info.";
  Elf64_Ehdr head;
  std::memcpy(&head, code, sizeof head);
  const auto section = [&](size_t i) {
    Elf64_Shdr s;
    std::memcpy(&s, code + head.e_shoff + i * head.e_shentsize, sizeof s);
    return s;
  };
  const char* const names = code + section(head.e_shstrndx).sh_offset;
  Image image;
  for (size_t i = 0; i < head.e_shnum; ++i) {
    const Elf64_Shdr s = section(i);
    const std::string name = names + s.sh_name;
    if (name.starts_with(prefix))
      image.argument_bytes[name.substr(prefix.size())] = argument_bytes(code + s.sh_offset, s.sh_size);
  }
  return image;
}

cudaError_t properties(cudaDeviceProp* p, int) {
  *p = {};
  std::strncpy(p->name, ("nothing runs, sm_" + std::to_string(sm)).c_str(), sizeof p->name - 1);
  p->major = sm / 10;
  p->minor = sm % 10;
  p->totalGlobalMem = size_t{140} << 30;
  p->multiProcessorCount = 132;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = sm == 80 ? 166'912 : 232'448;
  p->sharedMemPerMultiprocessor = p->sharedMemPerBlockOptin + 1024;
  p->regsPerBlock = p->regsPerMultiprocessor = 65'536;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->warpSize = 32;
  p->l2CacheSize = 60 << 20;
  p->memoryBusWidth = 6144;
  p->cooperativeLaunch = 1;
  return cudaSuccess;
}

/// A text as the compiler was given it: behind it stands what makes its kernels known to the tests' device.
std::string source_of(const fs::path& file) {
  std::ifstream in(file);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  return text.substr(0, text.find("\nRP_SHIM_KERNEL("));
}

void put_device(Runtime& t) {
  t.cudaDriverGetVersion.set(+[](int* v) { return *v = CUDART_VERSION, cudaSuccess; });
  t.cudaRuntimeGetVersion.set(+[](int* v) { return *v = CUDART_VERSION, cudaSuccess; });
  t.cudaGetErrorName.set(+[](cudaError_t) { return "an error"; });
  t.cudaGetErrorString.set(+[](cudaError_t) { return "of a device on which nothing runs"; });
  t.cudaGetDeviceCount.set(+[](int* n) { return *n = 1, cudaSuccess; });
  t.cudaGetDeviceProperties.set(properties);
  t.cudaSetDevice.set(+[](int) { return cudaSuccess; });
  t.cudaDeviceGetAttribute.set(+[](int* v, cudaDeviceAttr, int) { return *v = 1'000'000, cudaSuccess; });
  t.cudaMemGetInfo.set(+[](size_t* a, size_t* b) { return *a = *b = size_t{140} << 30, cudaSuccess; });
}

void put_memory(Runtime& t) {
  t.cudaDeviceGetDefaultMemPool.set(+[](cudaMemPool_t* p, int) { return *p = fresh<cudaMemPool_t>(), cudaSuccess; });
  t.cudaMemPoolSetAttribute.set(+[](cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; });
  t.cudaMemPoolGetAttribute.set(+[](cudaMemPool_t, cudaMemPoolAttr, void* v) {
    std::memset(v, 0, sizeof(uint64_t));
    return cudaSuccess;
  });
  t.cudaMemPoolTrimTo.set(+[](cudaMemPool_t, size_t) { return cudaSuccess; });
  t.cudaMallocAsync.set(+[](void** p, size_t n, cudaStream_t) { return *p = fresh<void*>(n), cudaSuccess; });
  t.cudaFreeAsync.set(+[](void*, cudaStream_t) { return cudaSuccess; });
  t.cudaHostAlloc.set(
      +[](void** p, size_t n, unsigned) { return (*p = std::calloc(n, 1)) ? cudaSuccess : cudaErrorMemoryAllocation; });
  t.cudaFreeHost.set(+[](void* p) { return std::free(p), cudaSuccess; });
  t.cudaMemcpyAsync.set(+[](void* to, const void*, size_t n, cudaMemcpyKind kind, cudaStream_t) {
    if (kind == cudaMemcpyDeviceToHost) std::memset(to, 0, n);
    return cudaSuccess;
  });
  t.cudaMemsetAsync.set(+[](void*, int, size_t, cudaStream_t) { return cudaSuccess; });
}

void put_streams(Runtime& t) {
  t.cudaStreamCreateWithFlags.set(+[](cudaStream_t* s, unsigned) { return *s = fresh<cudaStream_t>(), cudaSuccess; });
  t.cudaStreamDestroy.set(+[](cudaStream_t) { return cudaSuccess; });
  t.cudaStreamSynchronize.set(+[](cudaStream_t) { return cudaSuccess; });
  t.cudaStreamQuery.set(+[](cudaStream_t) { return cudaSuccess; });
  t.cudaStreamWaitEvent.set(+[](cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; });
  t.cudaStreamBeginCapture.set(+[](cudaStream_t, cudaStreamCaptureMode) { return cudaSuccess; });
  t.cudaStreamEndCapture.set(+[](cudaStream_t, cudaGraph_t* g) { return *g = fresh<cudaGraph_t>(), cudaSuccess; });
  t.cudaStreamIsCapturing.set(
      +[](cudaStream_t, cudaStreamCaptureStatus* s) { return *s = cudaStreamCaptureStatusNone, cudaSuccess; });
  t.cudaThreadExchangeStreamCaptureMode.set(+[](cudaStreamCaptureMode*) { return cudaSuccess; });
  t.cudaEventCreateWithFlags.set(+[](cudaEvent_t* e, unsigned) { return *e = fresh<cudaEvent_t>(), cudaSuccess; });
  t.cudaEventDestroy.set(+[](cudaEvent_t) { return cudaSuccess; });
  t.cudaEventRecord.set(+[](cudaEvent_t, cudaStream_t) { return cudaSuccess; });
  t.cudaEventSynchronize.set(+[](cudaEvent_t) { return cudaSuccess; });
  t.cudaEventQuery.set(+[](cudaEvent_t) { return cudaSuccess; });
  t.cudaEventElapsedTime.set(+[](float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; });
}

cudaError_t load(cudaLibrary_t* library, const void* code, cudaJitOption*, void**, unsigned, cudaLibraryOption*, void**,
                 unsigned) {
  if (std::memcmp(code, ELFMAG, SELFMAG)) return cudaErrorInvalidKernelImage;
  *library = reinterpret_cast<cudaLibrary_t>(new Image(image_of(static_cast<const char*>(code))));
  return cudaSuccess;
}

/// A kernel's handle leads to the size of its arguments.
cudaError_t kernel(cudaKernel_t* k, cudaLibrary_t library, const char* name) {
  const auto& known = reinterpret_cast<const Image*>(library)->argument_bytes;
  const auto at = known.find(name);
  if (at == known.end()) return cudaErrorSymbolNotFound;
  *k = reinterpret_cast<cudaKernel_t>(const_cast<size_t*>(&at->second));
  return cudaSuccess;
}

void put_kernels(Runtime& t) {
  t.cudaLibraryLoadData.set(load);
  t.cudaLibraryUnload.set(+[](cudaLibrary_t l) { return delete reinterpret_cast<Image*>(l), cudaSuccess; });
  t.cudaLibraryGetKernel.set(kernel);
  t.cudaFuncGetAttributes.set(+[](cudaFuncAttributes* a, const void*) {
    *a = {};
    a->maxThreadsPerBlock = 1024;
    return cudaSuccess;
  });
  t.cudaFuncSetAttribute.set(+[](const void*, cudaFuncAttribute, int) { return cudaSuccess; });
  t.cudaFuncGetParamInfo.set(+[](const void* f, size_t, size_t* offset, size_t* bytes) {
    *offset = 0;
    *bytes = *static_cast<const size_t*>(f);
    return cudaSuccess;
  });
  t.cudaLaunchKernelExC.set(+[](const cudaLaunchConfig_t*, const void*, void**) { return cudaSuccess; });
  t.cudaOccupancyMaxActiveBlocksPerMultiprocessor.set(
      +[](int* n, const void*, int, size_t) { return *n = 1, cudaSuccess; });
  t.cudaOccupancyMaxActiveClusters.set(
      +[](int* n, const void*, const cudaLaunchConfig_t*) { return *n = 8, cudaSuccess; });
}

void put_graphs(Runtime& t) {
  t.cudaGraphCreate.set(+[](cudaGraph_t* g, unsigned) { return *g = fresh<cudaGraph_t>(), cudaSuccess; });
  t.cudaGraphDestroy.set(+[](cudaGraph_t) { return cudaSuccess; });
  t.cudaGraphAddKernelNode.set(+[](cudaGraphNode_t* n, cudaGraph_t, const cudaGraphNode_t*, size_t,
                                   const cudaKernelNodeParams*) { return *n = fresh<cudaGraphNode_t>(), cudaSuccess; });
  t.cudaGraphKernelNodeSetAttribute.set(
      +[](cudaGraphNode_t, cudaLaunchAttributeID, const cudaLaunchAttributeValue*) { return cudaSuccess; });
  t.cudaGraphAddMemcpyNode1D.set(+[](cudaGraphNode_t* n, cudaGraph_t, const cudaGraphNode_t*, size_t, void*,
                                     const void*, size_t,
                                     cudaMemcpyKind) { return *n = fresh<cudaGraphNode_t>(), cudaSuccess; });
  t.cudaGraphAddMemsetNode.set(+[](cudaGraphNode_t* n, cudaGraph_t, const cudaGraphNode_t*, size_t,
                                   const cudaMemsetParams*) { return *n = fresh<cudaGraphNode_t>(), cudaSuccess; });
  t.cudaGraphAddMemcpyNode.set(+[](cudaGraphNode_t* n, cudaGraph_t, const cudaGraphNode_t*, size_t,
                                   const cudaMemcpy3DParms*) { return *n = fresh<cudaGraphNode_t>(), cudaSuccess; });
  t.cudaGraphGetNodes.set(+[](cudaGraph_t, cudaGraphNode_t*, size_t* n) { return *n = 0, cudaSuccess; });
  t.cudaGraphAddChildGraphNode.set(+[](cudaGraphNode_t* n, cudaGraph_t, const cudaGraphNode_t*, size_t, cudaGraph_t) {
    return *n = fresh<cudaGraphNode_t>(), cudaSuccess;
  });
  t.cudaGraphInstantiate.set(
      +[](cudaGraphExec_t* e, cudaGraph_t, unsigned long long) { return *e = fresh<cudaGraphExec_t>(), cudaSuccess; });
  t.cudaGraphExecDestroy.set(+[](cudaGraphExec_t) { return cudaSuccess; });
  t.cudaGraphExecKernelNodeSetParams.set(
      +[](cudaGraphExec_t, cudaGraphNode_t, const cudaKernelNodeParams*) { return cudaSuccess; });
  t.cudaGraphExecMemcpyNodeSetParams1D.set(
      +[](cudaGraphExec_t, cudaGraphNode_t, void*, const void*, size_t, cudaMemcpyKind) { return cudaSuccess; });
  t.cudaGraphExecChildGraphNodeSetParams.set(
      +[](cudaGraphExec_t, cudaGraphNode_t, cudaGraph_t) { return cudaSuccess; });
  t.cudaGraphExecMemsetNodeSetParams.set(
      +[](cudaGraphExec_t, cudaGraphNode_t, const cudaMemsetParams*) { return cudaSuccess; });
  t.cudaGraphUpload.set(+[](cudaGraphExec_t, cudaStream_t) { return cudaSuccess; });
  t.cudaGraphLaunch.set(+[](cudaGraphExec_t, cudaStream_t) { return cudaSuccess; });
}

}  // namespace

void compile_only(int architecture) {
  sm = architecture;
  static Runtime* const table = new Runtime;
  put_device(*table);
  put_memory(*table);
  put_streams(*table);
  put_kernels(*table);
  put_graphs(*table);
  for (const rp::cuda::Symbol* const symbol : table->symbols())
    if (!symbol->found()) rp::fail("compile-only: expected a function for {}", symbol->name());
  rp::cuda::install_fake(table);
  if (architecture == 90) plan_only();
}

int compile_texts(const std::string& folder, int architecture) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& e : fs::directory_iterator(folder))
    if (e.path().extension() == ".cpp") files.push_back(e.path());
  rp::cuda::DiskCache cache(rp::cuda::DiskCache::user_folder());
  std::atomic<size_t> next = 0;
  std::atomic<int> compiled = 0;
  const auto work = [&] {
    for (size_t i; (i = next++) < files.size();) {
      const std::string source = source_of(files[i]);
      if (!source.starts_with(rp::cuda::prelude)) continue;
      const std::string key = rp::cuda::image_key(source, architecture);
      if (cache.read(key)) continue;
      try {
        cache.write(key, rp::cuda::compile_image(source, "text", architecture).code);
        ++compiled;
      } catch (const rp::Error&) {
        continue;  // there are tests of texts that are wrong
      }
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1u, std::thread::hardware_concurrency()); ++i) threads.emplace_back(work);
  for (std::thread& t : threads) t.join();
  return compiled;
}

}  // namespace bench
