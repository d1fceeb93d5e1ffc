// Defects in loops and branches, and in their gradients.
#include "reprise/reprise.h"
#include "reprise/test/planted_cases.h"

namespace rp {
namespace {

const Tensor& steps() {
  static const Tensor xs = normal({5, 3, 4});
  return xs;
}

template <class Body>
VerifyReport verify_scan(Body body, ScanOptions options = {}) {
  return verify([=](const Tensor& h, const Tensor& xs) { return scan(body, h, xs, options); }, normal({3, 4}), steps());
}

VerifyReport scan_buffers() {
  const Tensor w = normal({10, 10});
  const auto body = [=](const Tensor& h, const Tensor&) { return matmul(w, h); };
  return verify([=](const Tensor& h, const Tensor& xs) { return scan(body, h, xs); }, normal({10, 16}), steps());
}

VerifyReport scan_position() {
  return verify_scan([](const Tensor& h, const Tensor& x) { return h + uniform({3, 4}) * x; });
}

VerifyReport scan_reverse() {
  return verify_scan([](const Tensor& h, const Tensor& x) { return h * 0.5 + x; }, {.reverse = true});
}

VerifyReport echo_step() {
  return verify_scan([](const Tensor& h, const Tensor& x) { return std::pair(h * 0.5 + x, h); });
}

VerifyReport last_carry() {
  return verify_scan([](const Tensor& h, const Tensor& x) {
    const Tensor next = h * 0.5 + x;
    return std::pair(next, next);
  });
}

VerifyReport hoist_right() {
  const Tensor a = normal({4, 4}), b = normal({4, 4});
  return verify_scan([=](const Tensor& h, const Tensor& x) {
    const Tensor carried = matmul(h, a);
    return tanh(carried + matmul(x, b));
  });
}

VerifyReport merge_columns() {
  const Tensor a = normal({4, 4}), b = normal({4, 4});
  return verify_scan([=](const Tensor& h, const Tensor& x) { return tanh(matmul(h, a) + x) * (matmul(h, b) + 2); });
}

VerifyReport scan_gradient_of_weight() {
  Tensor w = normal({4, 4});
  w.set_requires_grad();
  return verify_scan([=](const Tensor& h, const Tensor& x) { return tanh(matmul(h, w) + x); });
}

VerifyReport cond_scalars() {
  return verify([](const Tensor& x) { return cond(sum(x) > 0, [&] { return x * 2; }, [&] { return x * 3; }); },
                full({4}, 1));
}

VerifyReport extra_trip() {
  return verify(
      [](const Tensor& x) {
        return while_loop([](const Tensor& h) { return sum(h) < 100; }, [](const Tensor& h) { return h * 2; }, x);
      },
      full({4}, 1));
}

constexpr PlantedCase cases[] = {
    {Defect::scan_buffers, "scan_buffers", scan_buffers, "body", "result"},
    {Defect::scan_position, "scan_position", scan_position, "body", "result"},
    {Defect::scan_reverse, "scan_reverse", scan_reverse, "body", "result"},
    {Defect::echo_step, "echo_step", echo_step, "carries", "result"},
    {Defect::last_carry, "last_carry", last_carry, "body", "result"},
    {Defect::hoist_right, "hoist_right", hoist_right, "hoist", "scan"},
    {Defect::hoist_random, "hoist_random", scan_position, "hoist", "scan"},
    {Defect::merge_columns, "merge_columns", merge_columns, "hoist", "scan"},
    {Defect::saved_step, "saved_step", scan_gradient_of_weight, "derive", "scan"},
    {Defect::twice, "twice", scan_gradient_of_weight, "derive", "scan"},
    {Defect::cond_scalars, "cond_scalars", cond_scalars, "body", "result"},
    {Defect::extra_trip, "extra_trip", extra_trip, "body", "result"},
};

}  // namespace

std::span<const PlantedCase> loop_cases() { return cases; }

}  // namespace rp
