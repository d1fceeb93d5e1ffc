#pragma once
#include <source_location>
#include <stdexcept>
#include <string>

namespace rp {

/// Where a call stands in the user's source. Public functions take it from their caller without being told.
using Loc = std::source_location;

/// "file.cpp:41", without folders; empty if the line is unknown.
std::string line_text(const Loc& loc);

/// The one exception type of the library. `what()` reads "op: what was expected, what came at file.cpp:41".
class Error : public std::runtime_error {
 public:
  Error(const std::string& message, Loc where);

  /// The line of the caller's source that asked for the impossible.
  const Loc& where() const noexcept { return where_; }

 private:
  Loc where_;
};

/// Marks the source line that everything in this scope is done for. The outermost mark wins, so a layer or a composite
/// op that marks its caller's line lends that line to every op it calls.
class At {
 public:
  explicit At(const Loc& loc) noexcept : outer_(current_) {
    if (!current_.line()) current_ = loc;
  }
  ~At() { current_ = outer_; }
  At(const At&) = delete;

  /// The line being served now; line 0 when there is none.
  static const Loc& where() noexcept { return current_; }

 protected:
  struct Replace {};
  At(const Loc& loc, Replace) noexcept : outer_(current_) { current_ = loc; }

 private:
  static inline constinit thread_local Loc current_{};
  Loc outer_;
};

/// As `At`, but replaces the line already marked: gradient ops stand where their forward op stood.
class AtForward : public At {
 public:
  explicit AtForward(const Loc& loc) noexcept : At(loc, Replace{}) {}
};

}  // namespace rp
