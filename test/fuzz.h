#pragma once
// Random programs. A program is data: a few functions of statements over registers, run as a loop by one interpreter
// through the public API. Everything a user could see goes into a trace; the eager and the captured run must leave the
// same one.
#include <fmt/format.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "reprise/reprise.h"

namespace fuzz {

using rp::DType;
using rp::Shape;
using rp::Tensor;
using rp::Tensors;

/// Small deterministic generator (splitmix64).
struct Dice {
  uint64_t state;
  uint64_t next();
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  bool one_in(int64_t n) { return below(n) == 0; }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
};

// ---- programs ----

/// In which iterations a statement runs.
enum class When : uint8_t { always, even, odd, third, only, from, flag };

/// How a statement's number changes from one iteration to the next.
enum class Drift : uint8_t { constant, linear, special, read };

struct Statement {
  int action = 0;           // index into `actions()`
  int a = 0, b = 0, c = 0;  // registers where the search for operands starts
  int d = 0;                // register of the result
  int n = 0, m = 0;         // axes, lengths, choices
  double x = 0.5;           // a number
  Drift drift = Drift::constant;
  When when = When::always;
  int at = 0;                     // of `only` and `from`
  std::vector<Statement> body{};  // of blocks
};
using Block = std::vector<Statement>;

/// Where an argument of the captured function comes from.
enum class Source : uint8_t { fresh, same, refilled, exposed, blob, window, output, strided };

struct Input {
  int shape = 0;  // index into `shapes`
  DType dtype = DType::f32;
  Source source = Source::fresh;
};

struct Variable {
  int shape = 0;
  DType dtype = DType::f32;
  bool leaf = false;  // requires a gradient
};

struct Program {
  uint64_t seed = 0;
  int iterations = 8;
  int dims[4] = {4, 6, 3, 2};  // batch, columns, rows, channels
  int64_t largest = 4096;      // elements of a value
  std::vector<Input> inputs{};
  std::vector<Variable> variables{};
  std::vector<Block> functions{};  // captured; the first is the loop's body, later ones are called from those before
  Block between{};                 // runs uncaptured between the calls
  int tail = 0;                    // batch of the last iteration; 0: as ever
  int aliased = -1;                // iteration whose second argument is the first
  bool errors_escape = false;      // an error ends the body instead of one statement
  int max_pending = 0;             // of the captures; 0: as they come
};

constexpr int registers = 8;  // of one call of a function
constexpr int shape_count = 10;

Program generate(uint64_t seed);
/// One line for each statement; `parse` reads it back.
std::string to_text(const Program& program);
Program parse(const std::string& text);
int statement_count(const Block& block);

// ---- what a run leaves ----

struct Entry {
  std::string label, bytes;
  DType dtype = DType::boolean;
  size_t elements = std::string::npos;  // where they start in `bytes`, if it is a tensor
  bool operator==(const Entry& o) const { return bytes == o.bytes; }
};
using Trace = std::vector<Entry>;

/// Counts over runs, so that agreement cannot mean that nothing was tried.
struct Coverage {
  int64_t statements = 0, skipped = 0, views = 0, writes = 0, reads = 0, branches = 0, gradients = 0, randoms = 0;
  int64_t errors = 0, exceptions = 0, nested = 0, host_writes = 0, values = 0, nans = 0;
  int64_t ops = 0, matched = 0, planned = 0, flushes = 0, plan_runs = 0, plan_builds = 0, divergences = 0;
};
Coverage& operator+=(Coverage& a, const Coverage& b);
std::string to_text(const Coverage& c);

// ---- the interpreter ----

/// The state of one run.
class Machine {
 public:
  Machine(const Program& program, rp::Mode mode, std::string* text = nullptr);
  Machine(const Machine&) = delete;
  /// A gradient that was changed in place by a value computed from its own leaf holds that leaf: dropping gradients
  /// frees both.
  ~Machine() {
    for (const Tensor& t : variables) t.set_grad(Tensor());
  }
  void run();

  const Program& program;
  Trace trace;
  Coverage coverage;
  Tensors variables, kept, outputs;
  rp::Generator saved_generator;
  double read = 0.5;  // the number read last
  bool flag = false;
  int iteration = 0, call_depth = 0;

