// Every op of the table, eagerly and inside a capture (recorded, planned, replayed) and under verify: the same bits,
// alone and between pointwise ops that fuse with it, for every layout of its inputs.
#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

constexpr DType dtypes[] = {DType::boolean, DType::i32, DType::i64, DType::bf16, DType::f16, DType::f32, DType::f64};

// The same value by a pointwise op: numbers are run-time arguments, so nothing folds it away.
Tensor before(const Tensor& x) {
  if (x.dtype() == DType::boolean) return logical_or(x, x);
  return is_floating(x.dtype()) ? x * 1.0 : x + 0;
}

Tensor after(const Tensor& y) { return y.dtype() == DType::boolean ? logical_not(y) : y * 3; }

enum class Setting { alone, between, kept };

Tensors compute(const OpCase& c, const Tensors& inputs, Setting setting) {
  if (setting == Setting::alone) return {run(c, inputs)};
  Tensors fed;
  for (const Tensor& t : inputs) fed.push_back(before(t));
  const Tensor y = run(c, fed);
  if (setting == Setting::between) return {after(y)};
  const Tensor z = after(y);
  return {y, z, sum(z), z.rank() ? max(z.numel() ? z : ones({1}), {-1}) : z};
}

void same(const Tensors& got, const Tensors& want) {
  REQUIRE(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    INFO("result " << i);
    CHECK(same_bits(got[i], want[i]));
  }
}

void check(const OpCase& c, Lie lie, Setting setting, Mode mode) {
  Draw draw(c.op->name.size() + c.scalar_mask);
  auto f = capture([&](const Tensors& inputs) { return compute(c, inputs, setting); });
  for (int call = 0; call < 3; ++call) {
    Tensors inputs;
    for (const Input& in : c.inputs) inputs.push_back(placed(draw.array(in, lie), lie));
    Tensors want;
    {
      ModeGuard eager(Mode::eager);
      want = compute(c, inputs, setting);
    }
    INFO(to_string(c) << ", " << test::name_of(lie) << ", setting " << static_cast<int>(setting) << ", call " << call);
    ModeGuard guard(mode);
    same(f(inputs), want);
  }
}

void check_all(Mode mode, DType d) {
  for (const Op* op : op_table())
    for (const OpCase& c : cases_of(*op, d))
      for (Lie lie : all_lies) {
        if (c.inputs.empty() && lie != Lie::contiguous) continue;
        const bool plain = lie == Lie::contiguous;
        if (plain || lie == Lie::stepped) check(c, lie, Setting::alone, mode);
        check(c, lie, Setting::between, mode);
        if (plain || lie == Lie::transposed) check(c, lie, Setting::kept, mode);
      }
}

}  // namespace

TEST_CASE("every op gives the same bits captured as eager", "[ops]") {
  for (DType d : dtypes) check_all(Mode::graph, d);
}

TEST_CASE("every op passes verify", "[ops]") {
  for (DType d : {DType::i64, DType::f32}) check_all(Mode::verify, d);
}

TEST_CASE("random ops give the same numbers captured as eager", "[ops]") {
  const auto program = [] {
    return Tensors{uniform({3, 5}),      normal({7}, 1, 2, DType::f64) * 2, randint({9}, -3, 4),
                   bernoulli({11}, 0.5), dropout(ones({4, 4}), 0.5),        sum(normal({50, 3}), {0})};
  };
  for (Mode mode : {Mode::graph, Mode::verify}) {
    auto f = capture(program);
    manual_seed(9);
    std::vector<Tensors> want;
    for (int call = 0; call < 4; ++call) want.push_back(program());
    manual_seed(9);
    ModeGuard guard(mode);
    for (int call = 0; call < 4; ++call) same(f(), want[static_cast<size_t>(call)]);
  }
}
