// The measurements: a table of what ops, kernels and training steps take, eager, captured and by other libraries,
// beside what is aimed at and what the machine allows.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>

#include "reprise/backends/cpu/threads.h"
#include "reprise/bench/compile_only.h"
#include "reprise/bench/cuda_machine.h"
#include "reprise/bench/table.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

struct Options {
  std::vector<std::string> filters;
  std::string json, device = "cpu", python, scratch;
  std::vector<std::string> peers;
  int architecture = 0;
  std::string texts;
  int threads = 1;
  double limit_s = 150;
  bool list = false;
};

std::vector<Case> all_cases(const Surroundings& around) {
  std::vector<Case> cases;
  if (around.on_cuda()) cases = constant_cases();
  for (auto& family :
       {dispatch_cases(around), chain_cases(around), row_cases(around), product_cases(around), network_cases(around),
        transformer_cases(around), recurrence_cases(around), process_cases(around)})
    cases.insert(cases.end(), family.begin(), family.end());
  return cases;
}

/// In the order of the filters, each row once.
std::vector<Case> matching_cases(std::vector<std::string> filters, const Surroundings& around) {
  if (filters.empty()) filters = {""};
  std::vector<Case> left = all_cases(around), cases;
  for (const std::string& filter : filters) {
    const auto fits = [&](const Case& c) { return c.id.find(filter) != std::string::npos; };
    const size_t before = cases.size();
    std::copy_if(left.begin(), left.end(), std::back_inserter(cases), fits);
    std::erase_if(left, fits);
    if (cases.size() == before)
      throw std::runtime_error("no measurement has \"" + filter + "\" in its name; try --list");
  }
  return cases;
}

/// The folder of the build that this program stands in.
std::string build_folder() { return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path(); }

void choose_peers(const Options& o, Surroundings& around) {
  std::vector<std::string> unknown = o.peers;
  const PeerSettings settings{o.threads, o.limit_s, around.build, o.scratch.empty() ? around.build : o.scratch,
                              around.on_cuda()};
  for (PeerProgram& p : peer_programs(settings, o.python)) {
    std::erase_if(unknown, [&](const std::string& name) { return name == p.name || name == "all"; });
    const auto is_chosen = [&](const std::string& name) { return name == p.name || name == "all"; };
    if (std::none_of(o.peers.begin(), o.peers.end(), is_chosen)) continue;
    around.peers.push_back(std::make_unique<Peer>(std::move(p), settings));
  }
  if (!unknown.empty()) throw std::runtime_error("no peer is called " + unknown[0]);
}

/// A call on a device ends before its work does, and a wait takes as long as small work: turns are long there.
void use_cuda(const Options& o) {
  if (o.architecture) {
    compile_only(o.architecture);
    effort() = {.most_rounds = 1, .least_rounds = 1, .turn_ns = 1};
    return;
  }
  effort().turn_ns = 2e7;
  effort().wait = [] { rp::cuda::synchronize(); };
}

bool measure_all(const Options& o) {
  if (!o.texts.empty()) {
    fmt::print("{} kernels compiled\n", compile_texts(o.texts, o.architecture));
    return true;
  }
  Surroundings around;
  around.threads = o.threads;
  around.device = rp::parse_device(o.device);
  around.build = build_folder();
  std::vector<Case> cases = matching_cases(o.filters, around);
  if (o.architecture) std::erase_if(cases, [](const Case& c) { return c.needs_device; });
  if (o.list) {
    for (const Case& c : cases) fmt::print("{:40} {}\n", c.id, c.goal.text);
    return true;
  }
  choose_peers(o, around);
  rp::set_thread_count(o.threads);
  if (around.on_cuda()) use_cuda(o);
  const rp::DeviceScope on(around.device);
  around.machine = around.on_cuda() ? describe_cuda_machine() : describe_machine(o.threads);
  Table table(cases, around, o.json);
  for (const Case& c : cases) {
    rp::manual_seed(1);
    Result r;
    try {
      r = c.measure();
    } catch (const std::exception& e) {
      table.add_failed(c, e.what());
      continue;
    }
    table.add(c, r);
  }
  return table.finish();
}

}  // namespace

std::string time_text(const std::optional<double>& time) {
  if (!time) return "-";
  const char* const units[] = {"ns", "us", "ms", "s"};
  double ns = *time;
  int unit = 0;
  for (; std::abs(ns) >= 1000 && unit < 3; ns /= 1000) ++unit;
  return std::abs(ns) < 100 ? fmt::format("{:.1f} {}", ns, units[unit]) : fmt::format("{:.0f} {}", ns, units[unit]);
}

Result in_both_modes(std::function<void()> eager_call, std::function<void()> captured_call) {
  const Timing timing =
      interleave({{rp::Mode::eager, std::move(eager_call)}, {rp::Mode::graph, std::move(captured_call)}});
  const Times &eager = timing.of[0], &captured = timing.of[1], loss = difference(captured, eager);
  Result r;
  r.eager_ns = median(eager);
  r.captured_ns = median(captured);
  r.spread = std::max(spread(eager), spread(captured));
  r.loss_low_ns = quantile(loss, 0.25);
  r.loss_high_ns = quantile(loss, 0.75);
  r.system_calls = timing.system_calls;
  return r;
}

Case paired(std::string id, Goal goal, Make make, double flops) {
  return {std::move(id), std::move(goal), [make = std::move(make), flops] {
            Result r = in_both_modes(make(), make());
            r.flops = flops;
            return r;
          }};
}

}  // namespace bench

int main(int argc, char** argv) {
  CLI::App app("Measures ops, kernels and training steps, eager, captured and by other libraries.");
  bench::Options o;
  app.add_option("filter", o.filters, "only rows with one of these in their names, in this order");
  app.add_option("--device", o.device, "cpu, or cuda: other rows, see docs/gpu.md")->capture_default_str();
  CLI::Option* only = app.add_option("--compile-only", o.architecture,
                                     "compile kernels for that architecture (90) and run nothing; needs no device");
  app.add_option("--compile-texts", o.texts, "and the kernels that the tests have left in that folder, nothing else")
      ->needs(only);
  app.add_option("--python", o.python, "what runs the peers in Python");
  app.add_option("--scratch", o.scratch, "a folder for the peers' logs and caches");
  app.add_option("--json", o.json, "a file for the rows, whole after each of them");
  app.add_option("--peers", o.peers, "other libraries that take part, or all")->delimiter(',')->allow_extra_args(false);
  app.add_option("--threads", o.threads, "threads that everybody may use; most goals are for one")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--seconds", bench::effort().row_s, "how long the rounds of one row may take, beyond the least")
      ->capture_default_str();
  app.add_option("--rounds", bench::effort().most_rounds, "at most so many in a row")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--limit", o.limit_s, "seconds that a peer may take to build a workload, or for a turn")
      ->capture_default_str();
  app.add_flag("--list", o.list, "names the rows");
  CLI11_PARSE(app, argc, argv);
  bench::effort().least_rounds = std::min(bench::effort().least_rounds, bench::effort().most_rounds);
  try {
    return bench::measure_all(o) ? 0 : 1;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
