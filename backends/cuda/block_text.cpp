// Rows gone through by whole blocks of threads, which compute elements in any order and then, 16 threads a leaf, add
// up in the order of the tree what they have put into shared memory. A row to a block, or the leaves of a row to
// several.
#include <algorithm>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/reduce_text.h"

namespace rp::cuda {
namespace {

class BlockText : protected ReduceText {
 protected:
  BlockText(const Region& region, const LongForm& form, std::vector<Kept> kept)
      : ReduceText(region, form.wide), form_(form), kept_(std::move(kept)) {}

  const Kept* kept(const std::string& name) const {
    const auto it = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& v) { return v.name == name; });
    return it == kept_.end() ? nullptr : &*it;
  }

  // Whether elements come as vectors, or are the same for the whole row.
  static bool vector(const Slot& s) { return s.full_temp || (s.operand && s.contiguous); }

  // What accumulators take: a kept value, or values that are written for them alone.
  void declare_values(const Stage& stage) {
    int own = 0;
    for (size_t k = 0; k < stage.reductions.size(); ++k) {
      const std::string name = accumulator_name(stage, k), type = type_of(stage, k);
      if (const int same = kept_as(stage, k, kept_); same >= 0) {
        text_.line("const {}* {}_values = {}_all + from;", type, name, kept_[static_cast<size_t>(same)].name);
      } else {
        text_.line("{0}* {1}_values = ({0}*)(shared + args.staging{2});", type, name,
                   own ? fmt::format(" + {} * args.staging_bytes", own) : "");
        ++own;
      }
    }
  }

  // The elements of columns `from` to `to`.
  void write_elements(size_t s) {
    const uint32_t apart = form_.threads * form_.vector;
    text_.open("for (Index {0} = from + threadIdx.x * {1}; {0} < to; {0} += {2})", form_.turns > 1 ? "at" : "column",
               form_.vector, apart * form_.turns);
    const Stage& stage = region_.stages[s];
    const std::vector<Slot> all = slots(stage);
    const std::string array = form_.turns > 1 ? fmt::format("[{}]", form_.turns) : "";
    for (const Slot& slot : all)
      if (vector(slot)) text_.line("Vector<{}, {}> {}{};", slot.type, form_.vector, slot.name, array);
    for (size_t k = 0; k < stage.reductions.size(); ++k)
      text_.line("Vector<{}, {}> {}{};", type_of(stage, k), form_.vector, accumulator_name(stage, k), array);
    each_turn(apart, [&] {
      for (const Slot& slot : all)
        if (vector(slot) && !slot.written)
          text_.line("{0}{3} = load_vector<{1}>({0}_{2} + column);", slot.name, form_.vector,
                     slot.operand && (!kept(slot.name) || kept(slot.name)->first == s) ? "at" : "all", turn());
    });
    each_turn(apart, [&] {
      text_.unrolled();
      text_.line("for (u32 e = 0; e < {}; ++e)", form_.vector);
      text_.line("  {}", stage_call(stage, stage_name(s), "row * args.columns + column + e", [&](const std::string& n) {
                   for (const Slot& slot : all)
                     if (slot.name == n && !vector(slot)) return n;
                   return n + turn() + "[e]";
                 }));
      write_stores(s, all);
    });
    text_.close();
  }

  template <class F>
  void each_turn(uint32_t apart, F&& write) {
    if (form_.turns == 1) return write();
    text_.unrolled();
    text_.open("for (u32 u = 0; u < {}; ++u)", form_.turns);
    text_.line("const Index column = at + u * {};", apart);
    text_.open("if (column < to)");
    write();
    text_.close();
    text_.close();
  }
  std::string turn() const { return form_.turns > 1 ? "[u]" : ""; }

  void write_stores(size_t s, const std::vector<Slot>& all) {
    const Stage& stage = region_.stages[s];
    for (const Slot& slot : all) {
      const Kept* v = kept(slot.name);
      if (slot.operand && !slot.written && v && v->first == s)
        text_.line("store_vector({0}_all + column, {0}{1});", slot.name, turn());
      if (slot.written && vector(slot))
        text_.line("store_vector({0}_{1} + column, {0}{2});", slot.name, slot.operand ? "at" : "all", turn());
    }
    for (size_t k = 0; k < stage.reductions.size(); ++k)
      if (kept_as(stage, k, kept_) < 0)
        text_.line("store_vector({0}_values + (column - from), {0}{1});", accumulator_name(stage, k), turn());
  }

  const LongForm form_;
  const std::vector<Kept> kept_;  // in shared memory
};

class LongRows : BlockText {
 public:
  LongRows(const Region& region, const LongForm& form)
      : BlockText(region, form, kept_values(region, form.keep_operands)) {}

