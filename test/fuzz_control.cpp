// Statements with a body, calls of other captures, and gradients.
#include "reprise/test/fuzz.h"

namespace fuzz {
namespace {

void body(const Scope& scope, const Statement& s) {
  ++scope.machine.indent;
  scope.machine.run_block(s.body, scope.locals);
  --scope.machine.indent;
}

// A branch on a value that the engine must compute first.
void if_value(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.numel() > 0; });
  if (!x) return scope.skip();
  Machine& m = scope.machine;
  ++m.coverage.branches;
  ++m.coverage.reads;
  const auto v = rp::mean(*x).item<double>();
  m.say("if (rp::mean({}).item<double>() > {}) {{  // {}", scope.name(*x), s.x - 0.5, v > s.x - 0.5);
  if (v > s.x - 0.5) body(scope, s);
  m.say("}}");
}

void while_value(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return is_real(t) && t.numel() > 0; });
  if (!x) return scope.skip();
  Machine& m = scope.machine;
  ++m.coverage.branches;
  m.say("for (n = 0, e = rp::mean(rp::tanh(rp::abs({}))); e.item<float>() > 0.3f && n < 3; ++n, e = e * 0.7) {{",
        scope.name(*x));
  Tensor e = rp::mean(rp::tanh(rp::abs(*x)));
  for (int n = 0; e.item<float>() > 0.3f && n < 3; ++n, e = e * 0.7) {
    ++m.coverage.reads;
    body(scope, s);
  }
  m.say("}}");
}

void loop(const Scope& scope, const Statement& s) {
  Machine& m = scope.machine;
  const int trips = s.drift == Drift::constant ? 1 + wrap(s.n, 3) : 1 + m.iteration % 3;
  m.say("for (int i = 0; i < {}; ++i) {{", trips);
  for (int i = 0; i < trips; ++i) body(scope, s);
  m.say("}}");
}

void toggle(const Scope& scope, const Statement&) {
  scope.machine.flag = !scope.machine.flag;
  scope.machine.say("flag = {};", scope.machine.flag);
}

void no_grad(const Scope& scope, const Statement& s) {
  scope.machine.say("rp::no_grad([&] {{");
  rp::NoGrad guard;
  body(scope, s);
  scope.machine.say("}});");
}

void eagerly(const Scope& scope, const Statement& s) {
  scope.machine.say("rp::ModeGuard(rp::Mode::eager) {{");
  rp::ModeGuard guard(rp::Mode::eager);
  body(scope, s);
  scope.machine.say("}}");
}

// An error of the body is caught inside it.
void attempt(const Scope& scope, const Statement& s) {
  scope.machine.say("try {{");
  try {
    body(scope, s);
  } catch (const std::exception& e) {
    ++scope.machine.coverage.exceptions;
    scope.machine.observe("caught", std::string(e.what()));
  }
  scope.machine.say("}} catch (...) {{}}");
}

// Calls a later function: a capture within a capture, or one used alone.
void call(const Scope& scope, const Statement& s) {
  Machine& m = scope.machine;
  const int n = static_cast<int>(m.program.functions.size()), k = m.call_depth;
  const Tensor *a = scope.pick(s.a), *b = scope.pick(s.b);
  if (n < 2 || k >= n || !a || !b) return scope.skip();
  m.coverage.nested += k > 0;
  const int f = k + (k == 0);  // the first is the loop's own
  m.say("f{}({}, {})", f, scope.name(*a), scope.name(*b));
  const Tensors results = m.call(f, {*a, *b});
  scope.put(s, results[0], "its first result");
}

// Reports, which change nothing, and between the calls a fresh start.
void inspect(const Scope& scope, const Statement& s) {
  const bool forget = scope.machine.call_depth == 0 && s.n % 4 == 0;
  scope.machine.say("{}", forget ? "f.reset();" : "f.explain();");
  scope.machine.inspect(forget);
}

// ---- gradients ----

