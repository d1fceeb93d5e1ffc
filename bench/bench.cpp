// The measurements: a table of what ops, kernels and training steps take, eager and captured, beside what is aimed at.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "reprise/backends/cpu/threads.h"
#include "reprise/bench/cases.h"
#include "reprise/bench/peers.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

struct Options {
  std::string filter, json, peers;
  int threads = 1;
  bool list = false;
};

struct Machine {
  std::string cpu = "unknown";
  unsigned cores = std::thread::hardware_concurrency();
  double load = 0;  // of the last minute, before the first row
  double peak_gflops = 0, bandwidth_gbs = 0;
};

Machine describe_machine() {
  Machine m;
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    m.cpu = line.substr(line.find(':') + 2);
    break;
  }
  getloadavg(&m.load, 1);
  m.peak_gflops = measure_peak_gflops();
  m.bandwidth_gbs = measure_bandwidth_gbs();
  return m;
}

std::string goal_text(const Goal& goal) {
  switch (goal.of) {
    case Goal::Of::none:
      return "";
    case Goal::Of::eager:
      return "eager <= " + time_text(goal.ns);
    case Goal::Of::captured:
      return "captured <= " + time_text(goal.ns);
    case Goal::Of::faster:
      return "captured < eager";
    case Goal::Of::not_slower:
      return "captured <= eager";
    case Goal::Of::stated:
      return goal.text;
  }
  return "";
}

std::optional<bool> meets(const Goal& goal, const Result& r) {
  switch (goal.of) {
    case Goal::Of::none:
      return {};
    case Goal::Of::eager:
      return *r.eager_ns <= goal.ns;
    case Goal::Of::captured:
      return *r.captured_ns <= goal.ns;
    case Goal::Of::faster:
      return r.loss_high_ns < 0;
    case Goal::Of::not_slower:
      return r.loss_low_ns <= 0;
    case Goal::Of::stated:
      return r.met;
  }
  return {};
}

/// The rate of the faster mode, in 1e9 operations a second; 0 if it says nothing.
double gflops(const Case& c, const Result& r) {
  if (c.flops == 0) return 0;
  return c.flops / std::min(r.eager_ns.value_or(1e300), r.captured_ns.value_or(1e300));
}

/// Widths of the columns whose texts differ in length from table to table.
struct Widths {
  size_t id = 26, goal = 22;

  explicit Widths(const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      id = std::max(id, c.id.size());
      goal = std::max(goal, goal_text(c.goal).size());
    }
  }
};

void print_head(const Machine& m, int threads, const Widths& widths) {
  fmt::print("{}, {} cores, load {:.2f}, {} thread{}; one core does {:.1f} GFLOP/s and copies {:.1f} GB/s\n", m.cpu,
             m.cores, m.load, threads, threads == 1 ? "" : "s", m.peak_gflops, m.bandwidth_gbs);
  fmt::print("medians of {} rounds, the modes in turn; +- is the distance of the quartiles\n\n", rounds);
  fmt::print("{:{}} {:>9} {:>9} {:>8} {:>6}  {:{}} {:4}\n", "", widths.id, "eager", "captured", "speed-up", "+-",
             "goal", widths.goal, "met");
}

void print_row(const Case& c, const Result& r, double peak, const Widths& widths) {
  const std::optional<bool> met = meets(c.goal, r);
  const std::string ratio = r.eager_ns && r.captured_ns ? fmt::format("{:.2f}", *r.eager_ns / *r.captured_ns) : "";
  std::string note = r.note;
  if (const double rate = gflops(c, r); rate > 0) {
    note = fmt::format("{:.1f} GFLOP/s", rate);
    if (peak > 0) note += fmt::format(", {:.0f}%", 100 * rate / peak);
  }
  if (r.system_calls) note += fmt::format("{}{} system calls", note.empty() ? "" : ", ", r.system_calls);
  fmt::print("{:{}} {:>9} {:>9} {:>8} {:>5.1f}%  {:{}} {:4}  {}\n", c.id, widths.id, time_text(r.eager_ns),
             time_text(r.captured_ns), ratio, 100 * r.spread, goal_text(c.goal), widths.goal,
             met ? *met ? "yes" : "no" : "", note);
  std::fflush(stdout);
}

