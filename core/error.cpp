#include "reprise/core/error.h"

#include <string_view>

#include "reprise/core/fail.h"

namespace rp {
namespace {

std::string located(const std::string& message, const Loc& where) {
  return where.line() ? message + " at " + line_text(where) : message;
}

}  // namespace

std::string line_text(const Loc& loc) {
  if (!loc.line()) return {};
  const std::string_view file = loc.file_name();
  return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), loc.line());
}

Error::Error(const std::string& message, Loc where) : std::runtime_error(located(message, where)), where_(where) {}

}  // namespace rp
