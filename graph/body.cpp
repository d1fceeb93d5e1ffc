// Graphs of bodies: those of composites and those of control ops.
#include <map>
#include <mutex>
#include <utility>

#include "reprise/core/fail.h"
#include "reprise/core/infer.h"
#include "reprise/graph/control_call.h"
#include "reprise/graph/recorder.h"

namespace rp {
namespace {

constexpr int max_traced = 64;  // different bodies that one site remembers

struct BodyKey {
  const Op* op;
  std::vector<std::byte> attrs;
  std::vector<const Layout*> inputs;
  auto operator<=>(const BodyKey&) const = default;
};

}  // namespace

Tensor Recorder::note_abstract(const Call& call) {
  if (call.op->kind == Kind::transfer) fail("to: expected one device in a body; move tensors before the control op");
  refs_.clear();
  for (const Tensor* t : call.inputs) refs_.push_back(ref_of(*t));
  if (TraceOp* child = find_child(call)) return defer(call, *child);
  const std::vector<OperandRef> refs = refs_;
  TraceOp* t = add_child(call, infer(call));
  t->inputs = refs;
  return defer(call, *t);
}

// Records the body; returns the slots of its results.
std::vector<int32_t> Recorder::run_abstract(const std::vector<const Layout*>& layouts, const BodyFunction& body) {
  state_ = State::tracing;
  Tensors inputs;
  struct Scope {
    Tensors& inputs;
    ThreadState before;
    ~Scope() {
      thread_state.recorder = before.recorder;
      thread_state.tracing = before.tracing;
      for (const Tensor& t : inputs) t.impl()->storage->recorder = nullptr;
    }
  } scope{inputs, thread_state};
  thread_state.recorder = this;
  thread_state.tracing = true;
  for (const Layout* layout : layouts) {
    inputs.push_back(alias(allocate_pending(layout->packed), layout, 0));
    inputs.back().impl()->storage->recorder = this;
    bind_external(inputs.back());
  }
  AtForward at({Loc{}, At::where().module});  // ops of the body stand at their own lines
  Tensors outputs = body(inputs);
  std::vector<int32_t> slots;
  for (Tensor& y : outputs) {
    // A result has elements of its own: not an input's, and not a view of others.
    if (y.impl()->epoch != epoch_ || !roots_[y.impl()->slot]) y = y.clone();
    slots.push_back(static_cast<int32_t>(y.impl()->slot));
  }
  return slots;
}

std::vector<ExternalSpec> Recorder::external_specs() const {
  std::vector<ExternalSpec> specs;
  for (const External& e : externals_) specs.push_back({e.tensor.impl()->layout, e.storage});
  return specs;
}

TracedBody Recorder::trace(Trie& trie, const std::vector<const Layout*>& layouts, const BodyFunction& body) {
  if (trie.leaves >= max_traced && !trie.tracing) {
    trie.root.children.clear();
    trie.leaves = 0;
  }
  struct Tracing {
    int& count;
    explicit Tracing(int& c) : count(++c) {}
    ~Tracing() { --count; }
  } const tracing(trie.tracing);
  Recorder recorder(trie);
  const std::vector<int32_t> outputs = recorder.run_abstract(layouts, body);
  TracedBody traced;
  traced.scalars = Scalars(recorder.scalars_);
  std::vector<const Layout*> inputs;
  for (const External& e : recorder.externals_) {
    inputs.push_back(e.tensor.impl()->layout);
    if (inputs.size() > layouts.size()) traced.closed.push_back(e.tensor);
  }
  Leaf& leaf = recorder.leaf_of(*recorder.current_);
  for (const Leaf::Body& known : leaf.bodies)
    if (known.inputs == inputs && known.outputs == outputs) {
      traced.graph = known.graph;
      return traced;
    }
  traced.graph = intern(build_graph(recorder.path_to(recorder.current_), recorder.external_specs(), outputs));
  leaf.bodies.push_back({std::move(inputs), outputs, traced.graph});
  return traced;
}

Graph Recorder::trace_composite(const std::vector<const Layout*>& layouts, const BodyFunction& body) {
  Trie trie;
  Recorder recorder(trie);
  const GradScope off(false);
  const std::vector<int32_t> outputs = recorder.run_abstract(layouts, body);
  return build_graph(recorder.path_to(recorder.current_), recorder.external_specs(), outputs, &recorder.scalars_);
}

const Graph& body_graph(const Op& op, const Attrs& attrs, const std::vector<const Layout*>& inputs) {
  static std::mutex mutex;
  static auto* graphs = new std::map<BodyKey, std::unique_ptr<Graph>>;
  BodyKey key{&op, {attrs.data(), attrs.data() + attrs.size()}, inputs};
  {
    std::lock_guard lock(mutex);
    if (const auto it = graphs->find(key); it != graphs->end()) return *it->second;
  }
  // Traced outside the lock: a body may hold composites of its own.
  auto graph = std::make_unique<Graph>(
      Recorder::trace_composite(inputs, [&](const Tensors& in) { return Tensors{run_body(op, in, attrs, {})}; }));
  std::lock_guard lock(mutex);
  return *graphs->try_emplace(std::move(key), std::move(graph)).first->second;
}

}  // namespace rp
