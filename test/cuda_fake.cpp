// The device of the tests itself: what it has to show must show.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <functional>
#include <numeric>

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/handles.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_kernels.h"

using Catch::Matchers::Contains;
using namespace rp::cuda;

namespace {

/// Four numbers on the device, memory of the host to copy from and to, and two streams.
struct Bench {
  Bench() { std::iota(host(), host() + 4, 1.0f); }
  float* host() { return reinterpret_cast<float*>(pinned.data()); }

  void upload(cudaStream_t stream, const Buffer<float>& to) {
    runtime().cudaMemcpyAsync(to.data(), host(), 16, cudaMemcpyHostToDevice, stream);
  }
  /// y = 10 x + index, by hand as the library's launch has a stream of its own.
  void scale(cudaStream_t stream, const Buffer<float>& from, const Buffer<float>& to) {
    ScaleArgs args{from.data(), to.data(), 10, 4};
    void* parameters[] = {&args};
    cudaLaunchConfig_t config{};
    config.gridDim = {1, 1, 1};
    config.blockDim = {64, 1, 1};
    config.stream = stream;
    runtime().cudaLaunchKernelExC(&config, function_of(scale_text).handle(), parameters);
  }

  PinnedBytes pinned{64};
  Stream a, b;
  Event event;
  Buffer<float> x{4}, y{4};
};

const std::vector<float> scaled{10, 21, 32, 43};

bool all_nan(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float v) { return std::isnan(v); });
}

std::string only_finding(rp::fake::Device& gpu) {
  const std::vector<std::string> findings = gpu.take_findings();
  return findings.size() == 1 ? findings[0] : std::to_string(findings.size()) + " findings";
}

/// A graph that is being built.
class Building {
 public:
  Building() { runtime().cudaGraphCreate(&graph_, 0); }
  ~Building() { runtime().cudaGraphDestroy(graph_); }
  Building(const Building&) = delete;

  cudaGraphNode_t kernel(ScaleArgs args, const std::vector<cudaGraphNode_t>& before = {}) {
    cudaGraphNode_t node = nullptr;
    runtime().cudaGraphAddKernelNode(&node, graph_, before.data(), before.size(), parameters(&args));
    return node;
  }
  cudaGraphNode_t copy(void* to, const void* from, size_t bytes, const std::vector<cudaGraphNode_t>& before = {}) {
    cudaGraphNode_t node = nullptr;
    runtime().cudaGraphAddMemcpyNode1D(&node, graph_, before.data(), before.size(), to, from, bytes, cudaMemcpyDefault);
    return node;
  }
  cudaGraphExec_t instantiate() const {
    cudaGraphExec_t exec = nullptr;
    runtime().cudaGraphInstantiate(&exec, graph_, 0);
    return exec;
  }
  const cudaKernelNodeParams* parameters(ScaleArgs* args) {
    pointer_ = args;
    node_ = {const_cast<void*>(function_of(scale_text).handle()), {1, 1, 1}, {64, 1, 1}, 0, &pointer_, nullptr};
    return &node_;
  }
  cudaGraph_t graph() const { return graph_; }

 private:
  cudaGraph_t graph_ = nullptr;
  void* pointer_ = nullptr;
  cudaKernelNodeParams node_{};
};

}  // namespace

TEST_CASE("nothing runs before somebody waits for it", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  bench.upload(bench.a, bench.x);
  std::fill_n(bench.host(), 4, 7.0f);  // too early
  runtime().cudaStreamSynchronize(bench.a);
  CHECK(bench.x.read() == std::vector<float>(4, 7));
}

TEST_CASE("an event that is not waited for shows", "[cuda]") {
  for (const bool waits : {true, false}) {
    rp::fake::Device gpu;
    Bench bench;
    bench.upload(bench.a, bench.x);
    runtime().cudaEventRecord(bench.event, bench.a);
    if (waits) runtime().cudaStreamWaitEvent(bench.b, bench.event, 0);
    bench.scale(bench.b, bench.x, bench.y);
    runtime().cudaStreamSynchronize(bench.b);
    CHECK((bench.y.read() == scaled) == waits);
    CHECK(all_nan(bench.y.read()) != waits);
  }
}

