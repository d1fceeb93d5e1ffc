// Devices as texts, as defaults, in graphs and where there is only the CPU.
#include "reprise/core/graph.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;
using Catch::Matchers::Contains;

namespace {

constexpr void (*check_graph)(const Graph&, std::string_view) = &rp::verify;

}  // namespace

TEST_CASE("devices have names that read back", "[devices]") {
  for (const Device d : {Device::cpu(), Device::cuda(), Device::cuda(3)}) CHECK(parse_device(to_string(d)) == d);
  CHECK(to_string(Device::cuda(3)) == "cuda:3");
  CHECK(parse_device("cuda") == Device::cuda(0));
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:x", "cuda:300", "cuda:-1", "cpu:0"})
    CHECK_THROWS_WITH(parse_device(wrong), Contains("expected cpu, cuda or cuda:N"));
  CHECK(to_string(Spec{DType::f32, {2, 3}, Device::cuda()}) == "f32[2,3]@cuda:0");
  for (const int wrong : {-1, 256}) CHECK_THROWS_WITH(Device::cuda(wrong), Contains("expected an index of 0 to 255"));
}

TEST_CASE("a tensor that is on the CPU already does not move", "[devices]") {
  const Tensor x = ones({3});
  CHECK(x.device() == Device::cpu());
  CHECK(x.to(Device::cpu()).is(x));
  const DeviceScope on(Device::cpu());
  CHECK(default_device() == Device::cpu());
}

TEST_CASE("layouts on other devices print and parse", "[devices]") {
  const std::string text =
      "graph parameters 0\n"
      "  %0 = input() alias 0 : f32[2,3]@cuda:0\n"
      "  %1 = full() spec=f32[2,3]@cuda:0 mask 1 #3f800000 : f32[2,3]@cuda:0\n"
      "  %2 = add(%0, %1) : f32[2,3]@cuda:0\n"
      "  %3 = permute(%2) axes=[1,0,0,0,0,0,0,0] rank=2 : f32[3,2]@cuda:0/[1,3]\n"
      "  return (%3) writes ()\n";
  const Graph g = parse_graph(text);
  check_graph(g, "test");
  CHECK(device_of(g) == Device::cuda());
  CHECK(to_string(g) == text);
}

TEST_CASE("a graph has one device, and no copies between devices", "[devices]") {
  const std::string two_devices =
      "graph parameters 0\n"
      "  %0 = input() alias 0 : f32[2]\n"
      "  %1 = input() alias 1 : f32[2]@cuda:0\n"
      "  return (%0) writes ()\n";
  CHECK_THROWS_WITH(check_graph(parse_graph(two_devices), "test"), Contains("lies on another device"));
  const std::string copies =
      "graph parameters 0\n"
      "  %0 = input() alias 0 : f32[2]\n"
      "  %1 = transfer(%0) spec=f32[2] : f32[2]\n"
      "  return (%1) writes ()\n";
  CHECK_THROWS_WITH(parse_graph(copies), Contains("no part of a graph"));
}

TEST_CASE("modules stay where they are asked to be, handles valid", "[devices]") {
  Dense layer(3);
  const Tensor y = layer(ones({2, 4}));
  const NamedTensors before = layer.parameters();
  layer.to(Device::cpu());  // though the tape holds the weight
  CHECK(layer.parameters()[0].second.is(before[0].second));
}
