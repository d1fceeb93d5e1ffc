#include "reprise/backends/cuda/scan_text.h"

#include <algorithm>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/kernel_text.h"
#include "reprise/backends/cuda/scan_tensor.h"
#include "reprise/core/map.h"
#include "reprise/fusion/loosen.h"

namespace rp::cuda {
namespace {

using As = ScanValue::Kind;

const std::string next_step = "s + 1";

class ScanText {
 public:
  ScanText(const ScanBody& body, const ScanChoice& choice, size_t operands)
      : body_(body), choice_(choice), memory_(scan_memory(body, choice)), operands_(operands) {}

  std::string run() {
    write_constants();
    text_.lines(scan_pieces);
    if (choice_.split) text_.lines(scan_tensor_pieces);
    text_.open("extern \"C\" __global__ void __launch_bounds__({}) kernel_entry(const __grid_constant__ Args args)",
               choice_.threads);
    write_thread();
    write_shared();
    write_carries();
    Text step = std::exchange(text_, Text());
    write_step();
    std::swap(step, text_);
    write_loads(false);
    if (choice_.meeting == ScanMeeting::cluster && !meets_at_start(body_))
      text_.line("cluster_barrier();  // all are there before one writes into another's memory");
    text_.open("for (i64 s = 0; s < args.steps; ++s)");
    if (body_.attrs.reverse)
      text_.line("const i64 t = args.steps - 1 - s;");
    else
      text_.line("const i64 t = s;");
    write_positions();
    write_loads(true);
    text_.lines(step.take());
    text_.close();
    write_last();
    text_.close();
    return text_.take();
  }

 private:
  // ---- names ----

  const ScanSpace& space(int s) const { return body_.spaces[static_cast<size_t>(s)]; }
  int64_t lanes(int s) const { return units_of_block(space(s), choice_); }
  static int64_t vector_of(const ScanValue& v) { return 16 / static_cast<int64_t>(size_of(v.dtype)); }
  std::string name(int v, int64_t group) const {
    return body_[v].held ? fmt::format("n{}[{}][j]", v, group) : fmt::format("n{}_{}", v, group);
  }

  // An element from outside, loaded before the step begins.
  std::string outside(const ScanOutside& o, int s) {
    size_t k = 0;
    while (k < loads_.size() && !(loads_[k].from == o && loads_[k].space == s)) ++k;
    if (k == loads_.size()) loads_.push_back({o, s});
    return fmt::format("x{}{}", k, o.row ? "[j]" : "");
  }

  // What column `column` of a read is, in the loop over a space.
  std::string source(const ScanRead& read, int64_t column, int s) {
    const ScanRead from = body_.source(read, column);
    if (from.value < 0) return outside(from.outside, s);
    return name(from.value, from.column / body_.units(body_[from.value]));
  }

  // ---- what stands before the steps ----

  void write_constants() {
    text_.line("constexpr u32 BATCH = {}, BLOCKS = {}, ROWS = {}, EACH = {}, WIDTH = {}, THREADS = {};", body_.batch,
               choice_.blocks, choice_.rows, choice_.each, choice_.width, choice_.threads);
    text_.line("constexpr bool CLUSTER = {};", choice_.meeting == ScanMeeting::cluster);
    if (choice_.split)
      text_.line("constexpr u32 SPLIT = {}, ACROSS = {};\nconstexpr bool KEPT = {};", choice_.split, choice_.across,
                 choice_.kept);
    text_.open("struct Args");
    text_.line("char* operands[{}];", operands_);
    if (memory_.handed) text_.lines("u64* meetings;\nchar* handed;\n");
    text_.line("i64 steps;");
    write_scalars_member(text_, body_.graph().parameters);
    text_.close(";");
  }

