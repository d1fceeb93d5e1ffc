// Rows of the recurrences that are times: cells over scan beside other libraries, the C++ loop and the library's layer.
#include "reprise/bench/recurrence.h"

#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>

#include "reprise/bench/cases.h"

namespace bench {
namespace {

using rp::Mode;
using rp::Tensor;
using rp::Tensors;

enum class Pass : uint8_t { forward, train };

const char* name_of(Pass pass) { return pass == Pass::forward ? "forward" : "train"; }

std::string row_id(const std::string& cell, const RecurrentSize& size, const char* what) {
  return fmt::format("recurrence/{}/{}/{}", cell, size.name, what);
}

// ---- what is timed ----

using Run = rp::Captured<std::function<Tensors()>>;

Run captured_scan(const Recurrence& r, Pass pass) {
  return rp::capture(std::function([r, pass]() -> Tensors {
    if (pass == Pass::train) return r.gradients(r.by_scan());
    const rp::NoGrad no_grad;
    return {r.by_scan()};
  }));
}

Run captured_loop(const Recurrence& r, Transposed when) {
  return rp::capture(std::function([r, when]() -> Tensors { return r.gradients(r.by_loop(when)); }));
}

// ---- what bounds it ----

/// The least time of a pass: that of the products' arithmetic or of moving what comes in and goes out, whichever is
/// more.
double limit_ns(const RecurrentCell& cell, const RecurrentSize& s, Pass pass, const Surroundings& around) {
  const auto batch = static_cast<double>(s.batch), hidden = static_cast<double>(s.hidden),
             steps = static_cast<double>(s.steps), width = static_cast<double>(cell.gates) * hidden;
  const double passes = pass == Pass::train ? 3 : 1;  // the products of the gradients are two for each
  const double flops = passes * 2 * steps * batch * 2 * hidden * width;
  const double both_ways = pass == Pass::train ? 2 : 1;  // gradients have the sizes of what they are of
  const double bytes = both_ways * 4 * (2 * steps * batch * hidden + 2 * hidden * width);
  const double arithmetic = around.peak_gflops > 0 ? flops / (around.peak_gflops * around.threads) : 0;
  return std::max(arithmetic, bytes / around.bandwidth_gbs);
}

// ---- other libraries ----

bool is_own(const PeerRow& r) { return r.form == "own"; }
bool is_users(const PeerRow& r) { return r.form != "own"; }
bool is_any(const PeerRow&) { return true; }

/// The rows of one cell, size and number of threads that have a time, and those that compute something else.
struct Rivals {
  std::vector<const PeerRow*> rows;
  std::string disagreeing;
  Pass pass = Pass::train;

  double ns(const PeerRow& r) const { return pass == Pass::forward ? *r.forward_ns : *r.train_ns; }
  const PeerRow* best(bool (*among)(const PeerRow&)) const {
    const PeerRow* best = nullptr;
    for (const PeerRow* r : rows)
      if (among(*r) && (!best || ns(*r) < ns(*best))) best = r;
    return best;
  }
};

Rivals find_rivals(const Surroundings& around, const RecurrentCell& cell, const RecurrentSize& size, Pass pass,
                   const RecurrentChecks& checks) {
  Rivals rivals{{}, {}, pass};
  for (const PeerRow& r : around.peers.rows) {
    if (r.cell != cell.name || r.size != size.name || r.threads != around.threads) continue;
    if (!(pass == Pass::forward ? r.forward_ns : r.train_ns)) continue;
    if (agree(r.checks, checks))
      rivals.rows.push_back(&r);
    else
      rivals.disagreeing += (rivals.disagreeing.empty() ? "" : ", ") + r.peer + " " + r.form;
  }
  return rivals;
}

nlohmann::json rival_json(const Rivals& rivals, const PeerRow* r, double ours) {
  if (!r) return {};
  return {{"peer", r->peer}, {"form", r->form}, {"ns", rivals.ns(*r)}, {"ratio", rivals.ns(*r) / ours}};
}

void add_rivals(const Rivals& rivals, double ours, Result& result) {
  nlohmann::json times = nlohmann::json::object();  // of each library, in its fastest form
  for (const PeerRow* r : rivals.rows)
    if (!times.contains(r->peer) || times[r->peer] > rivals.ns(*r)) times[r->peer] = rivals.ns(*r);
  const PeerRow* best = rivals.best(is_any);
  result.more.update({{"peers", times},
                      {"best_peer", best ? nlohmann::json(best->peer + " " + best->form) : nlohmann::json()},
                      {"ratio", best ? nlohmann::json(rivals.ns(*best) / ours) : nlohmann::json()},
                      {"best_own", rival_json(rivals, rivals.best(is_own), ours)},
                      {"best_user", rival_json(rivals, rivals.best(is_users), ours)}});
  for (const auto among : {is_own, is_users})
    if (const PeerRow* r = rivals.best(among))
      result.note += fmt::format(", {} {} {:.2f}x", r->peer, r->form, rivals.ns(*r) / ours);
  if (rivals.disagreeing.empty()) return;
  result.more["disagrees_with"] = rivals.disagreeing;
  result.note += ", DISAGREES with " + rivals.disagreeing;
}

// ---- cells ----

/// How many times faster a row is to be than eager and the best of other libraries; 0: nothing is aimed at.
struct Aims {
  double eager = 0, own = 0, users = 0, any = 0;

