#include "reprise/test/cuda/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define RP_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RP_ADDRESS_SANITIZER 1
#endif
#endif
#if RP_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a call must keep, leaves the old stack's pointer in *save and goes on where `to` was left.
extern "C" void rp_fiber_switch(void** save, void* to);
asm(R"(
.text
.globl rp_fiber_switch
.type rp_fiber_switch, @function
rp_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size rp_fiber_switch, .-rp_fiber_switch
)");

namespace rp::fake {
namespace {

constexpr unsigned char untouched = 0xA5;
constexpr size_t mark_bytes = 256;  // at the far end of a stack

thread_local Fiber* running = nullptr;
thread_local void* resumer = nullptr;  // the stack pointer of who resumed it

#if RP_ADDRESS_SANITIZER
thread_local const void* resumer_stack = nullptr;
thread_local size_t resumer_bytes = 0;
void leave(void** keep, const void* stack, size_t bytes) { __sanitizer_start_switch_fiber(keep, stack, bytes); }
void arrive(void* kept, const void** from, size_t* bytes) { __sanitizer_finish_switch_fiber(kept, from, bytes); }
#endif

}  // namespace

Fiber::Fiber(void (*body)()) : body_(body) {
  void* const memory =
      mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<char*>(memory);
  std::memset(stack_, untouched, mark_bytes);
  static size_t made = 0;
  colour_ = made++ % 61 * 128;
}

Fiber::~Fiber() { munmap(stack_, stack_bytes); }

void Fiber::reset() {
  pointer_ = nullptr;
#if RP_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(stack_, stack_bytes);  // what was left there has marks of its own
#endif
}

bool Fiber::overflowed() const {
  for (size_t i = 0; i < mark_bytes; ++i)
    if (static_cast<unsigned char>(stack_[i]) != untouched) return true;
  return false;
}

void Fiber::enter() {
#if RP_ADDRESS_SANITIZER
  arrive(nullptr, &resumer_stack, &resumer_bytes);
#endif
  running->body_();
  running->pointer_ = nullptr;
  void* ended;
#if RP_ADDRESS_SANITIZER
  leave(nullptr, resumer_stack, resumer_bytes);
#endif
  rp_fiber_switch(&ended, resumer);
}

void Fiber::resume() {
  if (!pointer_) {
    // As if `enter` had been called: seven words for the switch to take, and the alignment that a call leaves.
    auto** const top = reinterpret_cast<void**>(stack_ + stack_bytes - 64 - colour_);
    std::memset(top - 8, 0, 64);
    top[-2] = reinterpret_cast<void*>(&Fiber::enter);
    pointer_ = top - 8;
  }
  Fiber* const outer = running;
  void* const outer_resumer = resumer;
  running = this;
  void* const to = pointer_;
#if RP_ADDRESS_SANITIZER
  void* kept = nullptr;
  leave(&kept, stack_, stack_bytes);
  rp_fiber_switch(&resumer, to);
  arrive(kept, nullptr, nullptr);
#else
  rp_fiber_switch(&resumer, to);
#endif
  running = outer;
  resumer = outer_resumer;
}

void Fiber::suspend() {
  Fiber* const self = running;
#if RP_ADDRESS_SANITIZER
  leave(&self->fake_stack_, resumer_stack, resumer_bytes);
  rp_fiber_switch(&self->pointer_, resumer);
  arrive(self->fake_stack_, &resumer_stack, &resumer_bytes);
#else
  rp_fiber_switch(&self->pointer_, resumer);
#endif
}

}  // namespace rp::fake
