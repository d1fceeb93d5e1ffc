#include "reprise/core/device.h"

#include <charconv>
#include <optional>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

// A function, since a switch that is wrong must throw where it is read and not where a thread begins.
Device device_of_switch() {
  static const Device device = [] {
    const std::string text = switch_value("REPRISE_DEVICE");
    return text.empty() ? Device::cpu() : parse_device(text);
  }();
  return device;
}

constinit thread_local std::optional<Device> thread_device;

}  // namespace

void fail_index(int index) { fail("device: expected an index of 0 to 255, got {}", index); }

std::string to_string(Device device) {
  return device.kind == DeviceKind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return Device::cpu();
  if (text == "cuda") return Device::cuda();
  uint8_t index = 0;
  const char* end = text.data() + text.size();
  if (text.starts_with("cuda:"))
    if (const auto [at, error] = std::from_chars(text.data() + 5, end, index); error == std::errc() && at == end)
      return Device::cuda(index);
  fail("device: expected cpu, cuda or cuda:N, got \"{}\"", text);
}

Device default_device() { return thread_device ? *thread_device : device_of_switch(); }

DeviceScope::DeviceScope(Device device) : before_(default_device()) {
  engine.backend(device);
  thread_device = device;
}

DeviceScope::~DeviceScope() { thread_device = before_; }

}  // namespace rp
