// From a recorded path to a functional graph.
#include <algorithm>
#include <map>
#include <set>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/entries.h"
#include "reprise/graph/passes.h"
#include "reprise/graph/trace.h"

namespace rp {
namespace {

std::vector<const Layout*> layouts_of(GraphBuilder& builder, const Node& n) {
  std::vector<const Layout*> layouts;
  for (const int32_t in : n.inputs) layouts.push_back(builder.graph()[in].layout);
  return layouts;
}

class Builder {
 public:
  Builder(const std::vector<const TraceOp*>& path, const std::vector<ExternalSpec>& externals,
          const std::vector<uint64_t>* fixed)
      : path_(path), externals_(externals), fixed_(fixed) {
    for (const TraceOp* t : path) {
      if (t->op == &write_op) written_.insert(key_of(t->inputs[0]));
      if (t->slot < 0) continue;
      const auto s = static_cast<size_t>(t->slot);
      if (s >= key_.size()) key_.resize(s + 1, -1);
      key_[s] = t->op->kind == Kind::view ? key_of(t->inputs[0]) : t->slot;
    }
    slot_.assign(key_.size(), -1);
  }

  Graph run(const std::vector<int32_t>& live) {
    std::vector<int32_t> first_of_storage;
    for (size_t k = 0; k < externals_.size(); ++k) {
      const auto s = static_cast<size_t>(externals_[k].storage);
      if (s >= first_of_storage.size()) first_of_storage.resize(s + 1, -1);
      if (first_of_storage[s] < 0) first_of_storage[s] = static_cast<int32_t>(k);
      inputs_.push_back(builder_.input(externals_[k].layout, first_of_storage[s]));
    }
    for (const TraceOp* t : path_) add(*t);
    Graph& g = builder_.graph();
    g.parameters = fixed_ ? 0 : scalar_;
    for (int32_t root : live) {
      const int32_t node = slot_[static_cast<size_t>(root)];
      const auto it = last_.find(root);
      g.outputs.push_back(it == last_.end() ? node : after(node, it->second));
    }
    for (const auto& [key, write] : last_)
      if (key < 0) g.writes.push_back(write.node);
    return builder_.take();
  }

 private:
  struct Write {
    int32_t node, place, value;
  };

  // Storages: the slot that made it, or ~index of an external one.
  int32_t key_of(const OperandRef& r) const { return r.ref < 0 ? ~r.storage : key_[static_cast<size_t>(r.ref)]; }

  int32_t place(const OperandRef& r) const {
    return r.ref >= 0 ? slot_[static_cast<size_t>(r.ref)] : inputs_[static_cast<size_t>(~r.ref)];
  }

  int32_t after(int32_t place, const Write& w) {
    return builder_.add({.op = &after_op, .inputs = {place, w.node}, .layout = builder_.graph()[place].layout});
  }

  // The operand's present value.
  int32_t read(const OperandRef& r) {
    const int32_t p = place(r);
    const auto it = last_.find(key_of(r));
    if (it == last_.end()) return p;
    const Write& w = it->second;
    if (w.place == p && stays(w.value)) return w.value;
    return after(p, w);
  }

  // Whether a value's elements are never written, so that it may be read at any later time.
  bool stays(int32_t value) {
    const Graph& g = builder_.graph();
    const int32_t base = base_of(g, value);
    if (g[value].op == &after_op) return false;
    if (g[base].op->kind == Kind::input) {
      const auto k = static_cast<size_t>(std::find(inputs_.begin(), inputs_.end(), base) - inputs_.begin());
      return !written_.count(~externals_[k].storage);
    }
    return !g[base].own;
  }

  std::vector<ScalarSource> scalars(const TraceOp& t) {
    std::vector<ScalarSource> list;
    for (int k = 0; k < t.scalar_count; ++k, ++scalar_)
      list.push_back(fixed_ ? ScalarSource{-1, (*fixed_)[static_cast<size_t>(scalar_)]} : ScalarSource{scalar_, 0});
    return list;
  }

