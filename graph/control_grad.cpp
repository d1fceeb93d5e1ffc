// Gradients of control ops, derived from the graphs of their bodies.
//
// The gradient of a scan is a scan in the other direction. Its body is found by tracing the body's own ops and their
// gradient together (`Joint`). What that needs from the forward step is, value by value, either given (a step of an
// input, or what the body closes over), computed again if that is cheap, or stacked by the forward scan as a further
// result. Gradients of factors that the body closes over are not summed step by step: they are one product over all
// steps, of the stacked left operands and the stacked gradients of the products.
#include <algorithm>
#include <map>
#include <mutex>
#include <optional>

#include "reprise/core/infer.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/entries.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/control_call.h"
#include "reprise/graph/control_run.h"

namespace rp {
namespace {

constexpr int cheap_instructions = 8;  // of the loop IR: computing that again costs no more than storing and loading

class Grad {
 public:
  explicit Grad(bool on) : before_(std::exchange(thread_state.grad, on)) {}
  ~Grad() { thread_state.grad = before_; }

 private:
  bool before_;
};

bool wants(int64_t mask, size_t i) { return mask >> std::min<size_t>(i, 63) & 1; }

bool computes(const Node& n) {
  return n.op->kind != Kind::input && n.op->kind != Kind::view && n.op->kind != Kind::write &&
         n.op->kind != Kind::control;
}

// A product whose right operand the body closes over.
struct Factor {
  int32_t node, left;  // of the body
  size_t input;
};

// The body and its gradient in one graph.
struct Joint {
  const Graph* graph = nullptr;
  Scalars scalars;
  std::vector<int32_t> value;                // node of the joint graph, by node of the body; -1 for views and the like
  std::vector<int32_t> of_input, of_factor;  // gradients; -1: none
  std::vector<int32_t> seeds;                // input of the joint graph, by output of the body; -1: not floating
  std::vector<Factor> factors;
};

// Products that take part: rank 2, right operand wanted, left operand one that can be stacked.
std::vector<Factor> factors_of(const Graph& g, int64_t wanted, size_t carries_and_inputs) {
  std::vector<Factor> factors;
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    if (n.op != &matmul_op || n.layout->rank() != 2 || !is_floating(n.layout->dtype())) continue;
    const auto at = std::find(g.inputs.begin(), g.inputs.end(), n.inputs[1]);
    const auto k = static_cast<size_t>(at - g.inputs.begin());
    const Node& left = g[n.inputs[0]];
    const bool stackable = computes(left) || (left.op->kind == Kind::input && left.layout->contiguous);
    const auto l = static_cast<size_t>(std::find(g.inputs.begin(), g.inputs.end(), n.inputs[0]) - g.inputs.begin());
    const bool varies = l < carries_and_inputs || l == g.inputs.size();
    if (at != g.inputs.end() && k >= carries_and_inputs && wants(wanted, k) && stackable && varies && !left.own)
      factors.push_back({i, n.inputs[0], k});
  }
  return factors;
}

Joint trace_joint(const Graph& g, size_t carries, size_t inputs, int64_t wanted, std::span<const uint64_t> scalars) {
  Joint joint;
  joint.factors = factors_of(g, wanted, carries + inputs);
  std::vector<const Layout*> layouts;
  for (int32_t i : g.inputs) layouts.push_back(g[i].layout);
  for (int32_t i : g.outputs) {
    const bool seeded = is_floating(g[i].layout->dtype());
    joint.seeds.push_back(seeded ? static_cast<int32_t>(layouts.size()) : -1);
    if (seeded) layouts.push_back(g[i].layout->packed);
  }
  std::vector<bool> defined;
  Trie trie;
  TracedBody traced = Recorder::trace(trie, layouts, [&](const Tensors& in) {
    Grad on(true);
    Tensors operands(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(g.inputs.size())), targets;
    std::vector<bool> differentiable;
    for (size_t i = 0; i < operands.size(); ++i) {
      differentiable.push_back(is_floating(operands[i].dtype()) && (i < carries || wants(wanted, i)));
      if (differentiable[i]) operands[i].set_requires_grad();
    }
    const auto is_factor = [&](int32_t node) {
      return std::any_of(joint.factors.begin(), joint.factors.end(), [&](const Factor& f) { return f.node == node; });
    };
    const Tensors values = replay(g, operands, scalars, is_factor);
    for (size_t i = 0; i < operands.size(); ++i)
      if (differentiable[i]) targets.push_back(operands[i]);
    for (const Factor& f : joint.factors) targets.push_back(values[static_cast<size_t>(f.node)]);
    Tensors outputs, seeds, results;
    for (size_t k = 0; k < g.outputs.size(); ++k) {
      const Tensor& y = values[static_cast<size_t>(g.outputs[k])];
      if (joint.seeds[k] < 0 || !y.requires_grad()) continue;
      outputs.push_back(y);
      seeds.push_back(in[static_cast<size_t>(joint.seeds[k])]);
    }
    Tensors grads(targets.size());
    Tensors reachable;
    std::vector<size_t> which;
    for (size_t i = 0; i < targets.size(); ++i)
      if (targets[i].requires_grad()) {
        reachable.push_back(targets[i]);
        which.push_back(i);
      }
    if (!outputs.empty() && !reachable.empty()) {
      const Tensors found = grad(outputs, reachable, {.allow_unused = true, .seeds = seeds});
      for (size_t i = 0; i < found.size(); ++i) grads[which[i]] = found[i];
    }
    for (int32_t i = 0; i < g.size(); ++i)
      if (computes(g[i])) results.push_back(values[static_cast<size_t>(i)]);
    size_t next = 0;
    for (size_t i = 0; i < operands.size(); ++i) {
      defined.push_back(differentiable[i] && grads[next].defined());
      if (differentiable[i] && grads[next++].defined()) results.push_back(grads[next - 1]);
    }
    for (size_t f = 0; f < joint.factors.size(); ++f, ++next) {
      defined.push_back(grads[next].defined());
      if (grads[next].defined()) results.push_back(grads[next]);
    }
    return results;
  });
  joint.graph = traced.graph;
  joint.scalars = std::move(traced.scalars);
  size_t at = 0;
  for (int32_t i = 0; i < g.size(); ++i) joint.value.push_back(computes(g[i]) ? traced.graph->outputs[at++] : -1);
  for (size_t i = 0; i < defined.size(); ++i)
    (i < g.inputs.size() ? joint.of_input : joint.of_factor).push_back(defined[i] ? traced.graph->outputs[at++] : -1);
  return joint;
}

// What it takes to run a body's gradient.
struct Derivative {
  const Graph* forward;          // the body, with the values that the gradient needs as further outputs
  std::vector<int32_t> saved;    // of these outputs: nodes of the body
  const Graph* backward;         // the reverse step
  Scalars scalars;               // its parameters
  std::vector<int32_t> carries;  // float carries of the body: the reverse step's first carries
  std::vector<int32_t> summed;   // inputs of the body whose gradients are summed in further carries
  std::vector<int32_t> seeds;    // outputs of the body whose gradients are stepped through
  std::vector<int32_t> inputs;   // inputs of the body that are stepped through again
  std::vector<int32_t> closed;   // inputs of the body that are closed over again
  std::vector<int32_t> stacked;  // per output of the reverse step behind the carries: see `of_*`
  std::vector<std::pair<int32_t, int32_t>> of_input;   // (input of the body, output): gradient of a stepped input
  std::vector<std::pair<Factor, int32_t>> of_factor;   // gradient of a product
  std::vector<std::pair<int32_t, int32_t>> of_closed;  // gradient of a closed value, to be summed over the steps
};

class Deriver {
 public:
  Deriver(const Graph& g, size_t carries, size_t inputs, int64_t wanted, std::span<const uint64_t> scalars)
      : g_(g),
        carries_(carries),
        inputs_(inputs),
        wanted_(wanted),
        joint_(trace_joint(g, carries, inputs, wanted, scalars)),
        j_(*joint_.graph) {}

