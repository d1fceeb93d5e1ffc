// Columns, and what makes results of the partial ones of rows and columns.
#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/reduce_text.h"

namespace rp::cuda {
namespace {

size_t first_full(const Region& region) {
  size_t s = 0;
  while (!region.stages[s].full) ++s;
  return s;
}

// A thread adds up one lane of a leaf of a column. Threads of neighbouring columns, then of neighbouring rows, lie side
// by side.
class Columns : ReduceText {
 public:
  Columns(const Region& region, uint32_t turns, bool direct, bool wide)
      : ReduceText(region, wide), turns_(turns), direct_(direct), stage_(region.stages[first_full(region)]) {}

  std::string run() {
    const size_t s = first_full(region_);
    begin_args(false);
    if (!direct_)
      for (size_t k = 0; k < stage_.reductions.size(); ++k)
        text_.line("{}* {}_parts;", type_of(stage_, k), accumulator_name(stage_, k));
    text_.line("Divisor<Index> tiles, groups;  // of the columns and of the leaves");
    text_.line("Index rows, columns, leaves, results, pieces;");
    text_.line("u32 places, height;  // columns and leaves of a block of threads");
    end_args();
    for (size_t i = 0; i < region_.stages.size(); ++i)
      if (i == s || direct_) write_stage(text_, region_.stages[i], stage_name(i));
    begin_kernel(column_threads);
    text_.line("const u32 place = threadIdx.x % args.places, lane = threadIdx.x / args.places % 16;");
    text_.line("const u32 higher = threadIdx.x / args.places / 16;");
    text_.open("for (Index piece = blockIdx.x; piece < args.pieces; piece += gridDim.x)");
    text_.line("const Index above = quotient(piece, args.tiles), group = quotient(above, args.groups);");
    text_.line("const Index column = (piece - above * args.tiles.value) * args.places + place;");
    text_.line("const Index number = (above - group * args.groups.value) * args.height + higher;");
    text_.line("const bool inside = column < args.columns && higher < args.height && number < args.leaves;");
    text_.line("const Index result = group * args.columns + column;");
    write_places("group", true);
    sums(s);
    text_.close();
    return finish();
  }

 private:
  void sums(size_t s) {
    for (size_t k = 0; k < stage_.reductions.size(); ++k)
      text_.line("{0} {1} = {2}::identity<{0}>();", type_of(stage_, k), accumulator_name(stage_, k),
                 combine_name(stage_.reductions[k].combine));
    text_.open("if (inside)");
    text_.line("const Index end = number * {0} + {0} < args.rows ? number * {0} + {0} : args.rows;", leaf);
    text_.open("for (Index first = number * {} + lane; first < end; first += {})", leaf, 16 * turns_);
    elements(s);
    text_.close();
    text_.close();
    for (size_t k = 0; k < stage_.reductions.size(); ++k) combine_lanes_of(k);
    if (!direct_) return;
    text_.open("if (inside && lane == 0)");
    write_temps();
    for (size_t k = 0; k < stage_.reductions.size(); ++k)
      text_.line("row{} = {};", stage_.reductions[k].row_temp, accumulator_name(stage_, k));
    for (size_t i = 0; i < region_.stages.size(); ++i)
      if (!region_.stages[i].full) write_row_stage(i, "result", "");
    text_.close();
  }

  std::string place(const Slot& slot) const {
    return fmt::format("{0}_at + (i64)row * args.{0}_steps[{1}]{2}", slot.name, axes() - 1,
                       slot.contiguous ? " + column" : "");
  }

  void elements(size_t s) {
    const std::vector<Slot> all = slots(stage_);
    for (const Slot& slot : all)
      if (!slot.written) text_.line("{} {}[{}];", slot.type, slot.name, turns_);
    text_.unrolled();
    text_.open("for (u32 u = 0; u < {}; ++u)", turns_);
    text_.line("const Index row = first + u * 16 < end ? first + u * 16 : end - 1;");
    for (const Slot& slot : all)
      if (!slot.written) text_.line("{}[u] = *({});", slot.name, place(slot));
    text_.close();
    text_.unrolled();
    text_.open("for (u32 u = 0; u < {}; ++u)", turns_);
    text_.line("const Index row = first + u * 16;");
    text_.open("if (row < end)");
    element(s, all);
    text_.close();
    text_.close();
  }

  void element(size_t s, const std::vector<Slot>& all) {
    for (const Slot& slot : all)
      if (slot.written) text_.line("{} {};", slot.type, slot.name);
    for (size_t k = 0; k < stage_.reductions.size(); ++k)
      text_.line("{} {}_next;", type_of(stage_, k), accumulator_name(stage_, k));
    const std::string index = "(group * args.rows + row) * args.columns + column";
    text_.line("{}", stage_call(stage_, stage_name(s), index, [&](const std::string& name) {
                 for (const Slot& slot : all)
                   if (slot.name == name) return name + (slot.written ? "" : "[u]");
                 return name + "_next";
               }));
    for (const Slot& slot : all)
      if (slot.written) text_.line("*({}) = {};", place(slot), slot.name);
    for (size_t k = 0; k < stage_.reductions.size(); ++k)
      text_.line("{0} = {1}::of({0}, {0}_next);", accumulator_name(stage_, k),
                 combine_name(stage_.reductions[k].combine));
  }

