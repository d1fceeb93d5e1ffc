#pragma once
// Stacks to run on, and the switch between them.
#include <cstddef>

namespace rp::fake {

/// A stack that one call after the other runs on, suspended and resumed at will. Not for several threads at once.
class Fiber {
 public:
  explicit Fiber(void (*body)());
  ~Fiber();
  Fiber(const Fiber&) = delete;

  /// Runs the body from its start, or from where it was suspended, until it suspends itself or ends.
  void resume();
  /// From within a body: back to who resumed it.
  static void suspend();
  /// Forgets where the body was: the next resume starts it anew. Objects on its stack are not destroyed.
  void reset();
  /// Whether the body has ever used all of the stack.
  bool overflowed() const;

  static constexpr size_t stack_bytes = 64 << 10;

 private:
  static void enter();

  void (*body_)();
  char* stack_;
  size_t colour_;                                // stacks start at different lines of a cache
  void* pointer_ = nullptr;                      // of the suspended stack
  [[maybe_unused]] void* fake_stack_ = nullptr;  // the address sanitizer's
};

}  // namespace rp::fake
