// What captured functions tell about calls that did not match their recordings.
#include <nlohmann/json.hpp>

#include "reprise/reprise.h"
#include "reprise/test/capture_cases.h"

using cases::values;
using nlohmann::json;
using rp::Tensor;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The texts of what happened to a function that is called with each argument in turn.
template <class F, class... A>
std::string events_of(F body, const A&... arguments) {
  auto f = rp::capture(body);
  (f(arguments), ...);
  std::string text;
  const json report = json::parse(f.json());
  for (const json& e : report["events"]) text += e["text"].get<std::string>() + "\n";
  INFO(text);
  CHECK(contains(f.explain(), text.substr(0, text.find('\n'))));
  return text;
}

std::string at(unsigned line) { return "report_misses.cpp:" + std::to_string(line); }

}  // namespace

TEST_CASE("a miss names another op") {
  int i = 0;
  unsigned line = 0;
  const std::string text = events_of(
      [&](const Tensor& x) {
        Tensor y = x + 1;
        line = __LINE__ + 1;
        return ++i == 3 ? rp::exp(y) : rp::tanh(y);
      },
      values({4}), values({4}), values({4}));
  CHECK(contains(text, "diverged after op 1 (add at"));
  CHECK(contains(text, "expected tanh at " + at(line) + ", got exp at " + at(line) + ": op: tanh -> exp"));
}

TEST_CASE("a miss names the attribute, with its old and new value") {
  int i = 0;
  const std::string text = events_of([&](const Tensor& x) { return rp::sum(x * 2, {++i == 3 ? 1 : 0}); },
                                     values({4, 5}), values({4, 5}), values({4, 5}));
  CHECK(contains(text, "attrs: axes 1 -> 2"));
}

TEST_CASE("a miss names the operand's layout") {
  const std::string text = events_of([](const Tensor& x) { return rp::relu(x); }, values({4, 5}), values({4, 5}),
                                     values({6, 5}), values({5, 4}).transpose());
  CHECK(contains(text, "diverged at the start: expected relu at"));
  CHECK(contains(text, "operand 0: layout f32[4,5] -> f32[6,5]"));
  CHECK(contains(text, "operand 0: layout f32[4,5] -> f32[4,5]/[1,4]"));
}

TEST_CASE("a miss names where an operand comes from") {
  int i = 0;
  const Tensor other = values({4}, 3);
  const std::string text = events_of(
      [&](const Tensor& x) {
        ++i;
        Tensor a = rp::exp(x), b = rp::tanh(x);
        return (i == 3 ? b : a) * (i == 4 ? other : b);
      },
      values({4}), values({4}), values({4}), values({4}));
  CHECK(contains(text, "operand 0 comes from elsewhere: the result of op 1 (exp at report_misses.cpp:"));
  CHECK(contains(text, "-> the result of op 2 (tanh at report_misses.cpp:"));
  CHECK(contains(text, "-> tensor #1 from outside"));
}

TEST_CASE("a miss names another aliasing of storages") {
  auto f = rp::capture([](const Tensor& x, const Tensor& y) { return rp::exp(x) * rp::tanh(y); });
  const Tensor whole = values({8}), a = values({4}), b = values({4}, 1);
  for (int i = 0; i < 2; ++i) f(a, b);
  f(whole.slice(0, 0, 4), whole.slice(0, 4, 8));
  CHECK(contains(f.explain(), "operand 0: storage aliasing changed: tensor #1 lay in storage #1 -> now in #0"));
}

TEST_CASE("a miss names numbers that have become tensors") {
  int i = 0;
  const Tensor two = values({4}, 1);
  const std::string text =
      events_of([&](const Tensor& x) { return ++i == 3 ? x * two : x * 2; }, values({4}), values({4}), values({4}));
  CHECK(contains(text, "scalar mask: operand 1 a number -> a tensor"));
}

TEST_CASE("ends and rebuilt plans are told with what they differ in") {
  int i = 0;
  Tensor kept;
  unsigned line = 0;
  const std::string text = events_of(
      [&](const Tensor& x) {
        ++i;
        line = __LINE__ + 1;
        Tensor y = rp::exp(x);
        if (i == 4) kept = y;
        if (i == 6) return y;
        Tensor z = y * 2;
        if (i == 5) z.to_vector<float>();
        return z + 1;
      },
      values({4}), values({4}), values({4}), values({4}), values({4}), values({4}));
  CHECK(contains(
      text, "plan rebuilt for 3 ops: values kept 1 -> 2, now also those of op 1 (exp at " + at(line) + ", f32[4])"));
  CHECK(contains(text, "new end after op 2 (mul at"));
  CHECK(contains(text, "by a read, where recorded segments go on with add at"));
  CHECK(contains(text, "new end after op 1 (exp at"));
}

TEST_CASE("equal events are counted") {
  auto f = rp::capture([i = 0](const Tensor& x) mutable {
    Tensor y = x + 1;
    return ++i % 2 ? rp::exp(y) : rp::log(y * y + 1);
  });
  for (int i = 0; i < 2; ++i) f(values({4}));
  const json events = json::parse(f.json())["events"];
  REQUIRE(events.size() == 1);
  CHECK(events[0]["times"] == 1);
  CHECK(contains(events[0]["text"], "op: exp -> mul"));
}
