// The walk over the tape.
#include <algorithm>
#include <bit>
#include <memory>
#include <span>
#include <utility>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/trace_events.h"
#include "reprise/eager/grad.h"
#include "reprise/eager/reach.h"

namespace rp {
namespace {

Tensors& reached_leaves() {
  static thread_local Tensors leaves;
  return leaves;
}

// A noted call as its gradient rule sees it.
class NotedCall : public GradCall {
 public:
  NotedCall(const TapeRef& node, const Tensors& dy, std::span<const char> wanted)
      : node_(node), dy_(dy), wanted_(wanted) {}

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
  std::span<const char> wanted_;      // by input
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

// Gradients of disjoint slices along one axis of a whole.
class Slices {
 public:
  Slices(const Spec& spec, int axis) : spec_(spec), axis_(axis) {}

  bool takes(int axis, int64_t start, int64_t end) const {
    return axis == axis_ && std::none_of(parts_.begin(), parts_.end(), [&](const Part& p) {
             return start < p.start + p.dy.shape()[axis] && p.start < end;
           });
  }
  void add(int64_t start, const Tensor& dy) { parts_.push_back({start, dy}); }

  // Zero where no slice lies.
  Tensor whole() {
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
    return pieces.size() == 1 ? pieces[0] : concat(pieces, axis_);
  }

 private:
  struct Part {
    int64_t start;
    Tensor dy;
  };

  std::vector<Part> parts_;
  Spec spec_;
  int axis_;
};

// The contributions to one gradient, added in the order in which they come. Those of disjoint slices are not padded and
// added one by one: they are laid side by side.
class Sum {
 public:
  bool defined() const { return whole_.defined() || slices_; }

  void add(const Tensor& dy) { whole_ = whole_.defined() ? whole_ + dy : dy; }

  void add_slice(const Spec& spec, int axis, int64_t start, const Tensor& dy) {
    if (slices_ && !slices_->takes(axis, start, start + dy.shape()[axis])) join();
    if (!slices_) slices_ = std::make_unique<Slices>(spec, axis);
    slices_->add(start, dy);
  }

  const Tensor& value() {
    join();
    return whole_;
  }
  Tensor take() {
    join();
    return std::move(whole_);
  }

 private:
  void join() {
    if (const std::unique_ptr<Slices> slices = std::move(slices_)) add(slices->whole());
  }

  Tensor whole_;
  std::unique_ptr<Slices> slices_;
};

std::vector<Edge> histories(const Tensors& tensors) {
  std::vector<Edge> edges;
  edges.reserve(tensors.size());
  for (const Tensor& t : tensors) edges.push_back(history(t));
  return edges;
}

class Walk {
 public:
  Walk(const Tensors& outputs, const Tensors* inputs, const GradOptions& options)
      : options_(options),
        reach_(histories(outputs)),
        sums_(reach_.results()),
        wanted_(reach_.size(), !inputs),
        kept_(reach_.size()) {
    if (inputs) mark(*inputs);
    for (size_t i = 0; i < outputs.size(); ++i)
      seed(outputs[i], reach_.roots()[i], i < options.seeds.size() ? options.seeds[i] : Tensor());
  }

  // From the last noted op to the first: all that contributes to an op's gradient comes before it.
  void run() {
    const std::vector<int32_t>& nodes = reach_.nodes();
    for (auto stop = nodes.rbegin(); stop != nodes.rend(); ++stop) {
      const std::span<Sum> sums = sums_of(*stop);
      if (std::any_of(sums.begin(), sums.end(), [](const Sum& sum) { return sum.defined(); })) visit(*stop, sums);
    }
  }

  Tensor result(const Target& target) {
    const int32_t stop = reach_.find(target.owner);
    if (stop == Reach::nowhere || target.result >= reach_[stop].results) return {};
    return sums_of(stop)[static_cast<size_t>(target.result)].value();
  }
  // Leaves in the order in which their first contribution came.
  const Tensors& leaves() const { return leaves_; }
  Tensor leaf_sum(const Tensor& leaf) { return result({leaf.impl()}); }
  bool is_seed(const Tensor& t) const {
    return std::any_of(options_.seeds.begin(), options_.seeds.end(),
                       [&](const Tensor& s) { return s.shares_storage(t); });
  }

 private:
  std::span<Sum> sums_of(int32_t stop) {
    const Reach::Stop& s = reach_[stop];
    return {&sums_[s.result], static_cast<size_t>(s.results)};
  }
  char& at(std::vector<char>& flags, int32_t stop) { return flags[static_cast<size_t>(stop)]; }
  bool wanted(int32_t stop) { return stop != Reach::nowhere && at(wanted_, stop); }

