// The walk over the tape.
#include <algorithm>
#include <bit>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/trace_events.h"
#include "reprise/eager/grad.h"
#include "reprise/eager/tape.h"

namespace rp {
namespace {

Tensors& reached_leaves() {
  static thread_local Tensors leaves;
  return leaves;
}

// A noted call as its gradient rule sees it.
class NotedCall : public GradCall {
 public:
  NotedCall(const TapeRef& node, const Tensors& dy, std::vector<bool> wanted)
      : node_(node), dy_(dy), wanted_(std::move(wanted)) {}

  const Tensor& dy(int result) const override {
    static const Tensor none;
    return static_cast<size_t>(result) < dy_.size() ? dy_[static_cast<size_t>(result)] : none;
  }
  Tensor input(int i) const override {
    const Edge& edge = node_->edges[static_cast<size_t>(i)];
    check(edge.saved, edge.version, "an input");
    return with_history(edge.saved, edge);
  }
  Tensor output(int result) const override {
    const bool one = node_->op->kind != Kind::control;
    if (!one) check_walked();
    const Saved& saved = one ? node_->output : node_->extra->results.at(static_cast<size_t>(result));
    check(saved.value, saved.version, "the result");
    if (!is_floating(saved.value.dtype())) return saved.value;
    return with_history(saved.value, {.node = node_, .layout = saved.value.impl()->layout->packed, .result = result});
  }
  const Spec& input_spec(int i) const override { return node_->edges[static_cast<size_t>(i)].layout->spec; }
  int inputs() const override { return static_cast<int>(node_->edges.size()); }
  bool wanted(int operand) const override {
    const int i = input_index(operand);
    return i >= 0 && wanted_[static_cast<size_t>(i)];
  }
  const Attrs& attrs() const override { return node_->attrs; }
  const Scalars& scalars() const override { return node_->scalars; }
  uint8_t scalar_mask() const override { return node_->scalar_mask; }
  Operand operand(int k) const override {
    const int i = input_index(k);
    if (i >= 0) {
      held_.reserve(8);
      return Operand(held_.emplace_back(input(i)));
    }
    const int slot = std::popcount(static_cast<unsigned>(node_->scalar_mask & ((1 << k) - 1)));
    return visit_dtype(
        !node_->edges.size() ? node_->layout->dtype() : node_->edges[node_->edges.size() - 1].layout->dtype(),
        [&]<class T>(T) -> Operand {
          if constexpr (std::is_same_v<T, bool>)
            return node_->scalars.get<int32_t>(slot) != 0;
          else
            return node_->scalars.get<Computed<T>>(slot);
        });
  }

 private:
  // Which tensor input operand k is; -1 for a scalar.
  int input_index(int k) const {
    const unsigned mask = node_->scalar_mask;
    if (!mask) return k;
    return mask >> k & 1 ? -1 : k - std::popcount(mask & ((1u << k) - 1));
  }
  void check(const Tensor& saved, uint32_t version, const char* what) const {
    check_walked();
    if (saved.impl()->storage->version != version)
      fail("backward: {} of {} was changed in place after the forward pass had used it", what, node_->op->name);
  }

  void check_walked() const {
    if (node_->freed) fail("backward: the tape of {} was already walked; ask for retain_graph", node_->op->name);
  }

  const TapeRef& node_;
  const Tensors& dy_;
  std::vector<bool> wanted_;
  mutable std::vector<Tensor> held_;  // what operands refer to
};

// dy of a write belongs to all elements of its storage: outside the region it goes on to the elements before, inside it
// goes to the value written.
Tensors write_gradient(const TapeNode& node, const Tensor& dy, bool before, bool value) {
  Tensors result(2);
  const TapeExtra& write = *node.extra;
  const Tensor flat = dy.contiguous();
  if (value) result[1] = as_strided(flat, write.region, write.region_offset);
  if (before) {
    const Tensor rest = flat.clone();
    as_strided(rest, write.region, write.region_offset).zero_();
    result[0] = as_strided(rest, write.base, write.base_offset);
  }
  return result;
}

// The contributions to one gradient, added in the order in which they come. Those of disjoint slices along one axis are
// not padded and added one by one: they are laid side by side.
class Sum {
 public:
  bool defined() const { return whole_.defined() || !parts_.empty(); }

