// Verify against kernels that are wrong on purpose: it must name the op and its line, and stay silent otherwise.
#include <fmt/core.h>

#include "reprise/core/planted.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

// Enough values at once that the generated kernel processes one vector at a time, which the defect needs.
constexpr int wide = 14;

std::string verify_message(Defect defect, const std::function<Tensor(const Tensor&)>& body) {
  active_defect() = defect;
  ModeGuard guard(Mode::verify);
  auto captured = capture(body);
  std::string message;
  try {
    for (int call = 0; call < 3; ++call) captured(normal({257}));
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
    Tensors parts;
    for (int i = 0; i < wide; ++i) parts.push_back(exp(x * (0.1 * i)));
    Tensor y = parts[0];
    for (int i = wide - 1; i > 0; --i) y = y * 0.5 + parts[static_cast<size_t>(i)];
    line = __LINE__ + 1;
    y = y - parts[3];
    return tanh(y * 0.01);
  };
  CHECK(verify_message(Defect::none, body).empty());
  const std::string message = verify_message(Defect::swapped_operands, body);
  INFO(message);
  CHECK(message.find("first differing op: %") != std::string::npos);
  CHECK(message.find(fmt::format(" sub verify_defects.cpp:{},", line)) != std::string::npos);
}

TEST_CASE("verify finds what no kernel does wrong alone", "[verify]") {
  manual_seed(2);
  const Tensor a = normal({64}), b = normal({64}), c = normal({64});
  const auto body = [&](const Tensor& x) { return (a + x.slice(0, 0, 64)) + c + b * 1e-3; };
  CHECK(verify_message(Defect::none, body).empty());
  const std::string message = verify_message(Defect::gradient_order, body);
  INFO(message);
  CHECK(message.find("differs from eager") != std::string::npos);
}
