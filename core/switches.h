#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

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

/// One thing that makes a compiled graph, or a run, differ from op by op.
struct Rewrite {
  std::string_view name;
  std::string_view help;
};

/// Every rewrite that can be left out, in the order in which they run; `fuse` stands for all that put ops into one
/// kernel. An unknown name in REPRISE_DISABLE is an error at the first look.
std::span<const Rewrite> rewrites();

/// Those that may change bits: they are left out unless an `Allow` lets them happen.
std::span<const Rewrite> inexact_rewrites();

/// Whether a rewrite is left out: by REPRISE_DISABLE, by a `Without` of this thread, or for want of an `Allow`.
bool disabled(std::string_view rewrite);

/// The rewrites that `Without`s of this thread leave out.
std::vector<std::string_view> left_out();

/// Leaves rewrites out while it lives, on this thread, besides those that are left out already.
class Without {
 public:
  explicit Without(std::vector<std::string_view> names);
  ~Without();
  Without(const Without&) = delete;

 private:
  friend bool disabled(std::string_view rewrite);
  friend std::vector<std::string_view> left_out();
  std::vector<std::string_view> names_;
  const Without* outer_;
};

/// Lets rewrites that may change bits happen while it lives, on this thread: these and no others.
class Allow {
 public:
  explicit Allow(std::vector<std::string_view> names);
  ~Allow();
  Allow(const Allow&) = delete;

 private:
  friend bool disabled(std::string_view rewrite);
  std::vector<std::string_view> names_;
  const Allow* outer_;
};

}  // namespace rp
