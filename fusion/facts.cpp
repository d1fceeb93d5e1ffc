// What a plan tells about its kernels, its memory and what was not fused.
#include <algorithm>
#include <chrono>
#include <map>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/switches.h"
#include "reprise/core/trace_events.h"
#include "reprise/fusion/plan.h"

namespace rp {
namespace {

constexpr double call_cost = 30;   // of an out-of-line elementary function, in simple instructions
constexpr double divide_cost = 5;  // of a quotient or a square root

// What a kernel has to do. `work` is in operations of the matrix product's kernel, whose rate is the roof.
struct Cost {
  double flops = 0, work = 0;
};

double width(Type type) { return type == Type::f64 || type == Type::i64 ? 2 : 1; }

// An instruction takes the place of one fma, which counts twice. Sources, stores and changes of type do no arithmetic.
Cost cost_of(const Inst& inst) {
  double slots = 1, flops = 1;
  if (inst.op <= Ir::index || inst.op == Ir::store || inst.op == Ir::convert || inst.op == Ir::bitcast ||
      inst.op == Ir::round16)
    flops = 0;
  if (inst.op == Ir::fma) flops = 2;
  if (inst.op == Ir::div || inst.op == Ir::rem || inst.op == Ir::sqrt) slots = divide_cost;
  if (inst.op == Ir::call) slots = flops = call_cost;
  if (inst.op == Ir::constant || inst.op == Ir::scalar) slots = 0;  // outside of the loop
  return {flops, 2 * slots * width(inst.type)};
}

Cost cost_of(const Region& region, const Draft& draft) {
  int64_t kept = 1, all = 1;
  for (int a = 0; a < draft.shape.rank(); ++a) {
    all *= draft.shape[a];
    if (!(draft.reduced >> a & 1)) kept *= draft.shape[a];
  }
  Cost total;
  for (const Stage& stage : region.stages)
    for (const Inst& inst : stage.program.insts) {
      const Cost one = cost_of(inst);
      const auto count = static_cast<double>(stage.full ? all : kept);
      total.flops += one.flops * count;
      total.work += one.work * count;
    }
  return total;
}

// Products of two elements that an op of kind contract or kernel forms, 0 if it forms none.
double products_of(const Graph& g, const Node& n) {
  const auto in = [&](size_t k) -> const Layout& { return *g[n.inputs[k]].layout; };
  const auto each = [](const Layout& weights) {  // for one element of a convolution's result
    return static_cast<double>(weights.numel) / static_cast<double>(std::max<int64_t>(1, weights.shape()[0]));
  };
  if (n.op->kind == Kind::contract)
    return static_cast<double>(n.layout->numel) * static_cast<double>(in(0).shape().back());
  if (n.op == &conv2d_op) return static_cast<double>(n.layout->numel) * each(in(1));
  if (n.op == &conv2d_backward_data_op) return static_cast<double>(in(0).numel) * each(in(1));
  if (n.op == &conv2d_backward_weights_op) return static_cast<double>(in(1).numel) * each(*n.layout);
  return 0;
}

// Matrix products and convolutions: two operations for each product. Other library kernels (pools, gathers, scatters):
// one for each element of the largest tensor.
Cost cost_of(const Graph& g, const Node& n) {
  const double products = products_of(g, n);
  if (products) return {2 * products, 2 * products * (size_of(n.layout->dtype()) == 8 ? 2 : 1)};
  if (!is_call(*n.op)) return {};
  int64_t most = n.layout->numel;
  for (int32_t in : n.inputs) most = std::max(most, g[in].layout->numel);
  return {static_cast<double>(most), 2 * static_cast<double>(most)};
}

// Bytes that a layout touches: repeated elements count once. An upper bound for kernels that pick elements.
int64_t touched_bytes(const Layout& l) {
  int64_t n = static_cast<int64_t>(size_of(l.dtype()));
  for (int a = 0; a < l.rank(); ++a)
    if (l.strides[a] || !l.shape()[a]) n *= l.shape()[a];
  return n;
}

// The roofline: what takes longest of arithmetic and traffic, besides the launch. Small kernels run on one thread.
double predict(Backend& backend, double work, int64_t bytes) {
  const auto time = [&](const Limits& l) {
    const double rate = static_cast<size_t>(bytes) > backend.cache_size() ? l.memory_bytes : l.cache_bytes;
    return l.launch_ns + 1e9 * std::max(work / l.flops, static_cast<double>(bytes) / rate);
  };
  return std::min(time(backend.limits(false)), time(backend.limits(true)));
}

// Why a pair stays apart where nothing was written down: kinds that are never tried.
std::string rule_by_kind(const Node& producer, const Node& consumer) {
  if (disabled("fuse")) return "fusing is switched off";
  if (consumer.op->kind == Kind::contract) return "a matrix product reads stored factors";
  if (is_call(*consumer.op)) return "a library kernel reads stored operands";
  if (makes_blocks(*producer.op)) return "the consumer had joined another region";
  if (is_call(*producer.op)) return "a library kernel has no epilogue";
  if (producer.op->kind == Kind::write) return "it reads elements after they were written";
  return "together they have more operands than a program takes";
}

}  // namespace

void Plan::run_watched(const Bindings& b, std::byte* arena, const Frame& frame) const {
  using Clock = std::chrono::steady_clock;
  if (frame.times) frame.times->resize(steps_.size());
  for (size_t s = 0; s < steps_.size(); ++s) {
    AtForward at(steps_[s].loc);
    std::optional<Span> shown;
    if (!frame.quiet && traced()) shown.emplace("kernel", steps_[s].label.name, steps_[s].label.members);
    const Clock::time_point start = Clock::now();
    run_step(steps_[s], b, arena);
    if (frame.times) (*frame.times)[s].add(std::chrono::duration<double, std::nano>(Clock::now() - start).count());
  }
}

namespace {

// Texts, each once, in the order in which they came first.
class Once {
 public:
  void add(std::string text) {
    if (!text.empty() && std::find(all_.begin(), all_.end(), text) == all_.end()) all_.push_back(std::move(text));
  }
  const std::vector<std::string>& all() const { return all_; }