  /// What the user sees, kept for comparison.
  void observe(const std::string& label, const Tensor& t);
  void observe(const std::string& label, const std::string& bytes);
  void run_block(const Block& block, Tensors& locals);
  /// Calls function `k`: a capture, nested if called from another.
  Tensors call(int k, const Tensors& arguments);
  /// The memory of the first argument from the k-th on whose raw pointer has escaped; empty if there is none.
  std::span<float> exposed(int k) const;
  /// Asks captures for reports, or has them forget what they have recorded.
  void inspect(bool forget);
  /// Writes a line of the readable program, if one is wanted.
  template <class... A>
  void say(fmt::format_string<A...> format, A&&... args) {
    if (text_) write_line(fmt::format(format, std::forward<A>(args)...));
  }
  int indent = 1;

 private:
  using Function = std::function<Tensors(const Tensors&)>;
  void write_line(const std::string& line);
  void make_variables();
  Tensors arguments();
  Tensor argument(int k);
  Tensor window(int k, Shape s);
  Tensor strided(Shape s, DType dtype);
  void iterate();
  void after_call();
  void finish();
  bool due(const Statement& s) const;
  void run_statement(const Statement& s, Tensors& locals);
  Shape shape(int k) const;
  Tensor random_values(const Shape& shape, DType dtype);

  rp::Mode mode_;
  std::string* text_;
  Dice dice_;
  std::vector<rp::Captured<Function>> functions_;
  Tensors standing_;         // arguments that live across iterations
  std::vector<float*> raw_;  // their pointers, where they have escaped
  Tensors previous_;         // the results of the last call
  int64_t batch_ = 1;
};

/// What a statement works with: the registers of its function, then the program's variables.
class Scope {
 public:
  Scope(Machine& machine, Tensors& locals) : machine(machine), locals(locals) {}

  /// The first register from `from` on, in a circle, that is defined and passes `fits`; null if there is none.
  template <class F>
  const Tensor* pick(int from, F fits) const {
    const int n = count();
    for (int i = 0; i < n; ++i) {
      const Tensor& t = at((from + i) % n);
      if (t.defined() && fits(t)) return &t;
    }
    return nullptr;
  }
  const Tensor* pick(int from) const {
    return pick(from, [](const Tensor&) { return true; });
  }
  int count() const { return static_cast<int>(locals.size() + machine.variables.size()); }
  Tensor& at(int k) const {
    const int n = static_cast<int>(locals.size());
    return k < n ? locals[static_cast<size_t>(k)] : machine.variables[static_cast<size_t>(k - n)];
  }
  std::string name(const Tensor& t) const;
  /// Stores a result in register `s.d`.
  void put(const Statement& s, const Tensor& value, const std::string& how) const;
  void skip() const { ++machine.coverage.skipped; }
  double number(const Statement& s) const;
  bool small(int64_t elements) const { return elements <= machine.program.largest; }

  Machine& machine;
  Tensors& locals;
};

struct Action {
  std::string_view name;
  int weight;  // how often the generator takes it
  void (*run)(const Scope&, const Statement&);
  bool block = false;  // has a body
};

std::span<const Action> actions();
// The parts of that table.
std::span<const Action> pure_actions();
std::span<const Action> view_actions();
std::span<const Action> effect_actions();
std::span<const Action> control_actions();
std::span<const Action> gradient_actions();

inline bool is_real(const Tensor& t) { return rp::is_floating(t.dtype()); }
inline bool is_index(const Tensor& t) { return t.dtype() == DType::i32 || t.dtype() == DType::i64; }
/// The shape both broadcast to; false if they do not.
bool join(const Shape& a, const Shape& b, Shape& out);
/// 0 <= result < n for any k.
inline int wrap(int64_t k, int64_t n) { return static_cast<int>(((k % n) + n) % n); }

// ---- comparison ----

enum class Outcome : uint8_t { same, differs, broke, died, hung };
std::string_view name_of(Outcome outcome);

struct Verdict {
  Outcome outcome = Outcome::same;
  std::string detail;
  Coverage coverage;
};

/// Makes the device on which this process's programs run the default one: the CPU, or, in a test program of its own, a
/// CUDA device that runs on the processor.
void use_device();

/// Gives a program, all of its iterations as one function, to rp::verify.
Verdict verify_whole(const Program& program);
/// Runs a program eagerly and captured, and compares the traces.
Verdict compare(const Program& program, rp::Mode mode);
/// The program as C++-like text: what an eager run of it does, iteration by iteration.
std::string describe(const Program& program);

/// Removes what can go while `fails` stays true.
Program shrink(Program program, const std::function<bool(const Program&)>& fails);

}  // namespace fuzz
