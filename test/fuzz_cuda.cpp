#include "reprise/core/device.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/fuzz.h"

namespace fuzz {

void use_device() {
  static auto* const device = new rp::fake::Device;
  static const rp::DeviceScope on(rp::Device::cuda());
  device->clear_log();
}

}  // namespace fuzz
