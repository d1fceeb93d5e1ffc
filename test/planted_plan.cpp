// Defects in graph passes and plans.
#include "reprise/reprise.h"
#include "reprise/test/planted_cases.h"

namespace rp {
namespace {

VerifyReport gradient_order() {
  const Tensor a = normal({40}), c = normal({40});
  return verify([=](const Tensor& x) { return ((a + x) + c) * 2; }, normal({40}));
}

VerifyReport share_own() {
  return verify(
      [](const Tensor& x) {
        const Tensor a = exp(x), b = exp(x);
        a.copy_(a * 2);
        return std::pair(a, b);
      },
      normal({8}));
}

VerifyReport fold_sign() {
  return verify([](const Tensor& x) { return -(-(x * 3)) * 2; }, normal({8}));
}

VerifyReport dead_write() {
  const Tensor s = normal({4});
  return verify(
      [=](const Tensor& x) {
        s.slice(0, 0, 2).copy_(x * 2);
        s.slice(0, 2, 4).copy_(x * 3);
        return x;
      },
      normal({2}));
}

VerifyReport batch_rows() {
  const Tensor w = normal({8, 16});
  return verify([=](const Tensor& x) { return std::pair(matmul(x * 2, w) * 2, matmul(x + 1, w) * 3); }, normal({4, 8}));
}

VerifyReport batch_order() {
  const Tensor w = normal({8, 16}), a = normal({4, 8});
  return verify(
      [=](const Tensor& x) {
        const Tensor p = matmul(a, w);
        a.slice(0, 0, 2).copy_(x * 3);
        return p + matmul(a * 2, w);
      },
      normal({2, 8}));
}

Tensor sum_of_products(const Tensor& x, int count) {
  Tensor all;
  for (int i = 0; i < count; ++i) {
    const Tensor a = x + i, b = x * (i + 1);
    const Tensor p = matmul(a, b.transpose());
    all = i ? all + p : p;
  }
  return all * 0.5;
}

VerifyReport chain_order() {
  return verify([](const Tensor& x) { return sum_of_products(x, 4); }, normal({16, 8}));
}

VerifyReport segment_adds() {
  return verify([](const Tensor& x) { return sum_of_products(x, 10); }, normal({64, 64}));
}

VerifyReport legal_axes() {  // both modes run this pass: a formula finds it
  manual_seed(9);
  const Tensor x = normal({3, 3, 3});
  const Tensor wrong = abs(sum(x, {0, 2}) - sum(sum(x, {2}), {0}));
  VerifyReport report;
  report.ok = max(wrong).item<float>() < 1e-4f;
  return report;
}

VerifyReport taken_home() {
  return verify(
      [](const Tensor& x) {
        const Tensor y = exp(x);
        return std::pair(concat({y, x * 2}, 0) * 2, concat({x * 3, y}, 0) * 3);
      },
      normal({8}));
}

VerifyReport near_home() {
  return verify([](const Tensor& x) { return concat({x * 2, x * 3, x + 1}, 0); }, normal({8}));
}

VerifyReport other_axes() {
  return verify(
      [](const Tensor& x) {
        const Tensor y = exp(x);
        return std::pair(sum(y, {0}), sum(y, {1}));
      },
      normal({4, 4}));
}

VerifyReport write_order() {
  const Tensor w = normal({8});
  return verify(
      [=](const Tensor& x) {
        const Tensor y = exp(w);
        w.copy_(x);
        return y;
      },
      normal({8}));
}

VerifyReport write_reads() {
  const Tensor s = normal({1001});
  return verify(
      [=](const Tensor& x) {
        s.slice(0, 1, 1001).copy_(s.slice(0, 0, 1000) * 2 + x);
        return x;
      },
      normal({1000}));
}

VerifyReport stale_temp() {
  return verify(
      [](const Tensor& x) {
        const Tensor y = x * 2;
        return (y - sum(y, {1}, true)) * max(y, {1}, true);
      },
      normal({4, 8}));
}

VerifyReport short_life() {
  const Tensor a = normal({10, 16}), b = normal({10, 10}), c = normal({10, 10});
  return verify([=](const Tensor& x) { return matmul(c, matmul(b, matmul(x, a))); }, normal({10, 10}));
}

VerifyReport group_scalars() {
  const Tensor v = normal({8}), w = normal({8});
  return verify(
      [=](const Tensor& x) {
        v.copy_(v * 0.5);
        w.copy_(w * 0.25);
        return x;
      },
      normal({8}));
}

constexpr PlantedCase cases[] = {
    {Defect::gradient_order, "gradient_order", gradient_order, "fold", "add"},
    {Defect::share_own, "share_own", share_own, "share", "exp"},
    {Defect::fold_sign, "fold_sign", fold_sign, "fold", "mul"},
    {Defect::dead_write, "dead_write", dead_write, "dead", "write"},
    {Defect::batch_rows, "batch_rows", batch_rows, "batch", "matmul"},
    {Defect::batch_order, "batch_order", batch_order, "batch", "matmul"},
    {Defect::chain_order, "chain_order", chain_order, "chain", "matmul"},
    {Defect::segment_adds, "segment_adds", segment_adds, "chain", "matmul"},
    {Defect::legal_axes, "legal_axes", legal_axes, "", ""},
    {Defect::taken_home, "taken_home", taken_home, "homes", "mul"},
    {Defect::near_home, "near_home", near_home, "homes", "concat"},
    {Defect::other_axes, "other_axes", other_axes, "columns", "sum"},
    {Defect::write_order, "write_order", write_order, "map", "exp"},
    {Defect::write_reads, "write_reads", write_reads, "map", "write"},
    {Defect::stale_temp, "stale_temp", stale_temp, "rows", "max"},
    {Defect::short_life, "short_life", short_life, "memory", "matmul"},
    {Defect::group_scalars, "group_scalars", group_scalars, "group", "write"},
};

}  // namespace

std::span<const PlantedCase> plan_cases() { return cases; }

}  // namespace rp
