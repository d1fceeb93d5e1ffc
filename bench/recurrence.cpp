// Rows of the recurrences that are times: cells over scan beside other libraries, the C++ loop and the library's layer.
#include "reprise/bench/recurrence.h"

#include <fmt/core.h>

#include <algorithm>
#include <stdexcept>

#include "reprise/bench/cases.h"
#include "reprise/reprise.h"

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

/// h of all steps, and in training the gradients too.
Tensors results(const Recurrence& r, const Tensor& h) {
  Tensors all = r.gradients(h);
  all.insert(all.begin(), h.detach());
  return all;
}

Run captured_scan(const Recurrence& r, Pass pass) {
  return rp::capture(std::function([r, pass]() -> Tensors {
    if (pass == Pass::train) return results(r, r.by_scan());
    const rp::NoGrad no_grad;
    return {r.by_scan()};
  }));
}

Run captured_loop(const Recurrence& r, Transposed when) {
  return rp::capture(std::function([r, when]() -> Tensors { return results(r, r.by_loop(when)); }));
}

// ---- beside other libraries ----

/// The products of the gradients are two for each.
double flops_of(const RecurrentCell& cell, const RecurrentSize& s, Pass pass) {
  const double passes = pass == Pass::train ? 3 : 1;
  return passes * 2 * static_cast<double>(s.steps * s.batch * 2 * s.hidden * cell.gates * s.hidden);
}

/// Gradients have the sizes of what they are of.
double bytes_of(const RecurrentCell& cell, const RecurrentSize& s, Pass pass) {
  const double both_ways = pass == Pass::train ? 2 : 1;
  return both_ways * static_cast<double>(rp::size_of(s.dtype)) *
         static_cast<double>(2 * s.steps * s.batch * s.hidden + 2 * s.hidden * cell.gates * s.hidden);
}

std::vector<Entry> entries_of(const RecurrentCell& cell, const RecurrentSize& size, Pass pass) {
  std::vector<Entry> all;
  for (const char* peer : {"libtorch", "torch"}) {
    if (cell.has_layer) all.push_back({peer, "own"});
    for (const char* form : {"user", "hoisted"}) all.push_back({peer, form});
  }
  // A compiled loop over so many steps is not there for minutes.
  if (size.steps <= 128) all.push_back({"torch-compile", "user"});
  all.push_back({"torch-compile", "step"});
  if (cell.has_layer) all.push_back({"torch-graph", "own"});
  for (const char* form : {"user", "hoisted"}) all.push_back({"jax", form});
  if (cell.has_layer && pass == Pass::forward) all.push_back({"onnxruntime", "own"});
  return all;
}

Comparison comparison(const RecurrentCell& cell, const RecurrentSize& size, Pass pass) {
  Comparison c{.spec = recurrence_spec(cell, size)};
  c.spec.options = {{"backward", pass == Pass::train}};
  c.make = [=]() -> Copy { return {captured_scan(Recurrence(cell, size), pass)}; };
  c.flops = flops_of(cell, size, pass);
  c.bytes = bytes_of(cell, size, pass);
  c.entries = entries_of(cell, size, pass);
  c.tolerance = tolerance_of(size.dtype);
  c.tensor_cores = rp::is_short(size.dtype);
  return c;
}

Goal goal_of(const RecurrentCell& cell, const RecurrentSize& size, Pass pass) {
  if (size.batch == 1) return ratios({{5, "best", is_any}});
  std::vector<Aim> aims;
  if (pass == Pass::train) aims = {{1.5, "eager", nullptr}, {3, "user's", is_users_cell}};
  if (pass == Pass::forward) aims = {{1.5, "compiled", is_compiled}};
  if (cell.has_layer) aims.push_back({1.3, "own", is_own_layer});
  return ratios(aims);
}

// ---- beside each other ----

void require_agreement(const std::string& id, const Tensors& a, const Tensors& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!agree(digest_of(a[i]), digest_of(b[i])))
      throw std::runtime_error(fmt::format("{}: the two sides compute different results {}", id, i));
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
  const Tensors expected = same_bits(id, scan);
  for (Run* run : {&loop, &once}) require_agreement(id, expected, same_bits(id, *run));

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

