// Matrix products with bias and activation, and the sums of products that loops leave behind.
#include <fmt/core.h>

#include "reprise/bench/compare.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::Tensor;
using rp::Tensors;

struct Size {
  int64_t m, k, n;

  double flops() const { return 2.0 * static_cast<double>(m * k * n); }
  double bytes() const { return 4.0 * static_cast<double>(m * k + k * n + n + m * n); }
  std::string name() const { return fmt::format("{}x{}x{}", m, k, n); }
};

Tensor dense(const Tensors& t) { return rp::relu(rp::matmul(t[0], t[1]) + t[2]); }

/// The same weights in every call, or weights that have changed before each, so that nobody may keep them packed.
Copy copy_of(const Spec& spec, bool constant) {
  const Tensors in = tensors_of(spec);
  Copy copy{
      [in, step = rp::capture([](const Tensors& t) { return Tensors{dense(t)}; })]() mutable { return step(in); }};
  if (!constant) copy.before = [w = in[1], same = tensor_of(spec.parts[1])] { w.copy_(same); };
  return copy;
}

Comparison comparison(const Size& size, bool constant) {
  Comparison c{.spec = {"linear", "relu", {{"constant", constant}}}};
  c.spec.add("x", {size.m, size.k});
  c.spec.add("w", {size.k, size.n}, 0.125).linear = true;
  c.spec.add("b", {size.n});
  c.make = [spec = c.spec, constant] { return copy_of(spec, constant); };
  c.flops = size.flops();
  c.bytes = size.bytes();
  return c;
}

/// Near the limit, or well ahead of libraries that are not; behind none.
Goal product_goal(const Size& size, int threads) {
  const double from = threads == 1 ? 0.5e6 : 5e6;
  const bool bounded = size.m == 1 || size.flops() >= from;
  return {bounded ? "90% of limit, or 1.2 x peer below 80% of peak; 0.95 x best"
                  : "1.2 x peer below 80% of peak; 0.95 x best",
          [=](const Result& r) -> std::optional<bool> {
            if (!r.disagreeing.empty()) return false;
            const Figure* best = r.best(is_any);
            const double ratio = best ? *best->ns / r.ours() : 1;
            if (ratio < 0.95) return false;
            if (bounded && r.fraction_of_limit().value_or(0) >= near_limit) return true;
            if (!best) return std::nullopt;
            const bool peer_is_slow = *r.limit_ns / *best->ns < 0.8;
            return peer_is_slow ? ratio >= 1.2 : !bounded;
          }};
}

/// What bias and activation add to the product; of 16-bit floats at Level::fast.
Result measure_epilogue(const Size& size, rp::DType dtype = rp::DType::f32) {
  const Spec spec = stored_as(dtype, comparison(size, true).spec);
  const rp::CaptureOptions how{.level = rp::is_short(dtype) ? rp::Level::fast : rp::Level::exact};
  const Tensors in = tensors_of(spec);
  auto plain = rp::capture([](const Tensors& t) { return rp::matmul(t[0], t[1]); }, how);
  auto whole = rp::capture(dense, how);
  const Timing timing = interleave({{rp::Mode::graph, [&] { plain(in); }}, {rp::Mode::graph, [&] { whole(in); }}});
  const double product = median(timing.of[0]), added = median(difference(timing.of[1], timing.of[0])) / product;
  Result r;
  r.captured_ns = median(timing.of[1]);
  r.spread = std::max(spread(timing.of[0]), spread(timing.of[1]));
  r.system_calls = timing.system_calls;
  r.met = added <= 0.1;
  r.more = {{"product_ns", product}, {"epilogue", added}};
  r.note = fmt::format("the product alone {}, epilogue {:+.1f}%", time_text(product), 100 * added);
  return r;
}

constexpr Size sizes[] = {
    {1, 256, 256},   {1, 1024, 1024}, {1, 2048, 1024},  {16, 64, 256},      {16, 256, 1024},    {16, 1024, 256},
    {32, 256, 256},  {32, 128, 512},  {32, 1024, 1024}, {128, 64, 1024},    {128, 256, 1024},   {128, 1024, 256},
    {128, 784, 512}, {1024, 64, 64},  {1024, 256, 256}, {1024, 1024, 1024}, {1024, 1024, 2048},
};
constexpr Size with_epilogue[] = {{16, 256, 1024}, {32, 256, 256}, {128, 256, 1024}, {1024, 1024, 1024}};

/// Runs `body` on `count` random tensors of `shape`, captured.
template <class Body>
Make on_random(const rp::Shape& shape, int count, Body body) {
  return [=]() -> std::function<void()> {
    Tensors in;
    for (int i = 0; i < count; ++i) in.push_back(rp::uniform(shape, -1, 1));
    return [in, step = rp::capture(body)]() mutable { step(in); };
  };
}

