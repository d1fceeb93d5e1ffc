#include "reprise/bench/cuda_machine.h"

#include <dlfcn.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "reprise/backends/cuda/cublas_lt.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/bench/cuda_texts.h"
#include "reprise/bench/measure.h"

namespace bench {
namespace {

using namespace rp::cuda;

uint32_t full_grid() { return 8u * static_cast<uint32_t>(device().properties.multiProcessorCount); }

nlohmann::json said_of(const std::function<nlohmann::json()>& what) {
  try {
    return what();
  } catch (const std::exception& e) {
    return {{"error", e.what()}};
  }
}

nlohmann::json properties_json() {
  const cudaDeviceProp& p = device().properties;
  int core_khz = 0, memory_khz = 0;
  runtime().cudaDeviceGetAttribute(&core_khz, cudaDevAttrClockRate, 0);
  runtime().cudaDeviceGetAttribute(&memory_khz, cudaDevAttrMemoryClockRate, 0);
  return {{"name", p.name},
          {"architecture", device().architecture()},
          {"multiprocessors", p.multiProcessorCount},
          {"memory_bytes", p.totalGlobalMem},
          {"l2_bytes", p.l2CacheSize},
          {"shared_bytes_a_block", p.sharedMemPerBlockOptin},
          {"core_khz", core_khz},
          {"memory_khz", memory_khz},
          {"memory_bus_bits", p.memoryBusWidth},
          {"driver", device().driver_version},
          {"runtime", device().runtime_version}};
}

nlohmann::json nvrtc_json() {
  int major = 0, minor = 0;
  nvrtc().nvrtcVersion(&major, &minor);
  return 1000 * major + 10 * minor;
}

/// The files of libraries that this process has loaded and whose names say that they are CUDA's.
nlohmann::json loaded_libraries() {
  std::set<std::string> files;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (const size_t at = line.find('/'); at != std::string::npos)
      for (const char* part : {"libcuda", "libnvrtc", "libcublas", "libcudnn", "libnvidia"})
        if (line.find(part, at) != std::string::npos) files.insert(line.substr(at));
  return files;
}

}  // namespace

double cuda_copy_gbs(size_t bytes) {
  const CudaBytes from(bytes), to(bytes);
  const CopyArgs args{from.data(), to.data(), bytes / 16};
  const auto by_kernel = [&] { launch_text(copy_text, {.blocks = full_grid()}, args); };
  const auto by_runtime = [&] { copy(to.data(), from.data(), bytes, Direction::on_device); };
  const Timing timing = interleave({{rp::Mode::eager, by_kernel}, {rp::Mode::eager, by_runtime}});
  return 2 * static_cast<double>(bytes) / std::min(median(timing.of[0]), median(timing.of[1]));
}

double cuda_fma_gflops() {
  constexpr uint32_t turns = 4096;
  const CudaBytes out(4);
  const FmaArgs args{reinterpret_cast<float*>(out.data()), 0.5f, 0.25f, turns};
  const Timing timing = interleave({{rp::Mode::eager, [&] { launch_text(fma_text, {.blocks = full_grid()}, args); }}});
  return 2.0 * fmas_a_turn * turns * 256 * full_grid() / median(timing.of[0]);
}

double cuda_product_ns(double flops) {
  static const double gflops = [] {
    constexpr int64_t n = 8192;
    try {
      const LibraryProduct product(n);
      return 2.0 * n * n * n / median(interleave({{rp::Mode::eager, [&] { product(); }}}).of[0]);
    } catch (const std::exception&) {
      return std::numeric_limits<double>::infinity();
    }
  }();
  return flops / gflops;
}

Machine describe_cuda_machine() {
  Machine m;
  m.cpu = rp::cuda::describe();
  m.cores = static_cast<unsigned>(device().properties.multiProcessorCount);
  m.peak_gflops = cuda_fma_gflops();
  const auto l2 = static_cast<double>(device().properties.l2CacheSize);
  const double in_cache = cuda_copy_gbs(static_cast<size_t>(l2 / 8)), beyond = cuda_copy_gbs(size_t{512} << 20);
  m.levels = {{"L2", in_cache}, {"DRAM", beyond}};
  m.gbs_of = [=](double bytes) { return bytes <= l2 / 2 ? in_cache : beyond; };
  return m;
}

nlohmann::json describe_cuda_environment() {
  nlohmann::json all = {{"available", is_available()}, {"why_not", why_not()}};
  all["searched"] = library_folders();
  all["device"] = said_of(properties_json);
  all["nvrtc"] = said_of(nvrtc_json);
  all["cublas_lt"] = said_of([] { return nlohmann::json(cublas_lt().cublasLtGetVersion()); });
  all["cudnn"] = said_of(cudnn_json);
  all["loaded"] = loaded_libraries();
  return all;
}

}  // namespace bench
