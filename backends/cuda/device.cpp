#include "reprise/backends/cuda/device.h"

namespace rp::cuda {
namespace {

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

/// Whether there is a device: asks for nothing that needs one.
class Availability {
 public:
  Availability() noexcept {
    try {
      why_ = look();
    } catch (const std::exception& e) {
      why_ = e.what();
    }
    if (!why_.empty()) count_ = 0;
  }
  int count() const { return count_; }
  const std::string& why() const { return why_; }

 private:
  std::string look() {
    const Runtime& cuda = runtime();
    int driver = 0, own = 0;
    check(cuda.cudaDriverGetVersion.raw(&driver), "cudaDriverGetVersion");
    if (driver == 0) return "no NVIDIA driver is installed (libcuda.so.1): install one, and see that nvidia-smi works";
    const cudaError_t status = cuda.cudaGetDeviceCount.raw(&count_);
    if (status == cudaErrorInsufficientDriver) {
      cuda.cudaRuntimeGetVersion(&own);
      return fmt::format("the driver is for CUDA {} and the runtime is {}: install a driver for CUDA {} or newer",
                         version_text(driver), version_text(own), own / 1000);
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count_ == 0))
      return "the driver offers no device: see what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it";
    check(status, "cudaGetDeviceCount");
    return "";
  }

  int count_ = 0;
  std::string why_;
};

Lazy<Availability> availability;
Lazy<Device> first_device;

void expect_device(int index) {
  if (!is_available()) fail("cuda: {}", why_not());
  if (index < 0 || index >= device_count()) fail("cuda: expected a device below {}, got {}", device_count(), index);
}

cudaDeviceProp properties_of(int index) {
  expect_device(index);
  cudaDeviceProp properties{};
  runtime().cudaGetDeviceProperties(&properties, index);
  return properties;
}

}  // namespace

bool is_available() noexcept { return device_count() > 0; }
std::string why_not() { return availability.get().why(); }
int device_count() noexcept { return availability.get().count(); }

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

const Device& device() { return first_device.get(); }

}  // namespace rp::cuda
