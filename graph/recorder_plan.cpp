// Running a pending path by its plan, and verifying that against op by op.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>

#include "reprise/core/fail.h"
#include "reprise/core/infer.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/stats.h"
#include "reprise/core/switches.h"
#include "reprise/core/trace_events.h"
#include "reprise/graph/recorder.h"

namespace rp {

void Recorder::show_recording() const {
  std::vector<std::string_view> names;
  for (const Rewrite& r : rewrites()) names.push_back(r.name);
  const Without all(std::move(names));
  Tensors externals;
  for (const External& e : externals_) externals.push_back(e.tensor);
  trie_.watch->records(build_graph(path_to(current_), external_specs(), {}), externals, scalars_);
}

void Recorder::bind() {
  bound_inputs_.clear();
  bound_storages_.clear();
  for (const External& e : externals_) {
    const Tensor& t = e.snapshot.defined() ? e.snapshot : e.tensor;
    bound_inputs_.push_back(t.bytes());
    bound_storages_.push_back(t.impl()->storage);
  }
}

#ifdef REPRISE_PLANTED_DEFECTS
namespace {

// Defects for the tests: numbers of the plan's first run are used for ever, and its results go to the first run's
// tensors too.
struct FirstRun {
  std::vector<uint64_t> scalars;
  std::vector<Storage*> outputs;
};
std::map<const LeafPlan*, FirstRun> first_runs;

void plant(const LeafPlan& plan, const std::vector<TraceOp*>& pending, std::vector<uint64_t>& scalars) {
  if (!planted(Defect::baked_scalar) && !planted(Defect::frozen_random) && !planted(Defect::shared_random)) return;
  FirstRun& first = first_runs[&plan];
  if (first.scalars.size() != scalars.size()) first.scalars = scalars;
  size_t at = 0, random = SIZE_MAX;
  for (const TraceOp* t : pending)
    for (int k = 0; planted(Defect::shared_random) && k < t->scalar_count; ++k, ++at)
      if (t->op->random && k == position_scalar && std::exchange(random, std::min(random, at)) != SIZE_MAX)
        scalars[at] = scalars[random];
  at = 0;
  for (const TraceOp* t : pending)
    for (int k = 0; k < t->scalar_count; ++k, ++at)
      if (t->op->random ? planted(Defect::frozen_random) : planted(Defect::baked_scalar) && t->op->kind != Kind::view)
        scalars[at] = first.scalars[at];
}

void plant_outputs(const LeafPlan& plan, const std::vector<Storage*>& outputs) {
  if (!planted(Defect::reused_output)) return;
  FirstRun& first = first_runs[&plan];
  if (first.outputs.size() != outputs.size()) {
    first.outputs = outputs;
    for (Storage* s : outputs)
      if (s) retain(s);
  }
  for (size_t j = 0; j < outputs.size(); ++j)
    if (outputs[j] && first.outputs[j] && outputs[j]->bytes == first.outputs[j]->bytes &&
        outputs[j] != first.outputs[j])
      std::memcpy(first.outputs[j]->data, outputs[j]->data, outputs[j]->bytes);
}

}  // namespace
#endif

void Recorder::run_plan(const LeafPlan& plan) {
#ifdef REPRISE_PLANTED_DEFECTS
  plant(plan, pending_, scalars_);
  std::vector<Storage*> kept;
  for (int32_t root : plan.live) kept.push_back(held(root) ? roots_[static_cast<size_t>(root)] : nullptr);
#endif
  bind();
  bound_outputs_.clear();
  Tensors dropped;  // values the plan keeps though nobody holds them this time
  int64_t bytes = 0;
  for (size_t j = 0; j < plan.live.size(); ++j) {
    const Layout* layout = plan.code->output_layout(j);
    bytes += static_cast<int64_t>(layout->bytes());
    Storage* waiting = roots_[static_cast<size_t>(plan.live[j])];
    if (!held(plan.live[j])) {
      dropped.push_back(allocate(layout->packed));
      bound_outputs_.push_back(dropped.back().bytes());
      continue;
    }
    materialize(*waiting, layout->bytes());
    waiting->recorder = nullptr;
    bound_outputs_.push_back(waiting->data);
  }
  trie_.stats.output_bytes = bytes;
  running_ = true;
  try {
    plan.code->run(
        {bound_inputs_.data(), bound_storages_.data(), bound_outputs_.data(), scalars_.data(), plan.times.get()});
  } catch (...) {
    for (int32_t root : plan.live)  // what was not computed must not be read
      if (held(root)) dematerialize(*roots_[static_cast<size_t>(root)]);
    fail_pending();
    running_ = false;
    throw;
  }
  running_ = false;
#ifdef REPRISE_PLANTED_DEFECTS
  plant_outputs(plan, kept);
#endif
  count_run(plan);
}

void Recorder::count_run(const LeafPlan& plan) {
  CaptureStats& stats = trie_.stats;
  ++stats.plan_runs;
  stats.planned += static_cast<int64_t>(pending_.size());
  stats.kernels = plan.code->kernels();
  stats.reorders = plan.code->reorders();
  stats.arena_bytes = static_cast<int64_t>(plan.code->arena_bytes());
}

namespace {

// The elements of a storage at one time.
struct Copy {
  Storage* storage;
  std::vector<std::byte> bytes;
  explicit Copy(Storage* s) : storage(s), bytes(bytes_of(*s)) {}
  void restore() const { set_bytes(*storage, bytes); }
};

void restore(const std::vector<Copy>& copies) {
  for (const Copy& c : copies) c.restore();
}

struct Restored {
  const std::vector<Copy>& copies;
  ~Restored() { restore(copies); }
};

// The storages that a graph writes, as they are now.
std::vector<Copy> copies_of_written(const Graph& g, const std::vector<Storage*>& owners) {
  std::vector<Copy> copies;
  for (int32_t w : g.writes) {
    const auto input = std::find(g.inputs.begin(), g.inputs.end(), base_of(g, w));
    copies.emplace_back(owners[static_cast<size_t>(input - g.inputs.begin())]);
  }
  return copies;
}

// Flat elements of a storage that a graph writes.
const Layout* written_layout(const Graph& g, size_t write, const Storage& storage) {
  const DType dtype = g[base_of(g, g.writes[write])].layout->dtype();
  return intern({dtype, {static_cast<int64_t>(storage.bytes / size_of(dtype))}, storage.device});
}

// The largest difference of two results, and the same in relation to the largest element.
struct Gap {
  double absolute = 0, relative = 0;
};

Gap gap(const Tensors& exact, const Tensors& other) {
  Gap result;
  for (size_t i = 0; i < exact.size(); ++i)
    visit_dtype(exact[i].dtype(), [&]<class T>(T) {
      const HostBytes of_exact(exact[i]), of_other(other[i]);
      const T *a = of_exact.as<T>(), *b = of_other.as<T>();
      double largest = 0, size = 0;
      for (int64_t k = 0; k < exact[i].numel(); ++k) {
        if (a[k] == b[k] || (a[k] != a[k] && b[k] != b[k])) continue;
        const double d = std::abs(static_cast<double>(a[k]) - static_cast<double>(b[k]));
        largest = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(largest, d);
      }
      for (int64_t k = 0; largest > 0 && k < exact[i].numel(); ++k)
        size = std::max(size, std::abs(static_cast<double>(a[k])));
      result.absolute = std::max(result.absolute, largest);
      if (largest > 0) result.relative = std::max(result.relative, size > 0 ? largest / size : largest);
    });
  return result;
}

std::string gap_text(std::string_view rewrite, const Gap& g) {
  if (g.absolute == 0) return fmt::format("fast: {} changes no result", rewrite);
  return fmt::format("fast: {} changes results by at most {:.2g}, {:.2g} of the largest element", rewrite, g.absolute,
                     g.relative);
}

std::string mismatch_text(const char* what, const Layout& layout, const std::byte* eager, const std::byte* graph,
                          int64_t at) {
  const int64_t n = count_differing(eager, graph, layout.numel, layout.dtype());
  return visit_dtype(layout.dtype(), [&]<class T>(T) {
    T a, b;
    std::memcpy(&a, eager + at * static_cast<int64_t>(sizeof a), sizeof a);
    std::memcpy(&b, graph + at * static_cast<int64_t>(sizeof b), sizeof b);
    return fmt::format("{} {}: element {} is {} by eager, {} by the graph; {} of {} differ", what,
                       to_string(layout.spec), at, Computed<T>(a), Computed<T>(b), n, layout.numel);
  });
}

// What differs: an output of the graph, or, behind them, one of its writes.
struct Mismatch {
  int index = -1;
  std::string text{};
};

// Where what the plan has left behind differs from the reference; empty if nowhere.
Mismatch first_mismatch(const Graph& g, const Tensors& kept, const Tensors& results, const std::vector<Copy>& before,
                        const std::vector<Copy>& reference) {
  for (size_t j = 0; j < kept.size(); ++j) {
    if (!kept[j].defined()) continue;
    const Layout& layout = kept[j].layout();
    const HostBytes eager(kept[j]), graph(results[j]);
    const int64_t at = first_differing(eager.data(), graph.data(), layout.numel, layout.dtype());
    if (at >= 0) return {static_cast<int>(j), mismatch_text("result", layout, eager.data(), graph.data(), at)};
  }
  for (size_t k = 0; k < before.size(); ++k) {
    const Layout& flat = *written_layout(g, k, *before[k].storage);
    const std::vector<std::byte> graph = bytes_of(*before[k].storage);
    const std::byte* eager = reference[k].bytes.data();
    const int64_t at = first_differing(eager, graph.data(), flat.numel, flat.dtype());
    if (at >= 0)
      return {static_cast<int>(kept.size() + k), mismatch_text("written elements", flat, eager, graph.data(), at)};
  }
  return {};
}

}  // namespace

// Runs the pending ops one by one for reference, then the plan from the same state, and compares what both leave
// behind. The reference stays in force.
void Recorder::verify_plan(const LeafPlan& plan) {
  const Graph& g = plan.code->graph();
  bind();
  const std::vector<Copy> before = copies_of_written(g, bound_storages_);
  Tensors kept;  // the reference's results
  for (int32_t root : plan.live) {
    Storage* s = roots_[static_cast<size_t>(root)];
    kept.push_back(held(root) ? storage_view(s, g[base_of(g, g.outputs[kept.size()])].layout) : Tensor());
  }
  const std::vector<TraceOp*> pending = pending_;
  {
    const Without packed({"pack"});  // copies of operands must be of no consequence
    run_op_by_op();
  }
  pending_ = pending;
  std::vector<Copy> reference;
  for (const Copy& c : before) reference.emplace_back(c.storage);
  Tensors results;
  const auto with_frame = [&](const Executable& code, const std::function<void(const Frame&)>& use) {
    results.clear();
    std::vector<std::byte*> outputs;
    for (size_t j = 0; j < plan.live.size(); ++j) {
      results.push_back(allocate(code.output_layout(j)->packed));
      outputs.push_back(results.back().bytes());
      engine.backend(results.back().device()).fill(outputs.back(), std::byte{0xa5}, results.back().layout().bytes());
    }
    restore(before);
    use({.inputs = bound_inputs_.data(),
         .storages = bound_storages_.data(),
         .outputs = outputs.data(),
         .scalars = scalars_.data(),
         .poison = true});
  };
  const auto mismatch = [&](const Executable& code) {
    Mismatch found;
    with_frame(code, [&](const Frame& frame) {
      code.run(frame);
      found = first_mismatch(g, kept, results, before, reference);
    });
    return found;
  };
  Mismatch first = mismatch(*plan.code);
  std::string report = std::move(first.text);
  ++trie_.stats.verified;
  if (report.empty()) return;
  const Culprit culprit = bisect({
      .code = plan.code.get(),
      .wrong = static_cast<size_t>(first.index),
      .graph = [&] { return build_graph(path_to(current_), external_specs(), plan.live); },
      .differs = [&](const Executable& code) { return mismatch(code).index; },
      .with_frame = [&](const std::function<void(const Frame&)>& use) { with_frame(*plan.code, use); },
  });
  restore(reference);
  report = fmt::format("verify: capture '{}' differs from eager: {}\n  {}", trie_.options.name, report, culprit.text);
  if (trie_.culprit.text.empty()) trie_.culprit = culprit;
  tell(report);
}

// What each rewrite that may change bits changes in what the pending segment is about to compute, in words.
std::vector<std::string> Recorder::differences(const CompileWith& compile) {
  bind();
  const auto results = [&](std::vector<std::string_view> allowed) {
    const std::unique_ptr<Executable> code = compile(std::move(allowed));
    const Graph& g = code->graph();
    const std::vector<Copy> before = copies_of_written(g, bound_storages_);
    Tensors list;
    std::vector<std::byte*> outputs;
    for (size_t j = 0; j < g.outputs.size(); ++j) {
      list.push_back(allocate(code->output_layout(j)->packed));
      outputs.push_back(list.back().bytes());
    }
    const Restored restored{before};
    code->run({bound_inputs_.data(), bound_storages_.data(), outputs.data(), scalars_.data()});
    for (size_t k = 0; k < before.size(); ++k) {
      const Layout* flat = written_layout(g, k, *before[k].storage);
      list.push_back(allocate(flat));
      engine.backend(flat->spec.device).copy(list.back().bytes(), before[k].storage->data, flat->bytes());
    }
    return list;
  };
  std::vector<std::string> notes;
  try {
    const Tensors exact = results({});
    for (const Rewrite& r : inexact_rewrites()) notes.push_back(gap_text(r.name, gap(exact, results({r.name}))));
  } catch (const Error& error) {  // the ops will throw it again, if they do
    notes.push_back(fmt::format("fast: not compared with exact: {}", error.what()));
  }
  return notes;
}

void Recorder::tell(const std::string& report) {
  trie_.note(report);
  if (trie_.options.on_mismatch == OnMismatch::throw_error) {
    fail_pending();  // the reference has run: nothing may run again
    throw Error(report, At::where());
  }
  std::fprintf(stderr, "%s\n", report.c_str());
}

int64_t first_differing(const std::byte* a, const std::byte* b, int64_t count, DType dtype) {
  return visit_dtype(dtype, [&]<class T>(T) -> int64_t {
    for (int64_t i = 0; i < count; ++i) {
      T x, y;
      std::memcpy(&x, a + i * static_cast<int64_t>(sizeof x), sizeof x);
      std::memcpy(&y, b + i * static_cast<int64_t>(sizeof y), sizeof y);
      if (std::memcmp(&x, &y, sizeof x) && !(x != x && y != y)) return i;
    }
    return -1;
  });
}

int64_t first_differing(const Tensor& a, const Tensor& b) {
  return first_differing(HostBytes(a).data(), HostBytes(b).data(), a.numel(), a.dtype());
}

int64_t count_differing(const std::byte* a, const std::byte* b, int64_t count, DType dtype) {
  const auto element = static_cast<int64_t>(size_of(dtype));
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) n += first_differing(a + i * element, b + i * element, 1, dtype) >= 0;
  return n;
}

