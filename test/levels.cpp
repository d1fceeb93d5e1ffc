// Level::fast: what it may change, how far, and that nothing else does.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "reprise/core/expr.h"
#include "reprise/core/switches.h"
#include "reprise/fusion/loosen.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

bool same_bits(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.data<float>().data(), b.data<float>().data(), a.layout().bytes()) == 0;
}

double largest_difference(const Tensor& a, const Tensor& b) { return max(abs(a - b)).item<double>(); }

// One call to record, two by the plan.
template <class F>
Tensor captured_result(F& f) {
  f();
  f();
  return f();
}

Tensor normalized(const Tensor& x) { return softmax(x, -1) * 3.0f + tanh(x) * x; }

}  // namespace

TEST_CASE("fast changes what it lists, within its bounds; exact changes nothing", "[levels]") {
  const Tensor x = normal({64, 200});
  const Tensor eager = normalized(x);
  auto exact = capture([&] { return normalized(x); });
  auto fast = capture([&] { return normalized(x); }, {.level = Level::fast});
  CHECK(same_bits(captured_result(exact), eager));
  const Tensor y = captured_result(fast);
  CHECK_FALSE(same_bits(y, eager));
  CHECK(largest_difference(y, eager) < 1e-5);
  CHECK(exact.explain().find("fast:") == std::string::npos);
  for (const Rewrite& r : inexact_rewrites())
    CHECK(fast.explain().find(fmt::format("fast: {} changes ", r.name)) != std::string::npos);
  for (const char* name : {"contract", "approximate"})
    CHECK(fast.explain().find(fmt::format("fast: {} changes results by at most", name)) != std::string::npos);
}

TEST_CASE("the level comes from the capture, the scope, the default", "[levels]") {
  const Tensor x = normal({1000});
  auto f = capture([&] { return tanh(x) * x + x; });
  const Tensor eager = tanh(x) * x + x;
  CHECK(same_bits(captured_result(f), eager));
  {
    LevelGuard guard(Level::fast);
    CHECK(level() == Level::fast);
    CHECK_FALSE(same_bits(f(), eager));
    auto pinned = capture([&] { return tanh(x) * x + x; }, {.level = Level::exact});
    CHECK(same_bits(captured_result(pinned), eager));
  }
  CHECK(same_bits(f(), eager));
  CHECK(f.explain().find("another plan: the level has changed") != std::string::npos);
  set_default_level(Level::fast);
  CHECK_FALSE(same_bits(f(), eager));
  set_default_level(Level::exact);
  CHECK_THROWS_WITH(parse_level("loose"), Catch::Matchers::Contains("expected exact or fast, got 'loose'"));
}

TEST_CASE("a guard inside a captured function concerns its own ops", "[levels]") {
  const Tensor x = normal({1000});
  auto f = capture([&] {
    const Tensor a = tanh(x);
    LevelGuard guard(Level::fast);
    return std::pair(a, tanh(x));
  });
  f();
  f();
  const auto [exact, fast] = f();
  CHECK(same_bits(exact, tanh(x)));
  CHECK_FALSE(same_bits(fast, tanh(x)));
}

TEST_CASE("eager ops and verified plans are exact at every level", "[levels]") {
  const Tensor x = normal({1000});
  const Tensor eager = tanh(x);
  LevelGuard guard(Level::fast);
  CHECK(same_bits(tanh(x), eager));
  auto f = capture([&] { return tanh(x) * 2.0f; });
  ModeGuard mode(Mode::verify);
  CHECK(same_bits(captured_result(f), eager * 2.0f));
  CHECK(verify([&] { return tanh(x) * x; }).ok);
}

TEST_CASE("a training step at fast leaves what it writes as one step does", "[levels]") {
  const auto train = [](Level level) {
    manual_seed(5);
    const auto bend = [](const Tensor& t) { return tanh(t); };
    Sequential net(Dense(16), bend, Dense(4));
    Sgd opt(net, {.lr = 0.1f, .momentum = 0.9f});
    const Tensor x = normal({8, 12}), y = randint({8}, 0, 4);
    auto step = capture(
        [&] {
          opt.zero_grad();
          Tensor loss = cross_entropy(net(x), y);
          loss.backward();
          opt.step();
          return loss;
        },
        {.level = level});
    float loss = 0;
    for (int i = 0; i < 6; ++i) loss = step().item<float>();
    return loss;
  };
  const float exact = train(Level::exact), fast = train(Level::fast);
  CHECK(std::abs(exact - fast) < 1e-5f * std::abs(exact) + 1e-6f);
}

