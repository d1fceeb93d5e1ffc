#include "reprise/eager/tape.h"

#include <atomic>
#include <iterator>
#include <new>

#include "reprise/core/block.h"
#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/eager/grad.h"

namespace rp {
namespace {

// One clock for all threads: a tape may be built on several, one after the other.
constinit std::atomic<uint64_t> sequence{0};
constinit std::atomic<uint64_t> generations{0};
constinit thread_local TapeNode* doomed = nullptr;
constinit thread_local bool destroying = false;

// Chains of nodes may be long: they are taken down by a loop, not by recursion.
void destroy(TapeNode* node) noexcept {
  node->doomed = std::exchange(doomed, node);
  if (std::exchange(destroying, true)) return;
  while (TapeNode* n = doomed) {
    doomed = n->doomed;
    n->~TapeNode();
    free_block(n, sizeof(TapeNode));
  }
  destroying = false;
}

TapeRef make_node(const Op& op, const Layout* layout) {
  auto* node = new (allocate_block(sizeof(TapeNode))) TapeNode;
  node->op = &op;
  node->layout = layout;
  node->loc = At::where();
  return TapeRef(node);
}

// A node gets its number when it has its edges: those may have made nodes themselves, which come before it.
TapeRef numbered(TapeRef node) {
  node->sequence = sequence.fetch_add(1, std::memory_order_relaxed) + 1;
  return node;
}

GradState& state_of(const Tensor& t) {
  GradState*& state = t.impl()->grad;
  if (!state) state = new (allocate_block(sizeof(GradState))) GradState;
  return *state;
}

const Layout* flat_layout(const Storage& s, DType dtype) {
  return intern({dtype, {static_cast<int64_t>(s.bytes / size_of(dtype))}, s.device});
}

void join(Edge& edge, const TapeRef& node, const Layout* layout) {
  edge.node = node;
  edge.layout = layout;
}

// A node whose value is `t`'s elements within the written storage.
TapeRef region_of(const TapeRef& written, const Tensor& t) {
  const TensorImpl& impl = *t.impl();
  const bool whole = impl.layout->contiguous && impl.layout->numel == written->layout->numel;
  static const Op& as_strided_op = *find_op("as_strided");
  TapeRef node = make_node(whole ? reshape_op : as_strided_op, impl.layout->packed);
  node->loc = written->loc;
  node->attrs = SpecAttrs{whole ? impl.layout->packed : impl.layout};
  node->scalars.add(impl.offset);
  join(node->edges.add(), written, written->layout);
  return numbered(std::move(node));
}

// The tensor whose history covers the storage: the one that owns it, if it is still there.
Tensor base_tensor(const Tensor& t) {
  if (TensorImpl* owner = owner_of(*t.impl()->storage)) {
    owner->refs.fetch_add(1, std::memory_order_relaxed);
    return Tensor(owner);
  }
  const GradState* state = t.impl()->grad;
  return state && state->base.defined() ? state->base : t;
}

// A handle for the tape, which does not keep the history of the elements alive.
Tensor for_tape(const Tensor& value) {
  Tensor t = bare_alias(value);
  t.impl()->saved = true;
  std::atomic_ref(t.impl()->storage->saved_refs).fetch_add(1, std::memory_order_relaxed);
  return t;
}

Saved saved(const Tensor& value) { return {for_tape(value), value.impl()->storage->version}; }

void save(Edge& edge, const Tensor& value) {
  edge.saved = for_tape(value);
  edge.version = value.impl()->storage->version;
}

// Makes `out` the result of number `index` of the control call that `token` stands for.
void note_result(const Tensor& token, const Tensor& out, int32_t index) {
  TapeNode& node = *token.impl()->grad->node.get();
  if (is_floating(out.dtype())) {
    GradState& state = state_of(out);
    state.node = token.impl()->grad->node;
    state.result = index;
  }
  const auto& attrs = node.attrs.as<ControlAttrs>();
  if (index < attrs.results - attrs.saved) return;
  std::vector<Saved>& results = node.more().results;
  results.resize(static_cast<size_t>(attrs.results));
  results[static_cast<size_t>(index)] = saved(out);
}

// `edge` becomes what `t`'s gradient flows to.
Edge& trace_back(const Tensor& t, Edge& edge) {
  edge.layout = t.impl()->layout->packed;
  GradState* state = t.impl()->grad;
  if (state && state->leaf) {
    edge.leaf = t;
    return edge;
  }
  if (const WriteHistory* written = t.impl()->storage->history; written && is_floating(t.dtype())) {
    GradState& mine = state_of(t);
    if (mine.generation != written->generation) {
      mine.node = region_of(written->node, t);
      mine.result = 0;
      mine.generation = written->generation;
    }
    state = &mine;
  }
  if (state) {
    edge.node = state->node;
    edge.result = state->result;
  }
  return edge;
}

}  // namespace

Edge& EdgeList::add_to_many() {
  if (!many_) many_ = new std::vector<Edge>(std::move_iterator(few_), std::move_iterator(few_ + few));
  ++size_;
  return many_->emplace_back();
}

TapeRef::TapeRef(const TapeRef& o) noexcept : node_(o.node_) {
  if (node_) ++node_->refs;
}

void TapeRef::drop() noexcept {
  if (--node_->refs == 0) destroy(node_);
}

Edge history(const Tensor& t) {
  Edge edge;
  trace_back(t, edge);
  return edge;
}

Tensor with_history(const Tensor& value, const Edge& edge) {
  if (edge.leaf.defined()) return edge.leaf;
  Tensor t = bare_alias(value);
  if (!edge.node) return t;
  GradState& state = state_of(t);
  state.node = edge.node;
  state.result = edge.result;
  if (const WriteHistory* written = t.impl()->storage->history) state.generation = written->generation;
  return t;
}

void note(const Call& call, const Tensor& out) {
  const Op& op = *call.op;
  if (op.kind == Kind::result)
    return note_result(*call.inputs[0], out, static_cast<int32_t>(call.attrs.as<ResultAttrs>().index));
  TapeRef node = make_node(op, out.impl()->layout->packed);
  const int needs = static_cast<int>(op.gradient.needs);
  node->attrs = call.attrs;
  node->scalars = call.scalars;
  node->scalar_mask = call.scalar_mask;
  for (const Tensor* input : call.inputs) {
    Edge& edge = trace_back(*input, node->edges.add());
    if (needs & static_cast<int>(Needs::inputs)) save(edge, *input);
  }
  if (needs & static_cast<int>(Needs::output)) node->output = saved(out);
  GradState& state = state_of(out);
  state.node = numbered(std::move(node));
  if (op.kind == Kind::view) {
    const Tensor& in = *call.inputs[0];
    state.base = in.impl()->grad && in.impl()->grad->base.defined() ? in.impl()->grad->base : in;
    if (const WriteHistory* written = in.impl()->storage->history) state.generation = written->generation;
  }
}

void check_write(const Tensor& target) {
  const Layout& layout = target.layout();
  for (int i = 0; i < layout.rank(); ++i)
    if (!layout.strides[i] && layout.shape()[i] > 1)
      fail("write: {} repeats elements along axis {}; write to a clone() or to the tensor it was expanded from",
           to_string(layout.spec), i);
  if (!thread_state.grad) return;
  const GradState* state = target.impl()->grad;
  if (!state) return;
  if (state->leaf)
    fail("write: {} is a leaf that requires a gradient; change it under no_grad", to_string(layout.spec));
  if (state->base.defined() && state->base.impl()->grad && state->base.impl()->grad->leaf)
    fail("write: {} is a view of a leaf that requires a gradient; change it under no_grad", to_string(layout.spec));
}

void note_write(const Tensor& target, const Tensor& value) {
  // A body's write to a tensor from outside becomes a result of the control op; what is noted is the copy back.
  if (thread_state.tracing && target.impl()->storage->recorder != thread_state.recorder) return;
  if (!thread_state.grad || !is_floating(target.dtype())) return;
  if (!wants_grad(value) && !wants_grad(target)) return;
  Storage& storage = *target.impl()->storage;
  TapeRef node = make_node(write_op, flat_layout(storage, target.dtype()));
  TapeExtra& write = node->more();
  write.region = target.impl()->layout;
  write.region_offset = target.impl()->offset;
  if (storage.history) {
    write.base = node->layout;
    join(node->edges.add(), storage.history->node, node->layout);
  } else {
    const Tensor base = base_tensor(target);
    write.base = base.impl()->layout;
    write.base_offset = base.impl()->offset;
    trace_back(base, node->edges.add());
  }
  trace_back(value, node->edges.add());
  if (!storage.history) storage.history = new WriteHistory;
  storage.history->node = numbered(std::move(node));
  storage.history->generation = generations.fetch_add(1, std::memory_order_relaxed) + 1;
}

void drop_grad(GradState* state) noexcept {
  state->~GradState();
  free_block(state, sizeof(GradState));
}

void drop_history(WriteHistory* history) noexcept { delete history; }

// ---- Tensor's share -------------------------------------------------------------------------------------------------

bool Tensor::requires_grad() const noexcept {
  if (!impl_) return false;
  const GradState* state = impl_->grad;
  if (state && (state->leaf || state->node)) return true;
  return impl_->storage->history && is_floating(impl_->layout->dtype());
}

const Tensor& Tensor::set_requires_grad(bool on, Loc loc) const {
  At at(loc);
  layout();
  if (on && !is_floating(dtype()))
    fail("set_requires_grad: expected a floating-point tensor, got {}", rp::to_string(spec()));
  if (requires_grad() && !(impl_->grad && impl_->grad->leaf))
    fail("set_requires_grad: {} is not a leaf; use detach()", rp::to_string(spec()));
  if (on || impl_->grad) state_of(*this).leaf = on;
  return *this;
}

Tensor Tensor::grad() const { return impl_ && impl_->grad ? impl_->grad->grad : Tensor(); }

void Tensor::set_grad(const Tensor& g, Loc loc) const {
  At at(loc);
  layout();
  if (g.defined() && g.spec() != spec())
    fail("set_grad: expected {}, got {}", rp::to_string(spec()), rp::to_string(g.spec()));
  if (g.defined() || impl_->grad) state_of(*this).grad = g;
}

Tensor Tensor::detach(Loc loc) const {
  At at(loc);
  layout();
  if (!thread_state.cutting || !is_floating(dtype())) return bare_alias(*this);
  const Tensor* input[] = {this};
  return apply({.op = &detach_op, .inputs = input});
}

void Tensor::backward(Loc loc) const { backward(Tensor(), false, loc); }

void Tensor::backward(const Tensor& seed, bool retain_graph, Loc loc) const {
  At at(loc);
  layout();  // throws for an empty handle
  rp::backward(*this, seed, retain_graph);
}

NoGrad::NoGrad() : before_(thread_state.grad) { thread_state.grad = false; }
NoGrad::~NoGrad() { thread_state.grad = before_; }
bool grad_enabled() { return thread_state.grad; }

Tensor CustomGradient::operator()(const Tensors& inputs, Loc loc) const {
  At at(loc);
  if (thread_state.cutting)
    fail(
        "custom gradient: the body of a control op is differentiated op by op, so that a backward function is of no "
        "use");
  Tensors bare;
  for (const Tensor& t : inputs) bare.push_back(t.detach());
  Tensor y = no_grad([&] { return forward(bare); });
  y.layout();  // throws if forward gave nothing
  bool noted = false;
  for (const Tensor& t : inputs) noted |= thread_state.grad && wants_grad(t);
  if (!noted) return y;
  y = bare_alias(y);
  TapeRef node = make_node(copy_op, y.impl()->layout->packed);
  for (const Tensor& t : inputs) save(trace_back(t, node->edges.add()), t);
  node->output = saved(y);
  node->more().custom = backward;
  GradState& state = state_of(y);
  state.node = numbered(std::move(node));
  if (const WriteHistory* written = y.impl()->storage->history) state.generation = written->generation;
  return y;
}

}  // namespace rp
