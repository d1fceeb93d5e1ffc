// Statements that look at elements in another way, write them, move handles or tell the host.
#include <algorithm>
#include <cmath>

#include "reprise/test/fuzz.h"

namespace fuzz {
namespace {

// ---- views ----

void viewed(const Scope& scope, const Statement& s, const Tensor& y, const std::string& how) {
  ++scope.machine.coverage.views;
  scope.put(s, y, how);
}

const Tensor* with_axes(const Scope& scope, int from, int least = 1) {
  return scope.pick(from, [&](const Tensor& t) { return t.rank() >= least; });
}

// A window that may move from one iteration to the next.
void slice(const Scope& scope, const Statement& s) {
  const Tensor* x = with_axes(scope, s.a);
  if (!x) return scope.skip();
  const int axis = wrap(s.m, x->rank());
  const int64_t n = x->size(axis), length = n ? 1 + wrap(s.n, n) : 0;
  const int64_t moved = s.drift == Drift::constant ? s.at : scope.machine.iteration;
  const int64_t start = wrap(moved, n - length + 1), step = s.c % 4 == 3 ? 2 : 1;
  viewed(scope, s, x->slice(axis, start, start + length, step),
         fmt::format("{}.slice({}, {}, {}, {})", scope.name(*x), axis, start, start + length, step));
}

void select(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.rank() > 0 && t.numel(); });
  if (!x) return scope.skip();
  const int axis = wrap(s.m, x->rank());
  const int64_t index = wrap(s.drift == Drift::constant ? s.n : scope.machine.iteration, x->size(axis));
  viewed(scope, s, x->select(axis, index), fmt::format("{}.select({}, {})", scope.name(*x), axis, index));
}

void permute(const Scope& scope, const Statement& s) {
  const Tensor* x = with_axes(scope, s.a, 2);
  if (!x) return scope.skip();
  const std::string name = scope.name(*x);
  if (s.n % 2) return viewed(scope, s, x->transpose(), name + ".transpose()");
  rp::Dims axes;
  for (int i = 0; i < x->rank(); ++i) axes.push_back(wrap(i + s.m, x->rank()));
  viewed(scope, s, x->permute(axes), fmt::format("{}.permute({})", name, rp::to_string(axes)));
}

void reshape(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.numel() > 0; });
  if (!x) return scope.skip();
  const std::string name = scope.name(*x);
  Shape shape{x->numel()};
  if (s.n % 3 == 1 && x->rank()) shape = {-1, x->shape().back()};
  if (s.n % 3 == 2 && x->rank() && x->rank() < 5) {
    shape = x->shape();
    std::reverse(&shape[0], &shape[0] + shape.rank());
  }
  viewed(scope, s, x->reshape(shape), fmt::format("{}.reshape({})", name, rp::to_string(shape)));
}

void expand(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [&](const Tensor& t) { return t.rank() < 5 && scope.small(t.numel() * 12); });
  if (!x) return scope.skip();
  Shape shape = x->shape();
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] == 1) shape[i] = 1 + wrap(s.n, 3);
  if (s.m % 2) shape.insert(0, 2);
  if (!scope.small(rp::element_count(shape))) return scope.skip();
  viewed(scope, s, x->expand(shape), fmt::format("{}.expand({})", scope.name(*x), rp::to_string(shape)));
}

void squeeze(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.rank() < 5; });
  if (!x) return scope.skip();
  const std::string name = scope.name(*x);
  for (int i = 0; i < x->rank(); ++i)
    if (x->size(i) == 1 && s.n % 3) return viewed(scope, s, x->squeeze(i), fmt::format("{}.squeeze({})", name, i));
  const int axis = wrap(s.m, x->rank() + 1);
  viewed(scope, s, x->unsqueeze(axis), fmt::format("{}.unsqueeze({})", name, axis));
}

void duplicate(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  const std::string name = scope.name(*x);
  switch (wrap(s.n, 4)) {
    case 0:
      return viewed(scope, s, x->contiguous(), name + ".contiguous()");
    case 1:
      return viewed(scope, s, x->detach(), name + ".detach()");
    case 2:
      return viewed(scope, s, x->flatten(), name + ".flatten()");
    default:
      return viewed(scope, s, x->clone(), name + ".clone()");
  }
}

// ---- writes ----

