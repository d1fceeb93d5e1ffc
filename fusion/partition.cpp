#include "reprise/fusion/partition.h"

#include <algorithm>
#include <map>

#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"
#include "reprise/fusion/place.h"

namespace rp {
namespace {

constexpr size_t max_joined_operands = 14;  // leaves room for results among a program's operands
constexpr size_t max_joined_nodes = 160;

// A set of region numbers.
class Bits {
 public:
  void set(size_t i) {
    if (i / 64 >= words_.size()) words_.resize(i / 64 + 1);
    words_[i / 64] |= uint64_t{1} << i % 64;
  }
  bool test(size_t i) const { return i / 64 < words_.size() && words_[i / 64] >> i % 64 & 1; }
  void clear(size_t i) { words_[i / 64] &= ~(uint64_t{1} << i % 64); }
  bool meets(const Bits& o) const {
    for (size_t i = 0; i < std::min(words_.size(), o.words_.size()); ++i)
      if (words_[i] & o.words_[i]) return true;
    return false;
  }
  void merge(const Bits& o) {
    if (words_.size() < o.words_.size()) words_.resize(o.words_.size());
    for (size_t i = 0; i < o.words_.size(); ++i) words_[i] |= o.words_[i];
  }

 private:
  std::vector<uint64_t> words_;
};

bool computes(const Node& n) { return n.op->kind != Kind::view && n.op->kind != Kind::input; }

bool is_wide(const Graph& g, int32_t i) {
  const auto wide = [](DType d) { return size_of(d) == 8; };
  bool any = wide(g[i].layout->dtype());
  for (int32_t in : g[i].inputs) any |= wide(g[in].layout->dtype());
  return any;
}

// Trailing axes reduce by rows, leading or middle ones by columns; others would have to be copied first.
bool reduction_form(const Shape& shape, int32_t axes, RegionKind& kind) {
  int first = -1, last = -1;
  for (int i = 0; i < shape.rank(); ++i)
    if ((axes >> i & 1) && shape[i] != 1) {
      if (first < 0) first = i;
      last = i;
    }
  for (int i = std::max(first, 0); i <= last; ++i)
    if (!(axes >> i & 1) && shape[i] != 1) return false;
  int64_t behind = 1;
  for (int i = last + 1; i < shape.rank(); ++i) behind *= shape[i];
  kind = behind == 1 ? RegionKind::rows : RegionKind::columns;
  return true;
}

int64_t kept_count(const Draft& d) {
  int64_t n = 1;
  for (int i = 0; i < d.shape.rank(); ++i)
    if (!(d.reduced >> i & 1)) n *= d.shape[i];
  return n;
}

Draft fresh(const Graph& g, int32_t i) {
  const Node& n = g[i];
  Draft d{.kind = RegionKind::map, .shape = n.layout->shape(), .reduced = 0, .nodes = {i}};
  if (n.op->kind == Kind::write) d.shape = g[n.inputs[1]].layout->shape();
  if (is_call(*n.op)) d.kind = RegionKind::kernel;
  if (makes_blocks(*n.op)) d.kind = RegionKind::gemm;
  if (n.op->kind == Kind::control) d.kind = RegionKind::control;
  if (n.op->kind == Kind::reduce) {
    d.shape = g[n.inputs[0]].layout->shape();
    d.reduced = n.attrs.as<ReduceAttrs>().axes;
    if (!reduction_form(d.shape, d.reduced, d.kind)) fail("fusion: reduction over separated axes was not rewritten");
  }
  return d;
}

class Splitter {
 public:
  Splitter(const Graph& g, bool fuse) : g_(g), fuse_(fuse && !disabled("fuse")), region_(g.nodes.size(), -1) {}

  Partition run() {
    for (int32_t i = 0; i < g_.size(); ++i)
      if (computes(g_[i])) place(i);
    return {ordered(), std::move(refusals_)};
  }

 private:
  // ---- dependencies ----

