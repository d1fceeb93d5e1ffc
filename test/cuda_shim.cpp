// Kernels on the device that runs on the processor: what they compute, and which mistakes show.
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_kernels.h"

using namespace rp::cuda;

TEST_CASE("a kernel computes on the device", "[cuda]") {
  rp::fake::Device gpu;
  const uint32_t n = 1000;
  std::vector<float> x(n);
  for (uint32_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 13);
  Buffer<float> from(x), to(n);
  launch_text(scale_text, {.blocks = 16, .threads = 64}, ScaleArgs{from.data(), to.data(), 3, n});
  const std::vector<float> y = to.read();
  for (uint32_t i = 0; i < n; ++i) REQUIRE(y[i] == x[i] * 3 + static_cast<float>(i));
  CHECK(gpu.launches().size() == 1);
}