  void add(const Tensor& dy) { whole_ = whole_.defined() ? whole_ + dy : dy; }

  void add_slice(const Spec& spec, int axis, int64_t start, const Tensor& dy) {
    const int64_t end = start + dy.shape()[axis];
    const bool apart =
        parts_.empty() || (axis == axis_ && std::none_of(parts_.begin(), parts_.end(), [&](const Part& p) {
                             return start < p.start + p.dy.shape()[axis] && p.start < end;
                           }));
    if (!apart) join();
    spec_ = spec;
    axis_ = axis;
    parts_.push_back({start, dy});
  }

  Tensor take() {
    if (!parts_.empty()) join();
    return std::move(whole_);
  }

 private:
  struct Part {
    int64_t start;
    Tensor dy;
  };

  void join() {
    std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.start < b.start; });
    Tensors pieces;
    int64_t at = 0;
    const auto fill = [&](int64_t to) {
      Shape gap = spec_.shape;
      gap[axis_] = to - at;
      const DeviceScope on(spec_.device);
      if (to > at) pieces.push_back(zeros(gap, spec_.dtype));
      at = to;
    };
    for (const Part& p : parts_) {
      fill(p.start);
      at += p.dy.shape()[axis_];
      pieces.push_back(p.dy);
    }
    fill(spec_.shape[axis_]);
    parts_.clear();
    add(pieces.size() == 1 ? pieces[0] : concat(pieces, axis_));
  }

  Tensor whole_;
  std::vector<Part> parts_;
  Spec spec_;  // of the whole that the parts are slices of
  int axis_ = 0;
};

struct TargetHash {
  size_t operator()(const Target& t) const {
    return std::hash<const void*>()(t.owner) + static_cast<size_t>(t.result) * 0x9E3779B9u;
  }
};

class Walk {
 public:
  Walk(const Tensors& outputs, const Tensors* inputs, const GradOptions& options)
      : options_(options), everything_(!inputs) {
    if (inputs) mark(outputs, *inputs);
    for (size_t i = 0; i < outputs.size(); ++i)
      seed(outputs[i], i < options.seeds.size() ? options.seeds[i] : Tensor());
  }

  void run() {
    while (!queue_.empty()) {
      const TapeRef node = queue_.top();
      queue_.pop();
      std::vector<Sum> sums = std::move(sums_.extract(node.get()).mapped());
      AtForward at(node->loc);
      Tensors dy;
      for (Sum& sum : sums) {
        dy.push_back(sum.take());
        const Target target{node.get(), static_cast<int32_t>(dy.size()) - 1};
        if (kept_.count(target) && dy.back().defined()) results_[target].add(dy.back());
      }
      expand(node, dy);
    }
  }

  Tensor result(const Target& target) {
    const auto it = results_.find(target);
    if (it == results_.end()) return {};
    const Tensor sum = it->second.take();
    it->second.add(sum);
    return sum;
  }
  // Leaves in the order in which their first contribution came.
  const std::vector<Tensor>& leaves() const { return leaves_; }
  Tensor leaf_sum(const Tensor& leaf) { return result({leaf.impl()}); }
  bool is_seed(const Tensor& t) const {
    return std::any_of(options_.seeds.begin(), options_.seeds.end(),
                       [&](const Tensor& s) { return s.shares_storage(t); });
  }

 private:
  struct Later {
    bool operator()(const TapeRef& a, const TapeRef& b) const { return a->sequence < b->sequence; }
  };

  // Finds the nodes from which an input can be reached.
  void mark(const Tensors& outputs, const Tensors& inputs) {
    for (const Tensor& t : inputs)
      if (const Target target = history(t).target()) {
        kept_.insert(target);
        needed_.insert(target.owner);
      }
    std::vector<std::pair<TapeNode*, size_t>> stack;
    std::unordered_set<const TapeNode*> seen;
    const auto visit = [&](const Edge& e) {
      if (e.node && seen.insert(e.node.get()).second) stack.push_back({e.node.get(), 0});
    };
    for (const Tensor& t : outputs) {  // one after the other: an output may depend on another
      visit(history(t));
      while (!stack.empty()) {
        auto& [node, next] = stack.back();
        if (next < node->edges.size()) {
          visit(node->edges[next++]);
          continue;
        }
        TapeNode* done = node;
        stack.pop_back();
        for (const Edge& e : done->edges)
          if (needed_.count(e.target().owner)) needed_.insert(done);
      }
    }
  }

