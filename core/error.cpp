#include "reprise/core/error.h"

#include <string_view>

#include "reprise/core/fail.h"

namespace rp {
namespace {

std::string located(const std::string& message, const Loc& where) {
  if (!where.line()) return message;
  std::string_view file = where.file_name();
  return fmt::format("{} at {}:{}", message, file.substr(file.rfind('/') + 1), where.line());
}

}  // namespace

Error::Error(const std::string& message, Loc where) : std::runtime_error(located(message, where)), where_(where) {}

}  // namespace rp