  std::string run() {
    begin_args(true);
    text_.line("Index rows, columns, chunk;");
    if (!kept_.empty()) text_.line("u32 places[{}];  // in shared memory", kept_.size());
    text_.line("u32 staging, staging_bytes, parts, leaves, leaves_at_once;");
    end_args();
    for (size_t s = 0; s < region_.stages.size(); ++s) write_stage(text_, region_.stages[s], stage_name(s));
    begin_kernel(form_.threads);
    text_.line("char* shared = shared_memory();");
    for (size_t k = 0; k < kept_.size(); ++k)
      text_.line("{0}* {1}_all = ({0}*)(shared + args.places[{2}]);", c_type(kept_[k].dtype), kept_[k].name, k);
    text_.open("for (Index row = blockIdx.x; row < args.rows; row += gridDim.x)");
    write_places("row", false);
    write_temps();
    for (size_t s = 0; s < region_.stages.size(); ++s)
      if (region_.stages[s].full)
        full_stage(s);
      else
        write_row_stage(s, "row", "threadIdx.x == 0");
    text_.close();
    return finish();
  }

 private:
  void full_stage(size_t s) {
    const Stage& stage = region_.stages[s];
    text_.open("");
    write_broadcast_loads(stage);
    if (stage.reductions.empty()) {
      text_.line("const Index from = 0, to = args.columns;");
      write_elements(s);
    } else {
      reduce(s);
    }
    text_.close();
  }

  void reduce(size_t s) {
    const Stage& stage = region_.stages[s];
    for (size_t k = 0; k < stage.reductions.size(); ++k)
      text_.line("{0}* {1}_parts = ({0}*)(shared + args.parts{2});", type_of(stage, k), accumulator_name(stage, k),
                 k ? fmt::format(" + {} * args.leaves", 8 * k) : "");
    text_.open("for (Index from = 0; from < args.columns; from += args.chunk)");
    text_.line("const Index to = from + args.chunk < args.columns ? from + args.chunk : args.columns;");
    declare_values(stage);
    write_elements(s);
    text_.line("__syncthreads();");
    for (size_t k = 0; k < stage.reductions.size(); ++k)
      text_.line("combine_leaves<{0}>({1}_values, to - from, {1}_parts + from / {2}, {3}, args.leaves_at_once);",
                 combine_name(stage.reductions[k].combine), accumulator_name(stage, k), leaf,
                 k ? fmt::format("{} * args.leaves_at_once", k) : "0");
    text_.line("__syncthreads();");
    text_.close();
    for (size_t k = 0; k < stage.reductions.size(); ++k) {
      const std::string name = accumulator_name(stage, k);
      text_.line("combine_parts<{}>({}_parts, args.leaves);", combine_name(stage.reductions[k].combine), name);
      text_.line("row{} = {}_parts[0];", stage.reductions[k].row_temp, name);
    }
  }
};

class RowsStage : BlockText {
 public:
  RowsStage(const Region& region, size_t stage, const LongForm& form)
      : BlockText(region, form, {}), s_(stage), stage_(region.stages[stage]) {}

  std::string run() {
    begin_args(true);
    for (size_t i = 0; i < region_.row_temps.size(); ++i)
      text_.line("const {}* row{};", c_type(region_.row_temps[i]), i);
    for (size_t i = 0; i < region_.full_temps.size(); ++i) text_.line("{}* kept{};", c_type(region_.full_temps[i]), i);
    for (size_t k = 0; k < stage_.reductions.size(); ++k)
      text_.line("{}* {}_parts;", type_of(stage_, k), accumulator_name(stage_, k));
    text_.line("Divisor<Index> leaves;");
    text_.line("Index rows, columns, pieces;");
    text_.line("u32 staging, staging_bytes;");
    end_args();
    write_stage(text_, stage_, stage_name(s_));
    begin_kernel(form_.threads);
    if (!stage_.reductions.empty()) text_.line("char* shared = shared_memory();");
    text_.open("for (Index piece = blockIdx.x; piece < args.pieces; piece += gridDim.x)");
    text_.line("const Index row = quotient(piece, args.leaves), number = piece - row * args.leaves.value;");
    text_.line("const Index from = number * {0}, to = from + {0} < args.columns ? from + {0} : args.columns;", leaf);
    write_places("row", false);
    write_inputs();
    write_broadcast_loads(stage_);
    if (!stage_.reductions.empty()) declare_values(stage_);
    write_elements(s_);
    if (!stage_.reductions.empty()) write_sums();
    text_.close();
    return finish();
  }

 private:
  void write_inputs() {
    for (size_t k = 0; k < stage_.slots.size(); ++k) {
      const Slot s = slot(stage_, k);
      if (s.full_temp)
        text_.line("{0}* {1}_all = args.{1} + (i64)row * args.columns;", s.type, s.name);
      else if (!s.operand)
        text_.line("const {0} {1} = args.{1}[row];", s.type, s.name);
    }
  }

  void write_sums() {
    text_.line("__syncthreads();");
    for (size_t k = 0; k < stage_.reductions.size(); ++k)
      text_.line("combine_leaves<{0}>({1}_values, to - from, args.{1}_parts + number * args.rows + row, {2}, 2);",
                 combine_name(stage_.reductions[k].combine), accumulator_name(stage_, k), 2 * k);
    text_.line("__syncthreads();");
  }

  const size_t s_;
  const Stage& stage_;
};

}  // namespace

std::string long_rows_text(const Region& region, const LongForm& form) { return LongRows(region, form).run(); }

std::string rows_stage_text(const Region& region, size_t stage, const LongForm& form) {
  return RowsStage(region, stage, form).run();
}

}  // namespace rp::cuda