  Derivative run() {
    classify();
    choose();
    make_forward();
    make_backward();
    return std::move(d_);
  }

 private:
  enum class Fate : uint8_t { unneeded, needed, given, saved, again };

  Fate& fate(int32_t i) { return fate_[static_cast<size_t>(i)]; }
  int input_of(int32_t node) const {
    const auto it = std::find(j_.inputs.begin(), j_.inputs.end(), node);
    return it == j_.inputs.end() ? -1 : static_cast<int>(it - j_.inputs.begin());
  }
  std::vector<int32_t> gradients() const {
    std::vector<int32_t> all;
    for (const auto* list : {&joint_.of_input, &joint_.of_factor})
      for (int32_t i : *list)
        if (i >= 0) all.push_back(i);
    return all;
  }

  // Which nodes depend on the gradients that come in, and which of the others they need.
  void classify() {
    backward_.assign(j_.nodes.size(), false);
    fate_.assign(j_.nodes.size(), Fate::unneeded);
    for (int32_t i = 0; i < j_.size(); ++i) {
      if (j_[i].op->kind == Kind::input)
        backward_[static_cast<size_t>(i)] = input_of(i) >= static_cast<int>(g_.inputs.size());
      for (int32_t in : j_[i].inputs)
        if (backward_[static_cast<size_t>(in)]) backward_[static_cast<size_t>(i)] = true;
    }
    std::vector<bool> used(j_.nodes.size());
    for (int32_t i : gradients()) {
      used[static_cast<size_t>(i)] = true;
      if (!backward_[static_cast<size_t>(i)]) fate(i) = Fate::needed;
    }
    for (int32_t i = j_.size() - 1; i >= 0; --i) {
      if (!used[static_cast<size_t>(i)] || !backward_[static_cast<size_t>(i)]) continue;
      for (int32_t in : j_[i].inputs) {
        used[static_cast<size_t>(in)] = true;
        if (!backward_[static_cast<size_t>(in)]) fate(in) = Fate::needed;
      }
    }
    for (size_t f = 0; f < joint_.factors.size(); ++f)
      if (joint_.of_factor[f] >= 0)
        if (const int32_t left = joint_of(joint_.factors[f].left); fate(left) != Fate::given) must_save(left);
  }