nlohmann::json to_json(const std::optional<double>& v) { return v ? nlohmann::json(*v) : nlohmann::json(); }

nlohmann::json row_json(const Case& c, const Result& r, int threads) {
  const std::optional<bool> met = meets(c.goal, r);
  const std::string goal = goal_text(c.goal);
  const double rate = gflops(c, r);
  nlohmann::json row = {{"id", c.id},
                        {"goal", goal.empty() ? nlohmann::json() : nlohmann::json(goal)},
                        {"goal_ns", c.goal.ns > 0 ? nlohmann::json(c.goal.ns) : nlohmann::json()},
                        {"threads", threads},
                        {"eager_ns", to_json(r.eager_ns)},
                        {"captured_ns", to_json(r.captured_ns)},
                        {"spread", r.spread},
                        {"gflops", rate > 0 ? nlohmann::json(rate) : nlohmann::json()},
                        {"system_calls", r.system_calls},
                        {"meets_goal", met ? nlohmann::json(*met) : nlohmann::json()}};
  row.update(r.more);
  return row;
}

void write_json(const std::string& path, const Machine& m, const nlohmann::json& rows, const nlohmann::json& peers) {
  const nlohmann::json machine = {{"cpu", m.cpu},
                                  {"cores", m.cores},
                                  {"load", m.load},
                                  {"compiler", __VERSION__},
                                  {"peak_gflops", m.peak_gflops},
                                  {"bandwidth_gbs", m.bandwidth_gbs}};
  nlohmann::json all = {{"machine", machine}, {"rows", rows}};
  if (!peers.is_null()) all["peers"] = peers;
  std::ofstream file(path);
  file << all.dump(2) << '\n';
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

std::vector<Case> matching_cases(const std::string& filter, const Surroundings& around) {
  std::vector<Case> cases;
  for (auto& family : {dispatch_cases(), kernel_cases(), training_cases(), recurrence_cases(around)})
    for (const Case& c : family)
      if (c.id.find(filter) != std::string::npos) cases.push_back(c);
  if (cases.empty()) throw std::runtime_error("no measurement has \"" + filter + "\" in its name; try --list");
  return cases;
}

void measure_all(const Options& o) {
  Surroundings around;
  const std::vector<Case> cases = matching_cases(o.filter, around);
  if (o.list) {
    for (const Case& c : cases) fmt::print("{:26} {}\n", c.id, goal_text(c.goal));
    return;
  }
  rp::set_thread_count(o.threads);
  const Machine machine = describe_machine();
  around = {o.peers.empty() ? Peers() : read_peers(o.peers), o.threads, machine.peak_gflops, machine.bandwidth_gbs};
  const Widths widths(cases);
  print_head(machine, o.threads, widths);
  nlohmann::json rows = nlohmann::json::array();
  int goals = 0, met = 0;
  for (const Case& c : cases) {
    rp::manual_seed(1);
    const Result r = c.measure();
    print_row(c, r, machine.peak_gflops * o.threads, widths);
    rows.push_back(row_json(c, r, o.threads));
    if (const std::optional<bool> m = meets(c.goal, r)) {
      ++goals;
      met += *m;
    }
  }
  fmt::print("\n{} of {} goals met\n", met, goals);
  if (!o.peers.empty()) print_peers(around.peers);
  if (!o.json.empty()) write_json(o.json, machine, rows, around.peers.source);
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
  return {std::move(id), goal, flops, [make = std::move(make)] { return in_both_modes(make(), make()); }};
}

}  // namespace bench

int main(int argc, char** argv) {
  CLI::App app("Measures ops, kernels and training steps, eager and captured.");
  bench::Options o;
  app.add_option("filter", o.filter, "only rows with this in their name");
  app.add_option("--json", o.json, "a file for the rows");
  app.add_option("--peers", o.peers, "a file that bench/peers/run.py wrote, to print and keep beside the rows");
  app.add_option("--threads", o.threads, "threads that kernels may use; the goals are for one")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_flag("--list", o.list, "names the rows");
  CLI11_PARSE(app, argc, argv);
  try {
    bench::measure_all(o);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