// Computes one pending op; its result goes into the pending storage that waits for it, if somebody still holds that.
Tensor Recorder::run_one(const TraceOp& t, size_t first_scalar, const std::vector<Tensor>& values) {
  const Tensor* few[8];
  std::vector<const Tensor*> many(t.inputs.size() > 8 ? t.inputs.size() : 0);
  const Tensor** inputs = many.empty() ? few : many.data();
  for (size_t i = 0; i < t.inputs.size(); ++i) {
    const int32_t ref = t.inputs[i].ref;
    const External* e = ref < 0 ? &externals_[static_cast<size_t>(~ref)] : nullptr;
    inputs[i] = !e ? &values[static_cast<size_t>(ref)] : e->snapshot.defined() ? &e->snapshot : &e->tensor;
  }
  Call call{.op = t.op, .inputs = {inputs, t.inputs.size()}, .attrs = t.attrs, .scalar_mask = t.scalar_mask};
  call.scalars = Scalars({scalars_.data() + first_scalar, static_cast<size_t>(t.scalar_count)});
  AtForward at(t.loc);
  if (t.slot < 0) {
    const uint32_t version = inputs[0]->impl()->storage->version;
    Tensor y = engine.run(call, t.out);
    inputs[0]->impl()->storage->version = version;  // it was counted when the op was deferred
    return y;
  }
  if (t.op->kind == Kind::view) return run_now(call);
  if (!held(t.slot)) return run_now(call);
  Storage* waiting = roots_[static_cast<size_t>(t.slot)];
  materialize(*waiting, t.out->bytes());
  waiting->recorder = nullptr;
  const Tensor y = storage_view(waiting, t.out);
  try {
    engine.run_out(call, y);
  } catch (...) {
    dematerialize(*waiting);
    throw;
  }
  return y;
}