  void write_thread() {
    text_.line("const u32 slice = blockIdx.x / BLOCKS, rank = blockIdx.x % BLOCKS;");
    text_.lines(thread_text(choice_));
    text_.line("const u32 first = slice * ROWS + strip;");
    for (int s = 0; s < static_cast<int>(body_.spaces.size()); ++s) {
      if (space(s).everywhere()) {
        text_.line("const u32 unit{} = 0;", s);
        text_.line("const bool mine{} = works && lane == 0;", s);
        continue;
      }
      text_.line("const u32 place{0} = rank * {1} + lane;", s, lanes(s));
      text_.line("const bool mine{0} = works && lane < {1} && place{0} < {2};", s, lanes(s), space(s).units);
      text_.line("const u32 unit{0} = mine{0} ? place{0} : 0;", s);
    }
  }

  void write_shared() {
    if (memory_.shared) text_.line("char* const shared = shared_memory();");
    for (size_t v = 0; v < body_.values.size(); ++v) {
      const ScanValue& value = body_.values[v];
      const std::string type = c_type(value.dtype);
      if (value.kind == As::reduction)
        text_.line("{0}* const reduced{1} = ({0}*)(shared + {2});", type, v, memory_.reduced[v]);
      if (value.kind == As::product) text_.lines(factor_text(body_, choice_, memory_, v));
    }
    for (size_t e = 0; e < memory_.exchanges.size(); ++e) {
      const ScanValue& value = body_[body_.exchanges[e].value];
      if (memory_.exchanges[e].streamed) continue;
      text_.line("{0}* const rows{1} = ({0}*)(shared + {2});", c_type(value.dtype), e, memory_.exchanges[e].at);
      if (choice_.split && is_short(value.dtype))
        text_.line("clear_behind<{}, {}, {}, {}>(rows{});", c_type(value.dtype),
                   choice_.rows * (memory_.exchanges[e].twice ? 2 : 1), value.columns, memory_.exchanges[e].pitch, e);
      if (value.kind != As::carry || memory_.exchanges[e].handed) continue;
      text_.line("take_rows<{0}, {1}, {2}>((const {0}*)args.operands[{3}], {4}, slice * ROWS, rows{5});",
                 c_type(value.dtype), value.columns, memory_.exchanges[e].pitch, value.first.operand, value.first.row,
                 e);
    }
  }

  void write_carries() {
    for (size_t v = 0; v < body_.values.size(); ++v) {
      const ScanValue& c = body_.values[v];
      if (c.kind != As::carry) continue;
      text_.line("{} n{}[{}][EACH];", c_type(c.dtype), v, body_.groups(c));
      each_row([&] {
        for (int64_t g = 0; g < body_.groups(c); ++g) {
          const int64_t column = g * body_.units(c);
          const std::string element = fmt::format("n{}[{}][j]", v, g);
          text_.line("{} = ((const {}*)args.operands[{}])[{}];", element, c_type(c.dtype), c.first.operand,
                     place(c.first.row, column, 1, c.space));
          if (c.exchange >= 0 && memory_.exchanges[static_cast<size_t>(c.exchange)].handed)
            write_exchange(c, column, element, "0");
        }
      });
    }
    write_scalars(text_, body_.graph().parameters);
    for (int32_t k : body_.positions)
      text_.line("const u64 position{0} = scalars[{0}] | scalars[{1}] << 32;", k, k + 1);
  }

  // The index of row j's element, without its step.
  static std::string place(int64_t row, int64_t start, int64_t column, int s) {
    std::string at = fmt::format("{}", start);
    if (row) at += fmt::format(" + row_of(first + j) * {}ll", row);
    if (column) at += fmt::format(" + unit{} * {}ll", s, column);
    return at;
  }

  template <class F>
  void each_row(F&& write) {
    text_.unrolled();
    text_.open("for (u32 j = 0; j < EACH; ++j)");
    write();
    text_.close();
  }

  // Random numbers are those of the step's place.
  void write_positions() {
    for (int32_t k : body_.positions) {
      text_.open("");
      text_.line("const u64 position = position{} + (u64)t * {}ull;", k, body_.attrs.draws);
      text_.line("scalars[{}] = position & 0xffffffffu;", k);
      text_.line("scalars[{}] = position >> 32;", k + 1);
      text_.close();
    }
  }