  bool wanted(const Edge& e) const {
    const Target target = e.target();
    return target && (everything_ || needed_.count(target.owner));
  }

  void seed(const Tensor& output, Tensor dy) {
    if (!dy.defined()) {
      if (output.numel() != 1) fail("backward: expected one element or a seed, got {}", to_string(output.spec()));
      dy = ones_like(output);
    } else if (dy.spec() != output.spec()) {
      fail("backward: expected a seed {}, got {}", to_string(output.spec()), to_string(dy.spec()));
    }
    const Edge e = history(output);
    if (!e.target())
      fail("backward: {} does not depend on anything that requires a gradient", to_string(output.spec()));
    if (wanted(e)) contribute(e, dy);
  }

  // The contributions to what an edge leads to.
  Sum& sum_of(const Edge& e) {
    if (e.leaf.defined()) {
      Sum& sum = results_[e.target()];
      if (!sum.defined()) leaves_.push_back(e.leaf);
      return sum;
    }
    std::vector<Sum>& sums = sums_[e.node.get()];
    if (sums.empty()) queue_.push(e.node);
    if (sums.size() <= static_cast<size_t>(e.result)) sums.resize(static_cast<size_t>(e.result) + 1);
    return sums[static_cast<size_t>(e.result)];
  }

  void contribute(const Edge& e, const Tensor& dy) { sum_of(e).add(dy); }

  void expand(const TapeRef& node, const Tensors& dy) {
    std::vector<bool> want;
    for (const Edge& e : node->edges) want.push_back(wanted(e));
    if (std::find(want.begin(), want.end(), true) == want.end()) return;
    if (node->op->section)
      if (const Section s = node->op->section(node->attrs, node->scalars); s.step == 1)
        return sum_of(node->edges[0]).add_slice(node->edges[0].layout->spec, static_cast<int>(s.axis), s.start, dy[0]);
    const Tensors dx = gradients(node, dy, want);
    size_t operand = 0;
    for (size_t i = 0; i < node->edges.size(); ++i, ++operand) {
      if (node->op->kind == Kind::pointwise)
        while (node->scalar_mask >> operand & 1) ++operand;  // rules of pointwise ops answer per operand
      if (want[i] && operand < dx.size() && dx[operand].defined()) contribute(node->edges[i], dx[operand]);
    }
    if (!options_.retain_graph && !options_.create_graph) give_up(*node.get());
  }

  Tensors gradients(const TapeRef& node, const Tensors& dy, const std::vector<bool>& want) {
    const DeviceScope on(node->layout->spec.device);  // of the constants that rules make
    if (node->op == &write_op) return write_gradient(*node.get(), dy[0], want[0], want[1]);
    NotedCall call(node, dy, want);
    if (!node->extra || !node->extra->custom) return node->op->gradient.rule(call);
    Tensors inputs;
    for (int i = 0; i < call.inputs(); ++i) inputs.push_back(call.input(i));
    Tensors dx = node->extra->custom(inputs, call.output(0), dy[0]);
    if (dx.size() != inputs.size()) fail("custom gradient: expected {} gradients, got {}", inputs.size(), dx.size());
    for (size_t i = 0; i < dx.size(); ++i)
      if (dx[i].defined() && dx[i].spec() != inputs[i].spec())
        fail("custom gradient: expected {} for input {}, got {}", to_string(inputs[i].spec()), i,
             to_string(dx[i].spec()));
    return dx;
  }

  static void give_up(TapeNode& node) {
    node.freed = true;
    node.output = {};
    if (node.extra) {
      node.extra->results.clear();
      node.extra->custom = nullptr;
    }
    for (Edge& e : node.edges) e.saved = {};
  }