 private:
  std::vector<std::string> all_;
};

}  // namespace

Plan::Label Plan::label_of(const Step& step) const {
  Once names, lines, modules, ops;
  for (int32_t i : nodes_of(step)) {
    const Node& n = graph_[i];
    const std::string name(n.op->name), module = n.loc.module ? n.loc.module : "";
    names.add(name);
    lines.add(line_text(n.loc));
    modules.add(module);
    ops.add(json_text(name + source_line(n.loc) + (module.empty() ? "" : ' ' + module)));
  }
  std::string members = "\"form\":" + json_text(step.kernel->form());
  const auto list = [&](const char* key, const Once& texts) {
    if (const auto& all = texts.all(); !all.empty())
      members += fmt::format(",\"{}\":{}", key, json_text(fmt::format("{}", fmt::join(all, ", "))));
  };
  list("line", lines);
  list("module", modules);
  members += fmt::format(",\"ops\":[{}]", fmt::join(ops.all(), ","));
  const std::string_view kind = name_of(lowered_[static_cast<size_t>(step.members[0])].region.kind);
  return {fmt::format("{}: {}", kind, fmt::join(names.all(), ", ")), std::move(members)};
}

KernelFacts Plan::kernel_facts(const Step& step) const {
  KernelFacts k;
  k.kind = name_of(lowered_[static_cast<size_t>(step.members[0])].region.kind);
  k.form = step.kernel->form();
  k.nodes = nodes_of(step);
  Cost total;
  const auto add = [&](const Cost& c) {
    total.flops += c.flops;
    total.work += c.work;
  };
  for (int m : step.members) {
    const Region& region = lowered_[static_cast<size_t>(m)].region;
    add(cost_of(region, partition_.drafts[static_cast<size_t>(m)]));
    for (const RegionOperand& o : region.operands)
      (o.written ? k.bytes_written : k.bytes_read) += touched_bytes(*o.layout);
  }
  for (int32_t i : k.nodes) add(cost_of(graph_, graph_[i]));
  k.flops = static_cast<int64_t>(total.flops);
  k.predicted_ns = predict(*backend_, total.work, k.bytes_read + k.bytes_written);
  for (const RegionKernel::Body& body : step.kernel->bodies()) {
    k.body.push_back(body.plan->facts());
    k.body.back().role = body.role;
    k.body.back().times = body.runs;
    const Totals all = totals(k.body.back());
    k.flops += all.flops * body.runs;
    k.predicted_ns = std::max(k.predicted_ns, all.predicted_ns * static_cast<double>(body.runs));
  }
  return k;
}

// One refusal for each pair of kernels of which one reads what the other makes.
std::vector<RefusalFacts> Plan::refusal_facts(const std::vector<int>& step_of) const {
  const auto step = [&](int32_t node) { return step_of[static_cast<size_t>(node)]; };
  std::map<std::pair<int, int>, const Refusal*> written_down;
  for (const Refusal& r : partition_.refusals) written_down.try_emplace({step(r.producer), step(r.consumer)}, &r);
  std::map<std::pair<int, int>, bool> seen;
  std::vector<RefusalFacts> list;
  for (int32_t i = 0; i < graph_.size(); ++i) {
    if (step(i) < 0) continue;
    for (size_t k = graph_[i].op->kind == Kind::write ? 1 : 0; k < graph_[i].inputs.size(); ++k) {
      const int32_t p = producer_of(graph_, graph_[i].inputs[k]);
      if (p < 0 || step(p) < 0 || step(p) == step(i) || !seen.try_emplace({step(p), step(i)}, true).second) continue;
      const auto it = written_down.find({step(p), step(i)});
      if (it == written_down.end())
        list.push_back({p, i, rule_by_kind(graph_[p], graph_[i])});
      else
        list.push_back({it->second->producer, it->second->consumer, it->second->reason});
    }
  }
  return list;
}

std::vector<BufferFacts> Plan::buffer_facts() const {
  std::vector<BufferFacts> list;
  std::map<int32_t, size_t> number;  // of a node's buffer
  for (size_t s = 0; s < steps_.size(); ++s)
    for (int m : steps_[s].members)
      for (const Place& place : lowered_[static_cast<size_t>(m)].operands) {
        const int64_t home = home_[static_cast<size_t>(place.base)];
        if (graph_[place.base].op->kind == Kind::input || home < 0) continue;
        const auto [it, fresh] = number.try_emplace(place.base, list.size());
        if (fresh)
          list.push_back({place.base, graph_[place.base].layout->bytes(), static_cast<size_t>(home),
                          static_cast<int>(s), static_cast<int>(s)});
        list[it->second].last = static_cast<int>(s);
      }
  return list;
}

int Plan::reorders() const {
  int n = 0;
  for (const Step& step : steps_) n += step.kernel->reorders();
  return n;
}

PlanFacts Plan::facts() const {
  PlanFacts f;
  f.reorders = reorders();
  f.notes = graph_.notes;
  if (replay_) f.notes.push_back(replay_->form());
  for (int32_t i = 0; i < graph_.size(); ++i)
    if (homes_.filled[static_cast<size_t>(i)])
      f.notes.push_back(fmt::format("filled in place: %{} concat{}", i, source_line(graph_[i].loc)));
  f.nodes = node_facts(graph_);
  f.inputs = graph_.inputs;
  f.outputs = graph_.outputs;
  f.writes = graph_.writes;
  std::vector<int> step_of(graph_.nodes.size(), -1);
  for (size_t s = 0; s < steps_.size(); ++s) {
    f.kernels.push_back(kernel_facts(steps_[s]));
    for (int32_t i : f.kernels.back().nodes) f.nodes[static_cast<size_t>(i)].kernel = static_cast<int32_t>(s);
    for (int32_t i : f.kernels.back().nodes) step_of[static_cast<size_t>(i)] = static_cast<int>(s);
  }
  f.refusals = refusal_facts(step_of);
  f.buffers = buffer_facts();
  f.arena_bytes = arena_;
  f.live_bytes = live_;
  return f;
}

}  // namespace rp