  int32_t joint_of(int32_t node) const {
    const auto k = std::find(g_.inputs.begin(), g_.inputs.end(), node) - g_.inputs.begin();
    return k < static_cast<std::ptrdiff_t>(g_.inputs.size()) ? j_.inputs[static_cast<size_t>(k)]
                                                             : joint_.value[static_cast<size_t>(node)];
  }

  void must_save(int32_t i) {
    if (const int k = input_of(i); k >= static_cast<int>(carries_))
      fate(i) = Fate::given;
    else
      fate(i) = Fate::saved;
  }

  // A node of the body that computes the value, -1 if only the gradient's own ops do.
  int32_t body_node(int32_t i) const {
    const auto it = std::find(joint_.value.begin(), joint_.value.end(), i);
    return it == joint_.value.end() ? -1 : static_cast<int32_t>(it - joint_.value.begin());
  }

  static int instructions(const Graph& g, const Node& n) {
    ProgramBuilder b;
    std::vector<Value> operands;
    size_t tensor = 0;
    int scalar = 0;
    const Type out = type_of(n.layout->dtype());
    for (int k = 0; k < n.op->operands; ++k) {
      if (!(n.scalar_mask >> k & 1)) {
        operands.push_back(b.load(b.operand(g[n.inputs[tensor++]].layout->dtype(), Access::contiguous)));
        continue;
      }
      const Type type = n.op->scalar_type  ? n.op->scalar_type(k, out)
                        : n.inputs.empty() ? out
                                           : type_of(g[n.inputs.back()].layout->dtype());
      operands.push_back(type == Type::mask ? b.convert(b.scalar(scalar++, Type::i32), type)
                                            : b.scalar(scalar++, type));
    }
    n.op->meaning(operands, n.attrs, out);
    return static_cast<int>(b.program().insts.size() - operands.size());
  }

  // Whether computing a value again is worth considering.
  bool cheap(int32_t i) const {
    const Node& n = j_[i];
    if (n.op->kind == Kind::view || body_node(i) < 0) return true;
    return n.op->kind == Kind::pointwise && !n.op->random && instructions(j_, n) <= cheap_instructions;
  }

  // Decides for every needed value: given, saved, or computed again where that asks for fewer bytes to be saved.
  void choose() {
    for (bool changed = true; changed;) {
      changed = false;
      for (int32_t i = j_.size() - 1; i >= 0; --i) {
        if (fate(i) != Fate::needed) continue;
        if (const int k = input_of(i); k >= 0) {
          fate(i) = k < static_cast<int>(carries_) ? Fate::saved : Fate::given;
        } else if (cheap(i) && (body_node(i) < 0 || further_bytes(i) < j_[i].layout->bytes())) {
          fate(i) = Fate::again;
          for (int32_t in : j_[i].inputs)
            if (fate(in) == Fate::unneeded) fate(in) = Fate::needed;
        } else {
          continue;
        }
        changed = true;
      }
    }
    for (int32_t i = 0; i < j_.size(); ++i)
      if (fate(i) == Fate::needed) fate(i) = Fate::saved;
  }

