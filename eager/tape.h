#pragma once
// The tape: one node of plain data for each noted op. A tensor's GradState points at the node that made it.
//
// Writes are made functional here: a write to a storage appends a node for the whole storage's new elements, and
// tensors on that storage derive their history from it (by `as_strided`) when they are next used.
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "reprise/core/op.h"

namespace rp {

struct TapeNode;

/// Counted pointer to a TapeNode.
class TapeRef {
 public:
  TapeRef() = default;
  explicit TapeRef(TapeNode* owned) : node_(owned) {}
  TapeRef(const TapeRef& o) noexcept;
  TapeRef(TapeRef&& o) noexcept : node_(std::exchange(o.node_, nullptr)) {}
  TapeRef& operator=(TapeRef o) noexcept {
    std::swap(node_, o.node_);
    return *this;
  }
  ~TapeRef() {
    if (node_) drop();
  }
  TapeNode* get() const { return node_; }
  TapeNode* operator->() const { return node_; }
  explicit operator bool() const { return node_; }
  TapeNode* release() { return std::exchange(node_, nullptr); }

 private:
  void drop() noexcept;

  TapeNode* node_ = nullptr;
};

/// What a gradient flows to: a leaf, or one result of a noted op.
struct Target {
  const void* owner = nullptr;
  int32_t result = 0;
  explicit operator bool() const { return owner; }
  bool operator==(const Target&) const = default;
};

/// One tensor input of a noted op: what its gradient flows to, and what the rule needs to see.
struct Edge {
  TapeRef node{};  // made by a noted op
  Tensor leaf{};   // or a leaf that requires a gradient; neither: no gradient flows here
  Tensor saved{};  // the value, without history, if the rule needs it
  const Layout* layout = nullptr;
  uint32_t version = 0;  // of the saved value's storage then
  int32_t result = 0;    // which of the node's results

  Target target() const {
    if (node) return {node.get(), result};
    return {leaf.impl(), 0};
  }
};

/// A node's edges: few are held in place.
class EdgeList {
 public:
  EdgeList() = default;
  EdgeList(const EdgeList&) = delete;
  ~EdgeList() { delete many_; }
  Edge& add() { return size_ < few ? few_[size_++] : add_to_many(); }
  Edge* begin() { return many_ ? many_->data() : few_; }
  Edge* end() { return begin() + size_; }
  const Edge* begin() const { return many_ ? many_->data() : few_; }
  const Edge* end() const { return begin() + size_; }
  size_t size() const { return size_; }
  Edge& operator[](size_t i) { return begin()[i]; }
  const Edge& operator[](size_t i) const { return begin()[i]; }

 private:
  Edge& add_to_many();

  static constexpr size_t few = 3;
  Edge few_[few];
  std::vector<Edge>* many_ = nullptr;
  size_t size_ = 0;
};

/// A value kept for a gradient rule, without history.
struct Saved {
  Tensor value;
  uint32_t version = 0;  // of its storage then
};

/// What only few nodes have.
struct TapeExtra {
  std::vector<Saved> results;  // of a control op: those that are saved, by number
  // Of a write, counted from the storage's first element: the region that was replaced, and the tensor that its first
  // edge stands for.
  const Layout* region = nullptr;
  const Layout* base = nullptr;
  int64_t region_offset = 0, base_offset = 0;
  // of a function with a gradient of its own
  std::function<Tensors(const Tensors&, const Tensor&, const Tensor&)> custom;
};

struct TapeNode {
  uint32_t refs = 1;
  bool freed = false;  // its saved values were given up by a walk
  uint8_t scalar_mask = 0;
  uint64_t sequence = 0;
  const Op* op = nullptr;
  const Layout* layout = nullptr;  // packed layout of the result
  TapeNode* doomed = nullptr;      // the next one to be taken down
  Where loc;
  EdgeList edges;
  Saved output;  // if the rule needs it
  std::unique_ptr<TapeExtra> extra;
  Attrs attrs;
  Scalars scalars;

  TapeExtra& more() {
    if (!extra) extra = std::make_unique<TapeExtra>();
    return *extra;
  }
};

struct GradState {
  bool leaf = false;  // requires a gradient by the user's word
  Tensor grad;
  TapeRef node;
  int32_t result = 0;       // which of the node's results this tensor is
  uint64_t generation = 0;  // of the storage's write history that `node` accounts for
  Tensor base;              // keeps the tensor alive that a view's history starts from
};

struct WriteHistory {
  TapeRef node;
  uint64_t generation = 0;
};

/// What `t`'s gradient flows to, brought up to date with the writes to its storage.
Edge history(const Tensor& t);
/// A handle on `value` with the history of `edge`.
Tensor with_history(const Tensor& value, const Edge& edge);

// For the engine's table.
void note(const Call& call, const Tensor& out);
void note_write(const Tensor& target, const Tensor& value);
void check_write(const Tensor& target);
void drop_grad(GradState*) noexcept;
void drop_history(WriteHistory*) noexcept;
void backward(const Tensor& output, const Tensor& seed, bool retain_graph);

}  // namespace rp