  void write_loads(bool stepped) {
    for (size_t k = 0; k < loads_.size(); ++k) {
      const ScanOutside& o = loads_[k].from;
      if (o.stepped != stepped) continue;
      const std::string type = c_type(o.dtype), step = stepped ? fmt::format(" + t * {}ll", o.step) : "";
      const std::string from = fmt::format("(({} const*)args.operands[{}]{})[{}]", type, o.operand, step,
                                           place(o.row, o.offset, o.column, loads_[k].space));
      if (!o.row) {
        text_.line("const {} x{} = {};", type, k, from);
        continue;
      }
      text_.line("{} x{}[EACH];", type, k);
      each_row([&] { text_.line("x{}[j] = {};", k, from); });
    }
  }

  // ---- one step ----

  void write_step() {
    for (size_t v = 0; v < body_.values.size(); ++v)
      if (body_.values[v].held && body_.values[v].kind != As::carry)
        text_.line("{} n{}[{}][EACH];", c_type(body_.values[v].dtype), v, body_.groups(body_.values[v]));
    for (int level = 0; level <= body_.levels; ++level) {
      if (level || meets_at_start(body_)) write_meeting(level);
      write_products(level);
      write_reductions(level);
      // What every thread has may be read by all loops, so it stands in one, and before the others.
      std::vector<int> everywhere, others;
      for (int s = 0; s < static_cast<int>(body_.spaces.size()); ++s)
        (space(s).everywhere() ? everywhere : others).push_back(s);
      write_loop(level, everywhere);
      for (int s : others) write_loop(level, {s});
    }
    for (int s = 0; s < static_cast<int>(body_.spaces.size()); ++s) write_next(s);
  }

  void write_meeting(int level) {
    if (choice_.meeting == ScanMeeting::cluster)
      text_.line("cluster_barrier();");
    else if (choice_.meeting == ScanMeeting::grid && memory_.handed)
      text_.line("grid_barrier(args.meetings + slice * 16, BLOCKS);");
    else
      text_.line("__syncthreads();");
    bool fetched = false;
    for (size_t e = 0; e < memory_.exchanges.size(); ++e) {
      const ScanMemory::Exchange& x = memory_.exchanges[e];
      const ScanValue& v = body_[body_.exchanges[e].value];
      if (!x.handed || x.streamed || level != (v.kind == As::carry ? 0 : v.level + 1)) continue;
      text_.line("fetch_rows<{}, {}, {}, {}>({}, rows{});", c_type(v.dtype), v.columns, x.handed_pitch, x.pitch,
                 handed(e, "s"), e);
      fetched = true;
    }
    if (fetched) text_.line("__syncthreads();");
  }

  // Where a slice's rows are handed over.
  std::string handed(size_t e, const std::string& step) const {
    const ScanMemory::Exchange& x = memory_.exchanges[e];
    const ScanValue& v = body_[body_.exchanges[e].value];
    const std::string at = x.handed_twice ? fmt::format("(slice * 2 + (u32)(({}) & 1))", step) : "slice";
    return fmt::format("({}*)(args.handed + {}) + {} * (ROWS * {})", c_type(v.dtype), x.handed_at, at, x.handed_pitch);
  }

  std::string rows(size_t e, const std::string& step) const {
    const ScanMemory::Exchange& x = memory_.exchanges[e];
    if (!x.twice) return fmt::format("rows{}", e);
    return fmt::format("rows{} + (u32)(({}) & 1) * (ROWS * {})", e, step, x.pitch);
  }

  void write_products(int level) {
    if (choice_.split) {
      text_.lines(tiles_text(body_, choice_, memory_, level, [&](size_t e) { return rows(e, "s"); }));
      return;
    }
    for (size_t k = 0; k < body_.values.size(); ++k) {
      const ScanValue& v = body_.values[k];
      if (v.kind != As::product || v.level != level) continue;
      const auto e = static_cast<size_t>(body_[v.reads[0].value].exchange);
      const ScanMemory::Exchange& x = memory_.exchanges[e];
      const int64_t n = lanes(v.space), column = v.reads[0].column;
      const std::string condition = guard(v.space),
                        sizes = fmt::format("{}, {}, {}, {}", c_type(v.dtype), v.inner, body_.groups(v), n),
                        factor =
                            n > 1 ? fmt::format("factor{} + lane * {}", k, vector_of(v)) : fmt::format("factor{}", k);
      if (x.streamed)
        text_.line("multiply_handed<{}, {}, {}>({} + {}, strip, {}, {}, ({}*)(shared + {}), n{});", sizes,
                   x.handed_pitch, choice_.chunk, handed(e, "s"), column, factor,
                   condition.empty() ? "true" : condition, c_type(v.dtype), memory_.chunks, k);
      else
        text_.line("{}multiply<{}, {}, {}>({} + strip * {} + {}, {}, n{});",
                   condition.empty() ? "" : fmt::format("if ({}) ", condition), sizes, x.pitch,
                   column % vector_of(v) == 0, rows(e, "s"), x.pitch, column, factor, k);
    }
  }

