// Maps and copies on the device: the same bits as the CPU's.
#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_twin.h"

using namespace rp;
using namespace rp::test;

namespace {

// Captured, so that a plan computes it: once recorded, and once more.
template <class F>
void replay(const Tensors& inputs, F&& f) {
  auto captured = capture([&](const Tensors& in) { return Tensors{f(in)}; });
  ModeGuard guard(Mode::graph);
  for (int call = 0; call < 2; ++call) captured(inputs);
}

}  // namespace

TEST_CASE("maps of every shape", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (int64_t n : {0, 1, 3, 4, 5, 255, 1024, 1027, 1028, 1029, 2047, 2048, 2049, 5000, 9001})
    replay({normal({n})}, [](const Tensors& in) { return exp(in[0]) * 2; });
  CHECK(twins.runs() > 0);
  for (auto& [a, b] : twins.compared()) WARN(a << " " << b);
}
