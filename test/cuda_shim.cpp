// Kernels on the device that runs on the processor: what they compute, and which mistakes show.
#include <cmath>
#include <cstdlib>

#include "reprise/backends/cuda/cuda.h"
#include "reprise/core/error.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_kernels.h"
#include "reprise/test/environment.h"

using Catch::Matchers::Contains;
using namespace rp::cuda;

namespace {

struct SumArgs {
  const float* x;
  float* y;
  uint32_t n;
};

/// Each block adds up its part of x, with a barrier where `barrier` stands.
std::string sum_text(const std::string& barrier, const std::string& bound = "i < args.n") {
  return R"(
struct Args { const f32* x; f32* y; u32 n; };
extern "C" __global__ void __launch_bounds__(128) kernel_entry(const __grid_constant__ Args args) {
  f32* const parts = (f32*)shared_memory();
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  f32 sum = )" +
         bound + R"( ? args.x[i] : 0;
  for (int apart = 16; apart; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  )" + barrier +
         R"(
  if (threadIdx.x == 0) args.y[blockIdx.x] = parts[0] + parts[1] + parts[2] + parts[3];
}
)";
}

/// The sums of `n` ones by blocks of 128 threads, added up on the host.
float sum_of_ones(const std::string& text, uint32_t n) {
  const uint32_t blocks = (n + 127) / 128;
  Buffer<float> x(std::vector<float>(n, 1)), y(blocks);
  launch_text(text, {.blocks = blocks, .threads = 128, .shared_bytes = 16}, SumArgs{x.data(), y.data(), n});
  float sum = 0;
  for (const float part : y.read()) sum += part;
  return sum;
}

/// What a kernel of one thread block does to 32 numbers.
std::vector<int> warp(const std::string& expression) {
  struct Args {
    int* y;
  };
  Buffer<int> y(32);
  launch_text(R"(
struct Args { int* y; };
extern "C" __global__ void __launch_bounds__(32) kernel_entry(const __grid_constant__ Args args) {
  const int lane = (int)threadIdx.x;
  args.y[lane] = (int)()" +
                  expression + R"();
}
)",
              {.threads = 32}, Args{y.data()});
  return y.read();
}

std::vector<int> for_lanes(int (*f)(int)) {
  std::vector<int> values;
  for (int lane = 0; lane < 32; ++lane) values.push_back(f(lane));
  return values;
}

/// Blocks pass numbers around: each writes, all meet, each adds its neighbours' to its own, `steps` times.
std::string ring_text(bool two_buffers, const std::string& barrier) {
  return R"(
struct Args { u32* values; u32 n, steps; };
extern "C" __global__ void __launch_bounds__(32) kernel_entry(const __grid_constant__ Args args) {
  const u32 own = blockIdx.x, next = (own + 1) % args.n, before = (own + args.n - 1) % args.n;
  u32 value = own + 1;
  for (u32 t = 0; t < args.steps; ++t) {
    u32* const values = args.values + )" +
         std::string(two_buffers ? "t % 2 * args.n" : "0") + R"(;
    if (threadIdx.x == 0) values[own] = value;
    )" + barrier +
         R"(
    value = values[before] * 3 + value + values[next];
  }
  if (threadIdx.x == 0) args.values[2 * args.n + own] = value;
}
)";
}

struct RingArgs {
  uint32_t* values;
  uint32_t n, steps;
};

/// Whether the blocks come to the right numbers.
bool ring_is_right(const std::string& text, const Launch& how) {
  const uint32_t n = how.blocks, steps = 5;
  std::vector<uint32_t> expected(n);
  for (uint32_t i = 0; i < n; ++i) expected[i] = i + 1;
  for (uint32_t t = 0; t < steps; ++t) {
    const std::vector<uint32_t> v = expected;
    for (uint32_t i = 0; i < n; ++i) expected[i] = v[(i + n - 1) % n] * 3 + v[i] + v[(i + 1) % n];
  }
  Buffer<uint32_t> values(3 * n);
  launch_text(text, how, RingArgs{values.data(), n, steps});
  const std::vector<uint32_t> got = values.read();
  return std::equal(expected.begin(), expected.end(), got.begin() + 2 * n);
}

/// How many schedules show that something is wrong.
template <class F>
int schedules_against(rp::fake::Device& gpu, F right) {
  int against = 0;
  for (const rp::fake::Schedule& schedule : rp::fake::schedules) {
    gpu.use(schedule);
    against += !right();
  }
  return against;
}

