// What a replayed plan costs where only its numbers change: learning rates, random positions.
#include <driver_types.h>

#include <array>

#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/memory.h"
#include "reprise/backends/cuda/replay.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/core/random.h"
#include "reprise/core/switches.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda_engine.h"

using namespace rp;
using namespace rp::test;

namespace {

struct Net : Module {
  Dense first = child("first", Dense(24)), second = child("second", Dense(5));
  Tensor operator()(const Tensor& x) const { return second(dropout(gelu(first(x)), 0.2, true)); }
};

}  // namespace

TEST_CASE("a replay with other numbers is one update and one launch, however many nodes read them", "[cuda]") {
  device();
  const auto train = [](Mode mode) {
    const ModeGuard guard(mode);
    const DeviceScope on(gpu);
    manual_seed(12);
    Net net;
    Adam opt(net, {.lr = 1e-2f});
    const Tensor x = normal({16, 12}), y = randint({16}, 0, 5), loss = zeros({});
    auto step = capture([&] {
      opt.zero_grad();
      const Tensor now = cross_entropy(net(x), y);
      now.backward();
      opt.step();
      opt.zero_grad();
      loss.copy_(now);
    });
    Tensors seen;
    for (int i = 0; i < 10; ++i) {
      device().clear_log();
      step();
      if (mode == Mode::graph && i >= 4) {
        CHECK(device().count("cudaGraphExecKernelNodeSetParams") == 1);
        CHECK(device().count("cudaGraphLaunch") == 1);
        CHECK(device().calls().size() == 2);
        CHECK(device().launches().size() > 10);
      }
      seen.push_back(loss.to(Device::cpu()));
    }
    for (const auto& [name, p] : net.parameters()) seen.push_back(p);
    return seen;
  };
  const Tensors got = train(Mode::graph), want = train(Mode::eager);
  for (size_t i = 0; i < want.size(); ++i) CHECK(alike(got[i], want[i]));
}

TEST_CASE("steps of a scan that are launched one by one find their random positions on the device", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  const Without whole({"persist"});
  const Tensor x = normal({4, 2, 8}), out = zeros({4, 2, 8});
  float factor = 1;
  auto f = capture([&] {
    out.copy_(scan(
                  [&](const Tensor& h, const Tensor& e) {
                    const Tensor next = dropout(tanh(h + e), 0.3, true);
                    return std::pair(next, next);
                  },
                  zeros({2, 8}), x)
                  .second *
              factor);
  });
  const auto run = [&](Mode mode) {
    const ModeGuard guard(mode);
    manual_seed(13);
    Tensors seen;
    for (int i = 0; i < 10; ++i) {
      factor = i < 8 ? 1.0f : 3.0f;
      device().clear_log();
      f();
      if (mode == Mode::graph && i >= 4) {
        CHECK(device().count("cudaGraphExecKernelNodeSetParams") == 1);
        CHECK(device().count("cudaGraphLaunch") == 1);
      }
      seen.push_back(out.to(Device::cpu()));
    }
    return seen;
  };
  const Tensors got = run(Mode::graph), want = run(Mode::eager);
  for (size_t i = 0; i < want.size(); ++i) CHECK(alike(got[i], want[i]));
  CHECK(!alike(want[8], want[9]));
}

TEST_CASE("numbers that change for the first time make a graph anew, once", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  const Tensor x = normal({4, 8}), out = zeros({4, 8});
  float factor = 2;
  auto f = capture([&] { out.copy_(softmax(softmax(softmax(x * factor, 1) * 5, 0) * factor, 1)); });
  for (int i = 0; i < 4; ++i) f();
  size_t made = 0, told = 0;
  for (int i = 0; i < 5; ++i) {
    factor = static_cast<float>(i);
    device().clear_log();
    f();
    made += device().count("cudaGraphInstantiate");
    told += device().count("cudaGraphExecKernelNodeSetParams");
    CHECK(device().count("cudaGraphLaunch") == 1);
    const Tensor got = out.to(Device::cpu());
    const ModeGuard eager(Mode::eager);
    f();
    CHECK(alike(got, out));
  }
  CHECK(made == 1);
  CHECK(told == 4);
}

TEST_CASE("more numbers than one kernel brings are brought by several, of which those with news are told", "[cuda]") {
  device();
  constexpr size_t count = 1500;  // launches, each of two numbers
  const cuda::Function& pair = cuda::function_of(R"text(
struct Args {
  u64* to;
  Scalars<2> scalars;
};
extern "C" __global__ void __launch_bounds__(32) kernel_entry(const __grid_constant__ Args args) {
  u64 scalars[2];
  args.scalars.get(scalars);
  if (threadIdx.x < 2) args.to[threadIdx.x] = scalars[threadIdx.x];
}
)text");
  std::vector<uint64_t> numbers(2 * count), got(2 * count);
  const size_t bytes = numbers.size() * sizeof(uint64_t);
  std::byte* const out = cuda::allocate_bytes(bytes);
  const std::unique_ptr<Replay> replay = cuda::make_replay();
  int listed = 0;
  const auto run = [&] {
    device().clear_log();
    replay->run(std::array{out}, numbers, 0, [&] {
      ++listed;
      for (size_t i = 0; i < count; ++i) {
        cuda::ArgsBytes args;
        args.add(out + 2 * i * sizeof(uint64_t));
        cuda::set_scalars(args, args.reserve_scalars(2), std::span(numbers).subspan(2 * i, 2));
        cuda::launch(pair, {.blocks = 1, .threads = 32}, args.bytes());
      }
    });
    const size_t told = device().count("cudaGraphExecKernelNodeSetParams");
    cuda::copy(reinterpret_cast<std::byte*>(got.data()), out, bytes, cuda::Direction::to_host);
    CHECK(got == numbers);
    return told;
  };
  run();
  numbers.assign(numbers.size(), 5);
  run();
  numbers[7] = 1;
  CHECK(run() == 1);
  numbers.back() = 2;
  CHECK(run() == 1);
  numbers[2047] = numbers[2048] = 3;
  CHECK(run() == 2);
  CHECK(run() == 0);
  CHECK(listed == 2);
  CHECK(replay->form() == "replayed as a CUDA graph of 1502 nodes");
  cuda::release_bytes(out, bytes);
}
