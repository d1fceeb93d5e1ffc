#include "reprise/backends/cpu/jit.h"

#include "reprise/backends/cpu/isa.h"

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

std::nullopt_t refuse(std::string* why, const char* reason) {
  if (why) *why = reason;
  return std::nullopt;
}

}  // namespace

int jit_lanes() { return isa_in_use() == Isa::avx512 ? 16 : 8; }

std::optional<Assembled> jit_assemble(const Program& program, std::string* why, int lanes) {
  if (lanes != 16 && lanes != 8 && lanes != 4) return refuse(why, "no such vector width");
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
    return Assembled{{memory, code.getSize()}, code.entry()};
  } catch (const Xbyak::Error& error) {
    return refuse(why, error.what());
  }
}

std::optional<JitCode> jit_compile(const Program& program, std::string* why, int lanes) {
  const bool wide = lanes == 16;
  if (!has_isa(wide ? Isa::avx512 : Isa::avx2))
    return refuse(why, wide ? "the processor lacks AVX-512" : "the processor lacks AVX2 or FMA");
  std::optional<Assembled> code = jit_assemble(program, why, lanes);
  if (!code) return std::nullopt;
  const std::byte* at = jit::publish(code->bytes);
  if (!at) return refuse(why, "the host refuses executable memory");
  return JitCode{reinterpret_cast<KernelFn>(reinterpret_cast<uintptr_t>(at + code->entry)), code->bytes.size(),
                 wide ? "jit avx512" : "jit avx2"};
}

}  // namespace rp

#else

namespace rp {

int jit_lanes() { return isa_in_use() == Isa::avx512 ? 16 : 8; }

std::optional<Assembled> jit_assemble(const Program&, std::string* why, int) {
  if (why) *why = "not an x86-64 processor";
  return std::nullopt;
}

std::optional<JitCode> jit_compile(const Program& program, std::string* why, int lanes) {
  jit_assemble(program, why, lanes);
  return std::nullopt;
}

}  // namespace rp

#endif
