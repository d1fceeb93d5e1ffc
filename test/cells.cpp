// Random recurrent cells by scan and by a loop, in every mode.
#include "reprise/test/cells.h"

#include <fmt/format.h>

#include <algorithm>

#include "reprise/test/capture_cases.h"
#include "reprise/test/op_cases.h"

using namespace rp;

namespace cells {
namespace {

// ---- one step ----

/// The weights of a cell, made when a step first asks for them and then given out again in that order.
class Weights {
 public:
  explicit Weights(DType dtype) : dtype_(dtype) {}
  Tensor take(const Shape& shape) {
    if (next_ == all_.size()) {
      const double bound = shape.rank() == 2 ? 1 / std::sqrt(static_cast<double>(shape[0])) : 0.5;
      all_.push_back(uniform(shape, -bound, bound, DType::f64).to(dtype_).set_requires_grad());
    }
    return all_[next_++];
  }
  void rewind() { next_ = 0; }
  const Tensors& all() const { return all_; }

 private:
  DType dtype_;
  Tensors all_;
  size_t next_ = 0;
};

/// A value of [batch, hidden] and a number that its elements do not exceed, so that no op leaves its domain.
struct Register {
  Tensor value;
  double bound = 1;
};

double domain_limit(const Op& op, bool low) {
  return low ? std::max(op.samples.low, -2.0) : std::min(op.samples.high, 2.0);
}

// The register moved into the op's domain.
Tensor inside(const Op& op, const Register& r) {
  const double low = domain_limit(op, true), high = domain_limit(op, false);
  if (low <= -r.bound && r.bound <= high) return r.value;
  return tanh(r.value) * ((high - low) / 2) + (high + low) / 2;
}

// The greatest value of the op on its domain.
double bound_of(const Op& op) {
  static std::map<const Op*, double> known;
  if (const auto it = known.find(&op); it != known.end()) return it->second;
  const double low = domain_limit(op, true), high = domain_limit(op, false);
  const Tensor line = arange(41, 0, 1, DType::f64) * ((high - low) / 40) + low;
  const Tensor rows = line.unsqueeze(1).expand({41, 41}).contiguous(), columns = line.expand({41, 41}).contiguous();
  const Tensor* in[] = {&rows, &columns};
  const double most =
      max(abs(apply({.op = &op, .inputs = std::span(in, static_cast<size_t>(op.operands))}))).item<double>();
  return known[&op] = most * 1.01 + 0.01;
}

class Step {
 public:
  Step(const Cell& cell, Weights& weights, double factor) : cell_(cell), weights_(weights), factor_(factor) {}

  /// Returns the next states and the outputs.
  std::pair<Tensors, Tensors> operator()(const Tensors& states, const Tensor& x, const Tensor& live) {
    weights_.rewind();
    registers_.clear();
    for (const Tensor& s : states) registers_.push_back({s, cell_.residual ? 9.0 : 1.2});
    add_gates(x);
    for (const Instruction& i : cell_.body) registers_.push_back(i.what >= Do::roll ? move(i, x) : run(i));
    Tensors next, outputs;
    for (size_t k = 0; k < states.size(); ++k) next.push_back(masked(next_state(k), states[k], live));
    for (int r : cell_.outputs) outputs.push_back(masked(at(r).value * 0.5, {}, live));
    return {next, outputs};
  }

 private:
  const Register& at(int r) const { return registers_[wrap(r, registers_.size())]; }
  int64_t h() const { return cell_.hidden; }

  // a · U, where U is [rows, columns]
  Register product(const Register& a, int64_t rows, int64_t columns) {
    Tensor u = cell_.transposed ? weights_.take({columns, rows}).transpose() : weights_.take({rows, columns});
    if (cell_.doubled) u = u * 2;
    const double n = static_cast<double>(std::max(rows, columns));
    return {matmul(a.value, u), a.bound * n * (cell_.doubled ? 2.2 : 1.1)};
  }

  void add_gates(const Tensor& x) {
    const int64_t together = cell_.merged ? cell_.gates : 1;
    std::vector<Register> sums;
    for (int g = 0; g < cell_.gates / together; ++g) {
      const Register from_h = product(registers_[wrap(g, static_cast<size_t>(cell_.states))], h(), together * h());
      Tensor sum = matmul(x, weights_.take({cell_.inputs, together * h()})) + from_h.value;
      if (cell_.bias) sum = sum + weights_.take({together * h()});
      const double bound = from_h.bound + cell_.inputs * 1.1 + 1;
      for (const Tensor& part : split(sum, together, 1)) sums.push_back({part, bound});
    }
    registers_.insert(registers_.end(), sums.begin(), sums.end());
  }