TEST_CASE("an event is where its stream was when it was recorded last", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  runtime().cudaEventRecord(bench.event, bench.a);
  runtime().cudaStreamWaitEvent(bench.b, bench.event, 0);  // of the first record, before the upload
  bench.upload(bench.a, bench.x);
  runtime().cudaEventRecord(bench.event, bench.a);
  bench.scale(bench.b, bench.x, bench.y);
  runtime().cudaStreamSynchronize(bench.b);
  CHECK(all_nan(bench.y.read()));
  runtime().cudaEventSynchronize(bench.event);
  bench.scale(bench.b, bench.x, bench.y);
  runtime().cudaStreamSynchronize(bench.b);
  CHECK(bench.y.read() == scaled);
}

TEST_CASE("who asks again and again sees the end", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  bench.upload(bench.a, bench.x);
  bench.scale(bench.a, bench.x, bench.y);
  runtime().cudaEventRecord(bench.event, bench.a);
  int questions = 0;
  while (runtime().cudaEventQuery.raw(bench.event) == cudaErrorNotReady) REQUIRE(++questions < 10);
  CHECK(questions == 2);
  CHECK(bench.y.read() == scaled);
  bench.upload(bench.b, bench.x);
  CHECK(runtime().cudaStreamQuery.raw(bench.b) == cudaSuccess);
}

TEST_CASE("what a program must not do is refused and found", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  float mine[4] = {};
  const auto refused = [&](cudaError_t status, const char* why) {
    CHECK(status != cudaSuccess);
    CHECK_THAT(only_finding(gpu), Contains(why));
  };
  const Runtime& cuda = runtime();
  const auto copy = [&](void* to, const void* from, size_t n, cudaMemcpyKind kind) {
    return cuda.cudaMemcpyAsync.raw(to, from, n, kind, bench.a);
  };
  refused(copy(bench.x.data(), mine, 16, cudaMemcpyHostToDevice), "not pinned");
  refused(copy(mine, bench.x.data(), 16, cudaMemcpyDeviceToHost), "not pinned");
  refused(copy(bench.x.data(), bench.host(), 300, cudaMemcpyHostToDevice), "not in one allocation");
  refused(copy(bench.host(), bench.x.data() + 63, 8, cudaMemcpyDeviceToHost), "not in one allocation");
  refused(copy(bench.x.data(), bench.host(), 16, cudaMemcpyDeviceToHost), "of kind 2 that is of kind 1");
  refused(cuda.cudaMemcpyAsync.raw(bench.x.data(), bench.host(), 16, cudaMemcpyDefault, nullptr), "default stream");
  refused(cuda.cudaFreeAsync.raw(bench.x.data() + 1, bench.a), "not allocated");
  refused(cuda.cudaFreeHost.raw(mine), "not pinned memory");
  refused(cuda.cudaEventRecord.raw(reinterpret_cast<cudaEvent_t>(mine), bench.a), "does not exist");
}

TEST_CASE("a copy of memory that is released before it runs is found", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  void* data = nullptr;
  runtime().cudaMallocAsync(&data, 256, bench.a);
  runtime().cudaMemcpyAsync(bench.pinned.data(), data, 16, cudaMemcpyDeviceToHost, bench.a);
  runtime().cudaFreeAsync(data, bench.b);  // without waiting for the copy
  runtime().cudaStreamSynchronize(bench.b);
  CHECK(runtime().cudaStreamSynchronize.raw(bench.a) == cudaErrorIllegalAddress);
  CHECK_THAT(gpu.take_findings().at(0), Contains("not in one allocation"));
}

TEST_CASE("the host cannot touch memory of the device", "[cuda][fork]") {
  rp::fake::Device gpu;
  Buffer<float> x(std::vector<float>(4, 1));
  synchronize();
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGSEGV, SIG_DFL);
    _exit(static_cast<int>(*static_cast<volatile float*>(x.data())));
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(!(WIFEXITED(status) && WEXITSTATUS(status) == 1));
}

TEST_CASE("a graph runs as often as it is launched", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  Building building;
  const auto first = building.copy(bench.x.data(), bench.host(), 16);
  const auto second = building.kernel({bench.x.data(), bench.y.data(), 10, 4}, {first});
  building.copy(bench.host() + 4, bench.y.data(), 16, {second});
  size_t nodes = 0;
  runtime().cudaGraphGetNodes(building.graph(), nullptr, &nodes);
  CHECK(nodes == 3);
  const cudaGraphExec_t exec = building.instantiate();
  runtime().cudaGraphUpload(exec, bench.a);
  for (const float x : {1.0f, 5.0f}) {
    std::fill_n(bench.host(), 8, x);
    runtime().cudaGraphLaunch(exec, bench.a);
    CHECK(bench.host()[4] == x);
    runtime().cudaStreamSynchronize(bench.a);
    CHECK(bench.host()[7] == 10 * x + 3);
  }
  CHECK(gpu.launches().size() == 2);
  runtime().cudaGraphExecDestroy(exec);
}

