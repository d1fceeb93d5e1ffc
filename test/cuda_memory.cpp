// Memory of the device, copies, and the errors that kernels report.
#include "reprise/backends/cuda/memory.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/errors.h"
#include "reprise/backends/cuda/launch_list.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_kernels.h"

using Catch::Matchers::Contains;
using namespace rp::cuda;

namespace {

std::vector<uint8_t> noise(size_t n, uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(n);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random());
  return bytes;
}

constexpr const char* report_text = R"(
struct Args { int* errors; int code; u32 who; };
extern "C" __global__ void __launch_bounds__(64) kernel_entry(const __grid_constant__ Args args) {
  if (threadIdx.x == args.who) raise_error(args.errors, args.code);
}
)";
struct ReportArgs {
  int* errors;
  int code;
  uint32_t who;
};

void report(const std::string& message) {
  launch_text(report_text, {.threads = 64}, ReportArgs{error_words(), error_code(message), 7});
}

}  // namespace

TEST_CASE("blocks are aligned, and distinct while they are in use", "[cuda]") {
  rp::fake::Device gpu({.keep_memory = true});
  std::map<std::byte*, size_t> used;
  const auto add = [&](size_t bytes) {
    std::byte* const data = allocate_bytes(bytes);
    CHECK(reinterpret_cast<uintptr_t>(data) % 256 == 0);
    const auto next = used.lower_bound(data);
    if (next != used.end()) CHECK(data + bytes <= next->first);
    if (next != used.begin()) CHECK(std::prev(next)->first + std::prev(next)->second <= data);
    used[data] = bytes;
  };
  for (const size_t bytes : {0, 1, 255, 256, 257, 2048, 2049, 5000, 262144, 262145, 1 << 20, (1 << 20) + 1, 17 << 20})
    for (int i = 0; i < 3; ++i) add(bytes);
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    add(random() % (1u << (random() % 22)));
    if (random() % 2) {
      const auto any = std::next(used.begin(), static_cast<long>(random() % used.size()));
      release_bytes(any->first, any->second);
      used.erase(any);
    }
  }
  for (const auto& [data, bytes] : used) release_bytes(data, bytes);
  CHECK(memory_stats().in_use == 0);
  CHECK(memory_stats().allocations == 339);
}

TEST_CASE("what is released is used again, without a call of the driver", "[cuda]") {
  rp::fake::Device gpu({.keep_memory = true});
  const auto round = [] {
    std::vector<std::pair<std::byte*, size_t>> blocks;
    for (const size_t bytes : {100, 3000, 40000, 500000, 6000000, 70000000})
      for (size_t i = 0; i < 5; ++i) blocks.emplace_back(allocate_bytes(bytes + i), bytes + i);
    for (const auto& [data, bytes] : blocks) release_bytes(data, bytes);
  };
  round();
  const size_t calls = memory_stats().driver_calls;
  gpu.clear_log();
  for (int i = 0; i < 10; ++i) round();
  CHECK(gpu.calls().empty());
  CHECK(memory_stats().driver_calls == calls);
  std::byte* const a = allocate_bytes(1000);
  release_bytes(a, 1000);
  CHECK(allocate_bytes(1024) == a);
  release_bytes(a, 1024);
}

TEST_CASE("a large block serves a request that is a little smaller", "[cuda]") {
  rp::fake::Device gpu({.keep_memory = true});
  std::byte* const a = allocate_bytes(40 << 20);
  release_bytes(a, 40 << 20);
  std::byte* const b = allocate_bytes(36 << 20);
  CHECK(b == a);
  std::byte* const c = allocate_bytes(20 << 20);
  CHECK(c != a);
  release_bytes(b, 36 << 20);
  release_bytes(c, 20 << 20);
}

TEST_CASE("statistics of memory", "[cuda]") {
  rp::fake::Device gpu({.keep_memory = true});
  CHECK(memory_stats().reserved == 0);
  std::byte* const a = allocate_bytes(1 << 20);
  std::byte* const b = allocate_bytes(100);
  CHECK(memory_stats().in_use == (1 << 20) + 256);
  release_bytes(a, 1 << 20);
  CHECK(memory_stats().in_use == 256);
  CHECK(memory_stats().peak == (1 << 20) + 256);
  reset_memory_peak();
  CHECK(memory_stats().peak == 256);
  const size_t reserved = memory_stats().reserved;
  CHECK(reserved >= (1 << 20) + 256);
  trim_memory();
  CHECK(memory_stats().reserved == reserved - (1 << 20));
  CHECK(gpu.bytes_in_use() == memory_stats().reserved);
  release_bytes(b, 100);
  release_bytes(nullptr, 100);
}