  // Nodes that must run before node i.
  std::vector<int32_t> predecessors(int32_t i) const {
    std::vector<int32_t> before;
    const Node& n = g_[i];
    for (size_t k = 0; k < n.inputs.size(); ++k) {
      int32_t p = producer_of(g_, n.inputs[k]);
      if (n.op->kind == Kind::write && k == 0)
        p = g_[base_of(g_, n.inputs[0])].op->kind == Kind::input ? -1 : base_of(g_, n.inputs[0]);
      if (p >= 0) before.push_back(p);
    }
    if (n.op->kind == Kind::write && !planted(Defect::write_order))
      if (const auto it = readers_.find(storage_of(g_, base_of(g_, i))); it != readers_.end())
        before.insert(before.end(), it->second.begin(), it->second.end());
    return before;
  }

  void note_reads(int32_t i) {
    const Node& n = g_[i];
    for (size_t k = n.op->kind == Kind::write ? 1 : 0; k < n.inputs.size(); ++k)
      readers_[storage_of(g_, base_of(g_, n.inputs[k]))].push_back(i);
    if (n.op->kind == Kind::write) readers_[storage_of(g_, base_of(g_, i))] = {i};
  }

  // A path from region a to region b through a third one.
  bool path_between(size_t a, size_t b) const {
    for (size_t x = 0; x < drafts_.size(); ++x)
      if (x != a && x != b && ancestors_[b].test(x) && ancestors_[x].test(a)) return true;
    return false;
  }

  void add_edge(size_t from, size_t to) {
    if (from == to || ancestors_[to].test(from)) return;
    Bits all = ancestors_[from];
    all.set(from);
    if (to + 1 == drafts_.size()) return ancestors_[to].merge(all);  // nothing comes after the newest
    for (size_t x = 0; x < drafts_.size(); ++x)
      if (x == to || ancestors_[x].test(to)) ancestors_[x].merge(all);
  }

  // ---- joining ----

  static bool off(RegionKind kind) { return disabled(kind == RegionKind::gemm ? "epilogue" : name_of(kind)); }

  void place(int32_t i) {
    const std::vector<int32_t> before = predecessors(i);
    int64_t target = -1;
    const Kind kind = g_[i].op->kind;
    if (kind == Kind::result)
      target = region_[static_cast<size_t>(g_[i].inputs[0])];
    else if (fuse_ && kind != Kind::contract && !is_call(*g_[i].op) && kind != Kind::control)
      target = best_region(i, before);
    if (target < 0) {
      target = static_cast<int64_t>(drafts_.size());
      drafts_.push_back(fresh(g_, i));
      ancestors_.emplace_back();
      alive_.push_back(true);
    } else {
      join(static_cast<size_t>(target), i);
    }
    region_[static_cast<size_t>(i)] = target;
    for (int32_t p : before) add_edge(region(p), static_cast<size_t>(target));
    if (fuse_ && absorbs_) absorb_other_producers(static_cast<size_t>(target), i, before);
    note_reads(i);
  }

  size_t region(int32_t node) const { return static_cast<size_t>(region_[static_cast<size_t>(node)]); }

  int64_t best_region(int32_t i, const std::vector<int32_t>& before) {
    std::vector<size_t> candidates;
    for (int32_t in : g_[i].inputs) {
      const int32_t p = producer_of(g_, in);
      if (p >= 0 && g_[p].op->kind != Kind::write) candidates.push_back(region(p));
    }
    std::sort(candidates.begin(), candidates.end(), std::greater<>());
    candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
    for (size_t r : candidates) {
      const std::string reason = refusal(r, i, before);
      if (reason.empty()) return static_cast<int64_t>(r);
      refusals_.push_back({drafts_[r].nodes.back(), i, reason});
    }
    return -1;
  }