  void add(const TraceOp& t) {
    Node n{.op = t.op,
           .attrs = t.attrs,
           .scalars = scalars(t),
           .scalar_mask = t.scalar_mask,
           .layout = t.out,
           .loc = t.loc};
    if (t.op->kind == Kind::view) {
      n.inputs = {place(t.inputs[0])};
      return define(t, builder_.add(std::move(n)));
    }
    if (t.op == &write_op) return write(t, std::move(n));
    for (const OperandRef& r : t.inputs) n.inputs.push_back(read(r));
    n.own = written_.count(t.slot) != 0;
    if (t.op->kind != Kind::composite || is_whole(n)) return define(t, builder_.add(std::move(n)));
    int32_t value = inline_body(builder_, n);
    const Kind kind = builder_.graph()[value].op->kind;
    if (n.own || kind == Kind::view || kind == Kind::input)  // its elements must be its own
      value = builder_.add({.op = &copy_op, .inputs = {value}, .own = n.own, .layout = t.out, .loc = t.loc});
    define(t, value);
  }

  // Whether the device computes a composite op by a kernel of its own.
  bool is_whole(const Node& composite) {
    const std::vector<const Layout*> layouts = layouts_of(builder_, composite);
    std::string why;
    if (engine.backend(layouts[0]->spec.device).takes_whole(*composite.op, composite.attrs, layouts, &why)) return true;
    std::vector<std::string>& notes = builder_.graph().notes;
    std::string note = fmt::format("{}{}: {}", composite.op->name, source_line(composite.loc), why);
    if (!why.empty() && std::ranges::find(notes, note) == notes.end()) notes.push_back(std::move(note));
    return false;
  }

  void define(const TraceOp& t, int32_t node) { slot_[static_cast<size_t>(t.slot)] = node; }

  void write(const TraceOp& t, Node n) {
    const int32_t key = key_of(t.inputs[0]);
    const int32_t value = read(t.inputs[1]);
    n.inputs = {place(t.inputs[0]), value};
    n.layout = builder_.graph()[n.inputs[0]].layout;
    const auto it = last_.find(key);
    if (it != last_.end()) n.inputs.push_back(it->second.node);
    const int32_t target = n.inputs[0];
    last_[key] = {builder_.add(std::move(n)), target, value};
  }

  const std::vector<const TraceOp*>& path_;
  const std::vector<ExternalSpec>& externals_;
  const std::vector<uint64_t>* fixed_;
  GraphBuilder builder_;
  std::vector<int32_t> inputs_, slot_, key_;  // nodes of externals and slots; storages of slots
  std::map<int32_t, Write> last_;             // by storage
  std::set<int32_t> written_;
  int32_t scalar_ = 0;
};

}  // namespace

Graph build_graph(const std::vector<const TraceOp*>& path, const std::vector<ExternalSpec>& externals,
                  const std::vector<int32_t>& live, const std::vector<uint64_t>* fixed) {
  return run_passes(Builder(path, externals, fixed).run(live));
}

int32_t inline_body(GraphBuilder& builder, const Node& composite) {
  const Graph& body = body_graph(*composite.op, composite.attrs, layouts_of(builder, composite));
  std::vector<int32_t> map;
  size_t input = 0;
  for (const Node& node : body.nodes) {
    if (node.op->kind == Kind::input) {
      map.push_back(composite.inputs[input++]);
      continue;
    }
    Node n = node;
    for (int32_t& in : n.inputs) in = map[static_cast<size_t>(in)];
    n.loc = composite.loc;
    map.push_back(builder.add(std::move(n)));
  }
  const int32_t value = map[static_cast<size_t>(body.outputs[0])];
  const Spec &made = builder.graph()[value].layout->spec, &told = composite.layout->spec;
  if (!(made == told))
    fail("{}: its body gives {}, its shape rule {}", composite.op->name, to_string(made), to_string(told));
  return value;
}

}  // namespace rp