/// The first finding after a launch that goes wrong; the device is of no more use then, as a real one would be.
std::string finding_of(const std::string& text, const Launch& how, const rp::fake::Schedule& schedule = {}) {
  rp::fake::Device gpu;
  gpu.use(schedule);
  Buffer<float> x(std::vector<float>(1000, 1)), y(1000);
  launch_text(text, how, SumArgs{x.data(), y.data(), 1000});
  CHECK_THROWS_AS(synchronize(), rp::Error);
  CHECK_THROWS_AS(x.read(), rp::Error);
  const std::vector<std::string> findings = gpu.take_findings();
  return findings.empty() ? "nothing" : findings.front();
}

}  // namespace

TEST_CASE("a kernel computes on the device", "[cuda]") {
  rp::fake::Device gpu;
  const uint32_t n = 1000;
  std::vector<float> x(n);
  for (uint32_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 13);
  Buffer<float> from(x), to(n);
  launch_text(scale_text, {.blocks = 16, .threads = 64}, ScaleArgs{from.data(), to.data(), 3, n});
  const std::vector<float> y = to.read();
  for (uint32_t i = 0; i < n; ++i) REQUIRE(y[i] == x[i] * 3 + static_cast<float>(i));
  REQUIRE(gpu.launches().size() == 1);
  CHECK(gpu.launches()[0].name == kernel_name(scale_text));
  CHECK(gpu.launches()[0].blocks == 16);
  CHECK(gpu.launches()[0].threads == 64);
}

TEST_CASE("shuffles and votes are those of a device", "[cuda]") {
  rp::fake::Device gpu;
  constexpr auto all = "0xffffffffu, ";
  const auto call = [&](const std::string& name, const std::string& rest) {
    return warp("__" + name + "_sync(" + all + rest + ")");
  };
  CHECK(call("shfl", "lane * 2, 5") == for_lanes([](int) { return 10; }));
  CHECK(call("shfl", "lane * 2, lane + 1") == for_lanes([](int lane) { return (lane + 1) % 32 * 2; }));
  CHECK(call("shfl", "lane, 3, 8") == for_lanes([](int lane) { return lane / 8 * 8 + 3; }));
  CHECK(call("shfl_xor", "lane, 5") == for_lanes([](int lane) { return lane ^ 5; }));
  CHECK(call("shfl_xor", "lane, 8, 8") == for_lanes([](int lane) { return lane & 8 ? lane ^ 8 : lane; }));
  CHECK(call("shfl_down", "lane, 4") == for_lanes([](int lane) { return lane < 28 ? lane + 4 : lane; }));
  CHECK(call("shfl_down", "lane, 4, 16") == for_lanes([](int lane) { return lane % 16 < 12 ? lane + 4 : lane; }));
  CHECK(call("shfl_up", "lane, 4") == for_lanes([](int lane) { return lane >= 4 ? lane - 4 : lane; }));
  CHECK(call("shfl_up", "lane, 4, 8") == for_lanes([](int lane) { return lane % 8 >= 4 ? lane - 4 : lane; }));
  CHECK(call("ballot", "lane % 3 == 0") == for_lanes([](int) { return 0x49249249; }));
  CHECK(call("all", "lane < 32") == for_lanes([](int) { return 1; }));
  CHECK(call("all", "lane < 31") == for_lanes([](int) { return 0; }));
  CHECK(call("any", "lane == 31") == for_lanes([](int) { return 1; }));
  CHECK(call("any", "lane == 32") == for_lanes([](int) { return 0; }));
  CHECK(warp("lane < 8 ? __shfl_xor_sync(0xffu, lane, 1) : __shfl_xor_sync(0xffffff00u, lane, 2)") ==
        for_lanes([](int lane) { return lane < 8 ? lane ^ 1 : lane ^ 2; }));
  CHECK(warp("lane < 8 ? __shfl_sync(0xffu, lane, 9) : 0") == for_lanes([](int lane) { return lane < 8 ? -1 : 0; }));
  CHECK(warp("__double_as_longlong(__shfl_down_sync(0xffffffffu, (f64)lane, 1)) >> 52") ==
        for_lanes([](int lane) { return std::ilogb(std::min(lane + 1, 31)) + 1023; }));
}

TEST_CASE("threads that have ended are not waited for", "[cuda]") {
  rp::fake::Device gpu;
  constexpr const char* text = R"(
struct Args { const f32* x; f32* y; u32 n; };
extern "C" __global__ void __launch_bounds__(128) kernel_entry(const __grid_constant__ Args args) {
  if (threadIdx.x >= 100) return;
  f32* const all = (f32*)shared_memory();
  all[threadIdx.x] = args.x[threadIdx.x];
  __syncthreads();
  args.y[threadIdx.x] = all[99 - threadIdx.x] + __shfl_down_sync(0xffffffffu, 0.0f, 1);
}
)";
  std::vector<float> x(100);
  for (size_t i = 0; i < 100; ++i) x[i] = static_cast<float>(i);
  CHECK(schedules_against(gpu, [&] {
          Buffer<float> from(x), to(100);
          launch_text(text, {.threads = 128, .shared_bytes = 400}, SumArgs{from.data(), to.data(), 100});
          return to.read()[10] == 89;
        }) == 0);
}

