#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace rp {

enum class DeviceKind : uint8_t { cpu, cuda };

[[noreturn]] void fail_index(int index);

/// Where elements lie and ops run.
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  uint8_t index = 0;

  static constexpr Device cpu() { return {}; }
  /// Throws for an index beyond 255.
  static constexpr Device cuda(int index = 0) {
    if (index < 0 || index > 255) fail_index(index);
    return {DeviceKind::cuda, static_cast<uint8_t>(index)};
  }
  bool operator==(const Device&) const = default;
};

/// "cpu", "cuda:0".
std::string to_string(Device device);
/// The device of such a text; "cuda" is the first one. Throws for anything else.
Device parse_device(std::string_view text);

/// Where the calling thread makes tensors that nothing else places: `zeros`, `tensor`, `normal`, parameters.
Device default_device();

/// While it lives, the calling thread's default device is another one. Throws if that cannot be used.
class DeviceScope {
 public:
  explicit DeviceScope(Device device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;

 private:
  Device before_;
};

}  // namespace rp