  Register table(const Instruction& i, int operands) {
    const auto& ops = smooth_ops(operands);
    const Op& op = *ops[wrap(i.op, ops.size())];
    const Tensor a = inside(op, at(i.a)), b = inside(op, at(i.b));
    const Tensor* in[] = {&a, &b};
    return {apply({.op = &op, .inputs = std::span(in, static_cast<size_t>(operands))}), bound_of(op)};
  }

  Register run(const Instruction& i) {
    const Register a = at(i.a), b = at(i.b), c = at(i.c);
    switch (i.what) {
      case Do::unary:
        return table(i, 1);
      case Do::binary:
        return table(i, 2);
      case Do::mul:
        return {a.value * b.value, a.bound * b.bound};
      case Do::mix: {
        const Tensor z = sigmoid(c.value);
        return {z * a.value + (1 - z) * b.value, std::max(a.bound, b.bound)};
      }
      case Do::product:
        return product(a, h(), h());
      case Do::peep:
        return {a.value + b.value * weights_.take({h()}), a.bound + b.bound};
      case Do::norm: {
        const Tensor scale = weights_.take({h()});
        return {layer_norm(a.value, scale, weights_.take({h()})), std::sqrt(static_cast<double>(h())) + 1};
      }
      case Do::bias:
        return {a.value + weights_.take({h()}), a.bound + 1};
      case Do::scale:
        return {a.value * factor_, a.bound};
      case Do::centre:
        return {a.value - mean(a.value, {1}, true), a.bound * 2};
      default:
        return {softmax(a.value, 1), 1};
    }
  }

  Register move(const Instruction& i, const Tensor& x) {
    const Register a = at(i.a), b = at(i.b), c = at(i.c);
    const int64_t cut = h() / 2, column = i.op % cell_.inputs;
    switch (i.what) {
      case Do::roll:
        return {concat({a.value.slice(1, cut, h()), a.value.slice(1, 0, cut)}, 1), a.bound};
      case Do::tied:
        for (const Tensor& u : weights_.all())
          if (u.shape() == Shape{h(), h()}) return {matmul(a.value, u), a.bound * static_cast<double>(h()) * 1.1};
        return a;
      case Do::input:
        return {a.value + x.slice(1, column, column + 1), a.bound + 1};
      case Do::choose:
        return {where(a.value > b.value, a.value, c.value), std::max(a.bound, c.bound)};
      case Do::dropout:
        return {rp::dropout(a.value, 0.25), a.bound * 1.4};
      case Do::detach:
        return {a.value.detach(), a.bound};
      default:
        return control(i.what, a, b, c);
    }
  }

  Register control(Do what, const Register& a, const Register& b, const Register& c) {
    if (what == Do::quiet) return {no_grad([&] { return tanh(a.value * b.value); }), 1};
    if (what == Do::branch) {
      return {cond(
                  sum(c.value) > 0, [&] { return a.value * b.value; }, [&] { return c.value; }),
              std::max(a.bound * b.bound, c.bound)};
    }
    const Tensor p = weights_.take({h()});
    return {scan([&](const Tensor& s) { return tanh(s * p + b.value); }, a.value, {.length = 2}), 1};
  }

  Tensor next_state(size_t k) const {
    const Register& r = at(cell_.next[k % cell_.next.size()]);
    const Tensor bounded = r.bound <= 1.2 ? r.value : r.bound < 4 ? r.value * (1 / r.bound) : tanh(r.value);
    return cell_.residual ? registers_[k].value + bounded : bounded;
  }

  // The new value where the sequence goes on, else the one before, or zero.
  Tensor masked(const Tensor& now, const Tensor& before, const Tensor& live) const {
    if (!live.defined()) return now;
    const Tensor going = live.unsqueeze(1);
    if (!cell_.by_product) return where(going, now, before.defined() ? Operand(before) : Operand(0));
    const Tensor m = cast(going, now.dtype());
    return before.defined() ? m * now + (1 - m) * before : m * now;
  }