  std::string refusal(size_t r, int32_t i, const std::vector<int32_t>& before) const {
    Draft d = drafts_[r];
    if (d.kind == RegionKind::kernel) return "a library kernel has no epilogue";
    if (d.kind == RegionKind::control) return "nothing joins a control op from outside";
    if (off(d.kind)) return "switched off";
    if (d.nodes.size() >= max_joined_nodes) return "the region is full";
    if (is_wide(g_, i) != is_wide(g_, d.nodes[0])) return "64-bit and 32-bit elements run in different kernels";
    if (std::string why = adapt(d, i); !why.empty()) return why;
    for (int32_t p : before)
      if (region(p) != r && ancestors_[region(p)].test(r)) return "another operand depends on the region";
    d.nodes.push_back(i);
    return fits(d);
  }

  void join(size_t r, int32_t i) {
    adapt(drafts_[r], i);
    drafts_[r].nodes.push_back(i);
  }

  // Makes a draft ready to take a reduction, if node i is one.
  std::string adapt(Draft& d, int32_t i) const {
    if (g_[i].op->kind != Kind::reduce) return {};
    const int32_t axes = g_[i].attrs.as<ReduceAttrs>().axes;
    if (d.kind == RegionKind::gemm) return "a reduction does not join a matrix product";
    if (g_[g_[i].inputs[0]].layout->shape() != d.shape) return "the reduction runs over another space";
    if (d.reduced && d.reduced != axes && !planted(Defect::other_axes)) return "the region reduces other axes";
    d.reduced = axes;
    RegionKind kind = RegionKind::rows;
    if (!reduction_form(d.shape, axes, kind)) return "the reduced axes are separated";
    if (kind == RegionKind::columns)
      for (int32_t n : d.nodes)
        if (g_[n].op->kind == Kind::write) return "a write does not join a column reduction";
    d.kind = kind;
    return off(kind) ? "switched off" : "";
  }

  // Whether every node of a draft can be computed in one kernel.
  std::string fits(const Draft& d) const {
    std::vector<Place> outside;
    std::vector<Strides> strides;
    for (int32_t i : d.nodes)
      if (std::string why = check_node(d, i, outside, strides); !why.empty()) return why;
    if (outside.size() > max_joined_operands) return "too many operands";
    if (std::count_if(d.nodes.begin(), d.nodes.end(), [&](int32_t i) { return g_[i].op->kind == Kind::reduce; }) >
        max_accumulators)
      return "too many reductions";
    const bool loops = d.kind == RegionKind::gemm ? unit_columns(d.shape, strides)
                                                  : make_nest(d.kind, d.shape, d.reduced, strides).has_value();
    return loops ? "" : "an operand's strides do not fit the loops";
  }

  static bool unit_columns(const Shape& shape, const std::vector<Strides>& strides) {
    return std::all_of(strides.begin(), strides.end(),
                       [&](const Strides& s) { return shape.back() == 1 || s.back() == 0 || s.back() == 1; });
  }

  bool contains(const Draft& d, int32_t node) const { return std::binary_search(d.nodes.begin(), d.nodes.end(), node); }

  std::string check_node(const Draft& d, int32_t i, std::vector<Place>& outside, std::vector<Strides>& strides) const {
    const Node& n = g_[i];
    const bool full = n.op->kind == Kind::reduce || is_full(g_, d, i);
    if (!full && n.op->kind == Kind::pointwise && n.layout->numel != kept_count(d)) return "the shapes differ";
    if (n.op->kind == Kind::write)
      if (std::string why = check_write(d, i, strides); !why.empty()) return why;
    if (makes_blocks(*n.op)) return {};
    for (size_t k = n.op->kind == Kind::write ? 1 : 0; k < (n.op->kind == Kind::write ? 2 : n.inputs.size()); ++k) {
      const int32_t p = producer_of(g_, n.inputs[k]);
      if (p >= 0 && contains(d, p)) {
        if (g_[p].op->kind == Kind::write) return "the elements are written in the region under another view";
        if (std::string why = check_inner(d, p, n.inputs[k], full); !why.empty()) return why;
        continue;
      }
      const Place place = place_of(g_, n.inputs[k]);
      Strides s;
      if (!full_strides(d, *place.layout, !full, s)) return "an operand has another shape";
      if (d.kind == RegionKind::columns && !full && !place.layout->contiguous)
        return "an operand of the results is strided";
      if (d.kind == RegionKind::rows && !full && !row_operand(*place.layout))
        return "an operand of the results is strided";
      if (std::find(outside.begin(), outside.end(), place) == outside.end()) outside.push_back(place);
      strides.push_back(s);
    }
    return {};
  }

