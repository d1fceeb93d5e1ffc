// 16-bit floats on the device: the same bits as the CPU's.
#include <bit>
#include <random>

#include "reprise/core/ops.h"
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

template <class T>
Tensor every_pattern() {
  std::vector<T> all(0x10000);
  for (size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<uint16_t>(i);
  return tensor(all, {0x10000});
}

// Every number of 16 bits, what lies a little or half a step away from it, and any other f32.
Tensor around_all(const Tensor& elements) {
  std::vector<float> all = elements.to_vector<float>();
  const size_t n = all.size();
  for (size_t i = 0; i < n; ++i)
    for (uint32_t away : {1u, 0x1000u, 0xfffu, 0x1001u, 0x8000u, 0x7fffu, 0x8001u})
      all.push_back(std::bit_cast<float>(std::bit_cast<uint32_t>(all[i]) + away));
  std::mt19937 random(3);
  for (int i = 0; i < 50'000; ++i) all.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  return tensor(all, {static_cast<int64_t>(all.size())});
}

template <class T>
void convert_all() {
  const Tensor elements = every_pattern<T>();
  const DType d = elements.dtype();
  replay({elements}, [](const Tensors& in) { return cast(in[0], DType::f32); });
  replay({around_all(elements)}, [d](const Tensors& in) { return cast(in[0], d); });
  replay({around_all(elements)}, [d](const Tensors& in) { return cast(cast(in[0], d), DType::f32) * 1.5; });
}

}  // namespace

TEST_CASE("16-bit floats are converted and rounded on the device as on the CPU", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  convert_all<BFloat16>();
  convert_all<Half>();
  CHECK(twins.runs() >= 6);
}

TEST_CASE("kernels of 16-bit floats", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (DType d : {DType::bf16, DType::f16}) {
    const Tensor x = uniform({33, 70}, -2, 2, d), w = uniform({70, 24}, -1, 1, d), row = uniform({70}, -1, 1, d);
    replay({x, row}, [](const Tensors& in) { return exp(in[0] * 0.7) / 3 + in[1]; });
    replay({x}, [](const Tensors& in) { return in[0].transpose().contiguous(); });
    replay({x}, [](const Tensors& in) { return in[0].slice(1, 1, 68, 3) + 1; });
    replay({x}, [](const Tensors& in) { return softmax(in[0] * 2); });
    replay({x}, [](const Tensors& in) { return exp(in[0] - max(in[0], {1}, true)); });
    replay({x}, [](const Tensors& in) { return sum(in[0] * in[0], {0}) + 1; });
    replay({x}, [](const Tensors& in) { return sum(exp(in[0]), {0, 1}); });
    replay({uniform({3, 9000}, -1, 1, d)}, [](const Tensors& in) { return sum(in[0], {1}); });
    replay({x, w}, [](const Tensors& in) { return relu(matmul(in[0], in[1]) + 1); });
    replay({x, x}, [](const Tensors& in) { return concat({in[0], in[1]}, 1); });
    replay({x, tensor({3, 0, 3, 31})}, [](const Tensors& in) { return index_select(in[0], in[1], 0); });
    replay({x, randint({33, 5}, 0, 70)}, [](const Tensors& in) { return gather(in[0], in[1], 1); });
    replay({x, randint({33, 70}, 0, 9)}, [](const Tensors& in) { return scatter_add(in[0], in[1], {9, 70}, 0); });
  }
  CHECK(twins.runs() > 30);
}