TEST_CASE("an edge that a graph lacks shows", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  Building building;
  building.copy(bench.x.data(), bench.host(), 16);
  building.kernel({bench.x.data(), bench.y.data(), 10, 4});
  const cudaGraphExec_t exec = building.instantiate();
  runtime().cudaGraphLaunch(exec, bench.a);
  runtime().cudaStreamSynchronize(bench.a);
  CHECK(all_nan(bench.y.read()));
  runtime().cudaGraphExecDestroy(exec);
}

TEST_CASE("nodes of a graph take other arguments for the launches that follow", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  Building building;
  const auto first = building.copy(bench.x.data(), bench.host(), 16);
  const auto second = building.kernel({bench.x.data(), bench.y.data(), 10, 4}, {first});
  const cudaGraphExec_t exec = building.instantiate();
  Buffer<float> z(4);
  runtime().cudaGraphLaunch(exec, bench.a);
  ScaleArgs args{bench.x.data(), z.data(), 2, 4};
  runtime().cudaGraphExecKernelNodeSetParams(exec, second, building.parameters(&args));
  runtime().cudaGraphLaunch(exec, bench.a);
  runtime().cudaStreamSynchronize(bench.a);
  CHECK(bench.y.read() == scaled);
  CHECK(z.read() == std::vector<float>{2, 5, 8, 11});
  std::iota(bench.host() + 4, bench.host() + 8, 5.0f);
  runtime().cudaGraphExecMemcpyNodeSetParams1D(exec, first, bench.x.data(), bench.host() + 4, 16,
                                               cudaMemcpyHostToDevice);
  runtime().cudaGraphLaunch(exec, bench.a);
  runtime().cudaStreamSynchronize(bench.a);
  CHECK(z.read() == std::vector<float>{10, 13, 16, 19});
  CHECK(runtime().cudaGraphExecKernelNodeSetParams.raw(exec, first, building.parameters(&args)) != cudaSuccess);
  CHECK_THAT(only_finding(gpu), Contains("does not have"));
  runtime().cudaGraphExecDestroy(exec);
}

TEST_CASE("streams are captured with the waits between them", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  Buffer<float> z(4);
  function_of(scale_text);
  Event back;
  runtime().cudaStreamBeginCapture(bench.a, cudaStreamCaptureModeThreadLocal);
  bench.upload(bench.a, bench.x);
  runtime().cudaEventRecord(bench.event, bench.a);
  runtime().cudaStreamWaitEvent(bench.b, bench.event, 0);
  bench.scale(bench.b, bench.x, z);
  bench.scale(bench.a, bench.x, bench.y);
  runtime().cudaEventRecord(back, bench.b);
  runtime().cudaStreamWaitEvent(bench.a, back, 0);
  bench.scale(bench.a, z, z);
  cudaStreamCaptureStatus status{};
  runtime().cudaStreamIsCapturing(bench.b, &status);
  CHECK(status == cudaStreamCaptureStatusActive);
  cudaGraph_t graph = nullptr;
  runtime().cudaStreamEndCapture(bench.a, &graph);
  CHECK(gpu.launches().empty());
  cudaGraphExec_t exec = nullptr;
  runtime().cudaGraphInstantiate(&exec, graph, 0);
  runtime().cudaGraphLaunch(exec, bench.a);
  runtime().cudaStreamSynchronize(bench.a);
  CHECK(bench.y.read() == scaled);
  CHECK(z.read() == std::vector<float>{100, 211, 322, 433});
  runtime().cudaGraphExecDestroy(exec);
  runtime().cudaGraphDestroy(graph);
}

