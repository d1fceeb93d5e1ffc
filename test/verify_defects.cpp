// Verify against kernels that are wrong on purpose: it must name the op and its line, and stay silent otherwise.
#include <fmt/core.h>

#include "reprise/core/planted.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

// A difference alone is computed four vectors at a time and its last two one at a time, which the defect needs; fused
// with more than a few instructions it is computed two at a time throughout.
constexpr int64_t six_vectors = 48;

std::string verify_message(Defect defect, const std::function<Tensor(const Tensor&)>& body) {
  active_defect() = defect;
  ModeGuard guard(Mode::verify);
  auto captured = capture(body);
  std::string message;
  try {
    for (int call = 0; call < 3; ++call) captured(normal({six_vectors}));
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
  const auto body = [&](const Tensor& x) {
    Tensor y = exp(x);
    line = __LINE__ + 1;
    y = y - x;
    return tanh(y);
  };
  // Compiled kernels stay: the right ones must not come first.
  const std::string message = verify_message(Defect::swapped_operands, body);
  INFO(message);
  CHECK(message.find("first differing op: %") != std::string::npos);
  CHECK(message.find(fmt::format(" sub verify_defects.cpp:{},", line)) != std::string::npos);
}

TEST_CASE("verify finds what no kernel does wrong alone", "[verify]") {
  manual_seed(2);
  const Tensor a = normal({six_vectors}), b = normal({six_vectors}), c = normal({six_vectors});
  const auto body = [&](const Tensor& x) { return (a + x) + c + b * 1e-3; };
  CHECK(verify_message(Defect::none, body).empty());
  const std::string message = verify_message(Defect::gradient_order, body);
  INFO(message);
  CHECK(message.find("differs from eager") != std::string::npos);
}