  std::string text() const {
    std::string all;
    for (const auto& [times, than] : {std::pair(eager, "eager"), {own, "own"}, {users, "user's"}, {any, "best"}})
      if (times > 0) all += fmt::format("{}{:.1f} x {}", all.empty() ? "" : ", ", times, than);
    return all;
  }
};

Aims aims_of(const RecurrentCell& cell, const RecurrentSize& size, Pass pass) {
  if (size.batch == 1) return {.any = 5};
  if (pass == Pass::forward) return {};
  return {.eager = 1.5, .own = cell.has_layer ? 1.3 : 0, .users = 3};
}

/// Whether all aims are reached; nothing if none is missed but some are of libraries without a figure.
std::optional<bool> reached(const Aims& aims, const Rivals& rivals, double eager, double ours) {
  bool unknown = false, missed = aims.eager > 0 && eager / ours < aims.eager;
  const auto compare = [&](double aim, const PeerRow* r) {
    if (aim <= 0) return;
    unknown |= !r;
    missed |= r && rivals.ns(*r) / ours < aim;
  };
  compare(aims.own, rivals.best(is_own));
  compare(aims.users, rivals.best(is_users));
  compare(aims.any, rivals.best(is_any));
  if (missed) return false;
  return unknown ? std::nullopt : std::optional(true);
}

constexpr double near_limit = 0.9;  // from here on a row passes whatever it is compared with

Result measure_cell(const RecurrentCell& cell, const RecurrentSize& size, Pass pass, const Surroundings& around) {
  const Recurrence r(cell, size);
  const std::string id = row_id(cell.name, size, name_of(pass));
  Run run = captured_scan(r, pass);
  const Tensor h = same_bits(id, captured_scan(r, Pass::forward))[0];
  const Tensors gradients = same_bits(id, captured_scan(r, Pass::train));
  const RecurrentChecks checks = checks_of(h, gradients);
  const Rivals rivals = find_rivals(around, cell, size, pass, checks);
  Result result = in_both_modes([&] { run(); }, [&] { run(); });
  const double eager = *result.eager_ns, ours = *result.captured_ns, limit = limit_ns(cell, size, pass, around);
  result.more = {{"limit_ns", limit},
                 {"fraction_of_limit", limit / ours},
                 {"mean_h", *checks.mean_h},
                 {"grad_norm", *checks.grad_norm},
                 {"x_grad_norm", *checks.x_grad_norm}};
  result.note = fmt::format("{:.0f}% of the limit", 100 * limit / ours);
  add_rivals(rivals, ours, result);
  const Aims aims = aims_of(cell, size, pass);
  if (aims.text().empty()) return result;
  result.met = limit / ours >= near_limit ? std::optional(true) : reached(aims, rivals, eager, ours);
  if (!rivals.disagreeing.empty()) result.met = false;
  return result;
}

// ---- beside each other ----

void require_agreement(const std::string& id, const RecurrentChecks& a, const RecurrentChecks& b) {
  if (!agree(a, b)) throw std::runtime_error(id + ": the two sides compute different functions");
}

int64_t ops_of_a_call(Run& run) {
  const rp::ModeGuard guard(Mode::graph);
  const int64_t before = run.stats().ops;
  run();
  return run.stats().ops - before;
}

constexpr double same_time = 1.05;

/// The C++ loop may take as much longer than scan as matching its ops takes. Like scan's body it transposes the weights
/// in every step; what it takes when it does so once is noted.
Result measure_loop(const RecurrentCell& cell, const RecurrentSize& size) {
  const Recurrence r(cell, size);
  const std::string id = row_id(cell.name, size, "loop");
  Run scan = captured_scan(r, Pass::train), loop = captured_loop(r, Transposed::each_step),
      once = captured_loop(r, Transposed::once);
  const Tensor h = rp::no_grad([&] { return r.by_loop(Transposed::once); });
  const RecurrentChecks checks = checks_of(rp::no_grad([&] { return r.by_scan(); }), same_bits(id, scan));
  for (Run* run : {&loop, &once}) require_agreement(id, checks, checks_of(h, same_bits(id, *run)));

  const Timing timing =
      interleave({{Mode::graph, [&] { scan(); }}, {Mode::graph, [&] { loop(); }}, {Mode::graph, [&] { once(); }}});
  const int64_t ops = ops_of_a_call(loop) - ops_of_a_call(scan);
  const double match = match_ns_per_op(), matching = static_cast<double>(ops) * match;
  const double scan_ns = median(timing.of[0]), loop_ns = median(timing.of[1]), once_ns = median(timing.of[2]);
  Result result;
  result.captured_ns = loop_ns;
  result.spread = std::max(spread(timing.of[0]), spread(timing.of[1]));
  result.system_calls = timing.system_calls;
  result.met = loop_ns <= same_time * scan_ns + matching;
  result.more = {{"scan_ns", scan_ns},
                 {"transposed_once_ns", once_ns},
                 {"ops", ops},
                 {"match_ns_per_op", match},
                 {"kernels", loop.stats().kernels},
                 {"divergences", loop.stats().divergences},
                 {"compile_ms", loop.stats().compile_ms}};
  result.note = fmt::format("scan {}, {} more ops at {:.0f} ns: {}; weights transposed once {}", time_text(scan_ns),
                            ops, match, time_text(matching), time_text(once_ns));
  return result;
}

constexpr double gate_ratio = 1.2;

Result measure_gates(const RecurrentSize& size) {
  Run ligru = captured_scan(Recurrence(recurrent_cell("ligru"), size), Pass::train);
  Run gru = captured_scan(Recurrence(recurrent_cell("gru"), size), Pass::train);
  const Timing timing = interleave({{Mode::graph, [&] { ligru(); }}, {Mode::graph, [&] { gru(); }}});
  const double light = median(timing.of[0]) / static_cast<double>(recurrent_cell("ligru").gates);
  const double full = median(timing.of[1]) / static_cast<double>(recurrent_cell("gru").gates);
  Result result;
  result.captured_ns = light;
  result.spread = std::max(spread(timing.of[0]), spread(timing.of[1]));
  result.system_calls = timing.system_calls;
  result.met = light <= gate_ratio * full;
  result.more = {{"gru_ns_per_gate", full}, {"ratio_to_gru", light / full}};
  result.note = fmt::format("a gate of gru takes {}, ratio {:.2f}", time_text(full), light / full);
  return result;
}

/// The library's LSTM with the workload's values.
class Layer {
 public:
  explicit Layer(const Recurrence& r, const RecurrentSize& size) : lstm_(size.hidden), x_(r.x()) {
    const rp::NoGrad no_grad;
    lstm_(x_);  // makes the parameters
    for (const auto& [name, t] : lstm_.parameters()) {
      const size_t k = parameters_.size();
      t.set_requires_grad();
      rp::Tensor(t).copy_(k < 2 ? r.parameters()[k].transpose() : r.parameters()[k]);
      parameters_.push_back(t);
    }
  }

