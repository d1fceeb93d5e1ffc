// Control ops as kernels of a plan. A body is a plan of its own. Its carries alternate between two buffers, unless a
// result stacks them: then each step writes into the stack, and the next reads there.
#include "reprise/fusion/control.h"

#include <algorithm>
#include <cstring>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"
#include "reprise/core/trace_events.h"
#include "reprise/fusion/plan.h"
#include "reprise/graph/control_run.h"
#include "reprise/graph/passes.h"

namespace rp {
namespace {

constexpr size_t alignment = 64;
size_t padded(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// A body with the outputs that are wanted, each once.
Graph with_outputs(const Graph& body, std::vector<int32_t> outputs) {
  Graph g = body;
  g.outputs = std::move(outputs);
  return run_passes(std::move(g));
}

int32_t add_unique(std::vector<int32_t>& list, int32_t value) {
  const auto it = std::find(list.begin(), list.end(), value);
  if (it != list.end()) return static_cast<int32_t>(it - list.begin());
  list.push_back(value);
  return static_cast<int32_t>(list.size()) - 1;
}

Backend& backend_of(const Region& region) {
  return engine.backend(region.operands.empty() ? Device() : region.operands[0].layout->spec.device);
}

// Storages for operands that the plan around holds itself, so that packed copies of them last for one run.
class Owners {
 public:
  Owners(const RegionCall& call, size_t count) : own_(count) {
    for (size_t i = 0; i < count; ++i) {
      own_[i].data = call.pointers[i];
      list_.push_back(call.storages[i] ? call.storages[i] : &own_[i]);
    }
  }
  Storage* operator[](size_t i) const { return list_[i]; }

 private:
  std::vector<Storage> own_;
  std::vector<Storage*> list_;
};

class ScanKernel final : public RegionKernel {
 public:
  /// `why`: what forbids one kernel for all steps.
  ScanKernel(const Region& region, bool fuse, std::string why)
      : backend_(backend_of(region)), a_(region.attrs.as<ControlAttrs>()), why_(std::move(why)) {
    const auto inputs = region.operands.size() - region.results.size();
    operands_ = inputs;
    result_operand_.assign(static_cast<size_t>(a_.results), -1);
    for (size_t k = 0; k < region.results.size(); ++k)
      result_operand_[static_cast<size_t>(region.results[k])] = static_cast<int>(inputs + k);
    for (int32_t i = a_.carries; i < a_.carries + a_.inputs; ++i) {
      const Layout& l = *region.operands[static_cast<size_t>(i)].layout;
      x_step_.push_back(l.strides[0] * static_cast<int64_t>(size_of(l.dtype())));
    }
    choose_outputs();
    plan_ = std::make_unique<Plan>(with_outputs(*a_.body, nodes_), fuse);
    positions_ = random_positions(*a_.body);
    arena_at_ = scratch_;
    scratch_ += padded(plan_->arena_bytes());
  }

  void run(const RegionCall& call) const override;
  std::string form() const override {
    return fmt::format("{} steps{}{}", a_.length, why_.empty() ? "" : ", launched one by one: ", why_);
  }
  size_t scratch_bytes() const override { return scratch_; }
  std::vector<Body> bodies() const override { return {{"step", plan_.get(), a_.length}}; }

 private:
  // One value that a step computes, and what it is.
  struct Output {
    size_t bytes;
    std::vector<int32_t> carries, stacks;  // numbers of results
    size_t scratch;                        // two buffers, in turn
  };
  // A stack of a carry as it is when a step begins.
  struct Echo {
    int32_t carry, result;
    size_t bytes;
  };
  struct State {
    std::vector<std::byte*> inputs, outputs;
    std::vector<Storage*> storages;
  };

  void choose_outputs();
  int32_t echo_of(int32_t node) const;
  std::byte* result(const RegionCall& call, int32_t k) const {
    return call.pointers[result_operand_[static_cast<size_t>(k)]];
  }
  bool wanted(int32_t k) const { return result_operand_[static_cast<size_t>(k)] >= 0; }
  std::byte* target(const RegionCall& call, const Output& o, int64_t step) const;
  int64_t time(int64_t step) const {
    return a_.reverse && !planted(Defect::scan_reverse) ? a_.length - 1 - step : step;
  }

  Backend& backend_;
  ControlAttrs a_;
  std::string why_;
  bool in_place_ = !disabled("carries");  // carries and stacks are made where they are wanted
  size_t operands_ = 0;
  std::vector<int> result_operand_;
  std::vector<int64_t> x_step_;  // bytes from step to step
  std::vector<Output> outputs_;
  std::vector<Echo> echoes_;
  std::vector<int32_t> nodes_;  // of the body, by output
  std::vector<int32_t> positions_;
  std::unique_ptr<Plan> plan_;
  size_t scratch_ = 0, arena_at_ = 0;
};

// The carry whose value when a step begins a result stacks, -1 if it is something else.
int32_t ScanKernel::echo_of(int32_t node) const {
  const Graph& g = *a_.body;
  if (g[node].op != &copy_op) return -1;
  const auto first = g.inputs.begin(), last = first + a_.carries, carry = std::find(first, last, g[node].inputs[0]);
  return carry != last && g[*carry].layout->contiguous ? static_cast<int32_t>(carry - first) : -1;
}

void ScanKernel::choose_outputs() {
  const Graph& g = *a_.body;
  for (int32_t k = 0; k < a_.results; ++k) {
    const int32_t node = g.outputs[static_cast<size_t>(k)];
    const Layout& layout = *g[node].layout;
    if (k >= a_.carries) {
      if (!wanted(k)) continue;
      if (const int32_t carry = in_place_ ? echo_of(node) : -1; carry >= 0) {
        echoes_.push_back({carry, k, layout.bytes()});
        continue;
      }
    }
    const auto u = static_cast<size_t>(add_unique(nodes_, node));
    if (u == outputs_.size()) outputs_.push_back({layout.bytes(), {}, {}, 0});
    (k < a_.carries ? outputs_[u].carries : outputs_[u].stacks).push_back(k);
  }
  for (Output& o : outputs_) {
    o.scratch = scratch_;
    scratch_ += 2 * padded(o.bytes);
  }
}

// Where a step leaves a value.
std::byte* ScanKernel::target(const RegionCall& call, const Output& o, int64_t step) const {
  if (!in_place_) return call.scratch + o.scratch + (step & 1 && !planted(Defect::scan_buffers) ? padded(o.bytes) : 0);
  if (!o.stacks.empty()) return result(call, o.stacks[0]) + time(step) * static_cast<int64_t>(o.bytes);
  if (step + 1 == a_.length) {
    for (int32_t c : o.carries)
      if (wanted(c)) return result(call, c);
  } else {
    for (const Echo& e : echoes_)
      if (std::find(o.carries.begin(), o.carries.end(), e.carry) != o.carries.end())
        return result(call, e.result) + time(step + !planted(Defect::echo_step)) * static_cast<int64_t>(o.bytes);
  }
  return call.scratch + o.scratch + (step & 1 && !planted(Defect::scan_buffers) ? padded(o.bytes) : 0);
}

void ScanKernel::run(const RegionCall& call) const {
  const auto carries = static_cast<size_t>(a_.carries), xs = static_cast<size_t>(a_.inputs);
  const Owners owners(call, operands_);
  State now{{call.pointers, call.pointers + operands_}, std::vector<std::byte*>(outputs_.size()), {}};
  for (size_t i = 0; i < operands_; ++i) now.storages.push_back(i < carries + xs ? nullptr : owners[i]);
  StepScalars scalars({call.scalars, static_cast<size_t>(a_.body->parameters)}, positions_, a_.draws);
  Plan::Bindings bindings;
  for (int64_t s = 0; s < a_.length; ++s) {
    const std::optional<Span> shown = span("step", "step {}", s);
    const int64_t t = time(s);
    for (size_t i = 0; i < xs; ++i) now.inputs[carries + i] = call.pointers[carries + i] + t * x_step_[i];
    for (const Echo& e : echoes_) {
      std::byte* to = result(call, e.result) + t * static_cast<int64_t>(e.bytes);
      if (std::byte* from = now.inputs[static_cast<size_t>(e.carry)]; from != to) backend_.copy(to, from, e.bytes);
    }
    for (size_t u = 0; u < outputs_.size(); ++u) now.outputs[u] = target(call, outputs_[u], s);
    plan_->run({now.inputs.data(), now.storages.data(), now.outputs.data(),
                scalars.at(planted(Defect::scan_position) ? 0 : t).data()},
               call.scratch + arena_at_, bindings);
    for (size_t u = 0; u < outputs_.size(); ++u) {
      const Output& o = outputs_[u];
      for (size_t j = in_place_; j < o.stacks.size(); ++j)
        backend_.copy(result(call, o.stacks[j]) + t * static_cast<int64_t>(o.bytes), now.outputs[u], o.bytes);
      for (int32_t c : o.carries) now.inputs[static_cast<size_t>(c)] = now.outputs[u];
    }
  }
  for (size_t c = 0; c < carries; ++c) {
    const auto k = static_cast<int32_t>(c);
    if (!wanted(k) || result(call, k) == now.inputs[c] || planted(Defect::last_carry)) continue;
    backend_.copy(result(call, k), now.inputs[c], (*a_.body)[a_.body->outputs[c]].layout->bytes());
  }
}

// The outputs of a branch that are wanted go straight to the results.
class CondKernel final : public RegionKernel {
 public:
  CondKernel(const Region& region, bool fuse) : backend_(backend_of(region)), a_(region.attrs.as<ControlAttrs>()) {
    operands_ = region.operands.size() - region.results.size();
    const Graph* const bodies[] = {a_.body, a_.other};
    for (int i = 0; i < 2; ++i) {
      std::vector<int32_t> outputs;
      for (int32_t k : region.results) outputs.push_back(bodies[i]->outputs[static_cast<size_t>(k)]);
      plans_[i] = std::make_unique<Plan>(with_outputs(*bodies[i], std::move(outputs)), fuse);
    }
  }

  void run(const RegionCall& call) const override {
    bool yes;
    backend_.read(reinterpret_cast<std::byte*>(&yes), call.pointers[0], 1);
    const Owners owners(call, operands_);
    std::vector<Storage*> storages;
    for (size_t i = 1; i < operands_; ++i) storages.push_back(owners[i]);
    Plan::Bindings bindings;
    const std::optional<Span> shown = span("step", "{}", yes ? "if true" : "if not");
    plans_[yes ? 0 : 1]->run({call.pointers + 1, storages.data(), call.pointers + operands_,
                              call.scalars + (yes != planted(Defect::cond_scalars) ? 0 : a_.body->parameters)},
                             call.scratch, bindings);
  }
  std::string form() const override { return "two branches"; }
  size_t scratch_bytes() const override { return std::max(plans_[0]->arena_bytes(), plans_[1]->arena_bytes()); }
  std::vector<Body> bodies() const override {
    return {{"if true", plans_[0].get(), 1}, {"if not", plans_[1].get(), 1}};
  }

 private:
  Backend& backend_;
  ControlAttrs a_;
  size_t operands_;
  std::unique_ptr<Plan> plans_[2];
};

class WhileKernel final : public RegionKernel {
 public:
  WhileKernel(const Region& region, bool fuse)
      : backend_(backend_of(region)), a_(region.attrs.as<ControlAttrs>()), results_(region.results) {
    operands_ = region.operands.size() - region.results.size();
    test_ = std::make_unique<Plan>(*a_.other, fuse);
    body_ = std::make_unique<Plan>(*a_.body, fuse);
    for (int32_t i : a_.body->outputs) bytes_.push_back((*a_.body)[i].layout->bytes());
    for (size_t b : bytes_) state_ += padded(b);
    arena_ = padded(std::max(test_->arena_bytes(), body_->arena_bytes()));
  }

  void run(const RegionCall& call) const override {
    const auto carries = static_cast<size_t>(a_.carries), closed = static_cast<size_t>(a_.closed);
    const Owners owners(call, operands_);
    std::vector<std::byte*> test_inputs(call.pointers, call.pointers + carries + closed), body_inputs = test_inputs;
    body_inputs.resize(carries);
    body_inputs.insert(body_inputs.end(), call.pointers + carries + closed, call.pointers + operands_);
    std::vector<Storage*> test_storages(carries), body_storages(carries);
    for (size_t i = carries; i < operands_; ++i)
      (i < carries + closed ? test_storages : body_storages).push_back(owners[i]);
    StepScalars of_body({call.scalars, static_cast<size_t>(a_.body->parameters)}, random_positions(*a_.body), a_.draws);
    StepScalars of_test({call.scalars + a_.body->parameters, static_cast<size_t>(a_.other->parameters)},
                        random_positions(*a_.other), a_.draws);
    std::byte* arena = call.scratch + 2 * state_;
    std::byte* go = arena + arena_;
    Plan::Bindings bindings;
    int stopped = planted(Defect::extra_trip) ? 0 : 1;
    for (int64_t t = 0; a_.length < 0 || t < a_.length; ++t) {
      const std::optional<Span> shown = span("step", "trip {}", t);
      test_->run({test_inputs.data(), test_storages.data(), &go, of_test.at(t).data()}, arena, bindings);
      std::byte goes_on;
      backend_.read(&goes_on, go, 1);
      if (goes_on == std::byte{0} && stopped++) break;
      std::vector<std::byte*> next;
      std::byte* at = call.scratch + (t & 1 ? state_ : 0);
      for (size_t b : bytes_) next.push_back(std::exchange(at, at + padded(b)));
      body_->run({body_inputs.data(), body_storages.data(), next.data(), of_body.at(t).data()}, arena, bindings);
      std::copy(next.begin(), next.end(), test_inputs.begin());
      std::copy(next.begin(), next.end(), body_inputs.begin());
    }
    for (size_t k = 0; k < results_.size(); ++k) {
      const auto c = static_cast<size_t>(results_[k]);
      backend_.copy(call.pointers[operands_ + k], test_inputs[c], bytes_[c]);
    }
  }
  std::string form() const override { return "loop"; }
  size_t scratch_bytes() const override { return 2 * state_ + arena_ + alignment; }
  std::vector<Body> bodies() const override { return {{"condition", test_.get(), 1}, {"trip", body_.get(), 1}}; }

 private:
  Backend& backend_;
  ControlAttrs a_;
  std::vector<int32_t> results_;
  size_t operands_;
  std::unique_ptr<Plan> test_, body_;
  std::vector<size_t> bytes_;
  size_t state_ = 0, arena_ = 0;
};

// The bodies op by op, as eager runs them.
class SteppedKernel final : public RegionKernel {
 public:
  explicit SteppedKernel(const Region& region) : region_(region) {}

  void run(const RegionCall& call) const override {
    backend_of(region_).synchronize();  // no part of a replay: its tensors are gone before the next run
    const size_t inputs = region_.operands.size() - region_.results.size();
    Tensors operands;
    for (size_t i = 0; i < inputs; ++i) operands.push_back(at(call, i));
    std::vector<const Tensor*> pointers;
    for (const Tensor& t : operands) pointers.push_back(&t);
    const Tensor token = allocate(intern({DType::boolean, {}, {}}));
    const Scalars scalars({call.scalars, static_cast<size_t>(region_.scalars)});
    engine.run_control({.op = region_.op, .inputs = pointers, .attrs = region_.attrs, .scalars = scalars}, token);
    for (size_t k = 0; k < region_.results.size(); ++k) {
      const Tensor value = engine.result_of(token, region_.results[k]);
      const Tensor* from[] = {&value};
      engine.run_out({.op = &copy_op, .inputs = from}, at(call, inputs + k));
    }
  }
  std::string form() const override { return "op by op"; }

 private:
  Tensor at(const RegionCall& call, size_t k) const {
    const Layout* layout = region_.operands[k].layout;
    return alias(
        adopt(call.pointers[k], intern({layout->dtype(), {extent_of(*layout)}, layout->spec.device}), nullptr, nullptr),
        layout, 0);
  }
  Region region_;
};

}  // namespace

std::unique_ptr<RegionKernel> compile_control(const Region& region, bool fuse) {
  if (disabled("body")) return std::make_unique<SteppedKernel>(region);
  if (region.op == &scan_op) {
    std::string why;
    if (fuse && !disabled("persist"))
      if (auto kernel = backend_of(region).compile_scan(region, &why)) return kernel;
    return std::make_unique<ScanKernel>(region, fuse, std::move(why));
  }
  if (region.op == &cond_op) return std::make_unique<CondKernel>(region, fuse);
  return std::make_unique<WhileKernel>(region, fuse);
}

}  // namespace rp