  const Cell& cell_;
  Weights& weights_;
  double factor_;
  std::vector<Register> registers_;
};

// ---- all steps ----

struct Given {
  Tensor xs, live;  // [steps, batch, inputs], [steps, batch] or undefined
  Tensors states;
  double factor = 0.8;
};

using Form = Tensors (*)(const Cell&, Weights&, const Given&);

/// The outputs of all steps and the last states.
Tensors by_scan(const Cell& cell, Weights& weights, const Given& in) {
  Step step(cell, weights, in.factor);
  const Tensors xs = in.live.defined() ? Tensors{in.xs, in.live} : Tensors{in.xs};
  auto [states, results] =
      scan([&](const Tensors& s, const Tensors& x) { return step(s, x[0], x.size() > 1 ? x[1] : Tensor()); }, in.states,
           xs, {.reverse = cell.reverse});
  results.insert(results.end(), states.begin(), states.end());
  return results;
}

Tensors by_loop(const Cell& cell, Weights& weights, const Given& in) {
  Step step(cell, weights, in.factor);
  const int64_t steps = in.xs.size(0);
  std::vector<Tensors> places(cell.outputs.size(), Tensors(static_cast<size_t>(steps)));
  Tensors states = in.states, results;
  // A scan's step draws the numbers of its place, whichever step comes first.
  const uint64_t first_draw = generator().position;
  const auto draws = static_cast<uint64_t>(
      std::count_if(cell.body.begin(), cell.body.end(), [](const Instruction& i) { return i.what == Do::dropout; }));
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t t = cell.reverse ? steps - 1 - i : i;
    generator().position = first_draw + static_cast<uint64_t>(t) * draws;
    const auto [next, outputs] = step(states, in.xs.select(0, t), in.live.defined() ? in.live.select(0, t) : Tensor());
    states = next;
    for (size_t k = 0; k < outputs.size(); ++k) places[k][static_cast<size_t>(t)] = outputs[k];
  }
  generator().position = first_draw + static_cast<uint64_t>(steps) * draws;
  for (const Tensors& p : places)
    results.push_back(steps ? stack(p) : zeros({0, cell.batch, cell.hidden}, in.xs.dtype()));
  results.insert(results.end(), states.begin(), states.end());
  return results;
}

// The sum of squares of a list of tensors.
Tensor squares(const Tensors& list) {
  Tensor s = scalar(0, DType::f64);
  for (const Tensor& t : list)
    if (t.defined()) s = s + sum(t * t);
  return s;
}

// Of the outputs, the last states, or both.
Tensor loss_of(const Cell& cell, const Tensors& results) {
  const auto split = results.begin() + static_cast<std::ptrdiff_t>(cell.outputs.size());
  if (cell.loss == 1) return squares({split, results.end()});
  if (cell.loss == 2 && !cell.outputs.empty()) return squares({results.begin(), split});
  return squares(results);
}

/// What the call number `call` is given.
Given given(const Cell& cell, DType dtype, int call) {
  const int64_t steps = call % 2 ? cell.other_steps : cell.steps;
  Given in;
  in.xs = uniform({steps, cell.batch, cell.inputs}, -1, 1, DType::f64).to(dtype);
  if (cell.batch_first) in.xs = in.xs.transpose(0, 1).contiguous().transpose(0, 1);
  if (cell.masked) in.live = arange(steps).unsqueeze(1) < randint({cell.batch}, 0, steps + 1).unsqueeze(0);
  for (int s = 0; s < cell.states; ++s)
    in.states.push_back(uniform({cell.batch, cell.hidden}, -1, 1, DType::f64).to(dtype));
  in.factor = 0.9 - 0.1 * call;
  return in;
}

Weights weights_of(const Cell& cell, DType dtype) {
  NoGrad guard;
  manual_seed(cell.seed);
  Weights weights(dtype);
  const Given in = given(cell, dtype, 0);
  Step(cell, weights, 1)(in.states, zeros({cell.batch, cell.inputs}, dtype), {});
  return weights;
}

Tensors leaves_of(const Cell& cell, const Weights& weights, const Given& in) {
  Tensors leaves = weights.all();
  if (cell.input_leaf) leaves.push_back(in.xs.set_requires_grad());
  for (const Tensor& s : in.states)
    if (cell.state_leaf) leaves.push_back(s.set_requires_grad());
  return leaves;
}

// ---- scan against loop ----

double size_of_all(const Tensor& t) { return t.defined() && t.numel() ? max(abs(t)).item<double>() : 0; }

std::string difference(const char* what, const Tensors& a, const Tensors& b) {
  double scale = 1;
  for (const Tensor& t : b) scale = std::max(scale, size_of_all(t));
  for (size_t i = 0; i < b.size(); ++i) {
    const bool both = a[i].defined() && b[i].defined();
    if (both && a[i].spec() != b[i].spec()) return fmt::format("{} {}: shapes differ", what, i);
    const double far = both ? size_of_all(a[i] - b[i]) : std::max(size_of_all(a[i]), size_of_all(b[i]));
    if (!(far <= 1e-10 * scale)) return fmt::format("{} {} of scan and loop differ by {} of {}", what, i, far, scale);
  }
  return {};
}

struct Values {
  Tensors results, gradients, second;
};

Values values(const Cell& cell, Form form, bool second) {
  Weights weights = weights_of(cell, DType::f64);
  const Given in = given(cell, DType::f64, 0);
  const Tensors leaves = leaves_of(cell, weights, in);
  Values v;
  v.results = form(cell, weights, in);
  const Tensor loss = loss_of(cell, v.results);
  v.gradients.resize(leaves.size());
  if (!loss.requires_grad()) return v;  // no step was made
  v.gradients = grad({loss}, leaves, {.create_graph = second, .allow_unused = true});
  if (!second) return v;
  const Tensor penalty = squares(v.gradients);
  if (penalty.requires_grad()) v.second = grad({penalty}, leaves, {.allow_unused = true});
  return v;
}

std::string compare_forms(const Cell& cell) {
  ModeGuard guard(Mode::eager);
  const bool second = cell.hidden <= 8 && cell.batch <= 3 && cell.steps <= 4;
  const Values a = values(cell, by_scan, second), b = values(cell, by_loop, second);
  std::string text = difference("results", a.results, b.results);
  if (text.empty()) text = difference("gradients", a.gradients, b.gradients);
  if (text.empty() && !a.second.empty() && !b.second.empty()) text = difference("second gradients", a.second, b.second);
  return text;
}

// ---- mode against mode ----

std::string train(const Cell& cell, Form form, Mode mode, CaptureStats* seen) {
  ModeGuard guard(mode);
  const DType dtype = cell.f32 ? DType::f32 : DType::f64;
  Weights weights = weights_of(cell, dtype);
  cases::Log log{mode, {}};
  auto step = capture([&](const Given& in) {
    const Tensors leaves = leaves_of(cell, weights, in);
    Tensors seen = form(cell, weights, in);
    const Tensor loss = loss_of(cell, seen);
    for (Tensor& t : seen) t = t.detach();
    if (!loss.requires_grad()) return seen;
    const Tensors g = grad({loss}, leaves, {.allow_unused = true});
    NoGrad no_grad;
    for (size_t i = 0; i < weights.all().size(); ++i)
      if (g[i].defined()) weights.all()[i].copy_(weights.all()[i] - tanh(g[i]) * 0.01);
    seen.insert(seen.end(), g.begin(), g.end());
    return seen;
  });
  // Both numbers of steps are met often enough to be recorded, planned and met again.
  for (int call : {0, 2, 4, 1, 3, 6, 5}) log.add(step(given(cell, dtype, call)));
  log.add(weights.all());
  if (seen) {
    seen->ops += step.stats().ops;
    seen->planned += step.stats().planned;
  }
  return log.text;
}

std::string compare_modes(const Cell& cell, Form form, const char* name, CaptureStats* seen) {
  const std::string eager = train(cell, form, Mode::eager, nullptr);
  for (Mode mode : {Mode::graph, Mode::verify})
    if (train(cell, form, mode, seen) != eager)
      return fmt::format("{}: other bits in {} mode", name, mode == Mode::graph ? "graph" : "verify");
  return {};
}

// ---- many ----

void check(uint64_t first, uint64_t count) {
  CaptureStats seen;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const Cell cell = generate(seed);
    const std::string text = problem(cell, &seen);
    CHECK(text.empty());
    if (text.empty()) continue;
    // A smaller cell must fail in the same way, as far as the first word tells.
    const std::string kind = text.substr(0, text.find(' '));
    const Cell small = shrink(cell, [&](const Cell& c) { return problem(c).starts_with(kind); });
    FAIL_CHECK("seed " << seed << ": " << text << "\n" << to_text(small) << "\n" << problem(small));
  }
  CHECK(2 * seen.planned > seen.ops);  // else agreement would mean little
}

}  // namespace

const std::vector<const Op*>& smooth_ops(int operands) {
  static const auto lists = [] {
    std::array<std::vector<const Op*>, 3> all;
    for (const Op* op : op_table()) {
      const bool smooth = op->samples.differentiable || op->name == "relu";
      if (op->kind == Kind::pointwise && op->gradient.rule && smooth && op->fields.empty() && op->operands <= 2)
        all[static_cast<size_t>(op->operands)].push_back(op);
    }
    return all;
  }();
  return lists[static_cast<size_t>(operands)];
}

std::string problem(const Cell& cell, CaptureStats* seen) {
  try {
    std::string text = compare_forms(cell);
    if (text.empty()) text = compare_modes(cell, by_scan, "scan", seen);
    if (text.empty()) text = compare_modes(cell, by_loop, "loop", seen);
    return text;
  } catch (const std::exception& e) {
    return std::string("throws ") + e.what();
  }
}

}  // namespace cells

TEST_CASE("random cells: a scan is the loop it stands for, in every mode") { cells::check(1, 100); }

TEST_CASE("many random cells", "[slow]") { cells::check(1001, 600); }

TEST_CASE("thousands of random cells", "[.full]") { cells::check(10001, 10000); }