// A number that depends on a leaf.
Tensor objective(const Scope& scope, const Statement& s, const Tensor& x) {
  const std::string name = scope.name(x);
  ++scope.machine.coverage.gradients;
  switch (wrap(s.n, 3)) {
    case 0:
      return scope.machine.say("loss = rp::mean(rp::tanh({}));", name), rp::mean(rp::tanh(x));
    case 1:
      return scope.machine.say("loss = rp::sum({});", name), rp::sum(x);
    default:
      return scope.machine.say("loss = rp::mean(rp::square({}));", name), rp::mean(rp::square(x));
  }
}

const Tensor* differentiable(const Scope& scope, int from) {
  return scope.pick(from, [](const Tensor& t) { return t.requires_grad() && t.numel() > 0; });
}

void backward(const Scope& scope, const Statement& s) {
  const Tensor* x = differentiable(scope, s.a);
  if (!x || !rp::grad_enabled()) return scope.skip();
  if (s.m % 4 == 0) {
    ++scope.machine.coverage.gradients;
    scope.machine.say("{}.backward(rp::ones_like({}), {});", scope.name(*x), scope.name(*x), s.m % 8 == 0);
    x->backward(rp::ones_like(*x), s.m % 8 == 0);
    return;
  }
  const Tensor loss = objective(scope, s, *x);
  scope.machine.say("loss.backward();");
  loss.backward();
  if (s.m % 4 == 1) scope.put(s, loss.detach(), "loss.detach()");
}

// Gradients as values, of first or second order.
void grad(const Scope& scope, const Statement& s) {
  const Tensor* x = differentiable(scope, s.a);
  const Tensor* leaf = scope.pick(s.b, [](const Tensor& t) { return t.requires_grad(); });
  if (!x || !rp::grad_enabled()) return scope.skip();
  const bool second = s.m % 3 == 0;
  const Tensor loss = objective(scope, s, *x);
  scope.machine.say("g = rp::grad({{loss}}, {{{}}}, {{.create_graph = {}, .allow_unused = true}})[0];",
                    scope.name(*leaf), second);
  Tensor g = rp::grad({loss}, {*leaf}, {.create_graph = second, .allow_unused = true})[0];
  if (!g.defined()) return;
  if (second && g.requires_grad()) {
    const Tensor penalty = rp::sum(rp::square(g));
    scope.machine.say("g = rp::grad({{rp::sum(rp::square(g))}}, {{{}}}, {{.allow_unused = true}})[0];",
                      scope.name(*leaf));
    const Tensor h = rp::grad({penalty}, {*leaf}, {.allow_unused = true})[0];
    if (h.defined()) g = h;
  }
  scope.put(s, g, "g");
}

// One step of gradient descent for every variable that has a gradient.
void descend(const Scope& scope, const Statement& s) {
  rp::NoGrad guard;
  const double rate = s.drift == Drift::linear ? 0.1 / (1 + scope.machine.iteration) : 0.05;
  for (const Tensor& v : scope.machine.variables) {
    const Tensor g = v.grad();
    if (!g.defined()) continue;
    scope.machine.say("{} -= {} * {}.grad();{}", scope.name(v), rate, scope.name(v), s.n % 3 ? " set_grad({})" : "");
    rp::sub_(v, g * rate);
    if (s.n % 3) v.set_grad({});
  }
}

void zero_grad(const Scope& scope, const Statement& s) {
  for (const Tensor& v : scope.machine.variables) {
    if (!v.grad().defined()) continue;
    scope.machine.say("{}.{};", scope.name(v), s.n % 2 ? "set_grad({})" : "grad().zero_()");
    if (s.n % 2)
      v.set_grad({});
    else
      v.grad().zero_();
  }
}

void take_grad(const Scope& scope, const Statement& s) {
  const Tensor* v = scope.pick(s.a, [](const Tensor& t) { return t.grad().defined(); });
  if (!v) return scope.skip();
  scope.put(s, v->grad(), scope.name(*v) + ".grad()");
}

