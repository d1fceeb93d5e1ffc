#include "reprise/backends/cpu/backend.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "reprise/backends/cpu/isa.h"
#include "reprise/backends/cpu/jit.h"
#include "reprise/backends/cpu/kernels.h"
#include "reprise/backends/cpu/limits.h"
#include "reprise/backends/cpu/memory.h"
#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/backends/cpu/tile.h"
#include "reprise/core/stats.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

struct ProgramHash {
  size_t operator()(const Program* p) const { return p->hash(); }
};
struct SameProgram {
  bool operator()(const Program* a, const Program* b) const { return *a == *b; }
};

class CpuBackend final : public Backend {
 public:
  CpuBackend() { isa_in_use(); }  // a bad switch is reported before any kernel runs

  std::string_view name() const override { return "cpu"; }
  std::byte* allocate(size_t bytes) override { return allocate_bytes(bytes); }
  void release(std::byte* data, size_t bytes) noexcept override { release_bytes(data, bytes); }
  void copy(std::byte* to, const std::byte* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void fill(std::byte* to, std::byte value, size_t bytes) override { std::fill_n(to, bytes, value); }
  void read(std::byte* host, const std::byte* from, size_t bytes) override { std::memcpy(host, from, bytes); }
  void write(std::byte* to, const std::byte* host, size_t bytes) override { std::memcpy(to, host, bytes); }
  void synchronize() override {}
  Kernel find(const Op& op, DType dtype, std::string* why) override { return find_kernel(op, dtype, why); }

  const Compiled* compile(const Program& program) override {
    std::lock_guard lock(mutex_);
    const bool tiles = disabled("jit");
    auto& known = compiled_[tiles];
    if (const auto it = known.find(&program); it != known.end()) return it->second;
    Compiled& c = store_.emplace_back();
    c.program = program;
    make(c, tiles);
    ++launch_stats().programs;
    known[&c.program] = &c;
    return &c;
  }

  std::unique_ptr<RegionKernel> compile(const Region& region) override { return compile_region(*this, region); }
  Limits limits(bool all_threads) override { return cpu_limits(*this, all_threads); }
  size_t cache_size() override { return cpu_cache_size(); }

 private:
  void make(Compiled& c, bool tiles) {
    static const bool use_jit = switch_value("REPRISE_JIT") != "0";
    std::string why = tiles ? "switched off" : "REPRISE_JIT=0";
    if (use_jit && !tiles)
      if (std::optional<JitCode> code = jit_compile(c.program, &why)) {
        c.run = code->run;
        c.form = code->form;
        c.code_bytes = code->bytes;
        return;
      }
    tiles_.push_back(decode(c.program));
    c.run = run_tile;
    c.context = tiles_.back().get();
    c.form = "tile: " + why;
  }

  std::mutex mutex_;
  std::deque<Compiled> store_;
  std::deque<TileProgramPtr> tiles_;
  std::unordered_map<const Program*, const Compiled*, ProgramHash, SameProgram> compiled_[2];  // tiles only: second
};

}  // namespace

Backend& cpu_backend() {
  static CpuBackend* backend = new CpuBackend;  // never destroyed: tensors may outlive every static
  return *backend;
}

}  // namespace rp