  // What would have to be saved for a value's sake if it were computed again.
  size_t further_bytes(int32_t i) {
    size_t bytes = 0;
    for (int32_t in : j_[i].inputs) {
      int32_t base = in;
      while (j_[base].op->kind == Kind::view && fate(base) == Fate::unneeded) base = j_[base].inputs[0];
      if (fate(base) != Fate::unneeded || j_[base].inputs.empty()) {
        const int k = input_of(base);
        if (fate(base) != Fate::unneeded || k < 0 || k >= static_cast<int>(carries_)) continue;
      }
      bytes += j_[base].layout->bytes();
    }
    return bytes;
  }

  void make_forward() {
    Graph forward = g_;
    for (int32_t i = 0; i < j_.size(); ++i) {
      if (fate(i) != Fate::saved) continue;
      int32_t node = body_node(i);
      if (const int k = input_of(i); k >= 0) {  // a carry as it is when the step begins
        node = forward.size();
        const Layout* layout = j_[i].layout;
        forward.nodes.push_back({.op = &copy_op, .inputs = {g_.inputs[static_cast<size_t>(k)]}, .layout = layout});
      }
      saved_at_[i] = static_cast<int32_t>(d_.saved.size());
      d_.saved.push_back(node);
      forward.outputs.push_back(node);
    }
    d_.forward = intern(std::move(forward));
  }

  int32_t added(std::vector<int32_t>& list, int32_t value) {
    list.push_back(value);
    return static_cast<int32_t>(list.size()) - 1;
  }

  void make_backward();
  void take_inputs(std::vector<const Layout*>& accumulators);
  void add_nodes();
  int32_t zeros_node(const Layout* layout) {
    return b_.add({.op = &full_op,
                   .attrs = SpecAttrs{layout->packed},
                   .scalars = {ScalarSource{-1, 0}},
                   .scalar_mask = 1,
                   .layout = layout->packed});
  }