void make_leaf(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, is_real);
  if (!x) return scope.skip();
  const Tensor y = s.n % 2 ? x->detach() : x->detach().clone();
  y.set_requires_grad();
  scope.put(s, y, scope.name(*x) + (s.n % 2 ? ".detach(), a leaf" : ".detach().clone(), a leaf"));
}

// A function with a gradient of the user's own, which throws now and then.
void custom(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, is_real);
  if (!x) return scope.skip();
  Machine* m = &scope.machine;
  const bool throws = s.m % 5 == 4;
  const rp::CustomGradient f{.forward = [](const Tensors& in) { return rp::tanh(in[0]) * 0.5; },
                             .backward =
                                 [=](const Tensors&, const Tensor& y, const Tensor& dy) {
                                   if (throws && m->iteration % 3 == 1) throw std::runtime_error("backward");
                                   return Tensors{dy * (1 - rp::square(y))};
                                 }};
  scope.put(s, f({*x}), fmt::format("CustomGradient(tanh(x) / 2{})({})", throws ? ", throws" : "", scope.name(*x)));
}

// A recurrent cell whose matrices are wide enough for products to be batched: its state, or a sum of products of it,
// with things written or used halfway.
void recurrence(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [&](const Tensor& t) {
    return is_real(t) && t.rank() == 2 && t.numel() > 0 && scope.small(18 * (t.size(0) + t.size(1)));
  });
  if (!x) return scope.skip();
  const int64_t k = x->size(1);
  const Tensor* y =
      scope.pick(s.b, [&](const Tensor& t) { return t.shape() == x->shape() && t.dtype() == x->dtype(); });
  const Tensor w = rp::sin(rp::arange(k * 18, s.x).reshape({k, 18})).to(x->dtype());
  const Tensor u = rp::cos(rp::arange(18 * 18, 1).reshape({18, 18})).to(x->dtype()) * 0.1;
  Tensor h = rp::zeros({x->size(0), 18}, x->dtype()), total, early, column;
  const int steps = 3 + wrap(s.n, 4), halfway = wrap(s.m, steps);
  for (int t = 0; t < steps; ++t) {
    const Tensor v = t % 2 ? *x * (t + 0.3) : *y - t * 0.7;
    h = rp::tanh(rp::matmul(v, w) + rp::matmul(h, u));
    const Tensor term = rp::matmul(v.transpose(), h), bias = rp::sum(h, {0});
    total = t ? total + term : term;
    column = t ? column + bias : bias;
    if (t != halfway) continue;
    early = s.c % 4 == 1 ? total : early;
    if (s.c % 4 == 2) rp::mul_(w, 0.75);
    if (s.c % 4 == 3) rp::mul_(v, 1.25);
  }
  if (early.defined()) total = total * early;
  const Tensor result = wrap(s.d, 3) ? total + column : h;
  scope.put(s, result,
            fmt::format("recurrence({}, {}, {} steps, {} halfway at {}){}", scope.name(*x), scope.name(*y), steps,
                        wrap(s.c, 4), halfway, wrap(s.d, 3) ? "" : ".h"));
}

}  // namespace

std::span<const Action> control_actions() {
  static constexpr Action list[] = {{"if_value", 5, if_value, true}, {"while_value", 2, while_value, true},
                                    {"loop", 6, loop, true},         {"recurrence", 6, recurrence},
                                    {"toggle", 4, toggle},           {"inspect", 1, inspect},
                                    {"no_grad", 4, no_grad, true},   {"eagerly", 1, eagerly, true},
                                    {"attempt", 3, attempt, true},   {"call", 10, call}};
  return list;
}

std::span<const Action> gradient_actions() {
  static constexpr Action list[] = {
      {"backward", 20, backward},  {"grad", 12, grad},          {"descend", 14, descend}, {"zero_grad", 5, zero_grad},
      {"take_grad", 6, take_grad}, {"make_leaf", 6, make_leaf}, {"custom", 4, custom}};
  return list;
}

}  // namespace fuzz
