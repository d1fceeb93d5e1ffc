// Equal parts of a tensor, which a graph may read where they stand.
#include "reprise/test/capture_cases.h"

using namespace rp;
using cases::agree;
using cases::Log;

TEST_CASE("parts of a tensor, put together again, that is written or strided", "[batch]") {
  const auto program = [](bool computed, bool turned, bool written) {
    agree([&](Log& log) {
      auto step = capture([&](const Tensor& x, const Tensor& w) {
        const Tensor whole = computed ? x * 2 : x, rows = turned ? whole.transpose() : whole;
        const Tensors parts = split(rows, 4, 0);
        Tensors products;
        for (const Tensor& p : parts) products.push_back(matmul(p, w));
        const Tensor again = concat(parts) * 3, copy = concat(parts);
        if (written) add_(whole, 3);
        return Tensors{concat(products), again + copy.reshape({24, 24}), copy * rows.slice(0, 2, 3), rows};
      });
      for (int i = 0; i < 3; ++i) log.add(step(uniform({24, 24}, -1, 1), uniform({24, 16}, -1, 1)));
      if (log.mode == Mode::graph) CHECK(step.explain().find("rows became one") != std::string::npos);
    });
  };
  for (bool computed : {false, true})
    for (bool turned : {false, true})
      for (bool written : {false, true}) program(computed, turned, written);
}
