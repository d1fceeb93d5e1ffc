// Rows in registers: 16 threads have a row each.
#include <algorithm>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/reduce_text.h"

namespace rp::cuda {
namespace {

class ShortRows : ReduceText {
 public:
  ShortRows(const Region& region, uint32_t each, bool wide)
      : ReduceText(region, wide), each_(each), turn_(std::min(each, 8u)), kept_(kept_values(region, true)) {
    while (each_ % turn_) --turn_;
  }

  std::string run() {
    begin_args(true);
    text_.line("Index rows, columns;");
    end_args();
    for (size_t s = 0; s < region_.stages.size(); ++s) write_stage(text_, region_.stages[s], stage_name(s));
    begin_kernel(threads);
    text_.line("const u32 lane = threadIdx.x % 16{};", each_ == 1 ? ", column = lane" : "");
    text_.open("for (Index first = (Index)blockIdx.x * {0}; first < args.rows; first += (Index)gridDim.x * {0})",
               threads / 16);
    text_.line("const bool inside = first + threadIdx.x / 16 < args.rows;  // whole warps take part in shuffles");
    text_.line("const Index row = inside ? first + threadIdx.x / 16 : args.rows - 1;");
    text_.line("const u32 columns = inside ? args.columns : 0;");
    write_places("row", false);
    write_temps();
    for (const Kept& v : kept_) text_.line("{} {}{};", c_type(v.dtype), v.name, array(each_));
    for (size_t s = 0; s < region_.stages.size(); ++s)
      if (region_.stages[s].full)
        full_stage(s);
      else
        write_row_stage(s, "row", "inside && lane == 0");
    text_.close();
    return finish();
  }

 private:
  const Kept* kept(const std::string& name) const {
    const auto it = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& v) { return v.name == name; });
    return it == kept_.end() ? nullptr : &*it;
  }
  bool in_registers(const Slot& s) const { return kept(s.name) || (s.operand && s.contiguous && !s.written); }
  std::string value(const Slot& s) const {
    if (!in_registers(s) || each_ == 1) return s.name;
    return s.name + (kept(s.name) && each_ != turn_ ? "[k + u]" : "[u]");
  }
  static std::string array(uint32_t count) { return count > 1 ? fmt::format("[{}]", count) : ""; }

  void full_stage(size_t s) {
    const Stage& stage = region_.stages[s];
    text_.open("");
    write_broadcast_loads(stage);
    for (size_t k = 0; k < stage.reductions.size(); ++k)
      text_.line("{0} {1} = {2}::identity<{0}>();", type_of(stage, k), accumulator_name(stage, k),
                 combine_name(stage.reductions[k].combine));
    if (each_ != turn_) {
      text_.unrolled();
      text_.open("for (u32 k = 0; k < {}; k += {})", each_, turn_);
    }
    load(s);
    compute(s);
    if (each_ != turn_) text_.close();
    for (size_t k = 0; k < stage.reductions.size(); ++k)
      text_.line("row{} = combine_lanes<{}>({});", stage.reductions[k].row_temp,
                 combine_name(stage.reductions[k].combine), accumulator_name(stage, k));
    text_.close();
  }

  template <class F>
  void each_column(F&& write) {
    if (each_ > 1) {
      text_.unrolled();
      text_.open("for (u32 u = 0; u < {}; ++u)", turn_);
      text_.line("const u32 column = {} * 16 + lane;", each_ == turn_ ? "u" : "(k + u)");
    }
    text_.open("if (column < columns)");
    write();
    text_.close();
    if (each_ > 1) text_.close();
  }

  void load(size_t s) {
    std::vector<Slot> fresh;
    for (const Slot& slot : slots(region_.stages[s]))
      if (slot.operand && slot.contiguous && !slot.written && (!kept(slot.name) || kept(slot.name)->first == s))
        fresh.push_back(slot);
    if (fresh.empty()) return;
    for (const Slot& slot : fresh)
      if (!kept(slot.name)) text_.line("{} {}{};", slot.type, slot.name, array(turn_));
    each_column([&] {
      for (const Slot& slot : fresh) text_.line("{} = {}_at[column];", value(slot), slot.name);
    });
  }

  void compute(size_t s) {
    const Stage& stage = region_.stages[s];
    const std::vector<Slot> all = slots(stage);
    each_column([&] {
      for (const Slot& slot : all)
        if (slot.operand && slot.written) text_.line("{} {};", slot.type, slot.name);
      for (size_t k = 0; k < stage.reductions.size(); ++k)
        text_.line("{} {}_next;", type_of(stage, k), accumulator_name(stage, k));
      text_.line("{}", stage_call(stage, stage_name(s), "row * args.columns + column", [&](const std::string& name) {
                   for (const Slot& slot : all)
                     if (slot.name == name) return value(slot);
                   return name + "_next";
                 }));
      for (const Slot& slot : all)
        if (slot.operand && slot.written) text_.line("{0}_at[column] = {0};", slot.name);
      for (size_t k = 0; k < stage.reductions.size(); ++k)
        text_.line("{0} = {1}::of({0}, {0}_next);", accumulator_name(stage, k),
                   combine_name(stage.reductions[k].combine));
    });
  }

  uint32_t each_, turn_;  // elements of a thread, and how many of them at once
  std::vector<Kept> kept_;
};

}  // namespace

std::string short_rows_text(const Region& region, uint32_t each, bool wide) {
  return ShortRows(region, each, wide).run();
}

}  // namespace rp::cuda
