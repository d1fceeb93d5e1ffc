#include "reprise/graph/recorder.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "reprise/core/fail.h"
#include "reprise/core/hash.h"
#include "reprise/core/infer.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/trace_events.h"
#include "reprise/eager/nan.h"
#include "reprise/eager/tape.h"
#include "reprise/graph/mismatch.h"

namespace rp {
namespace {

constexpr size_t max_children = 8, max_root_children = 64;
constexpr int max_leaves = 64;
constexpr int64_t forget_after = 1024;  // segments that found no room

uint64_t next_epoch() {
  static std::atomic<uint64_t> epoch{0};
  return ++epoch;
}

size_t span_bytes(const Layout& l) { return static_cast<size_t>(extent_of(l)) * size_of(l.dtype()); }

// The elements as they are now, under the same layout.
Tensor snapshot_of(const Tensor& t) {
  const Layout& layout = t.layout();
  const Tensor flat = allocate(intern({layout.dtype(), {extent_of(layout)}, layout.spec.device}));
  if (layout.numel) std::memcpy(flat.bytes(), t.bytes(), span_bytes(layout));
  return alias(flat, &layout, 0);
}

bool same_layout(const Layout* a, const Layout* b) {
  return a == b || (planted(Defect::strides) && a->spec == b->spec);
}

bool same_operand(const OperandRef& a, const OperandRef& b) {
  const bool storage = a.storage == b.storage || planted(Defect::storage_partition);
  return a.ref == b.ref && storage && same_layout(a.layout, b.layout);
}

// Whether a call is a recorded op, but for its operands.
bool same_op(const TraceOp& t, const Call& call) {
  return t.op == call.op && t.inputs.size() == call.inputs.size() && t.scalar_mask == call.scalar_mask &&
         t.scalar_count == call.scalars.size() && (t.attrs == call.attrs || planted(Defect::attrs_match));
}

}  // namespace

size_t Recorder::PlaceHash::operator()(const PlaceKey& k) const {
  return hash_mix(hash_mix(reinterpret_cast<size_t>(k.storage), reinterpret_cast<size_t>(k.layout)),
                  static_cast<size_t>(k.offset) ^ reinterpret_cast<size_t>(k.history));
}

size_t Recorder::StorageHash::operator()(const Storage* s) const { return reinterpret_cast<size_t>(s) >> 6; }

Recorder::Recorder(Trie& trie) : trie_(trie), current_(&trie.root) { start_segment(); }

Recorder::~Recorder() { drop_roots(); }

// Whether anybody but the recorder holds the pending storage of a slot.
bool Recorder::held(int32_t slot) const {
  Storage* s = roots_[static_cast<size_t>(slot)];
  if (planted(Defect::dead_base) && s && !owner_of(*s)) return false;
  return s && s->refs.load(std::memory_order_acquire) > 1;
}

void Recorder::drop_roots() noexcept {
  for (Storage* s : roots_) {
    if (!s) continue;
    s->recorder = nullptr;
    drop(s);
  }
  roots_.clear();
}

void Recorder::start_segment() {
  epoch_ = next_epoch();
  if (state_ == State::off && ++trie_.unrecorded == forget_after) {
    trie_.note("the recordings no longer fit what runs: all are forgotten");
    trie_.root.children.clear();
    trie_.leaves = 0;
    trie_.unrecorded = 0;
  }
  current_ = &trie_.root;
  state_ = trie_.root.children.empty() ? State::recording : State::matching;
  pending_.clear();
  scalars_.clear();
  external_index_.restart();
  storage_index_.restart();
  drop_roots();
  slots_ = 0;
  snapshots_ = 0;
  // Last: dropping the handles may end tensors.
  retired_.swap(externals_);
  retired_.clear();
}

// ---- operands -------------------------------------------------------------------------------------------------------

OperandRef Recorder::ref_of(const Tensor& t) {
  const TensorImpl& impl = *t.impl();
  if (impl.epoch == epoch_) return {static_cast<int32_t>(impl.slot), -1, impl.layout};
  return bind_external(t);
}

OperandRef Recorder::bind_external(const Tensor& t) {
  const TensorImpl& impl = *t.impl();
  if (t.pending() && state_ != State::tracing)
    fail("{} was never computed: an op before it failed, or a capture on another thread still holds it",
         to_string(t.spec()));
  bool fresh = false, fresh_storage = false;
  const bool abstract = state_ == State::tracing;
  const bool from_outside = abstract && impl.storage->recorder != this;
  const void* history = from_outside && wants_grad(t) ? rp::history(t).target().owner : nullptr;
  const int32_t k = external_index_.number({impl.storage, impl.layout, impl.offset, history}, fresh);
  if (fresh) {
    watch(t);
    External e{abstract ? t : bare_alias(t), {}, storage_index_.number(impl.storage, fresh_storage)};
    if (impl.storage->exposed && state_ == State::matching && !planted(Defect::no_snapshot)) {
      e.snapshot = snapshot_of(t);
      ++snapshots_;
    }
    externals_.push_back(std::move(e));
  }
  return {~k, externals_[static_cast<size_t>(k)].storage, impl.layout};
}

TraceOp* Recorder::find_child(const Call& call) {
  for (const auto& child : current_->children)
    if (same_op(*child, call) && std::equal(child->inputs.begin(), child->inputs.end(), refs_.begin(), same_operand))
      return child.get();
  return nullptr;
}

// Whether `t` is what an operand was in the recording: the result of that op, or the external bound in that place.
// False for externals that are not bound yet.
bool Recorder::stands_at(const OperandRef& where, const Tensor& t) const {
  const TensorImpl& impl = *t.impl();
  if (!same_layout(impl.layout, where.layout)) return false;
  if (where.ref >= 0) return impl.epoch == epoch_ && impl.slot == static_cast<uint32_t>(where.ref);
  const auto k = static_cast<size_t>(~where.ref);
  if (impl.epoch == epoch_ || k >= externals_.size()) return false;
  const TensorImpl& bound = *externals_[k].tensor.impl();
  return impl.storage == bound.storage && impl.layout == bound.layout && impl.offset == bound.offset;
}

// The usual case: operands that were bound before stand where the recording has them, which needs no index.
TraceOp* Recorder::find_known_child(const Call& call) {
  for (const auto& child : current_->children) {
    if (!same_op(*child, call)) continue;
    size_t i = 0;
    while (i < call.inputs.size() && stands_at(child->inputs[i], *call.inputs[i])) ++i;
    if (i == call.inputs.size()) return child.get();
  }
  return nullptr;
}

bool Recorder::writes_exposed(const Call& call) const {
  return call.op == &write_op && call.inputs[0]->impl()->storage->exposed;
}

// Whether an operand was bound in this segment and has been changed through a raw pointer since.
bool Recorder::reads_changed(const Call& call) const {
  return std::any_of(call.inputs.begin(), call.inputs.end(), [&](const Tensor* t) {
    const TensorImpl& impl = *t->impl();
    if (!impl.storage->exposed) return false;
    const int32_t k = external_index_.find({impl.storage, impl.layout, impl.offset});
    const Tensor snapshot = k < 0 ? Tensor() : externals_[static_cast<size_t>(k)].snapshot;
    return snapshot.defined() && std::memcmp(t->bytes(), snapshot.bytes(), span_bytes(*impl.layout)) != 0;
  });
}

// ---- the path of a call ---------------------------------------------------------------------------------------------

Tensor Recorder::record(const Call& call) {
  if (running_ || state_ == State::off) {
    const Unarmed guard;  // ops that run on behalf of the recorder are not recorded themselves
    return run_now(call);
  }
  if (state_ == State::tracing) {
    const Tensor y = note_abstract(call);
    const bool value = call.op->kind != Kind::write && call.op->kind != Kind::control;
    if (!thread_state.cutting || thread_state.grad || !value || !is_floating(y.dtype())) return y;
    const Tensor* noted_nowhere[] = {&y};
    return note_abstract({.op = &detach_op, .inputs = noted_nowhere});
  }
  ++trie_.stats.ops;
  if (writes_exposed(call)) {  // others may look at these elements at any time
    watch(*call.inputs[0]);
    flush("a write to elements whose raw pointer has escaped");
    const Unarmed guard;
    return run_now(call);
  }
  if (call.op->kind == Kind::transfer) {
    watch(*call.inputs[0]);
    flush("a copy to another device");
    const Unarmed guard;
    return run_now(call);
  }
  if (snapshots_ && reads_changed(call)) flush("elements changed through a raw pointer");
  if (current_->depth >= trie_.options.max_pending && call.op->kind != Kind::result) flush("the limit of pending ops");
  TraceOp* child = match(call);
  const Layout* out = child ? nullptr : infer_matched(call);
  if (out && is_elsewhere(out)) {
    flush("an op on another device");
    child = match(call);
  }
  if (child) {
    ++trie_.stats.matched;
    return defer(call, *child);
  }
  if (state_ == State::matching) diverge(call);
  return record_now(call, out);
}

// Whether something lies on another device than what this segment computes.
bool Recorder::is_elsewhere(const Layout* layout) const {
  return current_ != &trie_.root && layout->spec.device != current_->out->spec.device;
}

// The recorded op that stands where the call does, null if it has no such; then refs_ says what the operands are.
TraceOp* Recorder::match(const Call& call) {
  if (state_ == State::matching)
    if (TraceOp* child = find_known_child(call)) return child;
  // Before it binds operands, which would become inputs of a plan for the other device.
  if (!call.inputs.empty() && is_elsewhere(call.inputs[0]->impl()->layout)) flush("an op on another device");
  refs_.clear();
  for (const Tensor* t : call.inputs) refs_.push_back(ref_of(*t));
  return state_ == State::matching ? find_child(call) : nullptr;
}

// The layout of the result of a call that `match` did not know. A wrong call throws and leaves the recording as it was;
// what it has bound is forgotten where nothing else says which device the segment is for.
const Layout* Recorder::infer_matched(const Call& call) {
  try {
    return infer(call);
  } catch (...) {
    if (current_ == &trie_.root) start_segment();
    throw;
  }
}

Tensor Recorder::defer(const Call& call, TraceOp& t) {
  pending_.push_back(&t);
  for (const uint64_t bits : call.scalars.bits()) scalars_.push_back(bits);
  current_ = &t;
  if (t.slot < 0) {
    ++call.inputs[0]->impl()->storage->version;
    return *call.inputs[0];
  }
  Tensor y;
  if (call.op->kind == Kind::view) {
    const Tensor& base = *call.inputs[0];
    y = alias(base, t.out, base.impl()->offset + view_offset(call));
    roots_.push_back(nullptr);
  } else {
    y = allocate_pending(t.out);
    Storage* s = y.impl()->storage;
    s->recorder = this;
    s->refs.store(2, std::memory_order_relaxed);  // the second is the recorder's
    roots_.push_back(s);
  }
  ++slots_;
  y.impl()->epoch = epoch_;
  y.impl()->slot = static_cast<uint32_t>(t.slot);
  return y;
}

Tensor Recorder::record_now(const Call& call, const Layout* out) {
  const size_t limit = current_ == &trie_.root ? max_root_children : max_children;
  if (current_->children.size() >= limit || trie_.leaves >= max_leaves) {
    trie_.note(fmt::format("cut: too many branches after {}; the rest of the segment runs op by op",
                           current_->op ? op_text(*current_) : "the start"));
    state_ = State::off;
    const Unarmed guard;
    return run_now(call);
  }
  const std::optional<Span> shown = span("record", "{}", call.op->name);
  Tensor y;
  {
    const Unarmed guard;
    y = run_now(call);
  }
  const std::vector<OperandRef> refs = refs_;
  TraceOp* t = add_child(call, out);
  t->inputs = refs;
  current_ = t;
  scalars_.insert(scalars_.end(), call.scalars.bits().begin(), call.scalars.bits().end());
  if (trie_.watch && trie_.watch->makes) trie_.watch->makes(*t, y);
  if (t->slot < 0) return y;
  ++slots_;
  roots_.push_back(nullptr);
  y.impl()->epoch = epoch_;
  y.impl()->slot = static_cast<uint32_t>(t->slot);
  return y;
}

TraceOp* Recorder::add_child(const Call& call, const Layout* out) {
  auto t = std::make_unique<TraceOp>();
  t->op = call.op;
  t->attrs = call.attrs;
  t->scalar_mask = call.scalar_mask;
  t->scalar_count = call.scalars.size();
  t->out = out;
  t->slot = call.op == &write_op ? -1 : slots_;
  t->loc = At::where();
  t->parent = current_;
  t->depth = current_->depth + 1;
  current_->children.push_back(std::move(t));
  return current_->children.back().get();
}

void Recorder::diverge(const Call& call) {
  trie_.note(divergence(*current_, call, refs_));
  if (current_ != &trie_.root) ++trie_.stats.divergences;
  const std::vector<OperandRef> refs = refs_;  // running the pending ops must not disturb the call at hand
  run_op_by_op();
  refs_ = refs;
  state_ = State::recording;
}

// ---- flushing -------------------------------------------------------------------------------------------------------

bool Recorder::concerns(const Tensor& t) const {
  if (current_ == &trie_.root) return false;
  return t.pending() || t.impl()->epoch == epoch_ || storage_index_.find(t.impl()->storage) >= 0;
}

void Recorder::flush(std::string_view reason) {
  if (running_ || tracing()) return;
  if (current_ == &trie_.root) return start_segment();
  const std::optional<Span> shown = span("flush", "{}", reason);
  ++trie_.stats.flushes;
  trie_.count_end(reason);
  if (state_ == State::matching) {
    run_pending(reason);
  } else if (state_ == State::recording) {
    if (trie_.watch && trie_.watch->records) show_recording();
    if (!current_->leaf) ++trie_.stats.recordings;
    leaf_of(*current_);
  }
  start_segment();
}

void Recorder::abandon() {
  if (!pending_.empty()) run_op_by_op();
  start_segment();
}

Leaf& Recorder::leaf_of(TraceOp& t) {
  if (!t.leaf) {
    t.leaf = std::make_unique<Leaf>();
    ++trie_.leaves;
  }
  ++t.leaf->hits;
  return *t.leaf;
}

void Recorder::run_pending(std::string_view reason) {
  const bool known = current_->leaf != nullptr;
  if (!known) trie_.note(early_end(*current_, reason));
  Leaf& leaf = leaf_of(*current_);
  const LeafPlan* plan =
      known && !watches_nan() && (!trie_.watch || trie_.watch->plans) ? plan_for(*current_) : nullptr;
  if (!plan) return run_op_by_op();
  const bool contest = trie_.options.drop_slow_plans && leaf.contest.runs < Contest::enough;
  if (mode() == Mode::verify) {
    verify_plan(*plan);
    count_run(*plan);
  } else {
    contest ? try_plan(leaf) : run_plan(*plan);
  }
  pending_.clear();
}

}  // namespace rp
