#include "reprise/fusion/lower.h"

#include <algorithm>
#include <bit>
#include <map>

#include "reprise/core/map.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/fusion/loosen.h"

namespace rp {
namespace {

using SlotKind = StageSlot::Kind;

// One stage under construction: its program and where the values it has seen stand.
struct Work {
  ProgramBuilder builder;
  Stage stage;
  std::map<int32_t, Value> values;            // of nodes computed or loaded here
  std::map<std::pair<int, int>, int> slots;   // (slot kind, index) -> program operand
  std::vector<std::pair<Value, int>> stores;  // (value, program operand), emitted last
};

class Lowering {
 public:
  Lowering(const Graph& g, const Draft& d, const std::vector<bool>& stored, const Homes& homes)
      : g_(g), d_(d), stored_(stored), homes_(homes) {}

  std::optional<Lowered> run() {
    region().kind = d_.kind;
    if (apart_) return kernel();
    if (d_.nodes.size() == 1 && is_strided_copy(d_.nodes[0])) return copy(d_.nodes[0]);
    if (d_.kind == RegionKind::gemm) start_gemm();
    assign_stages();
    for (int s = 0; s <= last_stage_; ++s)
      for (bool full : {false, true}) build_stage(s, full);
    if (overflow_) return {};
    region().scalars = static_cast<int>(out_.scalars.size());
    return nest() ? std::optional(std::move(out_)) : std::nullopt;
  }

 private:
  Region& region() { return out_.region; }
  const Node& node(int32_t i) const { return g_[i]; }
  bool inside(int32_t i) const { return std::binary_search(d_.nodes.begin(), d_.nodes.end(), i); }
  Place place_of(int32_t i) const { return homes_.place_of(g_, i); }
  bool full(int32_t i) const { return node(i).op->kind != Kind::reduce && is_full(g_, d_, i); }

  // ---- regions without programs ----

  std::optional<Lowered> kernel() {
    const int32_t i = d_.nodes[0];
    region().op = node(i).op;
    region().attrs = node(i).attrs;
    for (int32_t in : node(i).inputs) {
      const int k = add_operand(place_of(in), false, false);
      if (d_.kind == RegionKind::control) region().operands[static_cast<size_t>(k)].cast_from = cast_from(in);
    }
    if (d_.kind == RegionKind::kernel) add_operand(place_of(i), true, false);
    for (size_t k = 1; k < d_.nodes.size(); ++k) {  // of a control op
      region().results.push_back(static_cast<int32_t>(node(d_.nodes[k]).attrs.as<ResultAttrs>().index));
      add_operand(place_of(d_.nodes[k]), true, false);
    }
    for (const ScalarSource& s : node(i).scalars) out_.scalars.push_back(s);
    region().scalars = static_cast<int>(out_.scalars.size());
    return std::move(out_);
  }

  // The 16-bit floats that a value of f32 has been, however it was moved since.
  std::optional<DType> cast_from(int32_t i) const {
    const Place place = rp::place_of(g_, i);
    const Node& n = node(place.base);
    if (place.version >= 0 || n.layout->dtype() != DType::f32) return {};
    if (n.op == &cast_op) {
      const DType from = node(n.inputs[0]).layout->dtype();
      return is_short(from) ? std::optional(from) : std::nullopt;
    }
    if (n.op != &concat_op && n.op != &copy_op) return {};
    const std::optional<DType> first = cast_from(n.inputs[0]);
    const bool all = std::ranges::all_of(n.inputs, [&](int32_t in) { return cast_from(in) == first; });
    return all ? first : std::nullopt;
  }

  // A copy or write whose strides no loop over unit columns can follow.
  bool is_strided_copy(int32_t i) const {
    const Node& n = node(i);
    if (n.op != &copy_op && n.op->kind != Kind::write) return false;
    const int32_t from = n.op->kind == Kind::write ? n.inputs[1] : n.inputs[0];
    return !make_nest(RegionKind::map, n.layout->shape(), 0, {node(from).layout->strides, place_of(i).layout->strides});
  }

