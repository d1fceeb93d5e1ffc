// Stepping through graphs with real values.
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

TEST_CASE("a stepper shows the value of every op", "[stepper]") {
  const Tensor w = tensor(std::vector<float>{1, 2}, {2}), x = tensor(std::vector<float>{3, 4}, {2});
  const auto f = [&](const Tensor& in) {
    const Tensor y = in * w;
    w.copy_(y + 1);
    return w * 10;
  };
  std::vector<Stepper> paths = steppers(f, x);
  REQUIRE(paths.size() == 1);
  CHECK(w.to_vector<float>() == std::vector<float>{4, 9});  // the function has run once
  Stepper& s = paths[0];
  s.run_to("mul");
  CHECK(s.op() == "mul");
  CHECK(s.line().find("stepper.cpp:") == 0);
  const int product = s.next();
  CHECK(s.operands(product).size() == 2);
  CHECK(s.step().to_vector<float>() == std::vector<float>{3, 8});  // w as it was before the call
  s.run();
  CHECK(s.done());
  CHECK(s.value(product).to_vector<float>() == std::vector<float>{3, 8});
  CHECK(s.value(s.size() - 1).to_vector<float>() == std::vector<float>{40, 90});
  CHECK(s.text().find("mul") != std::string::npos);
  CHECK_THROWS_AS(s.step(), Error);
  CHECK_THROWS_AS(s.value(s.size()), Error);
}

TEST_CASE("reads by the host give a stepper each", "[stepper]") {
  const Tensor x = full({3}, 2);
  auto captured = capture([](const Tensor& in) {
    const Tensor y = in * 3;
    return sum(y).item<float>() > 0 ? y + 1 : y - 1;
  });
  std::vector<Stepper> paths = steppers(captured, x);
  REQUIRE(paths.size() == 2);
  paths[1].run();
  CHECK(paths[1].value(paths[1].size() - 1).to_vector<float>() == std::vector<float>{7, 7, 7});
}

TEST_CASE("a stepper goes into the bodies of control ops", "[stepper]") {
  const Tensor xs = tensor(std::vector<float>{1, 2, 3}, {3}), one = full({}, 1);
  std::vector<Stepper> paths =
      steppers([&] { return scan([](const Tensor& c, const Tensor& x) { return c * 2 + x; }, one, xs); });
  Stepper& s = paths[0];
  s.run_to("scan");
  Stepper body = s.into(1);  // c is 3, x is 2
  body.run_to("mul");
  CHECK(body.step().item<float>() == 6);
  body.run();
  CHECK(body.value(body.size() - 1).item<float>() == 8);
  CHECK_THROWS_AS(s.into(3), Error);
  CHECK_THROWS_AS(s.into(0, true), Error);
  s.run();
  CHECK(s.value(s.size() - 1).item<float>() == 19);
  CHECK_THROWS_AS(s.into(0), Error);

  const auto doubled = [&] {
    return while_loop([](const Tensor& h) { return h < 10; }, [](const Tensor& h) { return h * 2; }, one);
  };
  Stepper loop = std::move(steppers(doubled)[0]);
  loop.run_to("while_loop");
  Stepper trip = loop.into(2), condition = loop.into(4, true);
  trip.run();
  condition.run();
  CHECK(trip.value(trip.size() - 1).item<float>() == 8);
  CHECK(!condition.value(condition.size() - 1).item<bool>());

  Stepper branch = std::move(steppers([&] { return cond(one > 0, [&] { return one * 5; }, [&] { return one; }); })[0]);
  branch.run_to("cond");
  Stepper yes = branch.into();
  yes.run();
  CHECK(yes.value(yes.size() - 1).item<float>() == 5);
}
