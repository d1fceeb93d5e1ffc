#include "reprise/backends/cuda/map_text.h"

#include <functional>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/kernel_text.h"

namespace rp::cuda {
namespace {

class MapText {
 public:
  MapText(const Stage& stage, const MapForm& form) : stage_(stage), form_(form) {}

  std::string run() {
    if (!form_.flat) text_.line("typedef {} Index;", form_.wide ? "u64" : "u32");
    write_args();
    write_stage(text_, stage_, "element");
    text_.line("");
    text_.open("extern \"C\" __global__ void __launch_bounds__({}) kernel_entry(const __grid_constant__ Args args)",
               threads);
    write_scalars(text_, stage_.program.scalars);
    if (form_.members > 1) find_member();
    form_.flat ? flat() : rows();
    text_.close();
    return text_.take();
  }

 private:
  bool moves(size_t slot) const { return stage_.program.operands[slot].access == Access::contiguous; }
  bool written(size_t slot) const { return stage_.program.operands[slot].written; }
  std::string type(size_t slot) const { return c_type(stage_.program.operands[slot].dtype); }
  std::string name(size_t slot) const { return slot_name(stage_, slot); }
  size_t slots() const { return stage_.slots.size(); }

  void write_args() {
    text_.open("struct {}", form_.members > 1 ? "Member" : "Args");
    for (size_t k = 0; k < slots(); ++k) text_.line("{}{}* {};", written(k) ? "" : "const ", type(k), name(k));
    if (form_.flat) {
      text_.line("u64 count;");
    } else {
      for (size_t k = 0; k < slots(); ++k) text_.line("i64 {}_steps[{}];", name(k), form_.axes);
      text_.line("Divisor<Index> chunks;  // of a row");
      if (form_.axes > 1) text_.line("Divisor<Index> extents[{}];  // of all axes but the outermost", form_.axes - 1);
      text_.line("Index columns, pieces;");
    }
    if (form_.members > 1) {
      text_.close(";");
      text_.open("struct Args");
      text_.line("Member members[{}];", form_.members);
      text_.line("u32 first_block[{}];", form_.members + 2);  // an even number of words
    }
    write_scalars_member(text_, stage_.program.scalars);
    text_.close(";");
    text_.line("");
  }

  void find_member() {
    text_.line("const u32 number = member_of(args.first_block, {}, blockIdx.x);", form_.members);
    text_.line("const Member& m = args.members[number];");
    text_.line("const u32 block = blockIdx.x - args.first_block[number];");
    text_.line("const u32 blocks = args.first_block[number + 1] - args.first_block[number];");
    m_ = "m.";
    block_ = "block";
    blocks_ = "blocks";
  }

  std::string call(const std::string& index, const std::function<std::string(size_t)>& value) const {
    return stage_call(stage_, "element", index, [&](const std::string& wanted) {
      size_t k = 0;
      while (name(k) != wanted) ++k;
      return value(k);
    });
  }

  // ---- one row ----

  void flat() {
    const uint32_t apart = threads * form_.vector;
    for (size_t k = 0; k < slots(); ++k)
      if (!moves(k)) text_.line("const {0} {1} = *{2}{1};", type(k), name(k), m_);
    text_.open("for (u64 first = (u64){0} * {1} + threadIdx.x * {2}; first < {3}count; first += (u64){4} * {1})",
               block_, apart * form_.turns, form_.vector, m_, blocks_);
    text_.open("if (first + {} <= {}count)", apart * (form_.turns - 1) + form_.vector, m_);
    flat_vectors(apart);
    text_.otherwise("else");
    text_.rolled();
    text_.open("for (u32 k = 0; k < {}; ++k)", form_.vector * form_.turns);
    text_.line("const u64 i = first + k / {0} * {1} + k % {0};", form_.vector, apart);
    text_.line("if (i >= {}count) break;", m_);
    single("i", [&](size_t k) { return fmt::format("{}{}[{}]", m_, name(k), moves(k) ? "i" : "0"); });
    text_.close();
    text_.close();
    text_.close();
  }