  const Graph& g_;
  size_t carries_, inputs_;
  int64_t wanted_;
  Joint joint_;
  const Graph& j_;
  std::vector<bool> backward_;
  std::vector<Fate> fate_;
  std::map<int32_t, int32_t> saved_at_;
  GraphBuilder b_;
  std::vector<int32_t> map_;  // node of the reverse step, by node of the joint graph
  Derivative d_;
};

// The inputs of the reverse step: gradients of the carries, sums; gradients of the outputs, saved values, inputs;
// closed values.
void Deriver::take_inputs(std::vector<const Layout*>& accumulators) {
  map_.assign(j_.nodes.size(), -1);
  const auto input = [&](int32_t node) { map_[static_cast<size_t>(node)] = b_.input(j_[node].layout, -1); };
  for (size_t c = 0; c < carries_; ++c)
    if (joint_.seeds[c] >= 0) {
      d_.carries.push_back(static_cast<int32_t>(c));
      input(j_.inputs[static_cast<size_t>(joint_.seeds[c])]);
    }
  for (const Layout* l : accumulators) b_.input(l, -1);
  for (size_t k = carries_; k < g_.outputs.size(); ++k)
    if (joint_.seeds[k] >= 0) {
      d_.seeds.push_back(static_cast<int32_t>(k));
      input(j_.inputs[static_cast<size_t>(joint_.seeds[k])]);
    }
  for (int32_t i = 0; i < j_.size(); ++i)
    if (fate(i) == Fate::saved) input(i);
  for (bool stepped : {true, false})
    for (size_t k = carries_; k < g_.inputs.size(); ++k)
      if (const int32_t i = j_.inputs[k]; fate(i) == Fate::given && (k < carries_ + inputs_) == stepped) {
        (stepped ? d_.inputs : d_.closed).push_back(static_cast<int32_t>(k));
        input(i);
      }
}

void Deriver::add_nodes() {
  std::vector<bool> used(j_.nodes.size());
  for (int32_t i : gradients()) used[static_cast<size_t>(i)] = true;
  for (int32_t i = j_.size() - 1; i >= 0; --i) {
    if (!used[static_cast<size_t>(i)] || map_[static_cast<size_t>(i)] >= 0) continue;
    for (int32_t in : j_[i].inputs) used[static_cast<size_t>(in)] = true;
  }
  std::map<int32_t, int32_t> parameter;
  for (int32_t i = 0; i < j_.size(); ++i) {
    if (!used[static_cast<size_t>(i)] || map_[static_cast<size_t>(i)] >= 0) continue;
    Node n = j_[i];
    for (int32_t& in : n.inputs) in = map_[static_cast<size_t>(in)];
    for (ScalarSource& s : n.scalars) {
      if (s.parameter < 0) continue;
      const auto [it, fresh] = parameter.try_emplace(s.parameter, d_.scalars.size());
      if (fresh) d_.scalars.add_bits(joint_.scalars.data()[s.parameter]);
      s.parameter = it->second;
    }
    map_[static_cast<size_t>(i)] = b_.add(std::move(n));
  }
  b_.graph().parameters = d_.scalars.size();
}

void Deriver::make_backward() {
  // Where a closed value's gradient is a value that is stacked anyway, it is summed afterwards; else in a carry.
  std::vector<int32_t> stacks;  // nodes of the joint graph
  const auto stack = [&](int32_t node) {
    const auto it = std::find(stacks.begin(), stacks.end(), node);
    if (it != stacks.end()) return static_cast<int32_t>(it - stacks.begin());
    return added(stacks, node);
  };
  for (size_t k = carries_; k < carries_ + inputs_; ++k)
    if (const int32_t node = joint_.of_input[k]; node >= 0)
      d_.of_input.push_back({static_cast<int32_t>(k), stack(node)});
  for (size_t f = 0; f < joint_.factors.size(); ++f)
    if (const int32_t node = joint_.of_factor[f]; node >= 0) d_.of_factor.push_back({joint_.factors[f], stack(node)});
  std::vector<const Layout*> accumulators;
  for (size_t k = carries_ + inputs_; k < g_.inputs.size(); ++k) {
    const int32_t node = joint_.of_input[k];
    if (node < 0) continue;
    if (std::find(stacks.begin(), stacks.end(), node) != stacks.end()) {
      d_.of_closed.push_back({static_cast<int32_t>(k), stack(node)});
    } else {
      d_.summed.push_back(static_cast<int32_t>(k));
      accumulators.push_back(j_[node].layout->packed);
    }
  }
  take_inputs(accumulators);
  add_nodes();
  std::vector<int32_t> outputs;
  for (int32_t c : d_.carries) {
    const int32_t node = joint_.of_input[static_cast<size_t>(c)];
    outputs.push_back(node >= 0 ? map_[static_cast<size_t>(node)]
                                : zeros_node(g_[g_.inputs[static_cast<size_t>(c)]].layout));
  }
  for (size_t s = 0; s < d_.summed.size(); ++s) {
    const int32_t sum = b_.graph().inputs[d_.carries.size() + s];
    const int32_t node = map_[static_cast<size_t>(joint_.of_input[static_cast<size_t>(d_.summed[s])])];
    outputs.push_back(b_.add({.op = &add_op, .inputs = {sum, node}, .layout = accumulators[s]}));
  }
  for (int32_t node : stacks) outputs.push_back(map_[static_cast<size_t>(node)]);
  // An output has elements of its own.
  for (int32_t& i : outputs)
    if (b_.graph()[i].op->kind == Kind::input || b_.graph()[i].op->kind == Kind::view)
      i = b_.add({.op = &copy_op, .inputs = {i}, .layout = b_.graph()[i].layout->packed});
  b_.graph().outputs = std::move(outputs);
  d_.backward = intern(b_.take());
}

// Derivatives by body, wanted inputs and the values of its numbers, which gradient rules may compute with.
std::shared_ptr<const Derivative> derive(const Graph* body, size_t carries, size_t inputs, int64_t wanted,
                                         std::span<const uint64_t> scalars) {
  using Key = std::tuple<const Graph*, size_t, size_t, int64_t, std::vector<uint64_t>>;
  static thread_local std::map<Key, std::shared_ptr<const Derivative>> known;
  std::vector<uint64_t> values(scalars.begin(), scalars.end());
  for (int32_t p : random_positions(*body)) values[static_cast<size_t>(p)] = values[static_cast<size_t>(p) + 1] = 0;
  Key key{body, carries, inputs, wanted, std::move(values)};
  if (const auto it = known.find(key); it != known.end()) return it->second;
  auto d = std::make_shared<const Derivative>(Deriver(*body, carries, inputs, wanted, scalars).run());
  if (!random_positions(*d->backward).empty()) return d;  // it depends on more than the key
  if (known.size() >= 256) known.clear();
  return known.emplace(std::move(key), std::move(d)).first->second;
}

}  // namespace

