// What capture makes of recurrences: how long that takes, how large the graph is, what runs in each step, and how
// memory grows with the steps.
#include <fmt/core.h>

#include <chrono>
#include <set>

#include "reprise/bench/cases.h"
#include "reprise/bench/recurrence.h"
#include "reprise/core/graph.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::ControlAttrs;
using rp::Graph;
using rp::Kind;
using rp::Mode;
using rp::Node;
using rp::Tensor;
using rp::Tensors;

using Run = rp::Captured<std::function<Tensors()>>;

Run training_of(const std::string& cell, const RecurrentSize& size) {
  return rp::capture(std::function([r = Recurrence(recurrent_cell(cell), size)]() -> Tensors {  //
    return r.gradients(r.by_scan());
  }));
}

double ns_of(Run& run, Mode mode) {
  const rp::ModeGuard guard(mode);
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

void call_until_planned(Run& run) {
  while (!run.stats().plan_builds) ns_of(run, Mode::graph);
}

// ---- the graph ----

int64_t count_nodes(const Graph& g) {
  int64_t count = g.size();
  for (const Node& n : g.nodes) {
    if (n.op->kind != Kind::control) continue;
    const auto& a = n.attrs.as<ControlAttrs>();
    count += count_nodes(*a.body);
    if (a.other != a.body) count += count_nodes(*a.other);
  }
  return count;
}

Graph graph_of(const Run& run) { return rp::parse_graph(run.dump()); }

// ---- capture ----

constexpr int64_t few_steps = 64, many_steps = 1024;
constexpr double capture_ratio = 1.2, capture_ms = 50;

/// A training step whose capture is timed over and over: what recording its ops takes, and making the plan. That a body
/// is traced belongs to every call, eager ones too.
class Capture {
 public:
  Capture(int64_t steps, double record_ns) : steps_(steps), run_(training_of("lstm", {"", 1, 32, steps})) {
    ns_of(run_, Mode::graph);
    recording_ms_ = static_cast<double>(run_.stats().ops) * record_ns / 1e6;
    call_until_planned(run_);
    first_compile_ms_ = run_.stats().compile_ms;  // no machine code was there yet
    nodes_ = count_nodes(graph_of(run_));
  }

  /// Plans anew, after the same `other` call, so that caches are as cold for few steps as for many.
  void again(const std::function<void()>& other) {
    run_.reset();
    ns_of(run_, Mode::graph);
    other();
    call_until_planned(run_);
    compile_ms_.push_back(run_.stats().compile_ms);
  }
  void run_eagerly() { ns_of(run_, Mode::eager); }

  double ms() const { return recording_ms_ + median(compile_ms_); }
  double most_ms() const { return std::max(ms(), recording_ms_ + first_compile_ms_); }
  double noise() const { return spread(compile_ms_); }
  int64_t nodes() const { return nodes_; }

  nlohmann::json json() const {
    return {{"steps", steps_},
            {"capture_ms", ms()},
            {"recording_ms", recording_ms_},
            {"compile_ms", median(compile_ms_)},
            {"first_compile_ms", first_compile_ms_},
            {"nodes", nodes_}};
  }
  std::string text() const { return fmt::format("{} steps: {:.2f} ms, {} nodes", steps_, ms(), nodes_); }

 private:
  int64_t steps_;
  Run run_;
  double recording_ms_ = 0, first_compile_ms_ = 0;
  int64_t nodes_ = 0;
  Times compile_ms_;
};

Result measure_capture() {
  const double record_ns = record_ns_per_op();
  Capture many(many_steps, record_ns), few(few_steps, record_ns);
  for (int i = 0; i < effort().most_rounds; ++i)
    for (Capture* c : {&few, &many}) c->again([&] { many.run_eagerly(); });
  const double ratio = many.ms() / few.ms();
  Result result;
  result.spread = std::max(many.noise(), few.noise());
  result.met = ratio <= capture_ratio && many.nodes() == few.nodes() && many.most_ms() <= capture_ms;
  result.more = {{"ratio_to_few", ratio}, {"few", few.json()}, {"many", many.json()}};
  result.note = fmt::format("{}; {}; ratio {:.2f}; at first {:.1f} ms", few.text(), many.text(), ratio, many.most_ms());
  return result;
}

// ---- kernels of a step ----

/// Kernels that a scan runs in each step.
struct StepKernels {
  int pointwise = 0, products = 0, others = 0;
};

StepKernels count_kernels(const nlohmann::json& body) {
  StepKernels step;
  for (const nlohmann::json& kernel : body.at("kernels")) {
    const std::string kind = kernel.at("kind");
    ++(kind == "map" || kind == "rows" || kind == "columns" ? step.pointwise
       : kind == "gemm"                                     ? step.products
                                                            : step.others);
  }
  return step;
}

/// Of each scan of a capture's plans, in order.
std::vector<StepKernels> step_kernels(const Run& run) {
  std::vector<StepKernels> scans;
  const nlohmann::json report = nlohmann::json::parse(run.json());
  for (const nlohmann::json& path : report.at("paths"))
    for (const nlohmann::json& kernel : path.at("plan").at("kernels"))
      if (kernel.contains("body")) scans.push_back(count_kernels(kernel.at("body").at(0)));
  return scans;
}

nlohmann::json to_json(const StepKernels& k) {
  return {{"pointwise", k.pointwise}, {"products", k.products}, {"others", k.others}};
}

Result measure_kernels(const std::string& cell) {
  Run run = training_of(cell, {"", 32, 256, 8});
  call_until_planned(run);
  const std::vector<StepKernels> scans = step_kernels(run);
  if (scans.size() != 2) throw std::runtime_error(cell + ": expected a scan in each direction");
  Result result;
  result.met = scans[0].pointwise <= 1 && scans[1].pointwise <= 1;
  result.more = {{"forward", to_json(scans[0])}, {"backward", to_json(scans[1])}};
  for (const StepKernels& k : scans)
    result.note +=
        fmt::format("{}{} pointwise, {} product{}, {} other{}", result.note.empty() ? "forward " : "; backward ",
                    k.pointwise, k.products, k.products == 1 ? "" : "s", k.others, k.others == 1 ? "" : "s");
  return result;
}

// ---- memory ----

/// Bytes of what a graph names.
struct GraphBytes {
  double saved = 0;  // values of scans that exist for the gradient only
  double all = 0;    // with what their gradients take and leave step by step, and what the plan gives back
};

GraphBytes bytes_of(const Graph& g) {
  std::set<int32_t> saved, all;
  const auto add = [&](int32_t node) {
    const int32_t base = rp::base_of(g, node);
    if (g[base].op->kind != Kind::input) all.insert(base);
  };
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    if (n.op->kind == Kind::result) {
      const auto& a = g[n.inputs[0]].attrs.as<ControlAttrs>();
      const bool for_gradient = n.attrs.as<rp::ResultAttrs>().index >= a.results - a.saved;
      if (for_gradient) saved.insert(i);
      if (for_gradient || !a.saved) add(i);
    } else if (n.op->kind == Kind::control) {
      const auto& a = n.attrs.as<ControlAttrs>();
      for (int32_t k = a.carries; !a.saved && k < a.carries + a.inputs; ++k) add(n.inputs[static_cast<size_t>(k)]);
    }
  }
  for (int32_t output : g.outputs) add(output);
  const auto total = [&](const std::set<int32_t>& nodes) {
    double bytes = 0;
    for (int32_t i : nodes) bytes += static_cast<double>(g[i].layout->bytes());
    return bytes;
  };
  return {total(saved), total(all)};
}