  std::optional<Lowered> copy(int32_t i) {
    const Node& n = node(i);
    region().kind = RegionKind::copy;
    add_operand(place_of(n.op->kind == Kind::write ? n.inputs[1] : n.inputs[0]), false, false);
    add_operand(place_of(i), true, false);
    return std::move(out_);
  }

  // ---- operands ----

  int add_operand(const Place& place, bool written, bool per_row) {
    for (size_t k = 0; k < out_.operands.size(); ++k) {
      RegionOperand& o = region().operands[k];
      if (out_.operands[k] == place && o.written == written && o.per_row == per_row && !apart_ &&
          !(d_.kind == RegionKind::gemm && k < 3))
        return static_cast<int>(k);
    }
    out_.operands.push_back(place);
    region().operands.push_back({place.layout, written, per_row});
    return static_cast<int>(out_.operands.size()) - 1;
  }

  void start_gemm() {
    const int32_t product = d_.nodes[0];
    region().op = node(product).op;
    region().attrs = node(product).attrs;
    add_operand(place_of(node(product).inputs[0]), false, false);
    add_operand(place_of(node(product).inputs[1]), false, false);
    // The product is formed in its own buffer, or in that of a result which takes its place.
    int32_t home = product;
    region().keeps_product = stored_[static_cast<size_t>(product)];
    if (!region().keeps_product)
      for (int32_t i : d_.nodes)
        if (stored_[static_cast<size_t>(i)] && node(i).layout == node(product).layout && can_hold(product, i)) home = i;
    add_operand(place_of(home), true, false);
  }

  // A kernel fills a buffer of its own, a matrix product any whose columns lie together.
  bool can_hold(int32_t product, int32_t home) const {
    return node(product).op->kind == Kind::contract || place_of(home).layout->contiguous;
  }

  // ---- stages ----

  // A value per element belongs to the pass after the results it needs; a result is known after its pass.
  void assign_stages() {
    for (int32_t i : d_.nodes) {
      int s = 0;
      for (int32_t in : read_inputs(i)) {
        const int32_t p = producer_of(g_, in);
        if (p >= 0 && inside(p)) s = std::max(s, stage_[p]);
      }
      stage_[i] = node(i).op->kind == Kind::reduce ? s + 1 : s;
      last_stage_ = std::max(last_stage_, stage_[i]);
    }
  }

  std::vector<int32_t> read_inputs(int32_t i) const {
    const Node& n = node(i);
    if (n.op->kind == Kind::write) return {n.inputs[1]};
    if (makes_blocks(*n.op)) return {};
    return n.inputs;
  }

  void build_stage(int s, bool full_stage) {
    Work w;
    w.stage.full = full_stage;
    if (full_stage && d_.kind == RegionKind::columns) w.builder.set_column_form();
    bool any = false;
    for (int32_t i : d_.nodes) {
      const bool reduces = node(i).op->kind == Kind::reduce;
      const int when = reduces ? stage_[i] - 1 : stage_[i];
      if (when != s || (reduces || full(i)) != full_stage) continue;
      if (makes_blocks(*node(i).op)) continue;
      any = true;
      if (reduces)
        accumulate(w, i);
      else if (node(i).op->kind == Kind::write)
        store(w, read(w, node(i).inputs[1], full_stage), place_of(i), false);
      else
        compute(w, i, full_stage);
    }
    // A result that is needed outside is stored by the row stage that follows its pass.
    if (!full_stage)
      for (int32_t i : d_.nodes)
        if (node(i).op->kind == Kind::reduce && stage_[i] == s && stored_[static_cast<size_t>(i)]) {
          store(w, row_value(w, i), place_of(i), true);
          any = true;
        }
    if (!any) return;
    for (const auto& [value, operand] : w.stores) w.builder.store(value, operand);
    w.stage.program = loosened(w.builder.take());
    region().stages.push_back(std::move(w.stage));
  }

