#pragma once
// Functions that are captured where the last bits may change, on a device with a fake cuDNN, held against the CPU.
#include <string>

#include "reprise/reprise.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/cudnn_fake.h"
#include "reprise/test/cuda_engine.h"

namespace rp::test {

inline FakeCudnn& library() {
  device();
  static auto* const used = new UsesFakeCudnn;
  static_cast<void>(used);
  return fake_cudnn();
}

inline constexpr Conv2dOptions nhwc{.padding = Padding::same, .format = DataFormat::nhwc};

inline double distance(const Tensor& a, const Tensor& b) {
  return max(abs(a.to(Device::cpu()) - b.to(Device::cpu()))).item<double>();
}

struct Ran {
  Tensors results;
  std::string report;
};

/// Results of the third call, which runs by the plan of the second.
template <class F>
Ran run(F&& f, const Tensors& inputs, Level level, Device device) {
  Tensors placed;
  for (const Tensor& t : inputs) placed.push_back(t.to(device));
  auto captured = capture([&](const Tensors& in) { return f(in); }, {.level = level});
  captured(placed);
  captured(placed);
  Ran ran{captured(placed), captured.explain()};
  for (Tensor& t : ran.results) t = t.to(Device::cpu());
  return ran;
}

/// At `fast` on the device, with as many runs of cuDNN as `runs` in one call; the CPU says what is right.
template <class F>
std::string check(F&& f, const Tensors& inputs, int64_t runs, double bound = 2e-6) {
  const Tensors expected = run(f, inputs, Level::exact, Device::cpu()).results;
  const Ran fast = run(f, inputs, Level::fast, gpu);
  const int64_t before = fake_cudnn().runs;
  Tensors placed;
  for (size_t i = 0; i < expected.size(); ++i)
    CHECK(distance(fast.results[i], expected[i]) < bound * max(abs(expected[i])).item<double>());
  auto captured = capture([&](const Tensors& in) { return f(in); }, {.level = Level::fast});
  for (const Tensor& t : inputs) placed.push_back(t.to(gpu));
  captured(placed);
  captured(placed);
  rp::cuda::synchronize();
  const int64_t compared = fake_cudnn().runs;
  captured(placed);
  rp::cuda::synchronize();
  CHECK(fake_cudnn().runs - compared == runs);
  CHECK((runs == 0 || compared > before));
  return fast.report;
}

/// Of the CPU's largest element, where sums of 16-bit floats are rounded once instead of after each op.
inline double bound_of(DType dtype) { return dtype == DType::f16 ? 4e-3 : 3e-2; }

}  // namespace rp::test
