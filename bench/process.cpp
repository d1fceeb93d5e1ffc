// What a program pays around its arithmetic: its start and size, a busy neighbour, memory.
#include <fmt/core.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <future>
#include <stdexcept>
#include <thread>

#include "reprise/backends/cpu/memory.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/bench/contest.h"
#include "reprise/bench/networks.h"
#include "reprise/samples/resnet.h"

extern char** environ;

namespace bench {
namespace {

using rp::Mode;
using rp::Tensor;

// ---- start and size ----

/// Runs a program to its end. Throws if it fails.
void run_program(std::vector<std::string> command) {
  std::vector<char*> arguments;
  for (std::string& s : command) arguments.push_back(s.data());
  arguments.push_back(nullptr);
  pid_t process = 0;
  int status = 0;
  if (posix_spawnp(&process, arguments[0], nullptr, nullptr, arguments.data(), environ) ||
      waitpid(process, &status, 0) != process || status != 0)
    throw std::runtime_error("cannot run " + command[0]);
}

std::string first_result(const Surroundings& around) { return around.build + "/bench/first_result"; }

constexpr double start_ns = 5e6, program_bytes = 10e6;

Result measure_start(const Surroundings& around) {
  const std::string program = first_result(around);
  const Timing timing = interleave({{Mode::eager, [&] { run_program({program}); }},  //
                                    {Mode::eager, [] { run_program({"true"}); }}});
  Result r;
  r.eager_ns = median(timing.of[0]);
  r.spread = spread(timing.of[0]);
  r.met = *r.eager_ns <= start_ns;
  r.more = {{"empty_program_ns", median(timing.of[1])}};
  r.note = fmt::format("an empty program takes {}", time_text(median(timing.of[1])));
  return r;
}

Result measure_size(const Surroundings& around) {
  const std::string stripped = first_result(around) + ".stripped";
  run_program({"strip", "-o", stripped, first_result(around)});
  const auto bytes = static_cast<double>(std::filesystem::file_size(stripped));
  std::filesystem::remove(stripped);
  Result r;
  r.met = bytes <= program_bytes;
  r.more = {{"bytes", bytes}};
  r.note = fmt::format("{:.2f} MB with the library in it, stripped", bytes / 1e6);
  return r;
}

// ---- a training step to look at ----

struct Step {
  std::function<void()> call;
  std::function<rp::CaptureStats()> stats;
  std::function<std::string()> json;
};

/// Its parameters and the optimiser's state exist already.
template <class Net>
Step training_step(const Net& net, const Tensor& x, const Tensor& y) {
  auto optimizer = std::make_shared<rp::Sgd>(net, rp::SgdOptions{.lr = 1e-3, .momentum = 0.9});
  auto step = rp::capture([=] {
    optimizer->zero_grad();
    const Tensor loss = rp::cross_entropy(net(x), y);
    loss.backward();
    optimizer->step();
    return loss;
  });
  auto call = [step]() mutable { step(); };
  {
    const rp::ModeGuard guard(Mode::eager);
    call();
    optimizer->zero_grad();
  }
  return {call, [step] { return step.stats(); }, [step] { return step.json(); }};
}

Step step_of(const std::string& name, int64_t batch) {
  const Tensor y = rp::randint({batch}, 0, 10);
  if (name == "lenet") return training_step(LeNet(), rp::uniform({batch, 28, 28}), y);
  if (name == "resnet50") return training_step(samples::ResNet50(), rp::uniform({batch, 3, 224, 224}), y);
  const rp::Sequential mlp(rp::Dense(512), rp::relu, rp::Dense(256), rp::relu, rp::Dense(10));
  return training_step(mlp, rp::normal({batch, 784}), y);
}

// ---- a busy neighbour ----

/// Processes that leave one core alone and keep the others busy.
class BusyCores {
 public:
  BusyCores() {
    for (unsigned i = 1; i < std::max(2u, std::thread::hardware_concurrency()); ++i) {
      const pid_t process = fork();
      if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) asm volatile("");
      }
      processes_.push_back(process);
    }
  }
  ~BusyCores() {
    for (pid_t process : processes_) {
      kill(process, SIGKILL);
      waitpid(process, nullptr, 0);
    }
  }
  BusyCores(const BusyCores&) = delete;