TEST_CASE("a barrier that is missing shows", "[cuda]") {
  rp::fake::Device gpu;
  CHECK(schedules_against(gpu, [] { return sum_of_ones(sum_text("__syncthreads();"), 1000) == 1000; }) == 0);
  CHECK(schedules_against(gpu, [] { return sum_of_ones(sum_text(""), 1000) == 1000; }) >= 3);
}

TEST_CASE("a bound that is wrong shows", "[cuda]") {
  rp::fake::Device gpu;
  const std::string text = sum_text("__syncthreads();", "i <= args.n");
  CHECK(schedules_against(gpu, [&] { return sum_of_ones(text, 1000) == 1000; }) == 4);  // what is read there is no 0
}

TEST_CASE("a write beside an allocation is found", "[cuda]") {
  const auto text = [](const std::string& place) {
    return R"(
struct Args { const f32* x; f32* y; u32 n; };
extern "C" __global__ void __launch_bounds__(64) kernel_entry(const __grid_constant__ Args args) {
  if (threadIdx.x == 0) args.y[)" +
           place + R"(] = 1;
}
)";
  };
  CHECK_THAT(finding_of(text("args.n + 48"), {.threads = 64}), Contains("wrote at byte 4192 of an allocation of 4096"));
  CHECK_THAT(finding_of(text("-3"), {.threads = 64}), Contains("wrote 12 bytes before an allocation of 4096"));
}

TEST_CASE("what is copied from outside to outside is found, and is NaN", "[cuda]") {
  const auto text = [](const std::string& type) {
    return R"(
struct Args { const f32* x; f32* y; u32 n; };
extern "C" __global__ void __launch_bounds__(64) kernel_entry(const __grid_constant__ Args args) {
  if (threadIdx.x == 0) (()" +
           type + "*)args.y)[2048 / sizeof(" + type + ")] = ((const " + type + "*)args.x)[2048 / sizeof(" + type +
           R"()];
}
)";
  };
  for (const char* const type : {"f32", "f64", "u8"}) {
    rp::fake::Device gpu;
    Buffer<float> x(512), y(512);
    launch_text(text(type), {.threads = 64}, SumArgs{x.data(), y.data(), 0});
    CHECK_THROWS_AS(synchronize(), rp::Error);
    CHECK_THAT(gpu.take_findings().at(0), Contains("of an allocation of 2048"));
  }
  rp::fake::Device gpu;
  Buffer<double> x(256), y(1);
  launch_text(R"(
struct Args { const f64* x; f64* y; u32 n; };
extern "C" __global__ void __launch_bounds__(64) kernel_entry(const __grid_constant__ Args args) {
  if (threadIdx.x == 0) args.y[0] = args.x[256] == args.x[256];
}
)",
              {.threads = 64}, SumArgs{reinterpret_cast<float*>(x.data()), reinterpret_cast<float*>(y.data()), 0});
  CHECK(y.read()[0] == 0);
}

TEST_CASE("a write outside shared memory is found", "[cuda]") {
  CHECK_THAT(finding_of(sum_text("parts[4] = 1; __syncthreads();"), {.threads = 128, .shared_bytes = 16}),
             Contains("block 0 writes outside its 16 bytes of shared memory, at 16"));
}

TEST_CASE("threads that do not meet are an error", "[cuda]") {
  const Launch how{.blocks = 8, .threads = 128, .shared_bytes = 16};
  for (const rp::fake::Schedule& schedule : rp::fake::schedules) {
    INFO(schedule.text());
    CHECK_THAT(finding_of(sum_text("if (threadIdx.x < 7) __syncthreads();\n"
                                   "else __shfl_sync(0xffffffffu, 0, 0);\n__syncthreads();"),
                          how, schedule),
               Contains("a barrier that not all threads reach") || Contains("meet at different"));
    CHECK_THAT(finding_of(sum_text("if (threadIdx.x % 2) __syncthreads();\nelse __syncthreads();"), how, schedule),
               Contains("meet at different barriers, in lines "));
    CHECK_THAT(finding_of(sum_text("if (threadIdx.x % 2) __shfl_sync(0xffffffffu, 0, 0);\n"
                                   "else __shfl_sync(0xffffffffu, 0, 0);"),
                          how, schedule),
               Contains("meet at different shuffles, in lines "));
    CHECK_THAT(finding_of(sum_text("__shfl_sync(0xfffffffeu, 0, 0);"), how, schedule), Contains("not in its own mask"));
  }
}

