#include "reprise/backends/cuda/device.h"

namespace rp::cuda {
namespace {

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

/// Whether there is a device, and why not. What an installation decides is found out once; a call that fails for
/// another reason is made again the next time.
class Availability {
 public:
  struct Answer {
    int count = 0;
    std::string why;
    bool known = true;
  };

  /// Without the reasons: asked for at every op.
  bool yes() noexcept { return yes_.load(std::memory_order_relaxed) || answer().count; }

  Answer answer() noexcept {
    const std::lock_guard lock(mutex_);
    if (answer_.known) return answer_;
    try {
      runtime();
    } catch (const std::exception& e) {
      return answer_ = {0, e.what()};
    }
    try {
      answer_ = look(runtime());
      yes_ = answer_.count > 0;
    } catch (const std::exception& e) {
      answer_ = {0, e.what(), false};
    }
    return answer_;
  }

 private:
  /// Asks for nothing that needs a device.
  static Answer look(const Runtime& cuda) {
    int driver = 0, own = 0, count = 0;
    cuda.cudaDriverGetVersion(&driver);
    if (driver == 0)
      return {0, "no NVIDIA driver is installed (libcuda.so.1): install one, and see that nvidia-smi works"};
    const cudaError_t status = cuda.cudaGetDeviceCount.raw(&count);
    if (status == cudaErrorInsufficientDriver) {
      cuda.cudaRuntimeGetVersion(&own);
      return {0, fmt::format("the driver is for CUDA {} and the runtime is {}: install a driver for CUDA {} or newer",
                             version_text(driver), version_text(own), own / 1000)};
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
      return {0, "the driver offers no device: see what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it"};
    check(status, "cudaGetDeviceCount");
    return {count, ""};
  }

  std::atomic<bool> yes_ = false;
  std::mutex mutex_;
  Answer answer_{0, {}, false};
};

Lazy<Availability> availability;
Lazy<Device> first_device;

void expect_device(int index) {
  const Availability::Answer answer = availability.get().answer();
  if (answer.count == 0) fail("cuda: {}", answer.why);
  if (index < 0 || index >= answer.count) fail("cuda: expected a device below {}, got {}", answer.count, index);
}

cudaDeviceProp properties_of(int index) {
  expect_device(index);
  cudaDeviceProp properties{};
  runtime().cudaGetDeviceProperties(&properties, index);
  return properties;
}

}  // namespace

bool is_available() noexcept { return availability.get().yes(); }
std::string why_not() { return availability.get().answer().why; }
int device_count() noexcept { return availability.get().answer().count; }

std::string device_name(int device) { return properties_of(device).name; }

std::string describe(int device) {
  const cudaDeviceProp p = properties_of(device);
  int driver = 0, own = 0;
  runtime().cudaDriverGetVersion(&driver);
  runtime().cudaRuntimeGetVersion(&own);
  return fmt::format("{}, {:.1f} GiB, compute capability {}.{}, {} multiprocessors, driver for CUDA {}, runtime {}",
                     p.name, static_cast<double>(p.totalGlobalMem) / (1 << 30), p.major, p.minor, p.multiProcessorCount,
                     version_text(driver), version_text(own));
}

Device::Device() : properties(properties_of(0)) {
  runtime().cudaDriverGetVersion(&driver_version);
  runtime().cudaRuntimeGetVersion(&runtime_version);
}

const Device& device() {
  static thread_local const Device* current = nullptr;
  const Device& first = first_device.get();
  // An error that stays, from an earlier call, is for the call that follows: this one may be part of a release.
  if (current != &first && runtime().cudaSetDevice.raw(0) == cudaSuccess) [[unlikely]]
    current = &first;
  return first;
}

}  // namespace rp::cuda