 private:
  std::vector<pid_t> processes_;
};

/// Gives the number of threads back when it ends.
class OwnThreads {
 public:
  OwnThreads() = default;
  ~OwnThreads() { rp::set_thread_count(before_); }
  OwnThreads(const OwnThreads&) = delete;

 private:
  int before_ = rp::thread_count();
};

constexpr double busy_ratio = 1.3;

Result measure_busy() {
  const OwnThreads own;
  const Step alone = step_of("mlp", 128), both = step_of("mlp", 128);
  const BusyCores neighbours;
  const Timing timing = interleave({{Mode::graph, alone.call, [] { rp::set_thread_count(1); }},
                                    {Mode::graph, both.call, [] { rp::set_thread_count(2); }}});
  const double one = median(timing.of[0]), two = median(timing.of[1]);
  Result r;
  r.captured_ns = two;
  r.spread = spread(timing.of[1]);
  r.met = two <= busy_ratio * one;
  r.more = {{"one_thread_ns", one}, {"ratio_to_one_thread", two / one}};
  r.note = fmt::format("one thread takes {}, ratio {:.2f}", time_text(one), two / one);
  return r;
}

// ---- memory ----

constexpr double over_live = 1.1, prediction_error = 0.05;

/// Bytes that a step's plan says it needs, and the most that are alive at one moment of it; with its results.
struct Stated {
  double planned = 0, live = 0;
};

Stated stated_by(const Step& step) {
  const auto outputs = static_cast<double>(step.stats().output_bytes);
  Stated most;
  const nlohmann::json report = nlohmann::json::parse(step.json());
  for (const auto& path : report.at("paths")) {
    const auto& plan = path.at("plan");
    if (plan.is_null()) continue;
    most.planned = std::max(most.planned, outputs + plan.at("arena_bytes").get<double>());
    most.live = std::max(most.live, outputs + plan.at("live_bytes").get<double>());
  }
  return most;
}

/// Of the default device.
struct Memory {
  size_t in_use, peak;
};

Memory memory() {
  if (rp::default_device() == rp::Device::cpu()) return {rp::memory_stats().in_use, rp::memory_stats().peak};
  return {rp::cuda::memory_stats().in_use, rp::cuda::memory_stats().peak};
}

void reset_peak() {
  rp::reset_memory_peak();
  rp::cuda::reset_memory_peak();
}

Result measure_memory(const Step& step) {
  const rp::ModeGuard guard(Mode::graph);
  const size_t before = memory().in_use;
  while (!step.stats().plan_builds) step.call();
  const Stated stated = stated_by(step);
  reset_peak();
  for (int call = 0; call < 3; ++call) step.call();
  const auto measured = static_cast<double>(memory().peak - before);
  Result r;
  r.met = measured <= over_live * stated.live && std::abs(stated.planned - measured) <= prediction_error * measured;
  r.more = {{"peak_bytes", measured}, {"predicted_bytes", stated.planned}, {"live_bytes", stated.live}};
  r.note = fmt::format("{:.2f} MB, predicted {:.2f}, alive at once {:.2f}: {:.2f} x", measured / 1e6,
                       stated.planned / 1e6, stated.live / 1e6, measured / stated.live);
  return r;
}

/// On a thread of its own, as a thread keeps the arena of the largest plan it has run.
Result measure_memory_apart(const std::string& name) {
  const Step step = step_of(name, 128);
  const rp::Device device = rp::default_device();
  return std::async(std::launch::async,
                    [&] {
                      const rp::DeviceScope on(device);
                      return measure_memory(step);
                    })
      .get();
}

// ---- on a CUDA device ----

std::string selftest(const Surroundings& around) { return around.build + "/bench/selftest"; }

constexpr double cuda_start_ns = 1e9, cuda_compile_ns = 2e9;

Result measure_cuda_start(const Surroundings& around) {
  const Timing timing = interleave({{Mode::eager, [&] { run_program({selftest(around), "start"}); }}});
  Result r;
  r.captured_ns = median(timing.of[0]);
  r.spread = spread(timing.of[0]);
  r.met = *r.captured_ns <= cuda_start_ns;
  return r;
}

