#pragma once
// Every region that the CPU runs is run on the device as well, from the same memory, and both must leave the same bits.
// So whole programs, eager or captured, test the kernels of regions.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "reprise/fusion/region.h"

namespace rp::test {

/// While it lives, maps, reductions and copies of the CPU are compared; differences fail the test that runs. NaNs are
/// equal, whatever their bits.
class Twins {
 public:
  Twins();
  ~Twins();
  Twins(const Twins&) = delete;

  /// How many runs have been compared, by the form of the device's kernel.
  const std::map<std::string, int64_t>& compared() const { return compared_; }
  int64_t runs() const;
  void count(const std::string& form) { ++compared_[form]; }

 private:
  std::map<std::string, int64_t> compared_;
};

/// What the CPU, which has no such kernels, makes of a scan; null for nothing.
using ScanHook = std::function<std::unique_ptr<RegionKernel>(const Region& region, std::string* why)>;
extern ScanHook scan_hook;

}  // namespace rp::test
