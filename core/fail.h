#pragma once
#include <fmt/core.h>

#include "reprise/core/error.h"

namespace rp {

/// Throws an Error at the caller's line. Messages read "op: expected this, got that".
template <class... T>
[[noreturn]] void fail(fmt::format_string<T...> text, T&&... args) {
  throw Error(fmt::format(text, std::forward<T>(args)...), At::where());
}

}  // namespace rp
