#pragma once
// The engine on one device for the whole process.
#include <vector>

#include "reprise/graph/capture.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/op_cases.h"

namespace rp::test {

inline constexpr Device gpu = Device::cuda();

/// One for the process: the engine keeps what it has compiled for a device.
inline fake::Device& device() {
  static auto* const d = new fake::Device;
  return *d;
}

template <class T>
std::vector<T> values(const Tensor& t) {
  return t.to_vector<T>();
}

inline bool alike(const Tensor& a, const Tensor& b) { return same_bits(a.to(Device::cpu()), b.to(Device::cpu())); }

}  // namespace rp::test