/// What one more step takes in a training step, in bytes.
struct Memory {
  double measured = 0;  // in the arena and for results
  GraphBytes stated;
};

Memory memory_of(const std::function<Run(int64_t)>& make) {
  constexpr int64_t few = 64, many = 128;
  Memory memory;
  for (const auto& [steps, weight] : {std::pair(few, -1.0), {many, 1.0}}) {
    Run run = make(steps);
    call_until_planned(run);
    const rp::CaptureStats stats = run.stats();
    const GraphBytes bytes = bytes_of(graph_of(run));
    const double each = weight / (many - few);
    memory.measured += each * static_cast<double>(stats.arena_bytes + stats.output_bytes);
    memory.stated.saved += each * bytes.saved;
    memory.stated.all += each * bytes.all;
  }
  return memory;
}

Result memory_result(const Memory& m, double most) {
  Result result;
  result.met = m.measured <= most;
  result.more = {
      {"bytes_per_step", m.measured}, {"saved_bytes_per_step", m.stated.saved}, {"graph_bytes_per_step", m.stated.all}};
  result.note = fmt::format("{:.0f} bytes a step; the graph: {:.0f}, of which {:.0f} saved for the gradient",
                            m.measured, m.stated.all, m.stated.saved);
  return result;
}

Result measure_memory(const std::string& cell) {
  const Memory m = memory_of([&](int64_t steps) { return training_of(cell, {"", 32, 256, steps}); });
  return memory_result(m, m.stated.all);
}

/// c * softplus(w) over and over: c is needed for the gradient in every step, softplus(w) and what its own gradient
/// needs only once.
Result measure_invariant() {
  constexpr int64_t numel = 32 * 256;
  const auto make = [](int64_t steps) {
    Tensor c = rp::uniform({numel}), w = rp::uniform({numel});
    c.set_requires_grad();
    w.set_requires_grad();
    return rp::capture(std::function([=]() -> Tensors {
      const auto body = [&](const Tensor& before) { return before * softplus(w); };
      return rp::grad({sum(rp::scan(body, c, {.length = steps}))}, {c, w});
    }));
  };
  return memory_result(memory_of(make), numel * sizeof(float));
}

}  // namespace

std::vector<Case> recurrence_graph_cases() {
  std::vector<Case> cases{{"recurrence/lstm/capture", stated("1024 steps <= 1.2 x 64, <= 50 ms"), measure_capture}};
  for (const RecurrentCell& cell : recurrent_cells())
    cases.push_back({"recurrence/" + cell.name + "/kernels", stated("1 pointwise each way"),
                     [=] { return measure_kernels(cell.name); }});
  for (const RecurrentCell& cell : recurrent_cells())
    cases.push_back({"recurrence/" + cell.name + "/memory", stated("<= what the graph says"),
                     [=] { return measure_memory(cell.name); }});
  cases.push_back({"recurrence/invariant/memory", stated("<= one value a step"), measure_invariant});
  return cases;
}

}  // namespace bench
