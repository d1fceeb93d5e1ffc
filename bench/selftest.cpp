// The least that shows whether the library works on the CUDA device of a machine, and programs that are timed as a
// whole. Prints JSON; the exit status is 3 where there is no device.
#include <fmt/core.h>

#include <chrono>
#include <cstring>
#include <string>

#include "reprise/bench/compile_only.h"
#include "reprise/bench/cuda_machine.h"
#include "reprise/reprise.h"

namespace {

using rp::Tensor;
using rp::Tensors;

/// Three training steps from one seed; the losses and what has become of the parameters.
Tensors train(rp::Device device, rp::Mode mode) {
  const rp::DeviceScope on(device);
  const rp::ModeGuard guard(mode);
  rp::manual_seed(1);
  const rp::Sequential net(rp::Dense(32), rp::relu, rp::Dense(10));
  const Tensor x = rp::uniform({16, 24}, -1, 1), y = rp::randint({16}, 0, 10);
  rp::no_grad([&] { return net(x); });  // makes the parameters
  auto optimizer = std::make_shared<rp::Sgd>(net, rp::SgdOptions{.lr = 0.1, .momentum = 0.9});
  auto step = rp::capture([=](const Tensor& in, const Tensor& labels) {
    optimizer->zero_grad();
    const Tensor loss = rp::cross_entropy(net(in), labels);
    loss.backward();
    optimizer->step();
    return loss.detach();
  });
  Tensors results;
  for (int i = 0; i < 3; ++i) results.push_back(step(x, y).clone());
  for (const auto& [name, t] : net.parameters()) results.push_back(t.detach());
  return results;
}

int differing(const Tensors& a, const Tensors& b) {
  int count = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const std::vector<float> left = a[i].to_vector<float>(), right = b[i].to_vector<float>();
    count += left.size() != right.size() || std::memcmp(left.data(), right.data(), left.size() * sizeof(float)) != 0;
  }
  return count;
}

int check() {
  const auto begin = std::chrono::steady_clock::now();
  const bool available = rp::cuda::is_available();
  const double look_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  nlohmann::json said = {{"available", available}, {"look_ms", look_ms}, {"why_not", rp::cuda::why_not()}};
  if (available) {
    const Tensors cpu = train(rp::Device::cpu(), rp::Mode::eager);
    const Tensors eager = train(rp::Device::cuda(), rp::Mode::eager);
    const Tensors captured = train(rp::Device::cuda(), rp::Mode::graph);
    said["device"] = rp::cuda::describe();
    said["results"] = cpu.size();
    said["eager_differs_from_cpu"] = differing(cpu, eager);
    said["captured_differs_from_eager"] = differing(eager, captured);
  }
  fmt::print("{}\n", said.dump(2));
  if (!available) return 3;
  return said["eager_differs_from_cpu"] == 0 && said["captured_differs_from_eager"] == 0 ? 0 : 1;
}

/// The first step that a plan runs: the third call.
int start() {
  train(rp::Device::cuda(), rp::Mode::graph);
  rp::cuda::synchronize();
  return 0;
}

/// A function of as many fused kernels as asked for, no two of one text: each has a shape of its own, and which of two
/// ops its seven steps take are the bits of its number.
int compile(int kernels) {
  const rp::DeviceScope on(rp::Device::cuda());
  Tensors in;
  for (int i = 0; i < kernels; ++i) in.push_back(rp::full({1024 + 16 * i}, 0.5));
  auto step = rp::capture([](const Tensors& t) {
    Tensors out;
    for (size_t i = 0; i < t.size(); ++i) {
      Tensor v = t[i];
      for (size_t bit = 0; bit < 7; ++bit) v = i >> bit & 1 ? rp::tanh(v + t[i]) : v * t[i] + 1;
      out.push_back(v);
    }
    return out;
  });
  const rp::ModeGuard guard(rp::Mode::graph);
  for (int call = 0; call < 3; ++call) step(in);
  rp::cuda::synchronize();
  return 0;
}

int run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check";
  if (what == "check") return check();
  if (what == "environment") {
    fmt::print("{}\n", bench::describe_cuda_environment().dump(2));
    return 0;
  }
  if (what == "compile-only" && argc > 2) {
    bench::compile_only(std::stoi(argv[2]));
    for (const rp::Mode mode : {rp::Mode::eager, rp::Mode::graph}) train(rp::Device::cuda(), mode);
    return 0;
  }
  if (!rp::cuda::is_available()) {
    fmt::print(stderr, "selftest: there is no CUDA device: {}\n", rp::cuda::why_not());
    return 3;
  }
  if (what == "start") return start();
  if (what == "compile" && argc > 2) return compile(std::stoi(argv[2]));
  fmt::print(stderr, "usage: selftest [check | environment | start | compile N | compile-only ARCHITECTURE]\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "selftest: {}\n", e.what());
    return 1;
  }
}