Tensors replay(const Graph& g, const Tensors& inputs, std::span<const uint64_t> scalars,
               const std::function<bool(int32_t)>& detached) {
  Tensors values;
  std::map<int32_t, Tensors> results;
  size_t input = 0;
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    AtForward at(n.loc);
    Tensors in;
    for (int32_t k : n.inputs) in.push_back(values[static_cast<size_t>(k)]);
    Scalars s;
    for (const ScalarSource& source : n.scalars)
      s.add_bits(source.parameter >= 0 ? scalars[static_cast<size_t>(source.parameter)] : source.bits);
    if (n.op->kind == Kind::input) {
      values.push_back(inputs[input++]);
    } else if (n.op == &after_op) {
      values.push_back(in[0]);
    } else if (n.op->kind == Kind::write) {
      write(in[0], in[1]);
      values.push_back(in[0]);
    } else if (n.op->kind == Kind::control) {
      results[i] = replay_control(*n.op, in, n.attrs.as<ControlAttrs>(), s);
      values.push_back(Tensor());
    } else if (n.op->kind == Kind::result) {
      values.push_back(results.at(n.inputs[0])[static_cast<size_t>(n.attrs.as<ResultAttrs>().index)]);
    } else {
      if (detached && detached(i)) in[1] = in[1].detach();
      std::vector<const Tensor*> operands;
      for (const Tensor& t : in) operands.push_back(&t);
      values.push_back(
          apply({.op = n.op, .inputs = operands, .attrs = n.attrs, .scalars = s, .scalar_mask = n.scalar_mask}));
    }
  }
  return values;
}

namespace {

bool any_wanted(const Tensors& list) {
  return thread_state.grad && std::any_of(list.begin(), list.end(), [](const Tensor& t) { return wants_grad(t); });
}

Tensors all_of(const ScanCall& call) {
  Tensors all = call.carry;
  all.insert(all.end(), call.xs.begin(), call.xs.end());
  all.insert(all.end(), call.closed.begin(), call.closed.end());
  return all;
}

int64_t wanted_mask(const Tensors& list) {
  int64_t mask = 0;
  for (size_t i = 0; i < list.size(); ++i)
    if (is_floating(list[i].dtype()) && wants_grad(list[i]))
      mask = static_cast<int64_t>(static_cast<uint64_t>(mask) | uint64_t{1} << std::min<size_t>(i, 63));
  return mask;
}

ControlAttrs attrs_of(const ScanCall& call, const Graph* body, size_t saved, int64_t wanted) {
  return {.body = body,
          .other = call.body,
          .length = call.length,
          .draws = call.draws,
          .wanted = wanted,
          .carries = static_cast<int32_t>(call.carry.size()),
          .inputs = static_cast<int32_t>(call.xs.size()),
          .results = static_cast<int32_t>(body->outputs.size()),
          .saved = static_cast<int32_t>(saved),
          .reverse = call.reverse,
          .closed = static_cast<int32_t>(call.closed.size())};
}

// A step that is zero everywhere, as often as there are steps.
Tensor zero_stack(const Layout* step, int64_t length) {
  Shape shape = step->shape();
  shape.insert(0, length);
  return zeros(step->shape(), step->dtype()).expand(shape);
}

// One product over all steps: the sum of left_t^T dz_t.
Tensor factor_gradient(const Tensor& left, const Tensor& dz) {
  const Tensor rows = left.reshape({-1, left.shape().back()});
  return matmul(rows.transpose(0, 1), dz.reshape({-1, dz.shape().back()}));
}

}  // namespace