TEST_CASE("a trap ends the kernel", "[cuda]") {
  CHECK_THAT(finding_of(sum_text("if (i == 300) __trap();"), {.blocks = 8, .threads = 128, .shared_bytes = 16}),
             Contains("block 2, thread 44: __trap()"));
}

TEST_CASE("blocks that meet: what a race between them does", "[cuda]") {
  rp::fake::Device gpu;
  const Launch grid{.blocks = 40, .threads = 32, .cooperative = true};
  const std::string meet = "RP_SHIM_GRID_BARRIER();";
  CHECK(schedules_against(gpu, [&] { return ring_is_right(ring_text(true, meet), grid); }) == 0);
  CHECK(schedules_against(gpu, [&] { return ring_is_right(ring_text(false, meet), grid); }) == 4);
  CHECK(schedules_against(gpu, [&] { return ring_is_right(ring_text(true, ""), grid); }) == 4);
}

TEST_CASE("clusters of blocks use each other's shared memory", "[cuda]") {
  constexpr const char* text = R"(
struct Args { const f32* x; f32* y; u32 n; };
extern "C" __global__ void __launch_bounds__(32) kernel_entry(const __grid_constant__ Args args) {
  const u32 rank = rp_shim::cluster_rank(), lane = threadIdx.x;
  f32* const own = (f32*)shared_memory();
  for (u32 to = 0; to < 4; ++to) ((f32*)rp_shim::peer_shared((char*)(own + rank * 32), to))[lane] = args.x[rank * 32 + lane];
  RP_SHIM_CLUSTER_BARRIER();
  f32 sum = (f32)(blockIdx.x / 4 * 1000);
  for (u32 from = 0; from < 4; ++from) sum += own[from * 32 + lane];
  args.y[blockIdx.x * 32 + lane] = sum;
}
)";
  rp::fake::Device gpu;
  std::vector<float> x(128);
  for (size_t i = 0; i < 128; ++i) x[i] = static_cast<float>(i);
  CHECK(schedules_against(gpu, [&] {
          Buffer<float> from(x), to(12 * 32);
          launch_text(text, {.blocks = 12, .threads = 32, .shared_bytes = 512, .cluster = 4},
                      SumArgs{from.data(), to.data(), 0});
          const std::vector<float> y = to.read();
          bool right = true;
          for (size_t i = 0; i < y.size(); ++i)
            right = right && y[i] == static_cast<float>(i / 128 * 1000 + 4 * (i % 32) + 192);
          return right;
        }) == 0);
}

TEST_CASE("atomic operations", "[cuda]") {
  rp::fake::Device gpu;
  constexpr const char* text = R"(
struct Args { int* y; };
extern "C" __global__ void __launch_bounds__(64) kernel_entry(const __grid_constant__ Args args) {
  const int i = (int)(blockIdx.x * 64 + threadIdx.x);
  atomicAdd(args.y, i);
  atomicMax(args.y + 1, i);
  atomicMin(args.y + 2, i);
  if (atomicCAS(args.y + 3, 0, i + 1) == 0) atomicExch(args.y + 4, i + 1);
}
)";
  struct Args {
    int* y;
  };
  Buffer<int> y(std::vector<int>{0, 0, 1000, 0, 0});
  launch_text(text, {.blocks = 4, .threads = 64}, Args{y.data()});
  const std::vector<int> got = y.read();
  CHECK(got[0] == 255 * 128);
  CHECK(got[1] == 255);
  CHECK(got[2] == 0);
  CHECK(got[3] != 0);
  CHECK(got[3] == got[4]);
}

TEST_CASE("schedules have names", "[cuda]") {
  for (const rp::fake::Schedule& schedule : rp::fake::schedules) {
    const rp::fake::Schedule same = rp::fake::Schedule::parse(schedule.text());
    CHECK(same.order == schedule.order);
    CHECK(same.text() == schedule.text());
  }
  CHECK(rp::fake::Schedule::parse("random:17").seed == 17);
  const rp::test::Environment environment("SHIM_SCHEDULE", "descending");
  rp::fake::Device gpu;
  CHECK(sum_of_ones(sum_text(""), 1000) == 1000);  // the one schedule in which the warps that come first are the last
}

TEST_CASE("a schedule visits each block once", "[cuda]") {
  for (const rp::fake::Schedule& schedule : rp::fake::schedules)
    for (const unsigned n : {1u, 2u, 3u, 8u, 97u, 1000u}) {
      const rp::fake::Choice choice(schedule, n);
      std::vector<int> visits(n);
      for (unsigned i = 0; i < n; ++i) ++visits.at(choice.at(i));
      CHECK(visits == std::vector<int>(n, 1));
    }
}
