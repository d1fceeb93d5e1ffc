// Verify against kernels that are wrong on purpose: it must name the op and its line, and stay silent otherwise.
#include <fmt/core.h>

#include "reprise/core/planted.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

// A fused kernel of more than a few instructions takes two vectors at a time, and what is left alone: one vector here,
// of 8 elements or of 16. There the defect strikes, if the right operand is in a register.
constexpr int64_t odd_vectors = 56;

// Its last op, whose line it notes, is the one that goes wrong.
Tensor struck(const Tensor& x, int& line) {
  Tensor y = x * x;
  for (int i = 0; i < 6; ++i) y = y * x + 0.5;
  line = __LINE__ + 1;
  return x - y;
}

std::string verify_message(Defect defect, const std::function<Tensor(const Tensor&)>& body) {
  const Tensor inputs[] = {normal({odd_vectors}), normal({odd_vectors}), normal({odd_vectors})};
  active_defect() = defect;
  ModeGuard guard(Mode::verify);
  auto captured = capture(body);
  std::string message;
  try {
    for (const Tensor& x : inputs) captured(x);
  } catch (const Error& error) {
    message = error.what();
  }
  active_defect() = Defect::none;
  return message;
}

}  // namespace

TEST_CASE("verify names the op whose kernel is wrong, and its line", "[verify]") {
  manual_seed(1);
  int line = 0;
  const auto body = [&](const Tensor& x) { return struck(x, line) * 0.5; };
  // Compiled kernels stay: the right ones must not come first.
  const std::string message = verify_message(Defect::swapped_operands, body);
  INFO(message);
  CHECK(message.find("first differing op: sub") != std::string::npos);
  CHECK(message.find(fmt::format(" sub verify_defects.cpp:{},", line)) != std::string::npos);
}

TEST_CASE("verify finds what no kernel does wrong alone", "[verify]") {
  manual_seed(2);
  const Tensor a = normal({odd_vectors}), b = normal({odd_vectors}), c = normal({odd_vectors});
  const auto body = [&](const Tensor& x) { return (a + x) + c + b * 1e-3; };
  CHECK(verify_message(Defect::none, body).empty());
  const std::string message = verify_message(Defect::gradient_order, body);
  INFO(message);
  CHECK(message.find("differs from eager") != std::string::npos);
}

TEST_CASE("verify names the op in a loop whose values go into one buffer", "[verify]") {
  manual_seed(3);
  int line = 0;
  const auto body = [&](const Tensor& x) {
    const Tensor y = x.reshape({1, odd_vectors}).expand({3, odd_vectors});
    Tensor a = y * y + 1, b = a * y + 0.5, c = a * b + y;
    for (int i = 0; i < 4; ++i) c = c * 0.5 + b * a;
    line = __LINE__ + 1;
    b = y - c;
    return concat({a * 2, b, c * 3}, 1) * 0.5;
  };
  const std::string message = verify_message(Defect::swapped_operands, body);
  INFO(message);
  CHECK(message.find(fmt::format(" sub verify_defects.cpp:{},", line)) != std::string::npos);
}

TEST_CASE("verify names the op where the program reads in the middle", "[verify]") {
  manual_seed(4);
  int line = 0;
  const auto body = [&](const Tensor& x) {
    const Tensor y = struck(x, line);
    return sum(y * 0.5).item<float>() > 0 ? y : y + 1;
  };
  const std::string message = verify_message(Defect::swapped_operands, body);
  INFO(message);
  CHECK(message.find(fmt::format(" sub verify_defects.cpp:{},", line)) != std::string::npos);
}