TEST_CASE("a capture breaks at what it cannot take", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  function_of(scale_text);
  void* data = nullptr;
  runtime().cudaMallocAsync(&data, 256, bench.a);
  const std::pair<const char*, std::function<cudaError_t()>> calls[] = {
      {"cudaMallocAsync", [&] { return runtime().cudaMallocAsync.raw(&data, 16, bench.b); }},
      {"cudaFreeAsync", [&] { return runtime().cudaFreeAsync.raw(data, bench.b); }},
      {"cudaStreamSynchronize", [&] { return runtime().cudaStreamSynchronize.raw(bench.b); }},
      {"cudaStreamQuery", [&] { return runtime().cudaStreamQuery.raw(bench.b); }},
      {"cudaEventSynchronize", [&] { return runtime().cudaEventSynchronize.raw(bench.event); }},
      {"cudaEventQuery", [&] { return runtime().cudaEventQuery.raw(bench.event); }},
      {"cudaHostAlloc", [&] { return runtime().cudaHostAlloc.raw(&data, 16, 0); }},
      {"cudaFreeHost", [&] { return runtime().cudaFreeHost.raw(bench.host()); }},
  };
  for (const auto& [name, call] : calls) {
    INFO(name);
    runtime().cudaStreamBeginCapture(bench.a, cudaStreamCaptureModeThreadLocal);
    bench.upload(bench.a, bench.x);
    CHECK(call() == cudaErrorStreamCaptureUnsupported);
    CHECK_THAT(only_finding(gpu), Contains(name) && Contains("captured"));
    cudaGraph_t graph = nullptr;
    CHECK(runtime().cudaStreamEndCapture.raw(bench.a, &graph) == cudaErrorStreamCaptureInvalidated);
    CHECK(graph == nullptr);
  }
  runtime().cudaStreamBeginCapture(bench.a, cudaStreamCaptureModeThreadLocal);
  bench.upload(bench.a, bench.x);
  runtime().cudaEventRecord(bench.event, bench.a);
  runtime().cudaStreamWaitEvent(bench.b, bench.event, 0);
  bench.scale(bench.b, bench.x, bench.y);
  cudaGraph_t graph = nullptr;
  CHECK(runtime().cudaStreamEndCapture.raw(bench.a, &graph) == cudaErrorStreamCaptureUnjoined);
  CHECK_THAT(only_finding(gpu), Contains("does not come back"));
  runtime().cudaFreeAsync(data, bench.a);
}

TEST_CASE("a graph of cooperative kernels and clusters", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  Building building;
  const auto node = building.kernel({bench.x.data(), bench.y.data(), 10, 4});
  cudaLaunchAttributeValue value{};
  value.cooperative = 1;
  runtime().cudaGraphKernelNodeSetAttribute(node, cudaLaunchAttributeCooperative, &value);
  value.clusterDim = {2, 1, 1};
  CHECK(runtime().cudaGraphKernelNodeSetAttribute.raw(node, cudaLaunchAttributeClusterDimension, &value) !=
        cudaSuccess);
  CHECK_THAT(only_finding(gpu), Contains("1 blocks in clusters of 2"));
}

TEST_CASE("the log has every call with its arguments and its status", "[cuda]") {
  rp::fake::Device gpu;
  Bench bench;
  gpu.clear_log();
  bench.upload(bench.a, bench.x);
  gpu.fail("cudaMemcpyAsync", 2, cudaErrorUnknown);
  bench.upload(bench.a, bench.x);
  CHECK_FALSE(gpu.failed());
  CHECK_THROWS_WITH(bench.upload(bench.a, bench.x), Contains("cudaMemcpyAsync: cudaErrorUnknown"));
  CHECK(gpu.failed());
  const auto calls = gpu.calls("cudaMemcpyAsync");
  REQUIRE(calls.size() == 3);
  CHECK(calls[0].arguments ==
        std::vector<uint64_t>{reinterpret_cast<uint64_t>(bench.x.data()), reinterpret_cast<uint64_t>(bench.host()), 16,
                              cudaMemcpyHostToDevice, reinterpret_cast<uint64_t>(cudaStream_t(bench.a))});
  CHECK(calls[1].status == cudaSuccess);
  CHECK(calls[2].status == cudaErrorUnknown);
}

TEST_CASE("how much fits at once", "[cuda]") {
  rp::fake::Device gpu;
  int blocks = 0;
  const void* const kernel = function_of(scale_text).handle();
  runtime().cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 64, 0);
  CHECK(blocks == 32);
  runtime().cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 64, 100000);
  CHECK(blocks == 2);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {8, 1, 1};
  cudaLaunchConfig_t config{};
  config.blockDim = {64, 1, 1};
  config.dynamicSmemBytes = 200000;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  runtime().cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  CHECK(clusters == 16);
  size_t free = 0, total = 0;
  runtime().cudaMemGetInfo(&free, &total);
  CHECK(total == size_t{8} << 30);
}
