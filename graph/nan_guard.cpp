#include "reprise/graph/nan_guard.h"

#include <exception>

#include "reprise/graph/recorder.h"

namespace rp {
namespace {

void run_pending() {
  if (thread_state.recorder) thread_state.recorder->flush("a change of the search for NaN");
}

}  // namespace

NanGuard::NanGuard(bool on) : before_(watched()), exceptions_(std::uncaught_exceptions()) {
  run_pending();
  thread_state.watch = static_cast<int8_t>((before_ & ~watch_nan) | (on ? watch_nan : 0));
}

NanGuard::~NanGuard() noexcept(false) {
  if (std::uncaught_exceptions() > exceptions_) {
    thread_state.watch = before_;
    return;
  }
  try {
    run_pending();
  } catch (...) {
    thread_state.watch = before_;
    throw;
  }
  thread_state.watch = before_;
}

}  // namespace rp