  // Finds the nodes from which an input can be reached.
  void mark(const Tensors& inputs) {
    for (const Tensor& t : inputs)
      if (const Target target = history(t).target())
        if (const int32_t stop = reach_.find(target.owner); stop != Reach::nowhere)
          at(wanted_, stop) = at(kept_, stop) = true;
    for (const int32_t stop : reach_.nodes()) {
      const Reach::Stop& s = reach_[stop];
      for (size_t i = 0; i < s.node()->edges.size(); ++i)
        if (wanted(reach_.behind(s, i))) at(wanted_, stop) = true;
    }
  }

  void seed(const Tensor& output, const Edge& way, Tensor dy) {
    if (!dy.defined()) {
      if (output.numel() != 1) fail("backward: expected one element or a seed, got {}", to_string(output.spec()));
      dy = ones_like(output);
    } else if (dy.spec() != output.spec()) {
      fail("backward: expected a seed {}, got {}", to_string(output.spec()), to_string(dy.spec()));
    }
    const Target target = way.target();
    if (!target) fail("backward: {} does not depend on anything that requires a gradient", to_string(output.spec()));
    if (const int32_t stop = reach_.find(target.owner); wanted(stop)) sum_of(stop, target.result).add(dy);
  }

  // The contributions to a result of what an edge leads to.
  Sum& sum_of(int32_t stop, int32_t result) {
    Sum& sum = sums_of(stop)[static_cast<size_t>(result)];
    if (const Tensor& leaf = reach_[stop].way->leaf; leaf.defined() && !sum.defined()) leaves_.push_back(leaf);
    return sum;
  }

  void visit(int32_t stop, std::span<Sum> sums) {
    const TapeRef& node = reach_[stop].way->node;
    AtForward at_forward(node->loc);
    dy_.clear();
    for (Sum& sum : sums) dy_.push_back(at(kept_, stop) ? sum.value() : sum.take());
    expand(reach_[stop], node);
  }

  void expand(const Reach::Stop& stop, const TapeRef& node) {
    const EdgeList& edges = node->edges;
    want_.clear();
    for (size_t i = 0; i < edges.size(); ++i) want_.push_back(wanted(reach_.behind(stop, i)));
    if (std::find(want_.begin(), want_.end(), true) == want_.end()) return;
    if (node->op->section)
      if (const Section s = node->op->section(node->attrs, node->scalars); s.step == 1)
        return sum_of(reach_.behind(stop, 0), edges[0].result)
            .add_slice(edges[0].layout->spec, static_cast<int>(s.axis), s.start, dy_[0]);
    const Tensors dx = gradients(node);
    size_t operand = 0;
    for (size_t i = 0; i < edges.size(); ++i, ++operand) {
      if (node->op->kind == Kind::pointwise)
        while (node->scalar_mask >> operand & 1) ++operand;  // rules of pointwise ops answer per operand
      if (want_[i] && operand < dx.size() && dx[operand].defined())
        sum_of(reach_.behind(stop, i), edges[i].result).add(dx[operand]);
    }
    if (!options_.retain_graph && !options_.create_graph) give_up(*node.get());
  }

  Tensors gradients(const TapeRef& node) {
    const DeviceScope on(node->layout->spec.device);  // of the constants that rules make
    if (node->op == &write_op) return write_gradient(*node.get(), dy_[0], want_[0], want_[1]);
    NotedCall call(node, dy_, want_);
    if (!node->extra || !node->extra->custom) return node->op->gradient.rule(call);
    Tensors inputs;
    for (int i = 0; i < call.inputs(); ++i) inputs.push_back(call.input(i));
    Tensors dx = node->extra->custom(inputs, call.output(0), dy_[0]);
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
  const Reach reach_;
  std::vector<Sum> sums_;            // by result
  std::vector<char> wanted_, kept_;  // by stop
  Tensors leaves_;
  Tensors dy_;              // of the node at hand, by result,
  std::vector<char> want_;  // and which of its inputs want a gradient
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
  const Reach reach({history(output)});
  std::vector<char> seen(reach.size());
  const auto see = [&](int32_t stop) {
    if (stop == Reach::nowhere || std::exchange(seen[static_cast<size_t>(stop)], true)) return;
    if (const Tensor& leaf = reach[stop].way->leaf; leaf.defined()) visit(leaf);
  };
  if (const Edge& root = reach.roots()[0]; root.leaf.defined()) visit(root.leaf);
  for (const int32_t node : reach.nodes())
    for (size_t i = 0; i < reach[node].node()->edges.size(); ++i) see(reach.behind(reach[node], i));
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
