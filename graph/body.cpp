// Graphs of composites' bodies.
#include <map>
#include <mutex>
#include <utility>

#include "reprise/core/infer.h"
#include "reprise/graph/recorder.h"

namespace rp {
namespace {

struct BodyKey {
  const Op* op;
  std::vector<std::byte> attrs;
  std::vector<const Layout*> inputs;
  auto operator<=>(const BodyKey&) const = default;
};

}  // namespace

Tensor Recorder::note_abstract(const Call& call) {
  refs_.clear();
  for (const Tensor* t : call.inputs) refs_.push_back(ref_of(*t));
  const Layout* out = infer(call);
  TraceOp* t = add_child(call, out);
  t->inputs = refs_;
  return defer(call, *t);
}

Graph Recorder::trace(const std::vector<const Layout*>& layouts, const std::function<Tensor(const Tensors&)>& body) {
  Trie trie;
  Recorder recorder(trie);
  recorder.state_ = State::tracing;
  Tensors inputs;
  for (const Layout* layout : layouts) inputs.push_back(alias(allocate_pending(layout->packed), layout, 0));
  for (const Tensor& t : inputs) recorder.bind_external(t);
  Recorder* before = std::exchange(thread_state.recorder, &recorder);
  const bool grad = std::exchange(thread_state.grad, false);
  Tensor y;
  try {
    y = body(inputs);
    if (y.impl()->epoch != recorder.epoch_) y = y.clone();  // an input as it is
  } catch (...) {
    thread_state.recorder = before;
    thread_state.grad = grad;
    throw;
  }
  thread_state.recorder = before;
  thread_state.grad = grad;
  std::vector<ExternalSpec> externals;
  for (const External& e : recorder.externals_) externals.push_back({e.tensor.impl()->layout, e.storage});
  return build_graph(recorder.path_to(recorder.current_), externals, {static_cast<int32_t>(y.impl()->slot)},
                     &recorder.scalars_);
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
  auto graph =
      std::make_unique<Graph>(Recorder::trace(inputs, [&](const Tensors& in) { return op.body(in, attrs, {}); }));
  std::lock_guard lock(mutex);
  return *graphs->try_emplace(std::move(key), std::move(graph)).first->second;
}

}  // namespace rp