/// The first compilation of that many kernels: the program with an empty cache and again with what that has left.
Result measure_cuda_compile(const Surroundings& around, int kernels) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / fmt::format("reprise-cold-{}", getpid());
  const auto run = [&] {
    run_program({"env", "REPRISE_CUDA_CACHE=" + folder.string(), selftest(around), "compile", std::to_string(kernels)});
  };
  const Timing cold = interleave({{Mode::eager, run, [&] { fs::remove_all(folder); }}});
  const Timing warm = interleave({{Mode::eager, run}});
  fs::remove_all(folder);
  Result r;
  r.captured_ns = median(cold.of[0]) - median(warm.of[0]);
  r.met = *r.captured_ns <= cuda_compile_ns;
  r.more = {{"kernels", kernels}, {"cold_ns", median(cold.of[0])}, {"warm_ns", median(warm.of[0])}};
  r.note = fmt::format("the program {} cold, {} warm", time_text(median(cold.of[0])), time_text(median(warm.of[0])));
  return r;
}

/// Training on batches that a thread copies ahead from memory of the host, beside the same on one that stays there.
Result measure_pipe() {
  constexpr int64_t batch = 64, samples = 8 * batch;
  const rp::Device device = rp::default_device();
  const auto host = [&] {
    const rp::DeviceScope on(rp::Device::cpu());
    return rp::Dataset(rp::uniform({samples, 3, 224, 224}), rp::randint({samples}, 0, 1000)).batch(batch);
  }();
  const samples::ResNet50 net;
  auto optimizer = std::make_shared<rp::Sgd>(net, rp::SgdOptions{.lr = 1e-3, .momentum = 0.9});
  auto step = rp::capture([=](const Tensor& x, const Tensor& y) {
    optimizer->zero_grad();
    rp::cross_entropy(net(x), y).backward();
    optimizer->step();
  });
  const std::function<rp::Batch<2>()> next = endless(host.to(device).prefetch(2));
  const rp::Batch<2> resident = next();
  const Timing timing = interleave({{Mode::graph, [&] { step(resident[0], resident[1]); }}, {Mode::graph, [&] {
                                                                                               const rp::Batch<2> b =
                                                                                                   next();
                                                                                               step(b[0], b[1]);
                                                                                             }}});
  const double ratio = median(timing.of[1]) / median(timing.of[0]);
  Result r;
  r.captured_ns = median(timing.of[1]);
  r.spread = spread(timing.of[1]);
  r.met = ratio <= 1.02;
  r.more = {{"resident_ns", median(timing.of[0])}, {"ratio_to_resident", ratio}};
  r.note = fmt::format("resident {}, ratio {:.3f}", time_text(median(timing.of[0])), ratio);
  return r;
}

/// A plan's stated need is what its arena and results take; the aim is that no more is used than is alive at once.
Result measure_cuda_memory() {
  Result r = measure_memory(step_of("resnet50", 64));
  r.met = r.more.at("peak_bytes").get<double>() <= 1.05 * r.more.at("live_bytes").get<double>();
  return r;
}

std::vector<Case> cuda_process_cases(const Surroundings& around) {
  return {{"G3.start", stated("<= 1 s"), [&around] { return measure_cuda_start(around); }, true},
          {"G4.compile.50", stated("<= 2 s"), [&around] { return measure_cuda_compile(around, 50); }, true},
          {"G16.pipe.resnet50.f32.64", stated("<= 1.02 x resident"), measure_pipe},
          {"G17.memory.resnet50.f32.64", stated("<= 1.05 x alive"), measure_cuda_memory}};
}

}  // namespace

std::vector<Case> process_cases(const Surroundings& around) {
  if (around.on_cuda()) return cuda_process_cases(around);
  std::vector<Case> cases{
      {"process/first_result", stated("<= 5 ms"), [&around] { return measure_start(around); }},
      {"process/size", stated("<= 10 MB"), [&around] { return measure_size(around); }},
      {"process/busy_cores", stated("2 threads <= 1.3 x 1 thread"), measure_busy},
  };
  for (const char* name : {"mlp", "lenet"})
    cases.push_back({fmt::format("memory/train/{}", name), stated("<= 1.1 x alive, predicted to 5%"),
                     [name] { return measure_memory_apart(name); }});
  return cases;
}

}  // namespace bench
