// Reductions on the device: the same bits as the CPU's.
#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_twin.h"

using namespace rp;
using namespace rp::test;

namespace {

template <class F>
void replay(const Tensors& inputs, F&& f) {
  auto captured = capture([&](const Tensors& in) { return Tensors{f(in)}; });
  ModeGuard guard(Mode::graph);
  for (int call = 0; call < 2; ++call) captured(inputs);
}

}  // namespace

TEST_CASE("rows of every length", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (auto [rows, columns] : {std::pair{1, 1}, {3, 0}, {0, 5}, {7, 10}, {33, 16}, {5, 17}, {2, 100}, {40, 250}, {2000, 300}, {1100, 1000}, {3, 1000}, {5, 1024}, {4, 4096}, {3, 4097}, {2, 8191}, {2, 9000}, {1, 20000}, {3, 33000}, {1, 40000}, {2, 100000}, {3, 70001}}) {
    INFO(rows << " x " << columns);
    const Tensor x = normal({rows, columns});
    sum(x, {1});
    if (columns) {
      max(x, {1});
      softmax(x, -1);
      log_softmax(x, -1);
      replay({x, normal({columns}), normal({columns})}, [](const Tensors& in) { return layer_norm(in[0], in[1], in[2]); });
      var(x, {1}, false, 0);
    }
  }
  for (auto& [a, b] : twins.compared()) WARN(a << " " << b);
}

TEST_CASE("columns of every length", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (auto [rows, columns] : {std::pair{1, 1}, {0, 5}, {7, 10}, {33, 16}, {5, 1700}, {100, 3}, {4096, 33}, {4097, 40}, {9000, 3}, {20000, 10}, {1000, 70}}) {
    INFO(rows << " x " << columns);
    const Tensor x = normal({rows, columns});
    sum(x, {0});
    if (rows) max(x, {0}), mean(exp(x), {0});
    const Tensor y = normal({3, rows, columns});
    sum(y, {1});
    replay({x}, [](const Tensors& in) { return exp(sum(exp(in[0]), {0})); });
  }
  for (auto& [a, b] : twins.compared()) WARN(a << " " << b);
}
