// Loading the libraries of CUDA, and what is said where they, a driver or a device are missing.
#include "reprise/backends/cuda/api.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "reprise/backends/cuda/cublas_lt.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/device.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/environment.h"

using Catch::Matchers::Contains;
using namespace rp::cuda;
namespace fs = std::filesystem;

namespace {

/// A library that every system has, as if it were one of CUDA's.
struct Numbers : Table {
  explicit Numbers(const std::string& soname) : Table(soname) {}
  Entry<double(double)> floor{*this, "floor"};
  Entry<double(double)> none{*this, "reprise_has_no_such_function"};
};

/// The answer of a process that has not asked before.
std::string fresh_answer() {
  const std::string own = fs::read_symlink("/proc/self/exe").string();
  FILE* const pipe = popen(("'" + own + "' '[cuda-start]'").c_str(), "r");
  char line[256] = "";
  std::string answer;
  while (std::fgets(line, sizeof line, pipe))
    if (std::string(line).starts_with("start ")) answer = line;
  pclose(pipe);
  return answer;
}

}  // namespace

TEST_CASE("prints what the first look for a device says, and its milliseconds", "[.][cuda-start]") {
  const auto begin = std::chrono::steady_clock::now();
  const bool yes = is_available();
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  std::printf("start %d %.3f\n", yes, ms);
}

TEST_CASE("the first look for a device is quick where there is none", "[cuda]") {
  double least = 1e9;
  for (int i = 0; i < 5; ++i) {
    int yes = 0;
    double ms = 0;
    REQUIRE(std::sscanf(fresh_answer().c_str(), "start %d %lf", &yes, &ms) == 2);
    if (yes) return;  // a device takes the time that its driver takes
    least = std::min(least, ms);
  }
  CHECK(least < 2);
}

TEST_CASE("without a device, whatever needs one says why", "[cuda]") {
  if (is_available()) return;
  CHECK(device_count() == 0);
  CHECK_THAT(why_not(), Contains("install") || Contains("nvidia-smi"));
  CHECK_THROWS_WITH(device_name(), Contains(why_not()));
  CHECK_THROWS_WITH(describe(), Contains(why_not()));
  CHECK_THROWS_WITH(synchronize(), Contains(why_not()));
  CHECK(memory_stats().reserved == 0);
}

TEST_CASE("a device says what it is", "[cuda]") {
  rp::fake::Device gpu;
  CHECK(is_available());
  CHECK(why_not().empty());
  CHECK(device_count() == 1);
  CHECK(device_name() == "NVIDIA H200");
  CHECK(describe() ==
        "NVIDIA H200, 140.4 GiB, compute capability 9.0, 132 multiprocessors, driver for CUDA 13.0, runtime 13.0");
  CHECK(device().architecture() == 90);
  CHECK_THROWS_WITH(device_name(1), Contains("below 1, got 1"));
  CHECK_THROWS_WITH(device_name(-1), Contains("got -1"));
}

TEST_CASE("what is missing has a reason of its own", "[cuda]") {
  const auto reason = [](const rp::fake::DeviceOptions& options) {
    rp::fake::Device gpu(options);
    CHECK_FALSE(is_available());
    CHECK(device_count() == 0);
    CHECK_THROWS_AS(synchronize(), rp::Error);
    return why_not();
  };
  CHECK_THAT(reason({.driver = 0}), Contains("no NVIDIA driver"));
  CHECK_THAT(reason({.driver = 12020}), Contains("CUDA 12.2") && Contains("13.0") && Contains("install a driver"));
  CHECK_THAT(reason({.devices = 0}), Contains("no device") && Contains("CUDA_VISIBLE_DEVICES"));
}

TEST_CASE("a call that fails by chance is made again", "[cuda]") {
  rp::fake::Device gpu;
  gpu.fail("cudaGetDeviceCount", 1, cudaErrorUnknown);
  CHECK_FALSE(is_available());
  gpu.fail("cudaGetDeviceCount", 1, cudaErrorUnknown);
  CHECK_THAT(why_not(), Contains("cudaGetDeviceCount: cudaErrorUnknown"));
  CHECK(is_available());
  CHECK(is_available());
  CHECK(gpu.count("cudaGetDeviceCount") == 3);
}

