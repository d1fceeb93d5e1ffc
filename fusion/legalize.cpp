#include "reprise/fusion/legalize.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/fusion/partition.h"

namespace rp {
namespace {

// Whether a loop's column can step through the layout.
bool unit_column(const Layout& l) {
  for (int i = l.rank() - 1; i >= 0; --i)
    if (l.shape()[i] > 1) return l.strides[i] == 0 || l.strides[i] == 1;
  return true;
}

class Legalizer {
 public:
  explicit Legalizer(const Graph& g) : g_(g) {}

  Graph run() {
    for (int32_t i = 0; i < g_.size(); ++i) map_.push_back(rebuild(i));
    return builder_.take(g_, map_);
  }

 private:
  const Layout* layout(int32_t i) { return builder_.graph()[i].layout; }

  int32_t add(const Op& op, std::vector<int32_t> inputs, const Attrs& attrs, const Layout* layout, const Where& loc) {
    return builder_.add({.op = &op, .inputs = std::move(inputs), .attrs = attrs, .layout = layout, .loc = loc});
  }

  int32_t packed(int32_t i, const Where& loc) {
    return layout(i)->contiguous ? i : add(copy_op, {i}, {}, layout(i)->packed, loc);
  }

  int32_t rebuild(int32_t i) {
    Node n = g_[i];
    if (n.op->kind == Kind::input) {
      const auto k = std::find(g_.inputs.begin(), g_.inputs.end(), i) - g_.inputs.begin();
      return builder_.input(n.layout, g_.aliases[static_cast<size_t>(k)], n.loc);
    }
    for (int32_t& in : n.inputs) in = map_[static_cast<size_t>(in)];
    if (n.op->kind == Kind::reduce) return reduction(n);
    if (n.op->kind == Kind::pointwise && n.op != &copy_op)
      for (int32_t& in : n.inputs)
        if (!unit_column(*layout(in))) in = packed(in, n.loc);
    // A write of strided elements into strided elements goes through a packed copy.
    if (n.op->kind == Kind::write && !unit_column(*layout(n.inputs[1]))) n.inputs[1] = packed(n.inputs[1], n.loc);
    if (is_call(*n.op))
      for (int32_t& in : n.inputs) in = packed(in, n.loc);
    return builder_.add(std::move(n));
  }

  // Reduces in the order in which the elements lie where that keeps the order of the reduced elements and of the
  // results: an image of shape nchw with its channels last, say.
  bool follow_memory(Node& n) {
    const std::optional<Dims> order = memory_order(*layout(n.inputs[0]));
    if (!order) return false;
    const int32_t axes = n.attrs.as<ReduceAttrs>().axes;
    PermuteAttrs p{{}, order->rank()};
    int32_t moved = 0, last[2] = {-1, -1};
    for (int i = 0; i < order->rank(); ++i) {
      const auto axis = static_cast<int32_t>((*order)[i]);
      const bool reduced = axes >> axis & 1;
      if (layout(n.inputs[0])->shape()[axis] != 1 && std::exchange(last[reduced], axis) > axis) return false;
      p.axes[i] = axis;
      moved |= static_cast<int32_t>(reduced) << i;
    }
    n.inputs[0] = view(permute_op, n.inputs[0], p, n.loc);
    n.attrs = ReduceAttrs{moved, 0};
    return true;
  }

  // Reduced axes that do not lie together go last in a copy; inputs that loops cannot step through are copied.
  int32_t reduction(Node& n) {
    const Layout* const result = n.layout;
    if (follow_memory(n)) n.layout = shape_of(*n.op, n.inputs[0], n.attrs);
    const int32_t value = reduce_as_it_lies(n);
    return layout(value) == result ? value : view(reshape_op, value, SpecAttrs{result}, n.loc);
  }

  int32_t reduce_as_it_lies(Node& n) {
    const Shape shape = layout(n.inputs[0])->shape();
    const int32_t axes = n.attrs.as<ReduceAttrs>().axes;
    if (together(shape, axes)) {
      const Layout& in = *layout(n.inputs[0]);
      const RegionKind kind = trailing(shape, axes) ? RegionKind::rows : RegionKind::columns;
      if (!make_nest(kind, shape, axes, {in.strides})) n.inputs[0] = packed(n.inputs[0], n.loc);
      return builder_.add(std::move(n));
    }
    PermuteAttrs p{{}, shape.rank()};
    int at = 0, kept = 0;
    for (bool reduced : {false, true})
      for (int a = 0; a < shape.rank(); ++a)
        if (((axes >> a & 1) != 0) == (reduced != planted(Defect::legal_axes))) {
          p.axes[at++] = a;
          kept += !reduced;
        }
    const int32_t moved = packed(view(permute_op, n.inputs[0], p, n.loc), n.loc);
    const ReduceAttrs last{((1 << shape.rank()) - 1) & ~((1 << kept) - 1), 0};
    return add(*n.op, {moved}, last, shape_of(*n.op, moved, last), n.loc);
  }

  const Layout* shape_of(const Op& op, int32_t input, const Attrs& attrs) {
    const Layout* in = layout(input);
    return op.shape({op, {&in, 1}, attrs, {}, 0});
  }

  int32_t view(const Op& op, int32_t input, const Attrs& attrs, const Where& loc) {
    return add(op, {input}, attrs, shape_of(op, input, attrs), loc);
  }

  static bool together(const Shape& shape, int32_t axes) {
    int runs = 0;
    bool inside = false;
    for (int i = 0; i < shape.rank(); ++i) {
      if (shape[i] == 1) continue;
      const bool reduced = axes >> i & 1;
      runs += reduced && !inside;
      inside = reduced;
    }
    return runs <= 1;
  }

  static bool trailing(const Shape& shape, int32_t axes) {
    for (int i = shape.rank() - 1; i >= 0; --i)
      if (shape[i] > 1) return axes >> i & 1;
    return true;
  }

  const Graph& g_;
  GraphBuilder builder_;
  std::vector<int32_t> map_;
};

}  // namespace

Graph legalize(const Graph& graph) { return Legalizer(graph).run(); }

}  // namespace rp