  const GradOptions& options_;
  bool everything_;
  std::priority_queue<TapeRef, std::vector<TapeRef>, Later> queue_;
  std::unordered_map<const TapeNode*, std::vector<Sum>> sums_;  // by result
  std::unordered_map<Target, Sum, TargetHash> results_;
  std::unordered_set<Target, TargetHash> kept_;
  std::unordered_set<const void*> needed_;
  std::vector<Tensor> leaves_;
};

// Gradients are noted themselves only for higher orders.
class Noting {
 public:
  explicit Noting(bool on) : before_(thread_state.grad) { thread_state.grad = on; }
  ~Noting() { thread_state.grad = before_; }

 private:
  bool before_;
};

}  // namespace

Tensors last_backward_leaves() { return reached_leaves(); }

void backward(const Tensor& output, const Tensor& seed, bool retain_graph) {
  const std::optional<Span> shown = span("backward", "backward");
  Noting noting(false);
  GradOptions options{.retain_graph = retain_graph};
  if (seed.defined()) options.seeds = {seed};
  Walk walk({output}, nullptr, options);
  walk.run();
  reached_leaves() = walk.leaves();
  Tensors given;  // every leaf gets elements of its own, so that changing one gradient in place changes no other
  for (const Tensor& leaf : walk.leaves()) {
    Tensor sum = walk.leaf_sum(leaf);
    if (const Tensor before = leaf.grad(); before.defined()) sum = before + sum;
    const bool shared = walk.is_seed(sum) ||
                        std::any_of(given.begin(), given.end(), [&](const Tensor& t) { return t.shares_storage(sum); });
    if (shared || !sum.is_contiguous() || sum.shares_storage(leaf)) sum = sum.clone();
    given.push_back(sum);
    leaf.set_grad(bare_alias(sum));
  }
}

Tensors grad(const Tensors& outputs, const Tensors& inputs, GradOptions options, Loc loc) {
  At at(loc);
  for (const auto* list : {&outputs, &inputs})
    for (const Tensor& t : *list) t.layout();  // throws for an empty handle
  if (outputs.empty()) fail("grad: expected at least one output");
  if (!options.seeds.empty() && options.seeds.size() != outputs.size())
    fail("grad: expected {} seeds, one for each output, got {}", outputs.size(), options.seeds.size());
  const std::optional<Span> shown = span("backward", "grad");
  Noting noting(options.create_graph);
  Walk walk(outputs, &inputs, options);
  walk.run();
  Tensors result;
  for (const Tensor& t : inputs) {
    const Target target = history(t).target();
    if (!target) fail("grad: input {} does not require a gradient", to_string(t.spec()));
    result.push_back(walk.result(target));
    if (!result.back().defined() && !options.allow_unused)
      fail("grad: the outputs do not depend on input {} ({})", result.size() - 1, to_string(t.spec()));
  }
  return result;
}

void for_each_leaf(const Tensor& output, const std::function<void(const Tensor&)>& visit) {
  std::vector<const TapeNode*> nodes;
  std::unordered_set<const void*> seen;
  const Edge first = history(output);
  if (first.leaf.defined()) visit(first.leaf);
  if (first.node) nodes.push_back(first.node.get());
  for (size_t i = 0; i < nodes.size(); ++i)
    for (const Edge& e : nodes[i]->edges)
      if (e.node && seen.insert(e.node.get()).second) nodes.push_back(e.node.get());
  std::sort(nodes.begin(), nodes.end(), [](auto* a, auto* b) { return a->sequence < b->sequence; });
  for (const TapeNode* node : nodes)
    for (const Edge& e : node->edges)
      if (e.leaf.defined() && seen.insert(e.leaf.impl()).second) visit(e.leaf);
}

ImplicitGradients implicit_gradients(const std::function<Tensor()>& f, Loc loc) {
  At at(loc);
  const Tensor y = f();
  y.layout();  // throws if f gave nothing
  Tensors leaves;
  for_each_leaf(y, [&](const Tensor& leaf) { leaves.push_back(leaf); });
  ImplicitGradients result{y.detach(), {}};
  const Tensors grads = leaves.empty() ? Tensors{} : grad({y}, leaves, {}, loc);
  for (size_t i = 0; i < leaves.size(); ++i) result.grads.push_back({leaves[i], grads[i]});
  return result;
}

}  // namespace rp
