// Plans of recorded paths: when one is made, by whom, and whether it stays.
#include <algorithm>
#include <chrono>

#include "reprise/core/fail.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"
#include "reprise/core/trace_events.h"
#include "reprise/graph/mismatch.h"
#include "reprise/graph/recorder.h"

namespace rp {
namespace {

using Names = std::vector<std::string_view>;

Names inexact_names() {
  Names names;
  for (const Rewrite& r : inexact_rewrites()) names.push_back(r.name);
  return names;
}

// More than compiling takes for an op of a plan, in ms: machine code of one kernel takes some 0.05.
constexpr double most_per_op_ms = 0.2;

std::unique_ptr<Executable> compile(Graph graph, Names allowed) {
  const Allow allow(std::move(allowed));
  return engine.compile(std::move(graph));
}

std::future<std::unique_ptr<Executable>> compile_elsewhere(Graph graph, Names allowed) {
  return std::async(std::launch::async, [graph = std::move(graph), allowed = std::move(allowed), off = left_out()] {
    const Without without(off);
    return compile(graph, allowed);
  });
}

}  // namespace

// Plans that are verified are exact.
Level Recorder::wanted_level() const {
  return mode() == Mode::verify ? Level::exact : trie_.options.level.value_or(level());
}

std::vector<const TraceOp*> Recorder::path_to(const TraceOp* end) const {
  std::vector<const TraceOp*> path;
  for (const TraceOp* t = end; t->parent; t = t->parent) path.push_back(t);
  std::reverse(path.begin(), path.end());
  return path;
}

const LeafPlan* Recorder::build_plan(Leaf& leaf, TraceOp& end, std::vector<int32_t> live) {
  const std::optional<Span> shown = span("compile", "plan of {} ops", end.depth);
  const auto start = std::chrono::steady_clock::now();
  std::vector<ExternalSpec> externals;
  for (const External& e : externals_) {
    const Tensor& t = e.snapshot.defined() ? e.snapshot : e.tensor;
    externals.push_back({t.impl()->layout, e.storage});
  }
  auto plan = std::make_unique<LeafPlan>();
  plan->level = wanted_level();
  const bool fast = plan->level == Level::fast;
  const double plans = fast ? 2.0 + static_cast<double>(inexact_rewrites().size()) : 1;  // exact, each rewrite, all
  const double budget = trie_.options.compile_budget_ms;
  try {
    plan->live = std::move(live);
    const Names allowed = fast ? inexact_names() : Names();
    const auto graph = [&](const Names& names) {
      const Allow allow(names);
      return build_graph(path_to(&end), externals, plan->live);
    };
    if (trie_.options.profile) plan->times = std::make_unique<RunTimes>();
    if (most_per_op_ms * end.depth * plans > budget) {
      if (fast) plan->notes.push_back("fast: not compared with exact, for want of time");
      auto code = compile_elsewhere(graph(allowed), allowed);
      leaf.coming = {std::move(plan), std::move(code)};
      return await_plan(leaf, budget);
    }
    if (fast) plan->notes = differences([&](const Names& names) { return compile(graph(names), names); });
    plan->code = compile(graph(allowed), allowed);
  } catch (const Error& error) {
    refuse(leaf, error.what());
    return nullptr;
  }
  trie_.stats.compile_ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return install(leaf, std::move(plan));
}

// Takes the plan that another thread makes, if that is done in time.
const LeafPlan* Recorder::await_plan(Leaf& leaf, double wait_ms) {
  if (leaf.coming->code.wait_for(std::chrono::duration<double, std::milli>(wait_ms)) != std::future_status::ready) {
    trie_.note("a plan takes longer than the budget: op by op until it is there");
    return nullptr;
  }
  ComingPlan coming = std::move(*leaf.coming);
  leaf.coming.reset();
  try {
    coming.plan->code = coming.code.get();
  } catch (const Error& error) {
    refuse(leaf, error.what());
    return nullptr;
  }
  return install(leaf, std::move(coming.plan));
}

const LeafPlan* Recorder::install(Leaf& leaf, std::unique_ptr<LeafPlan> plan) {
  leaf.plan = std::move(plan);
  leaf.contest = {};  // against the new plan, from the start
  ++trie_.stats.plan_builds;
  return leaf.plan.get();
}

// Runs the pending ops by the plan and one by one in turn, until it is clear that the plan is worth having.
void Recorder::try_plan(Leaf& leaf) {
  Contest& contest = leaf.contest;
  const bool by_plan = contest.runs++ % 2;
  const auto start = std::chrono::steady_clock::now();
  by_plan ? run_plan(*leaf.plan) : run_op_by_op();
  const double ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
  double& least = by_plan ? contest.plan_ns : contest.ops_ns;
  least = contest.runs <= 2 ? ns : std::min(least, ns);
  if (contest.runs < Contest::enough || contest.plan_ns <= contest.ops_ns) return;
  leaf.plan = nullptr;
  refuse(leaf,
         fmt::format("it takes {:.1f} us, its ops one by one {:.1f} us", contest.plan_ns / 1e3, contest.ops_ns / 1e3));
}

// From now on the path gets no other plan; one that it has serves where it fits.
void Recorder::refuse(Leaf& leaf, std::string why) {
  leaf.refusal = std::move(why);
  trie_.note("no plan: " + leaf.refusal);
}

bool Recorder::keeps_all_held(const LeafPlan& plan) const {
  if (planted(Defect::liveness)) return true;
  auto kept = plan.live.begin();
  for (int32_t s = 0; s < static_cast<int32_t>(roots_.size()); ++s) {
    if (kept != plan.live.end() && *kept == s)
      ++kept;
    else if (held(s))
      return false;
  }
  return true;
}

const LeafPlan* Recorder::plan_for(TraceOp& end) {
  Leaf& leaf = *end.leaf;
  if (leaf.coming && !await_plan(leaf, 0)) return nullptr;
  const bool level_fits = leaf.plan && leaf.plan->level == wanted_level();
  if (level_fits && keeps_all_held(*leaf.plan)) return leaf.plan.get();
  if (!leaf.refusal.empty()) return nullptr;
  std::vector<int32_t> live;
  for (int32_t s = 0; s < static_cast<int32_t>(roots_.size()); ++s)
    if (held(s)) live.push_back(s);
  if (leaf.plan) {  // values outlive the segment that did not before: the plan keeps all of them from now on
    std::vector<int32_t> all;
    std::set_union(live.begin(), live.end(), leaf.plan->live.begin(), leaf.plan->live.end(), std::back_inserter(all));
    live = std::move(all);
    trie_.note(level_fits ? rebuilt(end, leaf.plan->live, live) : "another plan: the level has changed");
  }
  return build_plan(leaf, end, std::move(live));
}

}  // namespace rp