TEST_CASE("no other library is touched to find out", "[cuda]") {
  rp::fake::Device gpu;
  CHECK(is_available());
  for (const rp::fake::Call& call : gpu.calls())
    CHECK((call.name == "cudaDriverGetVersion" || call.name == "cudaGetDeviceCount"));
}

TEST_CASE("a library that is missing: where it was looked for, and what to do", "[cuda]") {
  Numbers nothing("libreprise_nothing.so.1");
  CHECK_THROWS_WITH(nothing.load(), Contains("libreprise_nothing.so.1 was not found in the loader's path, ") &&
                                        Contains("/usr/local/cuda/lib64") && Contains("REPRISE_CUDA_PATH"));
  const rp::test::Environment path("REPRISE_CUDA_PATH", "/one:/two");
  CHECK_THROWS_WITH(nothing.load(), Contains("/one, /one/lib64, /two, /two/lib64, the loader's path"));
}

TEST_CASE("a library is found where REPRISE_CUDA_PATH says, and its functions by their names", "[cuda]") {
  const rp::test::FreshFolder fresh("cuda-path");
  const fs::path& folder = fresh.path();
  const std::string soname = "libreprise_numbers.so.1";
  fs::create_directories(folder / "lib64");
  fs::create_symlink("libm.so.6", folder / "lib64" / soname);
  Numbers numbers(soname);
  CHECK_THROWS_AS(numbers.load(), rp::Error);
  CHECK_THROWS_WITH(numbers.floor(1), Contains("floor: expected libreprise_numbers.so.1 to have it"));
  const rp::test::Environment path("REPRISE_CUDA_PATH", "/nowhere:" + folder.string());
  fs::remove(folder / "lib64" / soname);
  std::ofstream(folder / "lib64" / soname) << "no library";
  CHECK_THROWS_WITH(numbers.load(), Contains("was not loaded") && Contains(soname));
  fs::remove(folder / "lib64" / soname);
  for (const char* known : {"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"})
    if (fs::exists(known) && !fs::exists(folder / "lib64" / soname))
      fs::create_symlink(known, folder / "lib64" / soname);
  numbers.load();
  CHECK(numbers.floor.found());
  CHECK(numbers.floor(2.5) == 2);
  CHECK_FALSE(numbers.none.found());
  CHECK_THROWS_WITH(numbers.none(1), Contains("reprise_has_no_such_function") && Contains("newer version"));
}

TEST_CASE("errors name the call, the error and its text", "[cuda]") {
  rp::fake::Device gpu;
  CHECK_NOTHROW(check(cudaSuccess, "cudaMallocAsync"));
  CHECK_THROWS_WITH(check(cudaErrorMemoryAllocation, "cudaMallocAsync"),
                    Contains("cudaMallocAsync: cudaErrorMemoryAllocation: "));
  CHECK_THROWS_WITH(runtime().cudaStreamSynchronize(nullptr), Contains("cudaStreamSynchronize: "));
  CHECK_THAT(gpu.take_findings().at(0), Contains("default stream"));
}

namespace {

void check_complete(const Table& table) {
  for (const Symbol* const symbol : table.symbols()) {
    INFO(table.soname() << " " << symbol->name());
    CHECK(symbol->found());
  }
}

bool loads(Table& table) {
  try {
    table.load();
    return true;
  } catch (const rp::Error& e) {
    WARN("skipped: " << e.what());
    return false;
  }
}

}  // namespace

TEST_CASE("the device of the tests has every function that the library knows", "[cuda]") {
  rp::fake::Device gpu;
  check_complete(runtime());
  check_complete(nvrtc());
}

TEST_CASE("the libraries that are installed have every function that the library knows", "[cuda]") {
  Runtime of_runtime;
  if (loads(of_runtime)) check_complete(of_runtime);
  Nvrtc of_compiler;
  if (loads(of_compiler)) check_complete(of_compiler);
}

TEST_CASE("cuBLASLt has every function that the library knows", "[cuda]") {
  CublasLt table;
  if (!loads(table)) return;
  check_complete(table);
  CHECK(table.cublasLtGetVersion() >= 130000);
  CHECK_THAT(table.cublasLtGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED), Contains("NOT_SUPPORTED"));
}