// Which op reads a slot last; what nobody reads, the op that makes it.
std::vector<const TraceOp*> Recorder::last_readers() const {
  std::vector<const TraceOp*> last(static_cast<size_t>(slots_));
  for (const TraceOp* t : pending_) {
    if (t->slot >= 0) last[static_cast<size_t>(t->slot)] = t;
    for (const OperandRef& r : t->inputs)
      if (r.ref >= 0) last[static_cast<size_t>(r.ref)] = t;
  }
  return last;
}

void Recorder::run_op_by_op() {
  const std::optional<Span> shown = span("op by op", "{} ops", pending_.size());
  running_ = true;
  const Unarmed guard;
  std::vector<Tensor> values(static_cast<size_t>(slots_));
  const std::vector<const TraceOp*> last = last_readers();
  const auto drop = [&](int32_t slot, const TraceOp* after) {
    if (slot >= 0 && last[static_cast<size_t>(slot)] == after) values[static_cast<size_t>(slot)] = {};
  };
  size_t scalar = 0;
  try {
    for (const TraceOp* t : pending_) {
      Tensor y = run_one(*t, scalar, values);
      if (trie_.watch && trie_.watch->makes) trie_.watch->makes(*t, y);
      scalar += t->scalar_count;
      if (t->slot >= 0) values[static_cast<size_t>(t->slot)] = std::move(y);
      drop(t->slot, t);
      for (const OperandRef& r : t->inputs) drop(r.ref, t);
    }
  } catch (...) {
    fail_pending();
    running_ = false;
    throw;
  }
  pending_.clear();
  running_ = false;
}

// After an op has failed: what should have come after it will never be computed.
void Recorder::fail_pending() {
  drop_roots();
  pending_.clear();
  state_ = State::off;
}

}  // namespace rp