// Leaves may be written only un-noted.
bool of_leaf(const Scope& scope, const Tensor& t) {
  const auto& declared = scope.machine.program.variables;
  for (size_t i = 0; i < declared.size(); ++i)
    if (declared[i].leaf && scope.machine.variables[i].shares_storage(t)) return true;
  return false;
}

template <class F>
void write(const Scope& scope, const Tensor& target, const std::string& how, F f) {
  ++scope.machine.coverage.writes;
  const bool leaf = of_leaf(scope, target);
  scope.machine.say("{}{};", leaf ? "rp::NoGrad(), " : "", how);
  if (leaf)
    rp::no_grad(f);
  else
    f();
}

const Tensor* target_of(const Scope& scope, int from) {
  return scope.pick(from, [](const Tensor& t) { return t.dtype() != DType::boolean; });
}

void update(const Scope& scope, const Statement& s) {
  using InPlace = void (*)(const Tensor&, const rp::Operand&);
  static constexpr InPlace ops[] = {[](const Tensor& t, const rp::Operand& y) { rp::add_(t, y); },
                                    [](const Tensor& t, const rp::Operand& y) { rp::sub_(t, y); },
                                    [](const Tensor& t, const rp::Operand& y) { rp::mul_(t, y); },
                                    [](const Tensor& t, const rp::Operand& y) { rp::div_(t, y); },
                                    [](const Tensor& t, const rp::Operand& y) { rp::add_(t, y); }};
  static constexpr std::string_view names[] = {"add_", "sub_", "mul_", "div_", "add_"};
  const Tensor* x = target_of(scope, s.a);
  if (!x) return scope.skip();
  const auto k = static_cast<size_t>(wrap(s.n, std::size(ops)));
  const std::string name = scope.name(*x);
  const Tensor* y = scope.pick(s.b, [&](const Tensor& t) {
    Shape joined;
    return join(x->shape(), t.shape(), joined) && joined == x->shape() &&
           rp::promoted(t.dtype(), x->dtype()) == x->dtype();
  });
  if (s.m % 3 == 0 || !y) {
    const double v = scope.number(s);
    if (is_index(*x)) return write(scope, *x, fmt::format("rp::{}({}, 3)", names[k], name), [&] { ops[k % 3](*x, 3); });
    return write(scope, *x, fmt::format("rp::{}({}, {})", names[k], name, v), [&] { ops[k](*x, v); });
  }
  write(scope, *x, fmt::format("rp::{}({}, {})", names[k], name, scope.name(*y)), [&] { ops[k](*x, *y); });
}

void overwrite(const Scope& scope, const Statement& s) {
  const Tensor* x = target_of(scope, s.a);
  if (!x) return scope.skip();
  const std::string name = scope.name(*x);
  const double v = scope.number(s);
  if (s.n % 5 == 0) return write(scope, *x, name + ".zero_()", [&] { x->zero_(); });
  if (s.n % 5 == 1) return write(scope, *x, fmt::format("{}.fill_({})", name, v), [&] { x->fill_(v); });
  if (s.n % 5 == 2) return write(scope, *x, fmt::format("rp::clamp_({}, -1, 1)", name), [&] { rp::clamp_(*x, -1, 1); });
  const Tensor* y = scope.pick(s.b, [&](const Tensor& t) { return t.spec() == x->spec() && &t != x; });
  if (!y) return write(scope, *x, fmt::format("rp::relu_({})", name), [&] { rp::relu_(*x); });
  write(scope, *x, fmt::format("{}.copy_({})", name, scope.name(*y)), [&] { x->copy_(*y); });
}

// Part of a tensor is written through a view of it, from another part.
void shift(const Scope& scope, const Statement& s) {
  const Tensor* x =
      scope.pick(s.a, [](const Tensor& t) { return t.rank() > 0 && t.size(0) > 1 && t.dtype() != DType::boolean; });
  if (!x) return scope.skip();
  const int64_t n = x->size(0);
  const std::string name = scope.name(*x);
  if (s.n % 3 == 0)
    return write(scope, *x, fmt::format("{}.slice(0, 0, {}).copy_({}.slice(0, 1, {}))", name, n - 1, name, n),
                 [&] { x->slice(0, 0, n - 1).copy_(x->slice(0, 1, n)); });
  const int64_t to = wrap(s.drift == Drift::constant ? s.m : scope.machine.iteration, n);
  if (s.n % 3 == 1)
    return write(scope, *x, fmt::format("{}[{}].fill_({})", name, to, s.x), [&] { (*x)[to].fill_(s.x); });
  write(scope, *x, fmt::format("rp::add_({}[{}], {}[0])", name, to, name), [&] { rp::add_((*x)[to], (*x)[0]); });
}

