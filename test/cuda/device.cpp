#include "reprise/test/cuda/device.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/memory.h"
#include "reprise/test/cuda/state.h"

namespace rp::fake {
namespace {

cudaError_t driver_version(int* version) {
  *version = state->options.driver;
  return cudaSuccess;
}

cudaError_t runtime_version(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

const char* error_name(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
    default:
      return "a cudaError";
  }
}

/// With what was found last, as that is what a test that fails wants to tell.
const char* error_text(cudaError_t) {
  return state->findings.empty() ? "no reason was found" : state->findings.back().c_str();
}

/// As of the real runtime: without a driver, the number is left as it is.
cudaError_t device_count(int* count) {
  if (state->options.driver < CUDART_VERSION) return cudaErrorInsufficientDriver;
  if (state->options.devices == 0) return cudaErrorNoDevice;
  *count = state->options.devices;
  return cudaSuccess;
}

cudaError_t set_device(int device) {
  return device >= 0 && device < state->options.devices ? cudaSuccess : cudaErrorInvalidDevice;
}

/// Those of an H200.
cudaError_t device_properties(cudaDeviceProp* p, int device) {
  if (device < 0 || device >= state->options.devices) return cudaErrorInvalidDevice;
  *p = {};
  std::strcpy(p->name, "NVIDIA H200");
  p->totalGlobalMem = 150754820096;
  p->sharedMemPerBlock = 48 << 10;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->reservedSharedMemPerBlock = 1024;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  for (const auto& [axis, threads, blocks] : {std::tuple{0, 1024, 2147483647}, {1, 1024, 65535}, {2, 64, 65535}}) {
    p->maxThreadsDim[axis] = threads;
    p->maxGridSize[axis] = blocks;
  }
  p->major = 9;
  p->multiProcessorCount = 132;
  p->l2CacheSize = 62914560;
  p->cooperativeLaunch = p->clusterLaunch = p->unifiedAddressing = p->canMapHostMemory = p->memoryPoolsSupported = 1;
  p->asyncEngineCount = 3;
  p->concurrentKernels = 1;
  return cudaSuccess;
}

cudaError_t device_attribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = 62914560;
      return cudaSuccess;
    case cudaDevAttrClockRate:
      *value = 1980000;
      return cudaSuccess;
    case cudaDevAttrMemoryClockRate:
      *value = 3201000;
      return cudaSuccess;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 6144;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 232448;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      return cudaSuccess;
    default:
      return cudaErrorNotSupported;
  }
}

void put_device(cuda::Runtime& table) {
  put<driver_version>(table.cudaDriverGetVersion);
  put<runtime_version>(table.cudaRuntimeGetVersion);
  put<error_name>(table.cudaGetErrorName);
  put<error_text>(table.cudaGetErrorString);
  put<device_count>(table.cudaGetDeviceCount);
  put<device_properties>(table.cudaGetDeviceProperties);
  put<set_device>(table.cudaSetDevice);
  put<device_attribute>(table.cudaDeviceGetAttribute);
}

}  // namespace

struct Device::Installed {
  explicit Installed(const DeviceOptions& options) : own(options) {
    if (std::exchange(state, &own)) {
      std::fputs("the fake device: there is one already\n", stderr);
      std::abort();
    }
    put_device(runtime);
    put_memory(runtime);
    put_streams(runtime);
    put_kernels(runtime);
    put_graphs(runtime);
    put_compiler(compiler);
    if (const char* const schedule = std::getenv("SHIM_SCHEDULE")) own.schedule = Schedule::parse(schedule);
    if (const char* const cache = std::getenv("REPRISE_CUDA_CACHE")) outer_cache = cache;
    if (options.cache.empty())
      own_cache = std::filesystem::path(REPRISE_SHIM_FOLDER) / fmt::format("cache-{}", getpid());
    setenv("REPRISE_CUDA_CACHE", options.cache.empty() ? own_cache.c_str() : options.cache.c_str(), 1);
    cuda::install_fake(&runtime);
    cuda::install_fake(&compiler);
    cuda::keep_memory(options.keep_memory);
  }

  ~Installed() {
    cuda::install_fake(static_cast<const cuda::Nvrtc*>(nullptr));
    cuda::install_fake(static_cast<const cuda::Runtime*>(nullptr));
    cuda::keep_memory(true);
    if (outer_cache)
      setenv("REPRISE_CUDA_CACHE", outer_cache->c_str(), 1);
    else
      unsetenv("REPRISE_CUDA_CACHE");
    std::error_code none;
    if (!own_cache.empty()) std::filesystem::remove_all(own_cache, none);
    state = nullptr;
  }

  State own;
  cuda::Runtime runtime;
  cuda::Nvrtc compiler;
  std::optional<std::string> outer_cache;
  std::filesystem::path own_cache;
};

namespace {

/// Whether tests are to run on the machine's own device. Then what only this one knows (calls, launches, allocations)
/// or can be made to do throws an error that says so.
bool on_real_device() {
  const char* const which = std::getenv("REPRISE_TEST_DEVICE");
  return which && std::string_view(which) == "real";
}

State& known() {
  if (!state) throw std::runtime_error("only the device of the tests knows this");
  return *state;
}

}  // namespace

Device::Device(const DeviceOptions& options) {
  if (!on_real_device()) {
    installed_ = std::make_unique<Installed>(options);
    return;
  }
  const DeviceOptions usual;
  if (options.memory != usual.memory || options.driver != usual.driver || options.devices != usual.devices ||
      !options.cache.empty())
    throw std::runtime_error("only the device of the tests can be made so");
  if (!cuda::is_available()) throw std::runtime_error("there is no device: " + cuda::why_not());
}

Device::~Device() {
  if (!installed_) return;
  {
    const std::lock_guard lock(state->mutex);
    state->run_everything();
  }
  const std::vector<std::string> findings = take_findings();
  for (const std::string& f : findings) std::fprintf(stderr, "the fake device: %s\n", f.c_str());
  if (!findings.empty()) std::abort();
}

void Device::use(const Schedule& schedule) {
  if (!installed_) return;
  const std::lock_guard lock(state->mutex);
  state->schedule = schedule;
}

std::vector<Call> Device::calls(std::string_view name) const {
  const std::lock_guard lock(known().mutex);
  std::vector<Call> found;
  for (const Call& call : state->log)
    if (name.empty() || call.name == name) found.push_back(call);
  return found;
}

const std::vector<Launched>& Device::launches() const { return known().launched; }

void Device::clear_log() {
  const std::lock_guard lock(known().mutex);
  state->log.clear();
  state->launched.clear();
}

void Device::fail(std::string_view name, int n, int status) {
  const std::lock_guard lock(known().mutex);
  state->fail_name = name;
  state->fail_after = n;
  state->fail_status = status;
  state->has_failed = false;
}

bool Device::failed() const { return known().has_failed; }

std::vector<std::string> Device::take_findings() {
  if (!installed_) return {};
  const std::lock_guard lock(state->mutex);
  return std::exchange(state->findings, {});
}

size_t Device::allocations() const { return known().arena.allocations(); }
size_t Device::bytes_in_use() const { return known().arena.in_use(); }

}  // namespace rp::fake
