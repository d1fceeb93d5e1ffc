// Defects in what is recorded, matched and bound.
#include "reprise/reprise.h"
#include "reprise/test/planted_cases.h"

namespace rp {
namespace {

const Tensor& turning() {  // its first element changes its sign when verify turns it
  static const Tensor x = tensor(std::vector<float>{1, -1}, {2});
  return x;
}

bool positive(const Tensor& x) { return x.select(0, 0).item<float>() > 0; }

VerifyReport liveness() {
  return verify(
      [](const Tensor& x) {
        const bool keep = positive(x);
        const Tensor t = x * 2, u = t + 1;
        return std::pair(u, keep ? t : u);
      },
      turning());
}

VerifyReport strides() {
  const Tensor m = normal({4, 4}), turned = m.transpose();
  return verify([=](const Tensor& x) { return (positive(x) ? m : turned) * 2; }, turning());
}

VerifyReport baked_scalar() {
  return verify([](const Tensor& x) { return x * x.select(0, 0).item<float>(); }, turning());
}

VerifyReport frozen_random() {
  return verify([](const Tensor& x) { return uniform({2}) + x; }, turning());
}

VerifyReport shared_random() {
  return verify([](const Tensor& x) { return (uniform({2}) - uniform({2})) + x; }, turning());
}

VerifyReport dead_base() {
  return verify([](const Tensor& x) { return (x * 2).reshape({2, 1}); }, turning());
}

VerifyReport reused_output() {
  return verify([](const Tensor& x) { return x * 2; }, turning());
}

VerifyReport attrs_match() {
  const Tensor m = normal({4, 4});
  return verify([=](const Tensor& x) { return sum(m, {positive(x) ? 0 : 1}); }, turning());
}

VerifyReport no_snapshot() {
  Tensor w = normal({4});
  auto* raw = w.unsafe_data<float>();
  return verify(
      [=](const Tensor& x) {
        const Tensor y = w * 2 + sum(x);
        raw[0] += 1;
        return y;
      },
      turning());
}

VerifyReport lost_twin() {
  return verify([](const Tensor& x) { return std::pair(exp(x), exp(x)); }, turning());
}

VerifyReport dtype_key() {
  const Tensor a = tensor(std::vector<int32_t>{1, 2, 3}, {3});
  return verify([=](const Tensor& x) { return std::pair(x + x, a + a); }, turning());
}

constexpr PlantedCase cases[] = {
    {Defect::liveness, "liveness", liveness, "record", "mul"},
    {Defect::strides, "strides", strides, "record", "mul"},
    {Defect::baked_scalar, "baked_scalar", baked_scalar, "record", "mul"},
    {Defect::frozen_random, "frozen_random", frozen_random, "record", "add"},
    {Defect::shared_random, "shared_random", shared_random, "record", "add"},
    {Defect::dead_base, "dead_base", dead_base, "record", "reshape"},
    {Defect::reused_output, "reused_output", reused_output, "record", "mul"},
    {Defect::attrs_match, "attrs_match", attrs_match, "record", "sum"},
    {Defect::no_snapshot, "no_snapshot", no_snapshot, "record", "mul"},
    {Defect::lost_twin, "lost_twin", lost_twin, "share", "exp"},
    {Defect::dtype_key, "dtype_key", dtype_key, "kernel", "add"},
};

}  // namespace

std::span<const PlantedCase> recorder_cases() { return cases; }

}  // namespace rp
