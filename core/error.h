#pragma once
#include <source_location>
#include <stdexcept>
#include <string>

namespace rp {

/// Where a call stands in the user's source. Public functions take it from their caller without being told.
using Loc = std::source_location;

/// A line and the module, if any, that the call belongs to. What a call leaves behind (tape, recording, graph, plan)
/// carries both.
struct Where : Loc {
  const char* module = nullptr;  // dotted path, such as "encoder.0.norm"; the text is kept for the life of the process
};

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
    if (!current_.line()) line() = loc;
  }
  ~At() { line() = outer_; }
  At(const At&) = delete;

  /// The line being served now, line 0 when there is none, and the module.
  static const Where& where() noexcept { return current_; }

 protected:
  struct Replace {};
  At(const Loc& loc, Replace) noexcept : outer_(current_) { line() = loc; }

 private:
  friend class AtModule;
  static Loc& line() noexcept { return current_; }

  static inline constinit thread_local Where current_{};
  Loc outer_;
};

/// Marks the module that everything in this scope is done for. The innermost mark wins.
class AtModule {
 public:
  explicit AtModule(const char* module) noexcept : outer_(At::current_.module) { At::current_.module = module; }
  ~AtModule() { At::current_.module = outer_; }
  AtModule(const AtModule&) = delete;

 private:
  const char* outer_;
};

/// As `At`, but replaces the line already marked, and the module: gradient ops stand where their forward op stood.
class AtForward : public At {
 public:
  explicit AtForward(const Where& where) noexcept : At(where, Replace{}), module_(where.module) {}

 private:
  AtModule module_;
};

}  // namespace rp