  static bool row_operand(const Layout& l) {
    if (l.contiguous) return true;
    return std::all_of(l.strides.begin(), l.strides.end(), [](int64_t s) { return s == 0; });
  }

  // A value of the region read by another node of it: where it was made, or broadcast from a result.
  std::string check_inner(const Draft& d, int32_t producer, int32_t read, bool full) const {
    const bool made_full = is_full(g_, d, producer);
    if (producer == read && made_full == full) return {};
    const Place place = place_of(g_, read);
    if (place.base != producer || place.offset || !place.terms.empty())
      return "it reads another part of the region's value";
    if (made_full == full) {
      return place.layout->contiguous && place.layout->numel == g_[producer].layout->numel
                 ? ""
                 : "it reads the region's value in another order";
    }
    if (!full) return "a value per element is not one per result";
    if (d.kind == RegionKind::columns) return "results of a column reduction are not broadcast in its kernel";
    Strides wanted, actual;
    full_strides(d, *g_[producer].layout->packed, true, wanted);
    if (!full_strides(d, *place.layout, false, actual)) return "the result is not broadcast along the reduced axes";
    for (int a = 0; a < d.shape.rank(); ++a)
      if (d.shape[a] > 1 && wanted[a] != actual[a]) return "the result is not broadcast along the reduced axes";
    return {};
  }

  std::string check_write(const Draft& d, int32_t i, std::vector<Strides>& strides) const {
    if (d.kind != RegionKind::map) return "writes join plain maps only";
    const Place target = place_of(g_, i);
    Strides s;
    if (!full_strides(d, *target.layout, false, s)) return "the written view has another shape";
    strides.push_back(s);
    const int32_t storage = storage_of(g_, target.base);
    if (contains(d, target.base)) return "the written elements are made in the region";
    for (int32_t other : d.nodes) {
      if (other != i && g_[other].op->kind == Kind::write && storage_of(g_, base_of(g_, other)) == storage)
        return "the storage is written twice";
      for (size_t k = g_[other].op->kind == Kind::write ? 1 : 0; k < g_[other].inputs.size(); ++k) {
        const Place read = place_of(g_, g_[other].inputs[k]);
        if (storage_of(g_, read.base) == storage && !read.same_elements(target) && !planted(Defect::write_reads))
          return "the region reads other elements of the storage it writes";
      }
    }
    return {};
  }

  // Merges the regions of a node's other producers into the node's own where that is one kernel still.
  void absorb_other_producers(size_t r, int32_t i, const std::vector<int32_t>& before) {
    if (g_[i].op->kind != Kind::pointwise && g_[i].op->kind != Kind::reduce) return;
    for (int32_t p : before) {
      const size_t other = region(p);
      const RegionKind kind = drafts_[other].kind;
      if (other == r || kind == RegionKind::gemm || kind == RegionKind::kernel || kind == RegionKind::control) continue;
      std::string why = merge_refusal(r, other);
      if (why.empty())
        r = merge(r, other);
      else
        refusals_.push_back({p, i, why});
    }
  }

  Draft united(const Draft& a, const Draft& b) const {
    Draft d = a.kind == RegionKind::map ? b : a;
    d.nodes.clear();
    std::merge(a.nodes.begin(), a.nodes.end(), b.nodes.begin(), b.nodes.end(), std::back_inserter(d.nodes));
    return d;
  }