  Tensor operator()() const { return lstm_(x_).outputs; }
  Tensors gradients() const {
    Tensors leaves{x_};
    leaves.insert(leaves.end(), parameters_.begin(), parameters_.end());
    return rp::grad({sum((*this)())}, leaves);
  }

 private:
  rp::LSTM lstm_;
  Tensor x_;
  Tensors parameters_;
};

Result measure_layer(const RecurrentSize& size) {
  const Recurrence users(recurrent_cell("lstm"), size);
  const Layer layer(users, size);
  const std::string id = row_id("lstm", size, "layer");
  Run scan = captured_scan(users, Pass::train);
  Run own = rp::capture(std::function([layer]() -> Tensors { return layer.gradients(); }));
  require_agreement(id, checks_of(rp::no_grad([&] { return users.by_scan(); }), same_bits(id, scan)),
                    checks_of(rp::no_grad([&] { return layer(); }), same_bits(id, own)));
  const Timing timing = interleave({{Mode::graph, [&] { scan(); }}, {Mode::graph, [&] { own(); }}});
  const double users_ns = median(timing.of[0]), own_ns = median(timing.of[1]);
  Result result;
  result.captured_ns = users_ns;
  result.spread = std::max(spread(timing.of[0]), spread(timing.of[1]));
  result.system_calls = timing.system_calls;
  result.met = users_ns <= same_time * own_ns;
  result.more = {{"layer_ns", own_ns}, {"ratio_to_layer", users_ns / own_ns}};
  result.note = fmt::format("rp::LSTM takes {}, ratio {:.2f}", time_text(own_ns), users_ns / own_ns);
  return result;
}

}  // namespace

std::vector<Case> recurrence_cases(const Surroundings& around) {
  std::vector<Case> cases;
  for (const RecurrentSize& size : recurrent_sizes()) {
    for (const RecurrentCell& cell : recurrent_cells()) {
      for (const Pass pass : {Pass::forward, Pass::train})
        cases.push_back({row_id(cell.name, size, name_of(pass)), stated(aims_of(cell, size, pass).text()), 0,
                         [=, &around] { return measure_cell(cell, size, pass, around); }});
      cases.push_back({row_id(cell.name, size, "loop"), stated("<= 1.05 x scan + matching"), 0,
                       [=] { return measure_loop(cell, size); }});
    }
    cases.push_back({row_id("ligru", size, "gate"), stated("<= 1.2 x gru's"), 0, [=] { return measure_gates(size); }});
    cases.push_back(
        {row_id("lstm", size, "layer"), stated("<= 1.05 x rp::LSTM"), 0, [=] { return measure_layer(size); }});
  }
  for (const Case& c : recurrence_graph_cases()) cases.push_back(c);
  cases.push_back(recurrence_text_case());
  return cases;
}

}  // namespace bench