  // Threads that have no unit of a space have nothing to do in its loops.
  std::string guard(int s) const {
    const int64_t n = lanes(s);
    return space(s).everywhere() || n == choice_.width ? "" : fmt::format("lane < {}", n);
  }

  template <class F>
  void each_row_of(int s, F&& write) {
    const std::string condition = guard(s);
    if (!condition.empty()) text_.open("if ({})", condition);
    each_row(write);
    if (!condition.empty()) text_.close();
  }

  void write_reductions(int level) {
    std::vector<size_t> made;
    for (size_t k = 0; k < body_.values.size(); ++k) {
      const ScanValue& v = body_.values[k];
      if (v.kind != As::reduction || v.level != level) continue;
      const ScanValue& from = body_[v.reads[0].value];
      const auto e = static_cast<size_t>(from.exchange);
      const int64_t columns = body_.graph()[body_.graph()[v.node].inputs[0]].layout->shape().back();
      text_.line("reduce_rows<{}, {}, {}, {}>({} + {}, reduced{});", combine_name(body_.graph()[v.node].op->combine),
                 c_type(v.dtype), columns, memory_.exchanges[e].pitch, rows(e, "s"), v.reads[0].column, k);
      made.push_back(k);
    }
    if (made.empty()) return;
    text_.line("__syncthreads();");
    each_row([&] {
      for (size_t k : made) text_.line("n{0}[0][j] = reduced{0}[strip + j];", k);
    });
  }

  // All that a level computes for the units of spaces with the same threads, and where it goes.
  void write_loop(int level, const std::vector<int>& spaces) {
    Text outer = std::exchange(text_, Text());
    for (size_t k = 0; k < body_.values.size(); ++k)
      if (std::ranges::count(spaces, body_.values[k].space) && body_.values[k].level == level)
        write_value(static_cast<int>(k));
    std::swap(outer, text_);
    const std::string inside = outer.take();
    if (!inside.empty()) each_row_of(spaces[0], [&] { text_.lines(inside); });
  }

  void write_value(int k) {
    const ScanValue& v = body_[k];
    for (int64_t g = 0; g < body_.groups(v); ++g) {
      const int64_t column = g * body_.units(v);
      if (v.kind == As::pointwise || v.kind == As::copy) {
        if (!v.held) text_.line("{} {};", c_type(v.dtype), name(k, g));
        if (v.kind == As::copy)
          text_.line("{} = {};", name(k, g), source(v.reads[0], column, v.space));
        else
          write_op(k, g);
      }
      const std::string element = source({k, 0, false, {}}, column, v.space);
      for (const ScanResult& r : body_.results)
        if (r.stacked && r.value == k) write_result(r, g, element);
      if (v.exchange >= 0 && v.kind != As::carry) write_exchange(v, column, element, "s");
    }
  }