TEST_CASE("only products that go into one sum are contracted, and only if that is allowed", "[levels]") {
  ProgramBuilder b;
  const Value x = b.load(b.operand(DType::f32, Access::contiguous)),
              y = b.load(b.operand(DType::f32, Access::contiguous));
  const Value twice = y * y;
  b.store(x * y + x, b.operand(DType::f32, Access::contiguous, true));
  b.store(twice + x, b.operand(DType::f32, Access::contiguous, true));
  b.store(twice + y, b.operand(DType::f32, Access::contiguous, true));
  const Program program = b.take();
  const auto count = [](const Program& p, Ir op) { return std::ranges::count(p.insts, op, &Inst::op); };
  CHECK(loosened(program) == program);
  const Allow allow({"contract"});
  const Program loose = loosened(program);
  CHECK(count(loose, Ir::fma) == 1);
  CHECK(count(loose, Ir::mul) == 1);
  CHECK(count(loose, Ir::add) == 2);
  CHECK(loose.insts.size() == program.insts.size() - 1);
  const Without without({"contract"});
  CHECK(loosened(program) == program);
}

TEST_CASE("the approximate tanh is within six ulp", "[levels]") {
  const Tensor x = arange(24 * 4096, -12.0, 1.0 / 4096, DType::f32);
  auto f = capture([&] { return tanh(x); }, {.level = Level::fast});
  const auto got = captured_result(f).to_vector<float>();
  const auto at = x.to_vector<float>();
  double worst = 0;
  for (size_t i = 0; i < at.size(); ++i) {
    const double want = std::tanh(static_cast<double>(at[i]));
    const float rounded = std::abs(static_cast<float>(want));
    const double ulp = rounded - static_cast<double>(std::nextafter(rounded, 0.0f));
    if (ulp > 0) worst = std::max(worst, std::abs(got[i] - want) / ulp);
  }
  CHECK(worst < 6);
  const Tensor y = tensor({0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-30f});
  auto g = capture([&] { return tanh(y); }, {.level = Level::fast});
  const auto limits = captured_result(g).to_vector<float>();
  CHECK(limits[0] == 0);
  CHECK(std::signbit(limits[1]));
  CHECK(limits[2] == Approx(1.0f));
  CHECK(limits[3] == Approx(-1.0f));
  CHECK(std::isnan(limits[4]));
  CHECK(limits[5] == 1e-30f);
}

TEST_CASE("no call waits longer than the budget for a plan", "[levels]") {
  const Tensor x = normal({16, 16});
  const auto body = [&] {
    Tensor y = x;
    for (int i = 0; i < 200; ++i) y = tanh(matmul(y, x) * 0.1f + 1.0f);
    return y;
  };
  const Tensor eager = body();
  auto f = capture(body, {.compile_budget_ms = 0});
  int64_t calls = 0;
  for (; f.stats().plan_runs == 0; ++calls) {
    REQUIRE(calls < 100000);
    CHECK(same_bits(f(), eager));
  }
  CHECK(same_bits(f(), eager));
  CHECK(f.stats().plan_builds == 1);
  CHECK_THROWS_WITH(capture(body, {.compile_budget_ms = -1}), Catch::Matchers::Contains("compile budget"));
}

TEST_CASE("captures may be dropped while another thread makes their plan", "[levels]") {
  const Tensor x = normal({64});
  for (int round = 0; round < 20; ++round) {
    auto f = capture(
        [&] {
          Tensor y = x;
          for (int i = 0; i < 50; ++i) y = y * 0.5f + static_cast<float>(round);
          return y;
        },
        {.compile_budget_ms = 0});
    for (int i = 0; i < 3; ++i) f();
    if (round % 2) f.reset();
  }
}

TEST_CASE("plans that lose against their ops one by one go", "[levels]") {
  Tensor state = zeros({32});
  const Tensor x = normal({32});
  auto f = capture(
      [&] {
        state.copy_(state * 0.5f + tanh(x));
        return state.clone();
      },
      {.drop_slow_plans = true});
  Tensor want = zeros({32});
  for (int i = 0; i < 20; ++i) {
    want = want * 0.5f + tanh(x);
    CHECK(same_bits(f(), want));
  }
  const bool dropped = f.explain().find("no plan: it takes") != std::string::npos;
  CHECK(f.stats().plan_runs == (dropped ? 4 : 20 - 1 - 4));
}