Tensors run_scan(ScanCall call) {
  const Tensors all = all_of(call);
  if (!any_wanted(all)) return call_control(scan_op, all, attrs_of(call, call.body, 0, 0), call.scalars);
  const int64_t wanted = wanted_mask(all);
  const auto d = derive(call.body, call.carry.size(), call.xs.size(), wanted, call.scalars.bits());
  Tensors results = call_control(scan_op, all, attrs_of(call, d->forward, d->saved.size(), wanted), call.scalars);
  results.resize(call.body->outputs.size());
  return results;
}

namespace {

// The gradient of a scan, given all its operands, the stacked values its derivative asks for, and the gradients of its
// results.
Tensors reverse_scan(const ScanCall& f, const Derivative& d, const Tensors& saved, const Tensors& dy) {
  const Graph& g = *f.body;
  const auto carries = f.carry.size(), inputs = f.xs.size();
  const auto operand = [&](int32_t k) {
    const auto i = static_cast<size_t>(k);
    return i < carries ? f.carry[i] : i < carries + inputs ? f.xs[i - carries] : f.closed[i - carries - inputs];
  };
  ScanCall r;
  r.body = d.backward;
  r.length = f.length;
  r.reverse = !f.reverse;
  r.draws = f.draws;
  r.scalars = d.scalars;
  for (int32_t c : d.carries) {
    const Layout* l = g[g.inputs[static_cast<size_t>(c)]].layout;
    const Tensor& given = dy[static_cast<size_t>(c)];
    r.carry.push_back(given.defined() ? given.contiguous() : zeros(l->shape(), l->dtype()));
  }
  for (int32_t k : d.summed) r.carry.push_back(zeros(operand(k).shape(), operand(k).dtype()));
  for (int32_t k : d.seeds) {
    const Tensor& given = dy[static_cast<size_t>(k)];
    r.xs.push_back(given.defined() ? given.contiguous()
                                   : zero_stack(g[g.outputs[static_cast<size_t>(k)]].layout, f.length));
  }
  r.xs.insert(r.xs.end(), saved.begin(), saved.end());
  for (int32_t k : d.inputs) r.xs.push_back(operand(k));
  for (int32_t k : d.closed) r.closed.push_back(operand(k));
  const size_t summed_at = d.carries.size(), stacks_at = summed_at + d.summed.size();
  const Tensors results = run_scan(std::move(r));
  const auto stack = [&](int32_t output) { return results[stacks_at + static_cast<size_t>(output)]; };

  Tensors dx(carries + inputs + f.closed.size());
  const auto contribute = [&](int32_t input, const Tensor& t) {
    Tensor& sum = dx[static_cast<size_t>(input)];
    sum = sum.defined() ? sum + t : t;
  };
  for (size_t i = 0; i < d.carries.size(); ++i) contribute(d.carries[i], results[i]);
  for (size_t i = 0; i < d.summed.size(); ++i) contribute(d.summed[i], results[summed_at + i]);
  for (const auto& [input, output] : d.of_input) contribute(input, stack(output));
  for (const auto& [input, output] : d.of_closed) contribute(input, sum(stack(output), {0}));
  for (const auto& [factor, output] : d.of_factor) {
    const auto at = std::find(g.inputs.begin(), g.inputs.end(), factor.left);
    const auto k = static_cast<size_t>(at - g.inputs.begin());
    Tensor left;
    if (k >= carries && k < carries + inputs) {
      left = f.xs[k - carries];
    } else {
      const bool carry = k < carries;
      for (size_t s = 0; s < d.saved.size() && !left.defined(); ++s) {
        const Node& n = (*d.forward)[d.saved[s]];
        if (carry ? d.saved[s] >= g.size() && n.inputs[0] == factor.left : d.saved[s] == factor.left) left = saved[s];
      }
    }
    contribute(static_cast<int32_t>(factor.input), factor_gradient(left, stack(output)));
  }
  return dx;
}

}  // namespace

