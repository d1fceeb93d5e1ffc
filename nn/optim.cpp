#include "reprise/nn/optim.h"

#include <algorithm>
#include <cmath>

#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/eager/grad.h"

namespace rp {
namespace {

/// What this thread's optimisers train. Two of them may share one loss, as in adversarial training, so a leaf is
/// missing only if none of them knows it.
thread_local std::vector<std::weak_ptr<const Module>> trained;

std::shared_ptr<const Module> enlist(const Module& module) {
  std::erase_if(trained, [](const auto& m) { return m.expired(); });
  auto shared = std::make_shared<const Module>(module);
  trained.push_back(shared);
  return shared;
}

struct Listed : Module {
  Listed(const Tensors& tensors, const Loc& loc) {
    for (size_t i = 0; i < tensors.size(); ++i) param(std::to_string(i), tensors[i], loc);
  }
};

void check_sgd(const SgdOptions& options, const Loc& loc) {
  At at(loc);
  if (options.nesterov && options.momentum == 0) fail("sgd: nesterov needs a momentum, got 0");
}

/// As it is computed with and kept as state: steps of 16-bit parameters, and Adam's eps, would round to nothing.
Tensor wide(const Tensor& t) { return t.to(widened(t.dtype())); }

/// Moves both moments towards the gradient; the step's factors depend on how many steps there were.
struct Moments {
  double step, root;  // p -= m * step / (sqrt(v) * root + eps)
};

template <class Slot, class Options>
Moments advance(Slot& slot, const Tensor& g, const Options& o) {
  if (!slot.first.defined()) {
    slot.first = zeros_like(g);
    slot.second = zeros_like(g);
  }
  ++slot.steps;
  const auto t = static_cast<double>(slot.steps);
  slot.first.copy_(slot.first * o.beta1 + g * (1 - o.beta1));
  slot.second.copy_(slot.second * o.beta2 + square(g) * (1 - o.beta2));
  return {o.lr / (1 - std::pow(o.beta1, t)), 1 / std::sqrt(1 - std::pow(o.beta2, t))};
}

}  // namespace

Optimizer::Optimizer(const char* name, const Module& module) : name_(name), module_(enlist(module)) {}

Optimizer::Optimizer(const char* name, const Tensors& parameters, const Loc& loc)
    : Optimizer(name, Listed(parameters, loc)) {}

void Optimizer::refresh() {
  const uint64_t now = detail::module_registrations();
  if (seen_ == now) return;
  std::vector<Slot> slots;
  for (const auto& [name, p] : module_->parameters()) {
    auto known = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) { return s.param.is(p); });
    slots.push_back(known == slots_.end() ? Slot{p, {}, {}, 0} : std::move(*known));
  }
  slots_ = std::move(slots);
  seen_ = now;
}

void Optimizer::check_registered() const {
  Tensors missing;
  for (const Tensor& leaf : last_backward_leaves()) {
    bool known = false;
    for (const auto& weak : trained) {
      auto module = weak.lock();
      if (!module || known) continue;
      NamedTensors all = module->parameters();
      known = std::any_of(all.begin(), all.end(), [&](const auto& p) { return p.second.is(leaf); });
    }
    if (!known) missing.push_back(leaf);
  }
  if (missing.empty()) return;
  std::string more = missing.size() > 1 ? fmt::format(" ({} such parameters in all)", missing.size()) : "";
  fail(
      "{}: the loss reaches a parameter {} that no module registered{}; make it with param() or its module with "
      "child(), "
      "or detach it",
      name_, to_string(missing[0].spec()), more);
}

void Optimizer::zero_grad() {
  refresh();
  for (Slot& slot : slots_) slot.param.set_grad(Tensor());
}

Tensors Optimizer::parameters() {
  refresh();
  Tensors all;
  for (const Slot& slot : slots_) all.push_back(slot.param);
  return all;
}

void Optimizer::step(Loc loc) {
  At at(loc);
  NoGrad guard;
  refresh();
  if (!checked_) check_registered();
  checked_ = true;
  for (Slot& slot : slots_) {
    for (Tensor* state : {&slot.first, &slot.second})  // follows its parameter to another device
      if (state->defined()) *state = state->to(slot.param.device());
    if (const Tensor g = slot.param.grad(); g.defined()) slot.param.copy_(updated(slot, wide(slot.param), wide(g)));
  }
}

Sgd::Sgd(const Module& module, SgdOptions options, Loc loc) : Optimizer("sgd", module), options_(options) {
  check_sgd(options, loc);
}

Sgd::Sgd(const Tensors& parameters, SgdOptions options, Loc loc)
    : Optimizer("sgd", parameters, loc), options_(options) {
  check_sgd(options, loc);
}

Tensor Sgd::updated(Slot& slot, const Tensor& p, Tensor g) {
  const SgdOptions& o = options_;
  if (o.weight_decay != 0) g = g + p * o.weight_decay;
  if (o.momentum != 0) {
    if (!slot.first.defined()) slot.first = zeros_like(p);
    slot.first.copy_(slot.first * o.momentum + g);
    g = o.nesterov ? g + slot.first * o.momentum : slot.first;
  }
  return p - g * o.lr;
}

Adam::Adam(const Module& module, AdamOptions options) : Optimizer("adam", module), options_(options) {}

Adam::Adam(const Tensors& parameters, AdamOptions options, Loc loc)
    : Optimizer("adam", parameters, loc), options_(options) {}

Tensor Adam::updated(Slot& slot, const Tensor& p, Tensor g) {
  if (options_.weight_decay != 0) g = g + p * options_.weight_decay;
  Moments m = advance(slot, g, options_);
  return p - slot.first * m.step / (sqrt(slot.second) * m.root + options_.eps);
}

AdamW::AdamW(const Module& module, AdamWOptions options) : Optimizer("adamw", module), options_(options) {}

AdamW::AdamW(const Tensors& parameters, AdamWOptions options, Loc loc)
    : Optimizer("adamw", parameters, loc), options_(options) {}

Tensor AdamW::updated(Slot& slot, const Tensor& p, Tensor g) {
  Moments m = advance(slot, g, options_);
  const double keep = 1 - options_.lr * options_.weight_decay;
  return p * keep - slot.first * m.step / (sqrt(slot.second) * m.root + options_.eps);
}

}  // namespace rp
