#pragma once
// Scans of the CPU as one kernel on the device.
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "reprise/backends/cuda/scan.h"
#include "reprise/test/cuda/device.h"

namespace rp::test {

/// Which of the ways to spread a scan over the device is taken; null for none.
using Pick = std::function<const cuda::ScanChoice*(const std::vector<cuda::ScanChoice>&)>;
/// The fastest by the model.
const cuda::ScanChoice* fastest(const std::vector<cuda::ScanChoice>& choices);
/// One of those that meet in this way and have at most 32 blocks, by a number; the fastest if there are none.
Pick pick(cuda::ScanMeeting meeting, size_t number);

/// While it lives, scans in captured functions run as one kernel on the device where that can be.
class ScansOnDevice {
 public:
  explicit ScansOnDevice(Pick pick = fastest);
  ~ScansOnDevice();
  ScansOnDevice(const ScansOnDevice&) = delete;

  /// The forms of the kernels that were made, their texts, and why others were not.
  std::vector<std::string> forms, texts, refusals;
  /// Whether products run on tensor cores; scans that have none for these have no kernel then.
  bool tensor = false;
  /// For which texts are made that are not run.
  std::optional<cuda::ScanDevice> device;
  /// Changes a text before it is compiled.
  std::function<std::string(const std::string& text)> change;

 private:
  std::unique_ptr<RegionKernel> compile(const Region& region, std::string* why);
  Pick pick_;
};

}  // namespace rp::test
