#pragma once
// The oracle of the tests: what every op means, once more, as one obvious function or loop in `long double`, by the
// op's name. It shares no code with the engine's expressions and kernels, and nothing but the tests is linked with it.
#include <string_view>
#include <vector>

#include "reprise/core/op.h"

namespace rp::ref {

/// The elements of a tensor in row-major order.
struct Array {
  DType dtype = DType::f32;
  Shape shape{};
  std::vector<long double> values{};
};

/// Whether `evaluate` knows the op.
bool has(std::string_view op);
/// Why an op needs no oracle; empty if there is no reason.
std::string_view excuse(std::string_view op);
/// Whether the op's float results are those of one IEEE operation, so at most half an ulp away.
bool rounds_once(std::string_view op);

/// The elements of the op's result, whose dtype and shape are those of `out`. Bits of `scalar_mask` are those of Call.
std::vector<long double> evaluate(const Op& op, std::span<const Array> inputs, const Attrs& attrs,
                                  const Scalars& scalars, uint8_t scalar_mask, const Layout& out);

/// A loop for what is not pointwise.
struct LoopCall {
  std::span<const Array> inputs;
  const Attrs& attrs;
  const Scalars& scalars;
  const Layout& out;
};
using Loop = std::vector<long double> (*)(const LoopCall&);
/// The loop of that name, or null.
Loop find_loop(std::string_view op);
Loop find_window_loop(std::string_view op);

}  // namespace rp::ref