/// What a loop of 32 steps adds up for a weight's gradient, as one product and, for comparison, in steps: the first
/// belongs beside the plain product of the same size.
void add_sums_of_products(std::vector<Case>& cases) {
  constexpr int64_t m = 256, k = 1024, n = 256, steps = 32;
  const auto plain = [](const Tensors& in) { return rp::matmul(in[0].transpose(), in[1]); };
  const auto segmented = [](const Tensors& in) {
    const Tensor a = in[0].transpose();
    const Tensor* inputs[] = {&a, &in[1]};
    return rp::apply({.op = &rp::segmented_matmul_op, .inputs = inputs, .attrs = rp::SegmentAttrs{k / steps}});
  };
  const auto in_steps = [](const Tensors& in) {
    Tensor sum;
    for (int64_t t = 0; t < k; t += k / steps) {
      const auto rows = [&](size_t i) { return in[i].slice(0, t, t + k / steps); };
      const Tensor product = rp::matmul(rows(0).transpose(), rows(1));
      sum = t ? sum + product : product;
    }
    return sum;
  };
  constexpr double flops = 2.0 * static_cast<double>(m * k * n);
  cases.push_back(paired("matmul/plain", not_slower_than_eager(), on_random({k, m}, 2, plain), flops));
  cases.push_back(paired("matmul/segmented", not_slower_than_eager(), on_random({k, m}, 2, segmented), flops));
  cases.push_back(paired("matmul/sum_of_32", faster_than_eager(), on_random({k, m}, 2, in_steps), flops));
}

// ---- on a CUDA device ----

/// A layer with gelu, forward or with all gradients.
Copy gelu_copy(const Spec& spec, bool backward) {
  Tensors in = tensors_of(spec);
  if (backward)
    for (size_t i = 0; i < 3; ++i) in[i].set_requires_grad();
  const auto run = [backward](const Tensors& t) -> Tensors {
    const Tensor y = rp::gelu_tanh(rp::matmul(t[0], t[1]) + t[2]);
    if (!backward) return {y};
    Tensors all = rp::grad({y}, {t[0], t[1], t[2]}, {.seeds = {t[3]}});
    all.insert(all.begin(), y.detach());
    return all;
  };
  return {[in, step = rp::capture(run)]() mutable { return step(in); }};
}

Comparison gelu_comparison(const Size& size, bool backward, rp::DType dtype) {
  Comparison c{.spec = {"linear", "gelu", {{"constant", false}, {"backward", backward}}}};
  c.spec.add("x", {size.m, size.k});
  c.spec.add("w", {size.k, size.n}, 0.03).linear = true;
  c.spec.add("b", {size.n});
  if (backward) c.spec.add("dy", {size.m, size.n});
  c.spec = stored_as(dtype, c.spec);
  c.make = [spec = c.spec, backward] { return gelu_copy(spec, backward); };
  c.flops = size.flops() * (backward ? 3 : 1);
  c.bytes = size.bytes() * static_cast<double>(rp::size_of(dtype)) / 4;
  c.tolerance = tolerance_of(dtype);
  c.tensor_cores = rp::is_short(dtype);
  c.entries = learning_peers();
  return c;
}

std::vector<Case> cuda_product_cases(const Surroundings& around) {
  static constexpr Size square{4096, 4096, 4096};
  std::vector<Case> cases;
  for (const rp::DType dtype : {rp::DType::bf16, rp::DType::f32}) {
    const auto id = [dtype](const char* what) { return goal_id("G8", what, dtype) + ".4096"; };
    for (const bool backward : {false, true})
      cases.push_back(compared(around, id("dense_gelu") + (backward ? ".train" : ".forward"),
                               ratios({{1, "compiled peer", is_compiled}}, 0.98),
                               [=] { return gelu_comparison(square, backward, dtype); }));
    cases.push_back({id("epilogue"), stated("<= 3% of the product"), [dtype] {
                       Result r = measure_epilogue(square, dtype);
                       r.met = r.more.at("epilogue") <= 0.03;
                       return r;
                     }});
  }
  return cases;
}

}  // namespace

std::vector<Case> product_cases(const Surroundings& around) {
  if (around.on_cuda()) return cuda_product_cases(around);
  std::vector<Case> cases;
  for (const Size& size : sizes)
    for (const bool constant : {true, false}) {
      Case c = compared(around, fmt::format("linear/{}/{}", size.name(), constant ? "constant" : "changing"),
                        product_goal(size, 1), [&size, constant] { return comparison(size, constant); });
      // How many threads take part is known only when a row is measured.
      c.goal.met = [&around, &size](const Result& r) { return product_goal(size, around.threads).met(r); };
      cases.push_back(std::move(c));
    }
  for (const Size& size : with_epilogue)
    cases.push_back({"linear/" + size.name() + "/epilogue", stated("<= 10% of the product"),
                     [&size] { return measure_epilogue(size); }});
  add_sums_of_products(cases);
  return cases;
}

}  // namespace bench