TEST_CASE("without memory to give, what is kept goes back, and then an error says how much there is", "[cuda]") {
  rp::fake::Device gpu({.memory = 64 << 20, .keep_memory = true});
  std::byte* const a = allocate_bytes(30 << 20);
  std::byte* const b = allocate_bytes(30 << 20);
  CHECK_THROWS_WITH(allocate_bytes(20 << 20), Contains("out of memory: 20971520 bytes wanted, 62914560 in use"));
  release_bytes(a, 30 << 20);
  std::byte* const c = allocate_bytes(20 << 20);
  CHECK(memory_stats().in_use == size_t{50} << 20);
  release_bytes(b, 30 << 20);
  release_bytes(c, 20 << 20);
  CHECK_THROWS_WITH(allocate_bytes(size_t{1} << 60), Contains("out of memory"));
  std::byte* const d = allocate_bytes(60 << 20);
  release_bytes(d, 60 << 20);
}

TEST_CASE("several threads share the pool", "[cuda]") {
  rp::fake::Device gpu({.keep_memory = true});
  std::mutex mutex;
  std::set<std::byte*> used;
  int twice = 0;
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      std::vector<std::pair<std::byte*, size_t>> own;
      for (int i = 0; i < 2000; ++i) {
        if (own.size() < 20 && random() % 2) {
          const size_t bytes = random() % 3 ? random() % 5000 : random() % 2000000;
          std::byte* const data = allocate_bytes(bytes);
          own.emplace_back(data, bytes);
          const std::lock_guard lock(mutex);
          twice += !used.insert(data).second;
        } else if (!own.empty()) {
          const auto [data, bytes] = own.back();
          own.pop_back();
          {
            const std::lock_guard lock(mutex);
            used.erase(data);
          }
          release_bytes(data, bytes);
        }
      }
      for (const auto& [data, bytes] : own) {
        const std::lock_guard lock(mutex);
        used.erase(data);
        release_bytes(data, bytes);
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(twice == 0);
  CHECK(memory_stats().in_use == 0);
}

TEST_CASE("copies of any size come back as they were", "[cuda]") {
  rp::fake::Device gpu;
  constexpr size_t chunk = 4 << 20;
  for (const size_t n :
       {size_t{0}, size_t{1}, size_t{3}, size_t{65535}, size_t{65536}, chunk - 1, chunk, chunk + 1, 5 * chunk + 77}) {
    INFO(n << " bytes");
    const std::vector<uint8_t> sent = noise(n);
    Buffer<uint8_t> there(sent), copied(n);
    copy(copied.bytes(), there.bytes(), n, Direction::on_device);
    CHECK(there.read() == sent);
    CHECK(copied.read() == sent);
  }
}

TEST_CASE("many copies go through the ring", "[cuda]") {
  rp::fake::Device gpu;
  std::mt19937 random(3);
  std::vector<std::pair<std::unique_ptr<Buffer<uint8_t>>, std::vector<uint8_t>>> all;
  for (uint32_t i = 0; i < 60; ++i) {
    std::vector<uint8_t> sent = noise(random() % (i % 3 ? 300000 : 6000000), i);
    all.emplace_back(std::make_unique<Buffer<uint8_t>>(sent), sent);
    if (i % 5 == 0) CHECK(all[random() % all.size()].first->read().size() > 0);
  }
  for (const auto& [there, sent] : all) CHECK(there->read() == sent);
}

TEST_CASE("what was copied from may be changed at once", "[cuda]") {
  rp::fake::Device gpu;
  for (const size_t n : {size_t{1000}, size_t{100000}, size_t{9} << 20}) {
    std::vector<uint8_t> bytes = noise(n);
    const std::vector<uint8_t> sent = bytes;
    Buffer<uint8_t> there(n);
    there.write(bytes);
    std::ranges::fill(bytes, uint8_t{0});
    CHECK(there.read() == sent);
  }
}

TEST_CASE("copies and kernels keep their order", "[cuda]") {
  rp::fake::Device gpu;
  for (const uint32_t n : {100u, 100000u}) {
    const Launch how{.blocks = (n + 63) / 64, .threads = 64};
    Buffer<float> x(std::vector<float>(n, 1)), y(n);
    launch_text(scale_text, how, ScaleArgs{x.data(), y.data(), 2, n});
    x.write(std::vector<float>(n, 5));  // must not overtake the kernel that reads the ones
    launch_text(scale_text, how, ScaleArgs{y.data(), y.data(), 1, n});
    launch_text(scale_text, how, ScaleArgs{x.data(), x.data(), 1, n});
    const std::vector<float> got_y = y.read(), got_x = x.read();
    for (uint32_t i = 0; i < n; ++i) REQUIRE(got_y[i] == 2 + 2 * static_cast<float>(i));
    for (uint32_t i = 0; i < n; ++i) REQUIRE(got_x[i] == 5 + static_cast<float>(i));
  }
}

TEST_CASE("an upload crosses while the compute stream is busy", "[cuda]") {
  rp::fake::Device gpu;
  Buffer<uint8_t> there(noise(1 << 20));
  gpu.clear_log();
  there.write(noise(1 << 20));
  std::vector<uint64_t> streams;
  for (const rp::fake::Call& call : gpu.calls("cudaMemcpyAsync")) streams.push_back(call.arguments[4]);
  CHECK(streams ==
        std::vector<uint64_t>{reinterpret_cast<uint64_t>(copy_stream()), reinterpret_cast<uint64_t>(compute_stream())});
  CHECK(gpu.count("cudaStreamWaitEvent") == 1);
  CHECK(gpu.count("cudaStreamSynchronize") == 0);
}

TEST_CASE("memory that was not written and memory that was released are NaN", "[cuda]") {
  rp::fake::Device gpu;
  Buffer<float> y(4);
  for (const float v : y.read()) CHECK(std::isnan(v));
  auto x = std::make_unique<Buffer<float>>(std::vector<float>(4, 1));
  const float* const dangling = x->data();
  x.reset();
  launch_text(scale_text, {.threads = 64}, ScaleArgs{dangling, y.data(), 1, 4});
  for (const float v : y.read()) CHECK(std::isnan(v));
}

TEST_CASE("errors of kernels come at the next wait, once", "[cuda]") {
  rp::fake::Device gpu;
  Buffer<float> x(std::vector<float>(4, 1));
  CHECK(error_code("take: one") == error_code("take: one"));
  CHECK(error_code("take: one") != error_code("take: two"));
  report("take: an index is out of bounds");
  CHECK_THROWS_WITH(synchronize(), Contains("take: an index is out of bounds"));
  CHECK_NOTHROW(synchronize());
  report("gather: an index is out of bounds");
  CHECK_THROWS_WITH(x.read(), Contains("gather: an index is out of bounds"));
  CHECK(x.read() == std::vector<float>(4, 1));
  report("one");
  report("two");
  CHECK_THROWS_AS(synchronize(), rp::Error);
  CHECK_NOTHROW(synchronize());
}

TEST_CASE("what is listed is not run until the list is launched", "[cuda]") {
  rp::fake::Device gpu;
  Buffer<float> x(std::vector<float>(4, 1)), y(4);
  LaunchList list;
  {
    const LaunchList::Scope scope(list);
    launch_text(scale_text, {.threads = 64}, ScaleArgs{x.data(), y.data(), 3, 4});
    copy(x.bytes(), y.bytes(), 16, Direction::on_device);
    fill(y.bytes(), std::byte{0}, 4);
  }
  REQUIRE(list.works().size() == 3);
  CHECK(list.left().empty());
  CHECK(x.read() == std::vector<float>(4, 1));
  CHECK(gpu.launches().empty());
  CHECK(list.works()[0].function == &function_of(scale_text));
  CHECK(list.args(list.works()[0]).size() == sizeof(ScaleArgs));
  CHECK(list.works()[1].bytes == 16);
  list.launch();
  CHECK(x.read() == std::vector<float>{3, 4, 5, 6});
  CHECK(y.read() == std::vector<float>{0, 4, 5, 6});
}

TEST_CASE("a list is left where the host reads: what it holds runs first, what follows at once", "[cuda]") {
  rp::fake::Device gpu;
  Buffer<float> x(std::vector<float>(4, 1)), y(4);
  LaunchList list;
  const LaunchList::Scope scope(list);
  launch_text(scale_text, {.threads = 64}, ScaleArgs{x.data(), y.data(), 3, 4});
  CHECK(y.read() == std::vector<float>{3, 4, 5, 6});
  CHECK(list.left() == "the host reads a value");
  launch_text(scale_text, {.threads = 64}, ScaleArgs{y.data(), x.data(), 1, 4});
  CHECK(list.works().size() == 1);
  CHECK(gpu.launches().size() == 2);
  CHECK(x.read() == std::vector<float>{3, 5, 7, 9});
}

TEST_CASE("a launch that cannot be is an error", "[cuda]") {
  rp::fake::Device gpu;
  Buffer<float> x(std::vector<float>(4, 1));
  const ScaleArgs args{x.data(), x.data(), 1, 4};
  const Function& f = function_of(scale_text);
  const auto bytes = std::as_bytes(std::span(&args, 1));
  CHECK_THROWS_WITH(launch(f, {}, bytes.first(8)), Contains("expected 24 bytes of arguments, got 8"));
  CHECK_NOTHROW(launch(f, {.blocks = 0, .threads = 64}, bytes));
  CHECK(gpu.count("cudaLaunchKernelExC") == 0);
  const auto refused = [&](const Launch& how, const char* why) {
    CHECK_THROWS_WITH(launch(f, how, bytes), Contains("cudaLaunchKernelExC") || Contains("cudaFuncSetAttribute"));
    CHECK_THAT(gpu.take_findings().at(0), Contains(why));
  };
  refused({.threads = 128}, "128 threads in a block of at most 64");
  refused({.threads = 64, .shared_bytes = 300000}, "300000 bytes of shared memory");
  refused({.blocks = 9, .threads = 64, .cluster = 2}, "9 blocks in clusters of 2");
  refused({.blocks = 132 * 32 + 1, .threads = 64, .cooperative = true}, "4224 fit");
  CHECK_NOTHROW(launch(f, {.threads = 64, .shared_bytes = 200000}, bytes));
  CHECK_NOTHROW(launch(f, {.threads = 64, .shared_bytes = 100000}, bytes));
  CHECK_NOTHROW(launch(f, {.blocks = 16, .threads = 64, .cluster = 16}, bytes));
  CHECK_NOTHROW(launch(f, {.blocks = 132 * 32, .threads = 64, .cooperative = true}, bytes));
  CHECK(gpu.count("cudaFuncSetAttribute") == 3);
  synchronize();
}

namespace {

/// Everything that a program does with the device, small; whether the numbers are right.
bool everything() {
  const uint32_t n = 40000;
  std::vector<float> x(n);
  std::iota(x.begin(), x.end(), 0.0f);
  Buffer<float> from(x), to(n), again(n);
  launch_text(scale_text, {.blocks = (n + 63) / 64, .threads = 64}, ScaleArgs{from.data(), to.data(), 3, n});
  launch_text(scale_text, {.blocks = 640, .threads = 64, .shared_bytes = 100000, .cluster = 16},
              ScaleArgs{from.data(), from.data(), 1, n});
  copy(again.bytes(), to.bytes(), n * sizeof(float), Direction::on_device);
  from.write({1, 2, 3});
  report("as expected");
  bool right = false;
  try {
    synchronize();
  } catch (const rp::Error& e) {
    if (!std::string(e.what()).starts_with("as expected")) throw;
    right = true;
  }
  const std::vector<float> y = again.read();
  for (uint32_t i = 0; i < n; ++i) right = right && y[i] == x[i] * 3 + static_cast<float>(i);
  trim_memory();
  return right && from.read()[2] == 3;
}

/// Calls that give something back fail without an Error: nobody could do anything about it.
bool gives_back(const std::string& name) {
  return name.find("Destroy") != std::string::npos || name.find("Free") != std::string::npos;
}

}  // namespace

TEST_CASE("whichever call fails, it is an error, and the device can be used again", "[cuda]") {
  std::map<std::string, int> calls;
  for (const bool keep : {false, true}) {
    rp::fake::Device gpu({.keep_memory = keep});
    REQUIRE(everything());
    for (const rp::fake::Call& call : gpu.calls())
      if (call.name.find("Error") == std::string::npos) calls[call.name] = std::max(calls[call.name], 1);
    for (auto& [name, most] : calls) most = std::max(most, static_cast<int>(gpu.count(name)));
  }
  CHECK(calls.size() > 25);
  int injected = 0;
  for (const auto& [name, most] : calls)
    for (int n = 1; n <= most; ++n)
      for (const bool keep : {false, true}) {
        if (keep && name.find("Mem") == std::string::npos && name.find("Malloc") == std::string::npos) continue;
        INFO("call " << n << " of " << name << (keep ? ", memory is kept" : ""));
        rp::fake::Device gpu({.keep_memory = keep});
        const bool compiler = name.starts_with("nvrtc");
        gpu.fail(name, n, compiler ? static_cast<int>(NVRTC_ERROR_INTERNAL_ERROR) : static_cast<int>(cudaErrorUnknown));
        bool thrown = false;
        try {
          const bool right = everything();
          CHECK(right);
        } catch (const rp::Error& e) {
          thrown = true;
          CHECK_THAT(e.what(), Contains(name));
        }
        if (gpu.failed()) CHECK((thrown || gives_back(name)));
        injected += gpu.failed();
        gpu.fail("", 0, 0);
        CHECK(everything());
        gpu.take_findings();
      }
  CHECK(injected > 70);
}

TEST_CASE("every thread that uses the device makes it its current one, once", "[cuda]") {
  rp::fake::Device gpu({.devices = 2});
  const auto work = [] {
    for (int i = 0; i < 3; ++i) Buffer<float> some(4);
  };
  for (int i = 0; i < 2; ++i) std::thread(work).join();
  const auto calls = gpu.calls("cudaSetDevice");
  REQUIRE(calls.size() == 2);
  for (const auto& call : calls) CHECK(call.arguments[0] == 0);
}