  void flat_vectors(uint32_t apart) {
    const std::string at = form_.turns > 1 ? fmt::format("first + u * {}", apart) : "first";
    const std::string u = form_.turns > 1 ? "[u]" : "";
    declare_vectors(form_.turns > 1 ? fmt::format("[{}]", form_.turns) : "");
    each_turn([&] {
      for (size_t k = 0; k < slots(); ++k)
        if (moves(k) && !written(k))
          text_.line("{0}{4} = load_vector<{1}>({2}{0} + {3});", name(k), form_.vector, m_, at, u);
    });
    each_turn([&] {
      text_.unrolled();
      text_.line("for (u32 e = 0; e < {}; ++e)", form_.vector);
      text_.line("  {}", call(at + " + e", [&](size_t k) { return name(k) + (moves(k) ? u + "[e]" : ""); }));
    });
    each_turn([&] {
      for (size_t k = 0; k < slots(); ++k)
        if (written(k)) text_.line("store_vector({0}{1} + {2}, {1}{3});", m_, name(k), at, u);
    });
  }

  void declare_vectors(const std::string& array) {
    for (size_t k = 0; k < slots(); ++k)
      if (moves(k)) text_.line("Vector<{}, {}> {}{};", type(k), form_.vector, name(k), array);
  }

  template <class F>
  void each_turn(F&& write) {
    if (form_.turns == 1) return write();
    text_.unrolled();
    text_.open("for (u32 u = 0; u < {}; ++u)", form_.turns);
    write();
    text_.close();
  }

  // One element: `place` is an lvalue of an operand's.
  void single(const std::string& index, const std::function<std::string(size_t)>& place) {
    for (size_t k = 0; k < slots(); ++k)
      if (written(k)) text_.line("{} {};", type(k), name(k));
    text_.line("{}", call(index, [&](size_t k) { return written(k) ? name(k) : place(k); }));
    for (size_t k = 0; k < slots(); ++k)
      if (written(k)) text_.line("{} = {};", place(k), name(k));
  }

  // ---- rows and columns ----

  void rows() {
    text_.open("for (Index piece = (Index){0} * {1} + threadIdx.x; piece < {2}pieces; piece += (Index){3} * {1})",
               block_, threads, m_, blocks_);
    text_.line("const Index row = quotient(piece, {}chunks);", m_);
    text_.line("const Index column = (piece - row * {}chunks.value) * {};", m_, form_.vector);
    axes();
    for (size_t k = 0; k < slots(); ++k) {
      std::string steps;
      for (int a = 0; a < form_.axes; ++a) steps += fmt::format(" + (i64){} * {}{}_steps[{}]", axis(a), m_, name(k), a);
      text_.line("{0}{1}* {2}_at = {3}{2}{4}{5};", written(k) ? "" : "const ", type(k), name(k), m_, steps,
                 moves(k) ? " + column" : "");
    }
    if (form_.vector == 1)
      single(fmt::format("row * {}columns + column", m_), [&](size_t k) { return fmt::format("*{}_at", name(k)); });
    else
      row_vectors();
    text_.close();
  }

  std::string axis(int a) const {
    if (a) return fmt::format("at{}", a);
    return form_.axes == 1 ? "row" : "above1";
  }

  void axes() {
    std::string rest = "row";
    for (int a = form_.axes - 1; a > 0; --a) {
      text_.line("const Index above{} = quotient({}, {}extents[{}]);", a, rest, m_, a - 1);
      text_.line("const Index at{0} = {1} - above{0} * {2}extents[{3}].value;", a, rest, m_, a - 1);
      rest = fmt::format("above{}", a);
    }
  }

  void row_vectors() {
    for (size_t k = 0; k < slots(); ++k)
      if (!moves(k)) text_.line("const {0} {1} = *{1}_at;", type(k), name(k));
    declare_vectors("");
    for (size_t k = 0; k < slots(); ++k)
      if (moves(k) && !written(k)) text_.line("{0} = load_vector<{1}>({0}_at);", name(k), form_.vector);
    text_.unrolled();
    text_.line("for (u32 e = 0; e < {}; ++e)", form_.vector);
    text_.line("  {}", call(fmt::format("row * {}columns + column + e", m_),
                            [&](size_t k) { return name(k) + (moves(k) ? "[e]" : ""); }));
    for (size_t k = 0; k < slots(); ++k)
      if (written(k)) text_.line("store_vector({0}_at, {0});", name(k));
  }

  const Stage& stage_;
  const MapForm form_;
  Text text_;
  std::string m_ = "args.", block_ = "blockIdx.x", blocks_ = "gridDim.x";
};

}  // namespace

std::string map_text(const Stage& stage, const MapForm& form) { return MapText(stage, form).run(); }

}  // namespace rp::cuda
