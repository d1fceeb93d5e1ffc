#pragma once
#include <span>
#include <string>
#include <string_view>

namespace rp {

/// One environment variable `REPRISE_*`.
struct Switch {
  std::string_view name;
  std::string_view help;
};

/// Every switch there is. A `REPRISE_*` variable that is not among them is an error at the first look, so that a typing
/// mistake cannot pass unnoticed.
std::span<const Switch> switches();

/// The value of a switch, empty if unset. `name` is one of `switches()`.
std::string switch_value(std::string_view name);

/// Whether REPRISE_DISABLE names a rewrite.
bool disabled(std::string_view rewrite);

}  // namespace rp