  void combine_lanes_of(size_t k) {
    const std::string name = accumulator_name(stage_, k);
    text_.open("");
    text_.line("{0}* lanes = ({0}*)shared_memory();", type_of(stage_, k));
    text_.line("lanes[threadIdx.x] = {};", name);
    text_.line("__syncthreads();");
    text_.line("if (lane == 0 && inside) {} = combine_column<{}>(lanes + threadIdx.x, args.places);", name,
               combine_name(stage_.reductions[k].combine));
    if (!direct_) text_.line("if (lane == 0 && inside) args.{0}_parts[number * args.results + result] = {0};", name);
    text_.line("__syncthreads();");
    text_.close();
  }

  const uint32_t turns_;
  const bool direct_;
  const Stage& stage_;
};

class Finish : ReduceText {
 public:
  Finish(const Region& region, size_t stage, bool last, bool wide)
      : ReduceText(region, wide), s_(stage), last_(last), stage_(region.stages[stage]) {}

  std::string run() {
    begin_args(region_.kind == RegionKind::rows);
    for (size_t i = 0; i < region_.row_temps.size(); ++i) text_.line("{}* row{};", c_type(region_.row_temps[i]), i);
    for (size_t k = 0; k < reductions(); ++k)
      text_.line("{0} *{1}_parts, *{1}_fewer;", type_of(stage_, k), accumulator_name(stage_, k));
    text_.line("Divisor<Index> groups;  // of the parts");
    text_.line("Index results, parts, pieces;");
    text_.line("u32 places, size;  // results of a block of threads, and parts of a group");
    end_args();
    for (size_t i = behind(); last_ && i < end(); ++i)
      if (!region_.stages[i].full) write_stage(text_, region_.stages[i], stage_name(i));
    begin_kernel(threads);
    text_.open("for (Index piece = blockIdx.x; piece < args.pieces; piece += gridDim.x)");
    text_.line("const Index tile = quotient(piece, args.groups), group = piece - tile * args.groups.value;");
    text_.line("const Index result = tile * args.places + threadIdx.x % args.places;");
    text_.line("const bool inside = result < args.results, first = inside && threadIdx.x < args.places;");
    write_temps();
    for (size_t k = 0; k < reductions(); ++k) combine(k);
    if (last_) write_rows();
    text_.close();
    return finish();
  }

 private:
  size_t reductions() const { return stage_.full ? stage_.reductions.size() : 0; }
  // The row stages that follow: up to the next full one, or, of columns, all there are.
  size_t behind() const { return region_.kind == RegionKind::columns ? 0 : s_ + stage_.full; }
  size_t end() const {
    size_t i = behind();
    while (i < region_.stages.size() && (region_.kind == RegionKind::columns || !region_.stages[i].full)) ++i;
    return i;
  }

  void combine(size_t k) {
    const Reduction& r = stage_.reductions[k];
    const std::string name = accumulator_name(stage_, k), type = type_of(stage_, k);
    text_.open("");
    text_.line("const Index from = group * args.size;");
    text_.line("const u32 count = args.parts - from < args.size ? args.parts - from : args.size;");
    text_.line(
        "row{} = combine_apart<{}>(args.{}_parts + from * args.results + result, count, args.results, inside, "
        "args.places, ({}*)shared_memory());",
        r.row_temp, combine_name(r.combine), name, type);
    if (last_)
      text_.line("if (first) args.row{0}[result] = row{0};", r.row_temp);
    else
      text_.line("if (first) args.{}_fewer[group * args.results + result] = row{};", name, r.row_temp);
    text_.close();
  }

  bool made_here(const std::string& name) const {
    for (size_t k = 0; k < reductions(); ++k)
      if (name == fmt::format("row{}", stage_.reductions[k].row_temp)) return true;
    for (size_t i = behind(); i < end(); ++i)
      for (const Slot& s : slots(region_.stages[i]))
        if (s.name == name && s.written) return true;
    return false;
  }

  void write_rows() {
    text_.open("if (first)");
    std::vector<std::string> read;
    for (size_t i = behind(); i < end(); ++i) {
      const Stage& stage = region_.stages[i];
      if (stage.full) continue;
      for (const Slot& s : slots(stage)) {
        if (s.operand || s.written || made_here(s.name)) continue;
        text_.line("{0} = args.{0}[result];", s.name);
      }
      write_row_stage(i, "result", "");
      for (const Slot& s : slots(stage))
        if (!s.operand && s.written) text_.line("args.{0}[result] = {0};", s.name);
    }
    text_.close();
  }

  const size_t s_;
  const bool last_;
  const Stage& stage_;
};

}  // namespace

std::string columns_text(const Region& region, uint32_t turns, bool direct, bool wide) {
  return Columns(region, turns, direct, wide).run();
}

std::string finish_text(const Region& region, size_t stage, bool last, bool wide) {
  return Finish(region, stage, last, wide).run();
}

}  // namespace rp::cuda
