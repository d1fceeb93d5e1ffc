// The interpreter: one run of a program.
#include <cmath>
#include <cstring>
#include <limits>

#include "reprise/test/fuzz.h"

namespace fuzz {

uint64_t Dice::next() {
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

bool join(const Shape& a, const Shape& b, Shape& out) {
  const Shape& longer = a.rank() >= b.rank() ? a : b;
  const Shape& other = a.rank() >= b.rank() ? b : a;
  out = longer;
  for (int i = 1; i <= other.rank(); ++i) {
    int64_t& d = out[longer.rank() - i];
    const int64_t e = other[other.rank() - i];
    if (d == 1)
      d = e;
    else if (e != 1 && e != d)
      return false;
  }
  return true;
}

// ---- scopes ----

std::string Scope::name(const Tensor& t) const {
  for (int i = 0; i < count(); ++i)
    if (&at(i) == &t) {
      const int n = static_cast<int>(locals.size());
      return i < n ? fmt::format("r{}", i) : fmt::format("v{}", i - n);
    }
  return "t";
}

void Scope::put(const Statement& s, const Tensor& value, const std::string& how) const {
  const auto d = static_cast<size_t>(wrap(s.d, registers));
  machine.say("r{} = {};  // {}", d, how, value.defined() ? rp::to_string(value.spec()) : "undefined");
  locals[d] = value;
}

double Scope::number(const Statement& s) const {
  static constexpr double specials[] = {0.0,  1.0,  -0.0,
                                        -1.0, 0.5,  std::numeric_limits<double>::infinity(),
                                        2.0,  1e-3, std::numeric_limits<double>::quiet_NaN()};
  switch (s.drift) {
    case Drift::constant:
      break;
    case Drift::linear:
      return s.x + 0.125 * machine.iteration;
    case Drift::special:
      return specials[wrap(machine.iteration + s.n, std::size(specials))];
    case Drift::read:
      return machine.read;
  }
  return s.x;
}

// ---- the machine ----

Machine::Machine(const Program& program, rp::Mode mode, std::string* text)
    : program(program), mode_(mode), text_(text), dice_{program.seed * 77 + 5} {}

void Machine::write_line(const std::string& line) {
  *text_ += std::string(static_cast<size_t>(2 * indent), ' ') + line + "\n";
}

Shape Machine::shape(int k) const {
  const int64_t b = batch_, columns = program.dims[1], rows = program.dims[2], channels = program.dims[3];
  switch (wrap(k, shape_count)) {
    case 0:
      return {b, columns};
    case 1:
      return {columns, rows};
    case 2:
      return {columns};
    case 3:
      return {columns, columns};
    case 4:
      return {b, rows, columns};
    case 5:
      return {};
    case 6:
      return {b, 1};
    case 7:
      return {b, channels, 5, 6};
    case 8:
      return {rows, channels, 3, 2};
    default:
      return {rows, columns};
  }
}

Tensor Machine::random_values(const Shape& shape, DType dtype) {
  const auto n = static_cast<size_t>(rp::element_count(shape));
  if (rp::is_floating(dtype)) {
    std::vector<double> values(n);
    for (double& v : values) v = dice_.unit() * 4 - 2;
    if (dtype == DType::f64) return rp::tensor(values, shape);
    return rp::tensor(std::vector<float>(values.begin(), values.end()), shape).to(dtype);
  }
  std::vector<int64_t> values(n);
  for (int64_t& v : values) v = dice_.below(7) - 2;
  return rp::cast(rp::tensor(values, shape), dtype);
}

void Machine::make_variables() {
  batch_ = program.dims[0];
  for (size_t i = 0; i < program.variables.size(); ++i) {
    const Variable& v = program.variables[i];
    variables.push_back(random_values(shape(v.shape), v.dtype));
    if (v.leaf) variables.back().set_requires_grad();
    say("v{} = {};  // {}", i, v.leaf ? "leaf" : "variable", rp::to_string(variables.back().spec()));
  }
  standing_.resize(program.inputs.size());
  raw_.resize(program.inputs.size());
}

// Windows of equal width move over one tensor, each with a pace of its own: now apart, now overlapping, now the same;
// sometimes an argument has elements of its own.
Tensor Machine::window(int k, Shape s) {
  Shape longer = s;
  longer[0] += program.iterations;
  Tensor& standing = standing_[static_cast<size_t>(k)];
  for (const Tensor& t : standing_)
    if (!standing.defined() && t.defined() && t.shape() == longer) standing = t;
  if (!standing.defined() || standing.shape() != longer)
    standing = random_values(longer, program.inputs[static_cast<size_t>(k)].dtype);
  const int64_t start = wrap(static_cast<int64_t>(iteration) * (k + 1), program.iterations + 1);
  const Tensor part = standing.slice(0, start, start + s[0]);
  return (iteration + k) % 4 == 3 ? part.clone() : part;
}

// Equal shapes under strides that change from call to call.
Tensor Machine::strided(Shape s, DType dtype) {
  const int form = iteration % 4;
  if (form == 1 && s.rank() > 1) {
    std::swap(s[s.rank() - 1], s[s.rank() - 2]);
    return random_values(s, dtype).transpose();
  }
  if (form < 2 || !s.rank()) return random_values(s, dtype);
  if (form == 2) {
    const int64_t n = s[0];
    s[0] = 2 * n;
    return random_values(s, dtype).slice(0, 0, 2 * n, 2);
  }
  const Shape whole = s;
  s[0] = 1;
  return random_values(s, dtype).expand(whole);
}

Tensor Machine::argument(int k) {
  const Input& input = program.inputs[static_cast<size_t>(k)];
  Tensor& standing = standing_[static_cast<size_t>(k)];
  const Shape s = shape(input.shape);
  const bool real = input.dtype == DType::f32;
  if (input.source == Source::output && !previous_.empty() && previous_[0].defined()) return previous_[0];
  if (input.source == Source::blob && real) {
    auto* bytes = new std::vector<float>(random_values(s, DType::f32).to_vector<float>());
    return rp::from_blob(
               bytes->data(), s, [](void* p) { delete static_cast<std::vector<float>*>(p); }, bytes)
        .to(rp::default_device());
  }
  if (input.source == Source::window && s.rank()) return window(k, s);
  if (input.source == Source::strided) return strided(s, input.dtype);
  if (input.source == Source::fresh || input.source == Source::output) return random_values(s, input.dtype);
  const bool made = !standing.defined() || standing.shape() != s;
  if (made) standing = random_values(s, input.dtype);
  if (made) raw_[static_cast<size_t>(k)] = nullptr;
  const bool on_cpu = standing.device() == rp::Device::cpu();
  if (made && input.source == Source::exposed && real && on_cpu)
    raw_[static_cast<size_t>(k)] = standing.unsafe_data<float>();
  if (!made && input.source == Source::refilled) {
    standing.copy_from<double>(random_values(s, DType::f64).to_vector<double>());
    ++coverage.host_writes;
  }
  return standing;
}

Tensors Machine::arguments() {
  static constexpr std::string_view sources[] = {"fresh", "same",   "refilled", "exposed",
                                                 "blob",  "window", "output",   "strided"};
  Tensors list;
  for (size_t k = 0; k < program.inputs.size(); ++k) {
    list.push_back(argument(static_cast<int>(k)));
    say("input {}: {}, {}", k, rp::to_string(list.back().spec()),
        sources[static_cast<size_t>(program.inputs[k].source)]);
  }
  if (iteration == program.aliased && list.size() > 1) {
    list[1] = list[0];
    say("input 1 = input 0");
  }
  return list;
}

void Machine::observe(const std::string& label, const std::string& bytes) {
  trace.push_back({.label = fmt::format("iteration {}: {}", iteration, label), .bytes = bytes});
}

namespace {

template <class T>
std::string bits_of(const std::vector<T>& values, Coverage& coverage) {
  std::string bytes(values.size() * sizeof(T), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    T v = values[i];
    ++coverage.values;
    if (std::isnan(static_cast<double>(v))) {
      ++coverage.nans;
      v = std::numeric_limits<T>::quiet_NaN();  // every NaN counts as the same
    }
    std::memcpy(&bytes[i * sizeof(T)], &v, sizeof(T));
  }
  return bytes;
}

}  // namespace

void Machine::observe(const std::string& label, const Tensor& t) {
  if (!t.defined()) return observe(label, "undefined");
  const std::string spec = rp::to_string(t.spec()) + " strides " + rp::to_string(t.strides()) + ' ';
  std::string bytes;
  switch (t.dtype()) {
    case DType::bf16:
    case DType::f16:
    case DType::f32:
      bytes = bits_of(t.to_vector<float>(), coverage);
      break;
    case DType::f64:
      bytes = bits_of(t.to_vector<double>(), coverage);
      break;
    default:
      bytes = bits_of(t.to_vector<int64_t>(), coverage);
  }
  const std::string head = spec + (t.requires_grad() ? "requires a gradient " : "");
  observe(label + ' ' + rp::to_string(t.spec()), head + bytes);
  trace.back().dtype = t.dtype();
  trace.back().elements = head.size();
}

bool Machine::due(const Statement& s) const {
  switch (s.when) {
    case When::always:
      return true;
    case When::even:
      return iteration % 2 == 0;
    case When::odd:
      return iteration % 2 == 1;
    case When::third:
      return iteration % 3 == 2;
    case When::only:
      return iteration == s.at;
    case When::from:
      return iteration >= s.at;
    case When::flag:
      return flag;
  }
  return true;
}

void Machine::run_statement(const Statement& s, Tensors& locals) {
  ++coverage.statements;
  const Scope scope(*this, locals);
  const Action& action = actions()[static_cast<size_t>(s.action)];
  try {
    action.run(scope, s);
  } catch (const rp::Error& e) {
    ++coverage.errors;
    say("// {}: {}", action.name, e.what());
    if (program.errors_escape) throw;
    observe(std::string(action.name), std::string(e.what()));
  }
}

void Machine::run_block(const Block& block, Tensors& locals) {
  for (const Statement& s : block)
    if (due(s)) run_statement(s, locals);
}

Tensors Machine::call(int k, const Tensors& arguments) {
  ++call_depth;
  struct Leave {
    Machine& machine;
    ~Leave() { --machine.call_depth; }
  } leave{*this};
  return functions_[static_cast<size_t>(k)](arguments);
}

std::span<float> Machine::exposed(int k) const {
  for (size_t i = 0; i < raw_.size(); ++i) {
    const auto at = static_cast<size_t>(wrap(k + static_cast<int>(i), static_cast<int64_t>(raw_.size())));
    if (raw_[at]) return {raw_[at], static_cast<size_t>(standing_[at].numel())};
  }
  return {};
}

void Machine::inspect(bool forget) {
  for (auto& f : functions_) {
    if (forget)
      f.reset();
    else if (f.explain().empty() || f.dump() == "?")
      throw std::logic_error("a capture without a report");
  }
}

void Machine::iterate() {
  batch_ = program.tail && iteration == program.iterations - 1 ? program.tail : program.dims[0];
  say("// iteration {}", iteration);
  Tensors scratch(registers);
  try {
    if (iteration) run_block(program.between, scratch);
    const Tensors list = arguments();
    say("outputs = f0(inputs)");
    previous_ = call(0, list);
    for (const Tensor& t : previous_) outputs.push_back(t);
  } catch (const std::exception& e) {
    ++coverage.exceptions;
    say("// left by an exception: {}", e.what());
    observe("exception", std::string(e.what()));
    previous_.clear();
  }
  after_call();
}

// Memory whose pointer has escaped changes as soon as the call is over.
void Machine::after_call() {
  for (size_t k = 0; k < raw_.size(); ++k) {
    if (!raw_[k]) continue;
    ++coverage.host_writes;
    for (int64_t i = 0; i < standing_[k].numel(); ++i) raw_[k][i] = static_cast<float>(dice_.unit() * 4 - 2);
  }
}

void Machine::finish() {
  auto all = [&](const char* what, const Tensors& list) {
    for (size_t i = 0; i < list.size(); ++i) observe(fmt::format("{} {}", what, i), list[i]);
  };
  all("variable", variables);
  for (const Tensor& v : variables)
    if (v.grad().defined()) observe("gradient", v.grad());
  all("kept", kept);
  all("output", outputs);
  all("input", standing_);
  observe("generator", fmt::format("{} {}", rp::generator().seed, rp::generator().position));
  for (const auto& f : functions_) {
    const rp::CaptureStats s = f.stats();
    coverage.ops += s.ops, coverage.matched += s.matched, coverage.planned += s.planned, coverage.flushes += s.flushes;
    coverage.plan_runs += s.plan_runs, coverage.plan_builds += s.plan_builds, coverage.divergences += s.divergences;
  }
}

void Machine::run() {
  rp::ModeGuard guard(mode_);
  rp::manual_seed(program.seed);
  saved_generator = rp::generator();
  make_variables();
  for (size_t k = 0; k < program.functions.size(); ++k) {
    rp::CaptureOptions options;
    if (program.max_pending) options.max_pending = program.max_pending;
    functions_.push_back(rp::capture(Function([this, k](const Tensors& arguments) {
                                       Tensors locals(registers);
                                       for (size_t i = 0; i < arguments.size() && i < registers; ++i)
                                         locals[i] = arguments[i];
                                       ++indent;
                                       run_block(program.functions[k], locals);
                                       --indent;
                                       return Tensors{locals[registers - 1], locals[registers - 2]};
                                     }),
                                     options));
  }
  for (iteration = 0; iteration < program.iterations; ++iteration) {
    indent = 1;
    iterate();
  }
  finish();
}

}  // namespace fuzz
