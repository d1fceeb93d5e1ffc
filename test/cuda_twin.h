#pragma once
// Every region that the CPU runs is run on the device as well, from the same memory, and both must leave the same bits.
// So whole programs, eager or captured, test the kernels of regions.
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "reprise/core/tensor.h"
#include "reprise/fusion/region.h"

namespace rp::test {

/// While it lives, what kernels of the CPU leave is compared, but for convolutions; differences fail the test that
/// runs. NaNs are equal, whatever their bits.
class Twins {
 public:
  /// `wide`: everything is counted with 64 bits, as if it were large.
  explicit Twins(bool wide = false);
  ~Twins();
  Twins(const Twins&) = delete;

  /// How many runs have been compared, by the form of the device's kernel.
  const std::map<std::string, int64_t>& compared() const { return compared_; }
  int64_t runs() const;
  /// The texts of all kernels that were made.
  const std::set<std::string>& texts() const { return texts_; }

  std::unique_ptr<RegionKernel> compile(const Region& region);
  void count(const std::string& form) { ++compared_[form]; }

 private:
  int64_t narrow_;
  std::map<std::string, int64_t> compared_;
  std::set<std::string> texts_;
};

/// What the CPU, which has no such kernels, makes of a scan; null for nothing.
using ScanHook = std::function<std::unique_ptr<RegionKernel>(const Region& region, std::string* why)>;
extern ScanHook scan_hook;

/// Runs a function in a captured form, so that plans compute it: it is recorded, then replayed `calls` - 1 times.
void replay(const Tensors& inputs, const std::function<Tensors(const Tensors&)>& f, int calls = 2);

}  // namespace rp::test