  void compute(Work& w, int32_t i, bool full_stage) {
    const Node& n = node(i);
    std::vector<Value> operands;
    size_t tensor = 0, scalar = 0;
    for (int k = 0; k < static_cast<int>(n.inputs.size() + n.scalars.size()); ++k) {
      if (n.scalar_mask >> k & 1)
        operands.push_back(scalar_value(w, n, k, scalar++));
      else
        operands.push_back(read(w, n.inputs[tensor++], full_stage));
    }
    if (operands.empty()) return;
    const DType dtype = n.layout->dtype();
    const Value result = w.builder.rounded(n.op->meaning(operands, n.attrs, type_of(dtype)), dtype);
    w.values[i] = result;
    if (stored_[static_cast<size_t>(i)]) store(w, result, place_of(i), d_.reduced && !full_stage);
    if (used_later(i, full_stage)) keep(w, i, result, full_stage);
  }

  Value scalar_value(Work& w, const Node& n, int k, size_t scalar) {
    const Type out = type_of(n.layout->dtype());
    const Type common = n.inputs.empty() ? out : type_of(node(n.inputs.back()).layout->dtype());
    return scalar_operand(w.builder, scalar_slot(n.scalars[scalar]), scalar_type(*n.op, k, common, out));
  }

  int scalar_slot(const ScalarSource& s) {
    for (size_t k = 0; k < out_.scalars.size(); ++k)
      if (out_.scalars[k] == s) return static_cast<int>(k);
    out_.scalars.push_back(s);
    return static_cast<int>(out_.scalars.size()) - 1;
  }

  // ---- values across stages ----

  // Whether a value is read by a later stage than the one that makes it.
  bool used_later(int32_t i, bool full_stage) const {
    return std::any_of(d_.nodes.begin(), d_.nodes.end(), [&](int32_t user) {
      const auto inputs = read_inputs(user);
      const bool reads =
          std::any_of(inputs.begin(), inputs.end(), [&](int32_t in) { return producer_of(g_, in) == i; });
      const bool reduces = node(user).op->kind == Kind::reduce;
      const int when = reduces ? stage_.at(user) - 1 : stage_.at(user);
      return reads && (when > stage_.at(i) || (reduces || full(user)) != full_stage);
    });
  }

  void keep(Work& w, int32_t i, Value value, bool full_stage) {
    auto& temps = full_stage ? region().full_temps : region().row_temps;
    const int index = temp_of(i, temps);
    const int operand = slot(w, full_stage ? SlotKind::full_temp : SlotKind::row_temp, index, node(i).layout->dtype(),
                             Access::contiguous, true);
    if (operand >= 0) w.stores.push_back({value, operand});
  }

  // A result of a reduction is kept as it was added up, and rounded when it is read.
  DType temp_dtype(int32_t i) const {
    const DType dtype = node(i).layout->dtype();
    return node(i).op->kind == Kind::reduce && is_short(dtype) ? DType::f32 : dtype;
  }

  int temp_of(int32_t i, std::vector<DType>& temps) {
    const auto [it, fresh] = temp_.try_emplace(i, static_cast<int>(temps.size()));
    if (fresh) temps.push_back(temp_dtype(i));
    return planted(Defect::stale_temp) ? 0 : it->second;
  }

  Value row_value(Work& w, int32_t i) {
    if (const auto it = w.values.find(i); it != w.values.end()) return it->second;
    const int index = temp_of(i, region().row_temps);
    const int operand =
        slot(w, SlotKind::row_temp, index, temp_dtype(i), w.stage.full ? Access::broadcast : Access::contiguous, false);
    return w.values[i] = w.builder.rounded(load(w, operand), node(i).layout->dtype());
  }

  Value load(Work& w, int operand) { return operand < 0 ? w.builder.bits(0, Type::f32) : w.builder.load(operand); }

