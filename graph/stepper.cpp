#include "reprise/graph/stepper.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/control_run.h"
#include "reprise/graph/interpret.h"
#include "reprise/graph/private_inputs.h"
#include "reprise/graph/recorder.h"

namespace rp {

struct Stepper::State {
  Graph graph;
  std::vector<uint64_t> scalars;
  std::unique_ptr<Interpreter> run;
  Tensors seen;  // values as they were when they were made: later writes do not show

  const Node& node(int i) const {
    if (i < 0 || i >= graph.size()) fail("stepper: expected a node below {}, got {}", graph.size(), i);
    return graph[i];
  }
};

Stepper::Stepper(const Graph& graph, Tensors inputs, std::vector<uint64_t> scalars)
    : state_(std::make_unique<State>(State{graph, std::move(scalars), nullptr, {}})) {
  state_->run = std::make_unique<Interpreter>(state_->graph, std::move(inputs), state_->scalars);
}
Stepper::Stepper(Stepper&&) noexcept = default;
Stepper& Stepper::operator=(Stepper&&) noexcept = default;
Stepper::~Stepper() = default;

int Stepper::size() const { return state_->graph.size(); }
int Stepper::next() const { return state_->run->next(); }
std::string Stepper::op(int node) const { return std::string(state_->node(node).op->name); }
std::string Stepper::op() const { return done() ? "" : op(next()); }
std::string Stepper::line(int node) const {
  const std::string text = source_line(state_->node(node).loc);
  return text.empty() ? text : text.substr(1);
}
std::string Stepper::line() const { return done() ? "" : line(next()); }
std::vector<int> Stepper::operands(int node) const {
  const auto& inputs = state_->node(node).inputs;
  return {inputs.begin(), inputs.end()};
}

Tensor Stepper::step() {
  if (done()) fail("stepper: all {} nodes have run", size());
  const Unarmed unarmed;
  const Node& n = state_->graph[next()];
  const int node = next();
  state_->run->step();
  const bool has_value = n.op->kind != Kind::control;
  state_->seen.push_back(has_value ? state_->run->value(node).clone() : Tensor());
  return state_->seen.back();
}

void Stepper::run() {
  while (!done()) step();
}

void Stepper::run_to(const std::string& where) {
  const bool is_line = where.find(':') != std::string::npos;
  while (!done() && (is_line ? line() : op()) != where) step();
}

Tensor Stepper::value(int node) const {
  state_->node(node);
  if (node >= next()) fail("stepper: node {} has not run yet", node);
  return state_->seen[static_cast<size_t>(node)];
}

Stepper Stepper::into(int64_t number, bool condition) const {
  if (done() || state_->graph[next()].op->kind != Kind::control)
    fail("stepper: expected a control op to come next, got {}", done() ? "the end" : op());
  const Node& n = state_->graph[next()];
  const auto& a = n.attrs.as<ControlAttrs>();
  const bool loop = n.op == &while_op;
  if (condition && !loop) fail("stepper: a {} has no condition to step through", op());
  std::vector<const Tensor*> inputs;
  for (int32_t in : n.inputs) inputs.push_back(&state_->run->value(in));
  Scalars scalars;
  for (const ScalarSource& s : n.scalars)
    scalars.add_bits(s.parameter >= 0 ? state_->scalars[static_cast<size_t>(s.parameter)] : s.bits);
  std::optional<Stepper> inner;
  const Unarmed unarmed;
  watch_control({.op = n.op, .inputs = inputs, .attrs = n.attrs, .scalars = scalars},
                [&](size_t body, const Tensors& in, std::span<const uint64_t> given, int64_t at) {
                  if (at != number || inner || (loop && (body == 0) != condition)) return;
                  const Graph* graph = (body == 0) != loop ? a.body : a.other;
                  inner.emplace(*graph, in, std::vector<uint64_t>(given.begin(), given.end()));
                });
  if (!inner) fail("stepper: {}{} has no step {}", op(), source_line(n.loc), number);
  return std::move(*inner);
}

std::string Stepper::text() const {
  const NoGrad silent;
  std::string text;
  for (int i = 0; i < next(); ++i) {
    text += fmt::format("%{} = {}", i, op(i));
    for (int in : operands(i)) text += fmt::format(" %{}", in);
    if (!line(i).empty()) text += "  # " + line(i);
    const Tensor& v = state_->seen[static_cast<size_t>(i)];
    text += v.defined() ? "\n" + to_string(v) + "\n" : "\n";
  }
  return text;
}

namespace {

// The storages of a segment's tensors from outside, as they were before it.
class Copies {
 public:
  void see(const Tensor& t) {
    Storage* s = t.impl()->storage;
    if (s->data && !known_.count(s)) known_.emplace(s, bytes_of(*s));
  }
  // A tensor of the same layout over the copy; tensors that shared a storage share it.
  Tensor copy_of(const Tensor& t) {
    Tensor& whole = made_[t.impl()->storage];
    const std::vector<std::byte>& bytes = known_[t.impl()->storage];
    if (!whole.defined()) {
      const auto element = size_of(t.dtype());
      whole = allocate(intern({t.dtype(), {static_cast<int64_t>(bytes.size() / element)}, t.device()}));
      set_bytes(*whole.impl()->storage, bytes);
    }
    return alias(whole, t.impl()->layout, t.impl()->offset);
  }
  void forget() {
    known_.clear();
    made_.clear();
  }

 private:
  std::map<const Storage*, std::vector<std::byte>> known_;
  std::map<const Storage*, Tensor> made_;
};

}  // namespace

std::vector<Stepper> detail::steppers(const std::function<void()>& call) {
  if (thread_state.recorder) fail("steppers: expected to be called outside of captured functions");
  std::vector<Stepper> list;
  Copies copies;
  const ModeGuard guard(Mode::graph);
  auto captured = capture(call, {.name = "steppers"});
  Trie& trie = trie_of(*recording_of(captured));
  trie.watch = std::make_unique<Trie::Watch>();
  trie.watch->uses = [&](const Tensor& t) { copies.see(t); };
  trie.watch->records = [&](Graph graph, const Tensors& externals, const std::vector<uint64_t>& scalars) {
    Tensors inputs;
    for (const Tensor& t : externals) inputs.push_back(copies.copy_of(t));
    list.emplace_back(graph, std::move(inputs), scalars);
    copies.forget();
  };
  captured();
  return list;
}

}  // namespace rp