/// The library's LSTM with the same values.
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

  /// h of all steps and the gradients of its sum.
  Tensors operator()() const {
    const Tensor h = lstm_(x_).outputs;
    Tensors leaves{x_};
    leaves.insert(leaves.end(), parameters_.begin(), parameters_.end());
    Tensors results = rp::grad({sum(h)}, leaves);
    results.insert(results.begin(), h.detach());
    return results;
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
  Run own = rp::capture(std::function([layer]() -> Tensors { return layer(); }));
  Tensors of_user = same_bits(id, scan);
  for (size_t k : {2, 3}) of_user[k] = of_user[k].transpose();  // the layer's weights lie the other way
  require_agreement(id, of_user, same_bits(id, own));
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

// ---- on a CUDA device ----

/// What counts takes no longer.
Goal within(double ns) {
  return {"<= " + time_text(ns), [ns](const Result& r) { return r.ours() <= ns; }};
}

std::vector<Case> cuda_recurrence_cases(const Surroundings& around) {
  std::vector<Case> cases;
  const auto add = [&](const char* group, const char* cell, const RecurrentSize& size, Pass pass, const Goal& goal) {
    cases.push_back(compared(around,
                             fmt::format("{}.{}.{}", goal_id(group, cell, size.dtype), size.name, name_of(pass)), goal,
                             [=] { return comparison(recurrent_cell(cell), size, pass); }));
  };
  const Goal own = ratios({{1, "own layers", is_own_layer}}, 1), twice = ratios({{2, "own layers", is_own_layer}});
  const Goal users = ratios({{4, "users' cells", is_users_cell}});
  for (const rp::DType dtype : {rp::DType::bf16, rp::DType::f16, rp::DType::f32})
    for (const Pass pass : {Pass::forward, Pass::train})
      add("G9", "lstm", {"b16-h768-t1024", 16, 768, 1024, dtype}, pass,
          rp::is_short(dtype) ? both(within(pass == Pass::train ? 5.2e6 : 2e6), own) : own);
  for (const rp::DType dtype : {rp::DType::bf16, rp::DType::f32}) {
    const RecurrentSize first{"b16-h512-t512", 16, 512, 512, dtype};
    for (const Pass pass : {Pass::forward, Pass::train}) {
      add("G10", "lstm", first, pass, twice);
      for (const char* cell : {"gru", "ligru", "lnlstm"}) add("G11", cell, first, pass, users);
    }
  }
  for (const int64_t hidden : {256, 1024, 512})
    for (const int64_t batch : {16, 64}) {
      const RecurrentSize size{fmt::format("b{}-h{}-t512", batch, hidden), batch, hidden, 512, rp::DType::bf16};
      if (batch != 16 || hidden != 512) add("G10", "lstm", size, Pass::forward, twice);
    }
  return cases;
}

}  // namespace

std::vector<Case> recurrence_cases(const Surroundings& around) {
  if (around.on_cuda()) return cuda_recurrence_cases(around);
  std::vector<Case> cases;
  for (const RecurrentSize& size : recurrent_sizes()) {
    for (const RecurrentCell& cell : recurrent_cells()) {
      for (const Pass pass : {Pass::forward, Pass::train})
        cases.push_back(compared(around, row_id(cell.name, size, name_of(pass)), goal_of(cell, size, pass),
                                 [=] { return comparison(cell, size, pass); }));
      cases.push_back({row_id(cell.name, size, "loop"), stated("<= 1.05 x scan + matching"),
                       [=] { return measure_loop(cell, size); }});
    }
    cases.push_back({row_id("ligru", size, "gate"), stated("<= 1.2 x gru's"), [=] { return measure_gates(size); }});
    cases.push_back({row_id("lstm", size, "layer"), stated("<= 1.05 x rp::LSTM"), [=] { return measure_layer(size); }});
  }
  for (const Case& c : recurrence_graph_cases()) cases.push_back(c);
  cases.push_back(recurrence_text_case());
  return cases;
}

}  // namespace bench
