#include "reprise/backends/cpu/jit.h"

#if defined(__x86_64__)

#include <cstdlib>
#include <memory>

#include "reprise/backends/cpu/jit_loop.h"
#include "reprise/backends/cpu/jit_memory.h"

namespace rp {
namespace {

struct Free {
  void operator()(std::byte* p) const { std::free(p); }
};

/// Memory to write code in, kept for the next program of this thread.
struct Buffer {
  std::unique_ptr<std::byte, Free> bytes;
  size_t size = 0;

  std::byte* at_least(size_t n) {
    if (n > size) {
      size = (n + 65535) / 65536 * 65536;
      bytes.reset(static_cast<std::byte*>(std::aligned_alloc(64, size)));
    }
    return bytes.get();
  }
};

bool host_has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

std::optional<JitCode> refuse(std::string* why, const char* reason) {
  if (why) *why = reason;
  return std::nullopt;
}

}  // namespace

std::optional<JitCode> jit_compile(const Program& program, std::string* why, int lanes) {
  if (lanes != 8 && lanes != 4) return refuse(why, "no such vector width");
  if (!host_has_avx2()) return refuse(why, "the processor lacks AVX2 or FMA");
  std::optional<jit::Plan> plan = jit::make_plan(program, lanes, why);
  if (!plan) return std::nullopt;
  // An instruction takes at most a dozen machine instructions of twelve bytes, with its spills, in each of seven
  // copies.
  constexpr size_t bytes_of_node = 12 * 12 * 7, bytes_of_loops = 8192;
  thread_local Buffer buffer;
  size_t size = bytes_of_loops + plan->nodes.size() * bytes_of_node;
  std::byte* memory = buffer.at_least(size);
  if (!memory) return refuse(why, "out of memory");
  try {
    jit::LoopCode code(program, *plan, lanes, memory, size);
    code.write_function();
    const std::byte* at = jit::publish({memory, code.getSize()});
    if (!at) return refuse(why, "the host refuses executable memory");
    return JitCode{reinterpret_cast<KernelFn>(reinterpret_cast<uintptr_t>(at + code.entry())), code.getSize(),
                   "jit avx2"};
  } catch (const Xbyak::Error& error) {
    return refuse(why, error.what());
  }
}

}  // namespace rp

#else

namespace rp {

std::optional<JitCode> jit_compile(const Program&, std::string* why, int) {
  if (why) *why = "not an x86-64 processor";
  return std::nullopt;
}

}  // namespace rp

#endif