Tensors scan_gradient(const GradCall& c) {
  const auto& a = c.attrs().as<ControlAttrs>();
  ScanCall f;
  f.length = a.length;
  f.reverse = a.reverse;
  f.draws = a.draws;
  f.scalars = c.scalars();
  for (int i = 0; i < c.inputs(); ++i)
    (i < a.carries ? f.carry : i < a.carries + a.inputs ? f.xs : f.closed).push_back(c.input(i));
  Tensors dy;
  bool of_saved = false;
  for (int32_t k = 0; k < a.results; ++k) {
    dy.push_back(c.dy(k));
    of_saved |= k >= a.results - a.saved && dy.back().defined();
  }
  // Where gradients of saved values come in, as in second derivatives, these are results like any other.
  f.body = of_saved ? a.body : a.other;
  const auto d = derive(f.body, f.carry.size(), f.xs.size(), a.wanted, f.scalars.bits());
  const auto results = f.body->outputs.size();
  dy.resize(results);
  Tensors saved;
  if (!of_saved && d->saved.size() == static_cast<size_t>(a.saved)) {
    for (int32_t k = a.results - a.saved; k < a.results; ++k) saved.push_back(c.output(k));
  } else {
    const Tensors again =
        call_control(scan_op, all_of(f), attrs_of(f, d->forward, d->saved.size(), a.wanted), f.scalars);
    saved.assign(again.begin() + static_cast<std::ptrdiff_t>(results), again.end());
  }
  Tensors dx = reverse_scan(f, *d, saved, dy);
  for (int i = 0; i < c.inputs(); ++i)
    if (!c.wanted(i)) dx[static_cast<size_t>(i)] = {};
  return dx;
}

namespace {

// A branch's gradient: of the wanted operands, given them all and the gradients of the results.
TracedBody branch_gradient(const Graph& branch, const Tensors& operands, const std::vector<bool>& wanted,
                           const Tensors& dy, std::span<const uint64_t> scalars) {
  std::vector<const Layout*> layouts;
  for (const auto* list : {&operands, &dy})
    for (const Tensor& t : *list) layouts.push_back(&t.layout());
  Trie trie;
  return Recorder::trace(trie, layouts, [&](const Tensors& in) {
    Grad on(true);
    Tensors mine(in.begin(), in.begin() + static_cast<std::ptrdiff_t>(operands.size())), targets, outputs, seeds;
    for (size_t i = 0; i < mine.size(); ++i)
      if (wanted[i]) targets.push_back(mine[i].set_requires_grad());
    const Tensors values = replay(branch, mine, scalars, nullptr);
    size_t seed = operands.size();
    for (int32_t k : branch.outputs) {
      const Tensor& y = values[static_cast<size_t>(k)];
      if (!is_floating(y.dtype())) continue;
      if (y.requires_grad()) {
        outputs.push_back(y);
        seeds.push_back(in[seed]);
      }
      ++seed;
    }
    Tensors grads(targets.size());
    if (!outputs.empty()) grads = grad(outputs, targets, {.allow_unused = true, .seeds = seeds});
    for (size_t i = 0; i < grads.size(); ++i)
      if (!grads[i].defined()) grads[i] = zeros(targets[i].shape(), targets[i].dtype());
    return grads;
  });
}

}  // namespace

Tensors cond_gradient(const GradCall& c) {
  const auto& a = c.attrs().as<ControlAttrs>();
  const Tensor predicate = c.input(0);
  Tensors operands, dy, dx(static_cast<size_t>(c.inputs()));
  std::vector<bool> wanted;
  for (int i = 1; i < c.inputs(); ++i) {
    operands.push_back(c.input(i));
    wanted.push_back(c.wanted(i) && is_floating(operands.back().dtype()));
  }
  for (int32_t k = 0; k < a.results; ++k) {
    const Layout* l = (*a.body)[a.body->outputs[static_cast<size_t>(k)]].layout;
    if (is_floating(l->dtype())) dy.push_back(c.dy(k).defined() ? c.dy(k).contiguous() : zeros(l->shape(), l->dtype()));
  }
  const auto all = c.scalars().bits();
  const auto first = static_cast<size_t>(a.body->parameters);
  TracedBody yes = branch_gradient(*a.body, operands, wanted, dy, all.first(first));
  TracedBody no = branch_gradient(*a.other, operands, wanted, dy, all.subspan(first));
  for (TracedBody* t : {&yes, &no}) t->closed.insert(t->closed.begin(), dy.begin(), dy.end());
  for (TracedBody* t : {&yes, &no}) t->closed.insert(t->closed.begin(), operands.begin(), operands.end());
  const Tensors grads = run_cond(predicate, std::move(yes), std::move(no), a.draws);
  size_t next = 0;
  for (size_t i = 0; i < wanted.size(); ++i)
    if (wanted[i]) dx[i + 1] = grads[next++];
  return dx;
}

}  // namespace rp