  std::string merge_refusal(size_t a, size_t b) const {
    const Draft &x = drafts_[a], &y = drafts_[b];
    if (x.kind == RegionKind::gemm || y.kind == RegionKind::gemm)
      return "a map before a matrix product's epilogue stays apart";
    if (off(x.kind) || off(y.kind)) return "switched off";
    if (x.shape != y.shape) return "the shapes differ";
    if (x.reduced && y.reduced && x.reduced != y.reduced) return "the regions reduce different axes";
    if (is_wide(g_, x.nodes[0]) != is_wide(g_, y.nodes[0]))
      return "64-bit and 32-bit elements run in different kernels";
    if (x.nodes.size() + y.nodes.size() > max_joined_nodes) return "the region is full";
    if (path_between(a, b) || path_between(b, a)) return "a path leaves and re-enters the region";
    return fits(united(x, y));
  }

  size_t merge(size_t a, size_t b) {
    drafts_[a] = united(drafts_[a], drafts_[b]);
    for (int32_t n : drafts_[b].nodes) region_[static_cast<size_t>(n)] = static_cast<int64_t>(a);
    alive_[b] = false;
    drafts_[b].nodes.clear();
    Bits all = ancestors_[a];
    all.merge(ancestors_[b]);
    for (size_t x = 0; x < drafts_.size(); ++x)
      if (x == a || ancestors_[x].test(a) || ancestors_[x].test(b)) {
        ancestors_[x].merge(all);
        if (x != a) ancestors_[x].set(a);
      }
    return a;
  }

  // ---- result ----

  std::vector<Draft> ordered() {
    std::vector<size_t> order;
    for (size_t r = 0; r < drafts_.size(); ++r)
      if (alive_[r]) order.push_back(r);
    const auto rank = [&](size_t r) {
      const int32_t last = drafts_[r].nodes.back();
      return planted(Defect::write_order) && g_[last].op->kind == Kind::write ? -1 : last;
    };
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rank(a) < rank(b); });
    Bits pending;
    for (size_t r : order) pending.set(r);
    std::vector<Draft> result;
    while (!order.empty()) {
      std::vector<size_t> later;
      for (size_t r : order) {
        if (ancestors_[r].meets(pending)) {
          later.push_back(r);
          continue;
        }
        pending.clear(r);
        result.push_back(std::move(drafts_[r]));
      }
      if (later.size() == order.size()) fail("fusion: the regions depend on each other in a circle");
      order = std::move(later);
    }
    return result;
  }

  const Graph& g_;
  bool fuse_;
  std::vector<int64_t> region_;  // of each node
  std::vector<Draft> drafts_;
  std::vector<Bits> ancestors_;
  std::vector<bool> alive_;
  std::map<int32_t, std::vector<int32_t>> readers_;  // of each storage, since its last write
  std::vector<Refusal> refusals_;
  bool absorbs_ = !disabled("absorb");
};

}  // namespace

bool is_full(const Graph& g, const Draft& d, int32_t i) {
  if (!d.reduced) return true;
  const Node& n = g[i];
  if (n.op->kind == Kind::reduce) return false;
  return (n.op->kind == Kind::write ? g[n.inputs[1]].layout : n.layout)->shape() == d.shape;
}

bool full_strides(const Draft& d, const Layout& layout, bool per_row, Strides& strides) {
  strides = d.shape;
  if (!per_row || !d.reduced) {
    if (layout.shape() != d.shape) {
      // The same elements in a row under another shape.
      if (!layout.contiguous || layout.numel != element_count(d.shape)) return false;
      strides = packed_strides(d.shape);
      return true;
    }
    strides = layout.strides;
    return true;
  }
  if (layout.numel != kept_count(d)) return false;
  const bool repeated = !layout.contiguous;
  int64_t step = 1;
  for (int i = d.shape.rank() - 1; i >= 0; --i) {
    const bool kept = !(d.reduced >> i & 1);
    strides[i] = kept && !repeated ? step : 0;
    if (kept) step *= d.shape[i];
  }
  return true;
}

std::vector<Draft> separate(const Graph& graph, const Draft& draft) {
  std::vector<Draft> singles;
  for (int32_t i : draft.nodes) singles.push_back(fresh(graph, i));
  return singles;
}

Partition partition(const Graph& graph, bool fuse) { return Splitter(graph, fuse).run(); }

}  // namespace rp
