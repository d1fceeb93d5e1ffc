// Defects in kernels.
#include "reprise/reprise.h"
#include "reprise/test/planted_cases.h"

namespace rp {
namespace {

VerifyReport stale_pack() {
  const Tensor w = normal({64, 128});
  return verify(
      [=](const Tensor& x) {
        const Tensor y = matmul(x, w), z = matmul(x * 2, w);
        w.copy_(w * 0.5);
        return std::tuple(y, z, matmul(x + 1, w));
      },
      normal({100, 64}));
}

VerifyReport epilogue_block() {
  const Tensor w = normal({8, 16}), b = normal({16});
  return verify([=](const Tensor& x) { return matmul(x, w) + b; }, normal({200, 8}));
}

VerifyReport conv_block() {
  const Tensor w = normal({8, 4, 3, 3}), b = normal({8});
  return verify([=](const Tensor& x) { return conv2d(x, w, b); }, normal({2, 4, 20, 20}));
}

VerifyReport k_split() {
  const Tensor w = normal({500, 16});
  return verify([=](const Tensor& x) { return matmul(x, w); }, normal({100, 500}));
}

VerifyReport long_chain(int64_t n) {
  return verify(
      [](const Tensor& x) {
        Tensor y = x * x;
        for (int i = 0; i < 6; ++i) y = y * x + 0.5;
        return relu(x - y) * y;
      },
      uniform({n}));
}

VerifyReport swapped_operands() { return long_chain(56); }
VerifyReport jit_tail() { return long_chain(29); }

VerifyReport long_blocks() {
  return verify([](const Tensor& x) { return sum(exp(x - max(x, {1}, true)), {1}) * 0.5; }, normal({2, 6000}));
}

constexpr PlantedCase cases[] = {
    {Defect::stale_pack, "stale_pack", stale_pack, "pack", "matmul"},
    {Defect::epilogue_block, "epilogue_block", epilogue_block, "epilogue", "add"},
    {Defect::conv_block, "conv_block", conv_block, "epilogue", "add"},
    {Defect::k_split, "k_split", k_split, "pack", "matmul"},
    {Defect::swapped_operands, "swapped_operands", swapped_operands, "jit", "sub"},
    {Defect::jit_tail, "jit_tail", jit_tail, "jit", "mul"},
    {Defect::long_blocks, "long_blocks", long_blocks, "rows", "sum"},
};

}  // namespace

std::span<const PlantedCase> kernel_cases() { return cases; }

}  // namespace rp