// v = 0.9 v + 0.1 x, as running statistics are kept
void average(const Scope& scope, const Statement& s) {
  Tensors& variables = scope.machine.variables;
  if (variables.empty()) return scope.skip();
  const Tensor& v = variables[static_cast<size_t>(wrap(s.a, static_cast<int64_t>(variables.size())))];
  const Tensor* x = scope.pick(s.b, [&](const Tensor& t) { return t.spec() == v.spec() && &t != &v; });
  if (!x || !is_real(v)) return scope.skip();
  const std::string name = scope.name(v);
  write(scope, v, fmt::format("{} = 0.9 * {} + 0.1 * {}, in place", name, name, scope.name(*x)), [&] {
    rp::NoGrad guard;
    rp::mul_(v, 0.9);
    rp::add_(v, *x * 0.1);
  });
}

// Keeps variables finite.
void calm(const Scope& scope, const Statement&) {
  rp::NoGrad guard;
  for (const Tensor& v : scope.machine.variables) {
    if (!is_real(v)) continue;
    scope.machine.say("{}.copy_(rp::where(rp::isnan(v), 0.5, rp::tanh(v)));", scope.name(v));
    v.copy_(rp::where(rp::isnan(v), 0.5, rp::tanh(v)));
  }
}

// The host writes elements directly.
void host_write(const Scope& scope, const Statement& s) {
  Tensor* x =
      const_cast<Tensor*>(scope.pick(s.a, [](const Tensor& t) { return t.dtype() == DType::f32 && t.numel(); }));
  if (!x) return scope.skip();
  ++scope.machine.coverage.host_writes;
  if (s.n % 4 == 0 && x->is_contiguous() && x->device() == rp::Device::cpu()) {
    scope.machine.say("{}.unsafe_data<float>()[0] = {};", scope.name(*x), s.x);
    x->unsafe_data<float>()[0] = static_cast<float>(s.x);
    return;
  }
  std::vector<float> values(static_cast<size_t>(x->numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(s.x) + 0.25f * static_cast<float>(i % 7);
  scope.machine.say("{}.copy_from({} + i % 7 / 4.0);", scope.name(*x), s.x);
  rp::no_grad([&] { x->copy_from<float>(values); });
}

// The owner of an argument's memory changes it while the body runs.
void poke(const Scope& scope, const Statement& s) {
  const std::span<float> memory = scope.machine.exposed(s.a);
  if (memory.empty()) return scope.skip();
  ++scope.machine.coverage.host_writes;
  const int64_t at = wrap(s.m, static_cast<int64_t>(memory.size()));
  scope.machine.say("raw[{}] = {};", at, s.x);
  memory[static_cast<size_t>(at)] = static_cast<float>(s.x);
}

// ---- handles ----

Tensor& place(const Scope& scope, int k) { return scope.locals[static_cast<size_t>(wrap(k, registers))]; }

void handle(const Scope& scope, const Statement& s) {
  Tensor &a = place(scope, s.a), &b = place(scope, s.b);
  const std::string x = scope.name(a), y = scope.name(b);
  switch (wrap(s.n, 4)) {
    case 0:
      return scope.machine.say("{} = {{}};", x), void(a = Tensor());
    case 1:
      return scope.machine.say("std::swap({}, {});", x, y), std::swap(a, b);
    case 2:
      return scope.machine.say("{} = std::move({});", x, y), void(&a == &b ? a : a = std::exchange(b, Tensor()));
    default:
      return scope.machine.say("{} = {};", x, y), void(a = b);
  }
}

// A variable becomes another tensor.
void store(const Scope& scope, const Statement& s) {
  Tensors& variables = scope.machine.variables;
  if (variables.empty()) return scope.skip();
  Tensor& v = variables[static_cast<size_t>(wrap(s.d, static_cast<int64_t>(variables.size())))];
  const Tensor* x = scope.pick(s.a, [&](const Tensor& t) { return t.spec() == v.spec() && &t != &v; });
  if (!x) return scope.skip();
  const bool leaf = v.requires_grad();
  scope.machine.say("{} = {}{};", scope.name(v), scope.name(*x),
                    leaf      ? ".detach().clone(), a leaf"
                    : s.n % 4 ? ".detach()"
                              : "");
  if (!leaf) return void(v = s.n % 4 ? x->detach() : *x);
  v = x->detach().clone();
  v.set_requires_grad();
}

void keep(const Scope& scope, const Statement& s) {
  Tensors& kept = scope.machine.kept;
  const Tensor* x = scope.pick(s.a);
  if (!x) return scope.skip();
  if (s.n % 4 == 0 && !kept.empty()) {
    const auto k = static_cast<size_t>(wrap(s.m, static_cast<int64_t>(kept.size())));
    return scope.put(s, kept[k], fmt::format("kept[{}]", k));
  }
  scope.machine.say("kept.push_back({});", scope.name(*x));
  kept.push_back(*x);
  if (kept.size() > 6) kept.erase(kept.begin());
}

// ---- what the host sees ----

void read(const Scope& scope, const Statement& s) {
  const Tensor* x = scope.pick(s.a, [](const Tensor& t) { return t.numel() > 0; });
  if (!x) return scope.skip();
  Machine& m = scope.machine;
  ++m.coverage.reads;
  const std::string name = scope.name(*x);
  if (s.n % 4 == 0) return m.say("print({}.to_vector());", name), m.observe("to_vector", *x);
  if (s.n % 4 == 1 && x->numel() < 100) return m.say("print({});", name), m.observe("text", rp::to_string(*x));
  Tensor one = x->rank() ? x->flatten().select(0, s.m % x->numel()) : *x;
  const auto value = one.item<double>();
  m.say("read = {}.flatten()[{}].item();  // {}", name, s.m % x->numel(), value);
  m.observe("item", one);
  if (std::isfinite(value)) m.read = std::fmod(value, 4);
}

// A part of a live tensor is read while the rest of the call is pending.
void peek(const Scope& scope, const Statement& s) {
  const Tensor* x =
      scope.pick(s.a, [](const Tensor& t) { return t.dtype() == DType::f32 && t.is_contiguous() && t.numel(); });
  if (!x) return scope.skip();
  ++scope.machine.coverage.reads;
  const float last = x->device() == rp::Device::cpu() ? x->data<float>().back() : x->to_vector<float>().back();
  scope.machine.say("print({}.data<float>().back());  // {}", scope.name(*x), last);
  scope.machine.observe("data", rp::tensor({last}));
}

void seed(const Scope& scope, const Statement& s) {
  Machine& m = scope.machine;
  switch (wrap(s.n, 4)) {
    case 0:
      return m.say("rp::manual_seed({});", s.m), rp::manual_seed(static_cast<uint64_t>(s.m));
    case 1:
      return m.say("saved = rp::generator();"), void(m.saved_generator = rp::generator());
    case 2:
      return m.say("rp::generator() = saved;"), void(rp::generator() = m.saved_generator);
    default:
      return m.observe("generator", fmt::format("{} {}", rp::generator().seed, rp::generator().position));
  }
}

void raise(const Scope& scope, const Statement&) {
  scope.machine.say("throw std::runtime_error(\"body\");");
  throw std::runtime_error("body");
}

// Shapes that cannot be joined.
void misuse(const Scope& scope, const Statement& s) {
  const Tensor* x = with_axes(scope, s.a);
  if (!x) return scope.skip();
  Shape shape = x->shape();
  shape[shape.rank() - 1] += 2;
  scope.put(s, rp::add(*x, rp::zeros(shape)) + rp::matmul(*x, rp::zeros({shape.back(), 1})), "x + zeros");
}

}  // namespace

std::span<const Action> view_actions() {
  static constexpr Action list[] = {{"slice", 16, slice},       {"select", 8, select}, {"permute", 12, permute},
                                    {"reshape", 12, reshape},   {"expand", 8, expand}, {"squeeze", 8, squeeze},
                                    {"duplicate", 8, duplicate}};
  return list;
}

std::span<const Action> effect_actions() {
  static constexpr Action list[] = {{"update", 30, update}, {"overwrite", 14, overwrite},
                                    {"shift", 10, shift},   {"average", 14, average},
                                    {"calm", 3, calm},      {"host_write", 3, host_write},
                                    {"poke", 2, poke},      {"handle", 20, handle},
                                    {"store", 10, store},   {"keep", 10, keep},
                                    {"read", 7, read},      {"peek", 2, peek},
                                    {"seed", 5, seed},      {"raise", 2, raise},
                                    {"misuse", 2, misuse}};
  return list;
}

}  // namespace fuzz