  // A pointwise op on one element of each operand.
  void write_op(int k, int64_t group) {
    const ScanValue& v = body_[k];
    const Node& n = body_.graph()[v.node];
    std::vector<const Layout*> inputs;
    for (int32_t in : n.inputs) inputs.push_back(body_.graph()[in].layout);
    Program program = loosened(map_program({*n.op, inputs, n.attrs, {}, n.scalar_mask}, v.dtype));
    for (Inst& i : program.insts) {
      if (i.op != Ir::scalar) continue;
      const ScalarSource& from = n.scalars[i.imm];
      if (from.parameter < 0) i.op = Ir::constant;
      i.imm = from.parameter < 0 ? from.bits : static_cast<uint64_t>(from.parameter);
    }
    const int64_t column = group * body_.units(v);
    ElementText how;
    how.load = [&](int i) { return source(v.reads[static_cast<size_t>(i)], column, v.space); };
    how.store = [&](int, const std::string& value) { return fmt::format("{} = {};", name(k, group), value); };
    how.index = fmt::format("{}{}u + unit{}", v.rows == 1 ? "" : fmt::format("row_of(first + j) * {}u + ", v.columns),
                            column, v.space);
    how.scalars = "scalars";
    text_.open("");
    text_.lines(element_text(program, how));
    text_.close();
  }

  // Whether row j of a value is stored by this thread.
  std::string stores(const ScanValue& v) const {
    return fmt::format("mine{}{} && first + j {}", v.space, space(v.space).everywhere() ? " && rank == 0" : "",
                       v.rows == 1 ? "== 0" : "< BATCH");
  }

  void write_result(const ScanResult& r, int64_t group, const std::string& element) {
    const ScanValue& v = body_[r.value];
    const std::string step = r.stacked ? fmt::format(" + t * {}ll", v.rows * v.columns) : "";
    text_.line("if ({}) (({}*)args.operands[{}]{})[{}] = {};", stores(v), c_type(v.dtype), r.operand, step,
               place(v.rows == 1 ? 0 : v.columns, group * body_.units(v), 1, v.space), element);
  }

  // Puts an element where those look who read whole rows in that step.
  void write_exchange(const ScanValue& v, int64_t column, const std::string& element, const std::string& step) {
    const auto e = static_cast<size_t>(v.exchange);
    const ScanMemory::Exchange& x = memory_.exchanges[e];
    const std::string place =
        fmt::format("{} + (strip + j) * {} + {} + unit{}", x.handed ? handed(e, step) : rows(e, step),
                    x.handed ? x.handed_pitch : x.pitch, column, v.space);
    const bool local = x.handed || space(v.space).everywhere();
    text_.line("if (mine{}{}) {};", v.space, step == next_step ? " && s + 1 < args.steps" : "",
               local ? fmt::format("*({}) = {}", place, element) : fmt::format("share({}, {})", place, element));
  }

  // The carries take their next values, all at once.
  void write_next(int s) {
    std::vector<int> carries;
    for (int k = 0; k < static_cast<int>(body_.values.size()); ++k)
      if (body_[k].kind == As::carry && body_[k].space == s) carries.push_back(k);
    if (carries.empty()) return;
    const auto each = [&](auto&& write) {
      for (int k : carries)
        for (int64_t g = 0; g < body_.groups(body_[k]); ++g) write(k, g, body_[k]);
    };
    each_row_of(s, [&] {
      each([&](int k, int64_t g, const ScanValue& c) {
        text_.line("const {} next{}_{} = {};", c_type(c.dtype), k, g, source(c.reads[0], g * body_.units(c), s));
      });
      each([&](int k, int64_t g, const ScanValue& c) {
        const std::string next = fmt::format("next{}_{}", k, g);
        text_.line("n{}[{}][j] = {};", k, g, next);
        if (c.exchange >= 0) write_exchange(c, g * body_.units(c), next, next_step);
      });
    });
  }

  void write_last() {
    for (const ScanResult& r : body_.results) {
      if (r.stacked) continue;
      const ScanValue& c = body_[r.value];
      each_row([&] {
        for (int64_t g = 0; g < body_.groups(c); ++g) write_result(r, g, name(r.value, g));
      });
    }
  }

  struct Load {
    ScanOutside from;
    int space;
  };

  const ScanBody& body_;
  const ScanChoice& choice_;
  const ScanMemory memory_;
  size_t operands_;
  Text text_;
  std::vector<Load> loads_;
};

}  // namespace

std::string scan_text(const ScanBody& body, const ScanChoice& choice, size_t operands) {
  return ScanText(body, choice, operands).run();
}

}  // namespace rp::cuda
