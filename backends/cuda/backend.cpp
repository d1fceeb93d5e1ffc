#include "reprise/backends/cuda/backend.h"

#include "reprise/backends/cuda/attention.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/memory.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/backends/cuda/replay.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/core/fail.h"

namespace rp {
namespace {

std::unique_ptr<RegionKernel> compile_region(const Region& region) {
  switch (region.kind) {
    case RegionKind::map:
      return cuda::compile_map(region);
    case RegionKind::rows:
      return cuda::compile_rows(region);
    case RegionKind::columns:
      return cuda::compile_columns(region);
    case RegionKind::gemm:
      return region.op->kind == Kind::contract ? cuda::compile_gemm(region) : cuda::compile_conv(region);
    case RegionKind::copy:
      return cuda::compile_copy(region);
    case RegionKind::control:
      fail("region: control ops are run by their plan");
    case RegionKind::kernel:
      break;
  }
  return region.op->kind == Kind::composite ? cuda::compile_attention(region) : cuda::compile_call(region);
}

class CudaBackend final : public Backend {
 public:
  std::string_view name() const override { return "cuda"; }
  std::byte* allocate(size_t bytes) override { return cuda::allocate_bytes(bytes); }
  void release(std::byte* data, size_t bytes) noexcept override { cuda::release_bytes(data, bytes); }

  void copy(std::byte* to, const std::byte* from, size_t bytes) override {
    cuda::copy(to, from, bytes, cuda::Direction::on_device);
  }
  void fill(std::byte* to, std::byte value, size_t bytes) override { cuda::fill(to, value, bytes); }
  void read(std::byte* host, const std::byte* from, size_t bytes) override {
    cuda::copy(host, from, bytes, cuda::Direction::to_host);
  }
  void write(std::byte* to, const std::byte* host, size_t bytes) override {
    cuda::copy(to, host, bytes, cuda::Direction::to_device);
  }
  void synchronize() override { cuda::synchronize(); }

  Kernel find(const Op& op, DType, std::string* why) override {
    if (why) *why = fmt::format("{}: on CUDA every op is a region of a plan", op.name);
    return nullptr;
  }
  const Compiled* compile(const Program&) override { fail("cuda: programs are compiled as parts of regions"); }
  std::unique_ptr<RegionKernel> compile(const Region& region) override { return compile_region(region); }
  bool takes_whole(const Op& op, const Attrs& attrs, std::span<const Layout* const> inputs, std::string* why) override {
    return cuda::takes_attention(op, attrs, inputs, why);
  }
  bool keeps_whole(const Op& op, std::span<const Layout* const> inputs) override {
    return cuda::may_take_attention(op, inputs);
  }
  std::unique_ptr<RegionKernel> compile_scan(const Region& region, std::string* why) override {
    return cuda::compile_scan(region, why);
  }
  bool reads_short(const Op& op, const Attrs& attrs, std::span<const Layout* const> inputs, const Layout& result,
                   std::string* why) override {
    return op.kind == Kind::contract ? cuda::product_reads_short(op, attrs, inputs, result)
                                     : cuda::conv_reads_short(op, attrs, inputs, result, why);
  }
  std::unique_ptr<Replay> replay() override { return cuda::make_replay(); }

  // From what the device says of itself: arithmetic of its 32-bit lanes, two operations a cycle each; its memory's bus.
  Limits limits(bool) override {
    const cudaDeviceProp& p = cuda::device().properties;
    const double lanes = 128.0 * p.multiProcessorCount;
    return {.flops = 2 * lanes * clock_hz(cudaDevAttrClockRate),
            .memory_bytes = 2.0 * clock_hz(cudaDevAttrMemoryClockRate) * p.memoryBusWidth / 8,
            .cache_bytes = 32.0 * p.multiProcessorCount * clock_hz(cudaDevAttrClockRate),
            .launch_ns = 2500};
  }
  size_t cache_size() override { return static_cast<size_t>(cuda::device().properties.l2CacheSize); }

 private:
  static double clock_hz(cudaDeviceAttr clock) {
    int khz = 0;
    cuda::runtime().cudaDeviceGetAttribute(&khz, clock, 0);
    return 1e3 * khz;
  }
};

}  // namespace

Backend& cuda_backend(Device device) {
  if (!cuda::is_available()) fail("device: {} cannot be used: {}", to_string(device), cuda::why_not());
  if (device.index) fail("device: expected cuda:0, got {}; one CUDA device is used", to_string(device));
  static CudaBackend* backend = new CudaBackend;  // never destroyed: tensors may outlive every static
  return *backend;
}

}  // namespace rp