  Value read(Work& w, int32_t in, bool full_stage) {
    const int32_t p = producer_of(g_, in);
    if (p >= 0 && inside(p)) {
      if (makes_blocks(*node(p).op)) return load(w, operand_slot(w, 2, false));
      if (const auto it = w.values.find(p); it != w.values.end()) return it->second;
      if (!full(p)) return row_value(w, p);
      const int index = temp_of(p, region().full_temps);
      return w.values[p] =
                 load(w, slot(w, SlotKind::full_temp, index, node(p).layout->dtype(), Access::contiguous, false));
    }
    return load(w, operand_slot(w, add_operand(place_of(in), false, d_.reduced && !full_stage), false));
  }

  void store(Work& w, Value value, const Place& place, bool per_row) {
    const int operand = operand_slot(w, add_operand(place, true, per_row), true);
    if (operand >= 0) w.stores.push_back({value, operand});
  }

  void accumulate(Work& w, int32_t i) {
    if (w.stage.reductions.size() >= max_accumulators) {
      overflow_ = true;
      return;
    }
    const Value value = read(w, node(i).inputs[0], true);
    w.builder.accumulate(value, node(i).op->combine);
    w.stage.reductions.push_back({node(i).op->combine, value.type, temp_of(i, region().row_temps)});
  }

  // ---- program operands ----

  int operand_slot(Work& w, int operand, bool written) {
    const RegionOperand& o = region().operands[static_cast<size_t>(operand)];
    Strides s;
    full_strides(d_, *o.layout, o.per_row, s);
    Access access = Access::contiguous;
    if (w.stage.full) {
      for (int a = d_.shape.rank() - 1; a >= 0; --a) {
        const bool column = d_.kind == RegionKind::rows ? (d_.reduced >> a & 1)
                                                        : d_.kind != RegionKind::columns || !(d_.reduced >> a & 1);
        if (!column || d_.shape[a] == 1) continue;
        access = s[a] ? Access::contiguous : Access::broadcast;
        break;
      }
    } else if (!o.layout->contiguous) {
      access = Access::broadcast;
    }
    return slot(w, SlotKind::operand, operand, o.layout->dtype(), access, written);
  }

  int slot(Work& w, SlotKind kind, int index, DType dtype, Access access, bool written) {
    // One program operand serves reads and writes of the same elements separately, so that loads stay shareable.
    const auto key = std::pair(static_cast<int>(kind) * 2 + written, index);
    if (const auto it = w.slots.find(key); it != w.slots.end()) return it->second;
    if (w.stage.slots.size() >= max_operands) {
      overflow_ = true;
      return -1;
    }
    w.stage.slots.push_back({kind, index});
    return w.slots[key] = w.builder.operand(dtype, access, written);
  }

  bool nest() {
    std::vector<Strides> strides;
    for (const RegionOperand& o : region().operands) {
      Strides s = packed_strides(d_.shape);
      if (!(d_.kind == RegionKind::gemm && strides.size() < 2) && !full_strides(d_, *o.layout, o.per_row, s))
        return false;
      if (d_.kind == RegionKind::gemm && strides.size() >= 2 && d_.shape.back() > 1 && s.back() > 1) return false;
      strides.push_back(s);
    }
    std::optional<Nest> nest = d_.kind == RegionKind::gemm ? matrix_nest(d_.shape, strides)
                                                           : make_nest(d_.kind, d_.shape, d_.reduced, strides);
    if (nest) region().members.push_back(std::move(*nest));
    return nest.has_value();
  }

  const Graph& g_;
  const Draft& d_;
  const std::vector<bool>& stored_;
  const Homes& homes_;
  const bool apart_ =
      d_.kind == RegionKind::kernel || d_.kind == RegionKind::control;  // operands stand in the op's order
  Lowered out_;
  std::map<int32_t, int> stage_, temp_;
  int last_stage_ = 0;
  bool overflow_ = false;
};

}  // namespace

std::optional<Lowered> lower(const Graph& graph, const Draft& draft, const std::vector<bool>& stored,
                             const Homes& homes) {
  return Lowering(graph, draft, stored, homes).run();
}

}  // namespace rp
