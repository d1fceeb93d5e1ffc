#pragma once
#include <cstdint>

namespace rp {

/// Within its scope the op that makes the first NaN or Inf of this thread throws an Error with its name, operands,
/// element and line: the op whose operands, tensors and numbers, were all finite. Works in every mode; captured
/// functions run op by op meanwhile. REPRISE_NAN=1 does the same for a whole program.
class NanGuard {
 public:
  /// `on` false switches the search off for the scope.
  explicit NanGuard(bool on = true);
  /// Runs what is pending, which may throw, unless an exception is on its way already.
  ~NanGuard() noexcept(false);
  NanGuard(const NanGuard&) = delete;

 private:
  int8_t before_;
  int exceptions_;
};

}  // namespace rp
