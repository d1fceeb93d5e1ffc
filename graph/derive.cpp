#include "reprise/graph/derive.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "reprise/core/map.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/graph/joint.h"

namespace rp {
namespace {

constexpr int cheap_instructions = 8;  // of the loop IR: computing that again costs no more than storing and loading

class Deriver {
 public:
  Deriver(const Graph& g, size_t carries, size_t inputs, int64_t wanted, std::span<const uint64_t> scalars)
      : g_(g),
        carries_(carries),
        inputs_(inputs),
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

  // Of a pointwise op, beside its loads and its store.
  static int instructions(const Graph& g, const Node& n) {
    std::vector<const Layout*> inputs;
    for (int32_t in : n.inputs) inputs.push_back(g[in].layout);
    const Program program = map_program({*n.op, inputs, n.attrs, {}, n.scalar_mask}, n.layout->dtype());
    return static_cast<int>(program.insts.size()) - n.op->operands - 1;
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
        forward.nodes.push_back(
            {.op = &copy_op, .inputs = {g_.inputs[static_cast<size_t>(k)]}, .layout = layout, .loc = At::where()});
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
    outputs.push_back(
        b_.add({.op = &add_op, .inputs = {sum, node}, .layout = accumulators[s], .loc = b_.graph()[node].loc}));
  }
  for (int32_t node : stacks) outputs.push_back(map_[static_cast<size_t>(node)]);
  // An output has elements of its own.
  for (int32_t& i : outputs)
    if (b_.graph()[i].op->kind == Kind::input || b_.graph()[i].op->kind == Kind::view)
      i = b_.add({.op = &copy_op, .inputs = {i}, .layout = b_.graph()[i].layout->packed, .loc = At::where()});
  b_.graph().outputs = std::move(outputs);
  d_.backward = intern(b_.take());
}

}  // namespace

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

}  // namespace rp
