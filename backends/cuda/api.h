#pragma once
// The functions of the CUDA runtime and of its compiler that the backend calls.
#include <cuda_runtime_api.h>
#include <nvrtc.h>

#include <memory>

#include "reprise/backends/cuda/lazy.h"
#include "reprise/backends/cuda/table.h"

namespace rp::cuda {

template <>
struct Status<cudaError_t> {
  static bool ok(cudaError_t status) { return status == cudaSuccess; }
  static std::string text(cudaError_t status);
};

template <>
struct Status<nvrtcResult> {
  static bool ok(nvrtcResult status) { return status == NVRTC_SUCCESS; }
  static std::string text(nvrtcResult status);
};

/// The runtime. Errors come from calls; `cudaGetLastError`, which tells of any call of any library, is not among them.
struct Runtime : Table {
  Runtime();

  RP_ENTRY(cudaDriverGetVersion);
  RP_ENTRY(cudaRuntimeGetVersion);
  RP_ENTRY(cudaGetErrorName);
  RP_ENTRY(cudaGetErrorString);
  RP_ENTRY(cudaGetDeviceCount);
  RP_ENTRY(cudaGetDeviceProperties);
  RP_ENTRY(cudaSetDevice);
  RP_ENTRY(cudaDeviceGetAttribute);
  RP_ENTRY(cudaMemGetInfo);
  RP_ENTRY(cudaDeviceGetDefaultMemPool);
  RP_ENTRY(cudaMemPoolSetAttribute);
  RP_ENTRY(cudaMemPoolGetAttribute);
  RP_ENTRY(cudaMemPoolTrimTo);
  RP_ENTRY(cudaMallocAsync);
  RP_ENTRY(cudaFreeAsync);
  RP_ENTRY(cudaHostAlloc);
  RP_ENTRY(cudaFreeHost);
  RP_ENTRY(cudaMemcpyAsync);
  RP_ENTRY(cudaMemsetAsync);
  RP_ENTRY(cudaStreamCreateWithFlags);
  RP_ENTRY(cudaStreamDestroy);
  RP_ENTRY(cudaStreamSynchronize);
  RP_ENTRY(cudaStreamQuery);
  RP_ENTRY(cudaStreamWaitEvent);
  RP_ENTRY(cudaEventCreateWithFlags);
  RP_ENTRY(cudaEventDestroy);
  RP_ENTRY(cudaEventRecord);
  RP_ENTRY(cudaEventSynchronize);
  RP_ENTRY(cudaEventQuery);
  RP_ENTRY(cudaEventElapsedTime);
  RP_ENTRY(cudaLibraryLoadData);
  RP_ENTRY(cudaLibraryUnload);
  RP_ENTRY(cudaLibraryGetKernel);
  RP_ENTRY(cudaFuncGetAttributes);
  RP_ENTRY(cudaFuncSetAttribute);
  RP_ENTRY(cudaFuncGetParamInfo);
  RP_ENTRY(cudaLaunchKernelExC);
  RP_ENTRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor);
  RP_ENTRY(cudaOccupancyMaxActiveClusters);
  RP_ENTRY(cudaGraphCreate);
  RP_ENTRY(cudaGraphDestroy);
  RP_ENTRY(cudaGraphAddChildGraphNode);
  RP_ENTRY(cudaGraphExecChildGraphNodeSetParams);
  RP_ENTRY(cudaGraphAddKernelNode);
  RP_ENTRY(cudaGraphKernelNodeSetAttribute);
  RP_ENTRY(cudaGraphAddMemcpyNode);
  RP_ENTRY(cudaGraphAddMemcpyNode1D);
  RP_ENTRY(cudaGraphAddMemsetNode);
  RP_ENTRY(cudaGraphGetNodes);
  RP_ENTRY(cudaGraphInstantiate);
  RP_ENTRY(cudaGraphExecDestroy);
  RP_ENTRY(cudaGraphExecKernelNodeSetParams);
  RP_ENTRY(cudaGraphExecMemcpyNodeSetParams1D);
  RP_ENTRY(cudaGraphExecMemsetNodeSetParams);
  RP_ENTRY(cudaGraphUpload);
  RP_ENTRY(cudaGraphLaunch);
  RP_ENTRY(cudaStreamBeginCapture);
  RP_ENTRY(cudaStreamEndCapture);
  RP_ENTRY(cudaStreamIsCapturing);
  RP_ENTRY(cudaThreadExchangeStreamCaptureMode);
};

/// The compiler from CUDA C to machine code.
struct Nvrtc : Table {
  Nvrtc();

  RP_ENTRY(nvrtcVersion);
  RP_ENTRY(nvrtcGetErrorString);
  RP_ENTRY(nvrtcCreateProgram);
  RP_ENTRY(nvrtcDestroyProgram);
  RP_ENTRY(nvrtcCompileProgram);
  RP_ENTRY(nvrtcGetCUBINSize);
  RP_ENTRY(nvrtcGetCUBIN);
  RP_ENTRY(nvrtcGetProgramLogSize);
  RP_ENTRY(nvrtcGetProgramLog);
};

/// The tables in use, loaded when first asked for. An Error says why a library cannot be.
const Runtime& runtime();
const Nvrtc& nvrtc();

/// For tests: what is used instead of the loaded table, or null for that one again. All that the backend has made on
/// the device is forgotten, so nothing of it may be in use.
void install_fake(const Runtime* fake);
void install_fake(const Nvrtc* fake);

/// A table that is loaded, unless a test has installed another.
template <class T>
class InUse {
 public:
  InUse() {
    if (fake) return;
    own_ = std::make_unique<T>();
    own_->load();
  }
  const T& table() const { return own_ ? *own_ : *fake; }

  static inline const T* fake = nullptr;

 private:
  std::unique_ptr<T> own_;
};

}  // namespace rp::cuda
