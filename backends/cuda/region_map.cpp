// Maps: one program over every element of one or several nests.
//
// A thread takes vectors of elements that lie together, 16 bytes of the widest operand, or single elements where
// operands are not aligned. What has no rows steps through the elements alone; the others find row and column of a
// piece by division. Several nests with one program are members of one launch: each has its share of the blocks.
#include <algorithm>
#include <array>
#include <bit>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/kernel_text.h"
#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/fail.h"

namespace rp::cuda {
namespace {

/// What a text depends on beside the program.
struct Form {
  bool flat = true;      // one row only
  int axes = 1;          // those of the nest except the columns
  uint32_t members = 1;  // places in the table
  uint32_t vector = 1;   // elements
  uint32_t turns = 1;    // vectors that a thread takes at once
  bool wide = false;     // more than 2^31 pieces
};

// ---- text -----------------------------------------------------------------------------------------------------------

class MapText {
 public:
  MapText(const Stage& stage, const Form& form) : stage_(stage), form_(form) {}

  std::string run() {
    if (!form_.flat) text_.line("typedef {} Index;", form_.wide ? "u64" : "u32");
    write_args();
    write_stage(text_, stage_, "element");
    text_.line("");
    text_.open("extern \"C\" __global__ void __launch_bounds__({}) kernel_entry(const __grid_constant__ Args args)",
               threads);
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
    if (stage_.program.scalars) text_.line("u64 scalars[{}];", stage_.program.scalars);
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
  const Form form_;
  Text text_;
  std::string m_ = "args.", block_ = "blockIdx.x", blocks_ = "gridDim.x";
};

// ---- launches -------------------------------------------------------------------------------------------------------

constexpr size_t most_bytes = 16384;  // of a launch's arguments
constexpr size_t most_members = 256;

class MapKernel final : public RegionKernel {
 public:
  explicit MapKernel(const Region& region) : stage_(region.stages[0]), per_member_(region.operands.size()) {
    for (size_t i = 0; i < region.members.size(); ++i)
      if (const Nest& n = region.members[i]; n.outer_count() * n.rows * n.columns > 0)
        members_.push_back({n, i * per_member_});
    choose_form();
    Form single = form_;
    single.vector = 1;
    single.turns = form_.flat ? 4 : 1;
    launches_[0] = planned(form_);
    launches_[1] = planned(single);
  }

  void run(const RegionCall& call) const override {
    for (const PlannedLaunch& p : launches_[aligned(call) ? 0 : 1]) p.run(call);
  }

  std::string form() const override { return form_.vector > 1 ? fmt::format("cuda x{}", form_.vector) : "cuda"; }

 private:
  struct Member {
    Nest nest;
    size_t first;  // of its operands in the call
  };
  size_t operand(size_t slot) const { return static_cast<size_t>(stage_.slots[slot].index); }
  bool moves(size_t slot) const { return stage_.program.operands[slot].access == Access::contiguous; }
  size_t element(size_t slot) const { return rp::size_of(stage_.program.operands[slot].dtype); }

  void choose_form() {
    for (const Member& m : members_) {
      form_.axes = std::max(form_.axes, m.nest.outer.rank() + 1);
      form_.flat &= m.nest.outer_count() * m.nest.rows == 1;
    }
    form_.members = static_cast<uint32_t>(std::bit_ceil(std::min(members_.size(), members_at_once())));
    size_t widest = 1, reads = 0;
    for (size_t k = 0; k < stage_.slots.size(); ++k) {
      if (!moves(k) && stage_.program.operands[k].written) fail("map: expected one place for each element written");
      if (!moves(k)) continue;
      widest = std::max(widest, element(k));
      reads += !stage_.program.operands[k].written;
    }
    // Long programs are bound by arithmetic: vectors would only make them longer.
    const size_t insts = stage_.program.insts.size();
    for (form_.vector = static_cast<uint32_t>(std::min<size_t>(8, 16 / widest)); form_.vector > 1; form_.vector /= 2)
      if (insts * form_.vector <= 2000 && steps_fit(form_.vector)) break;
    form_.turns = form_.flat && reads <= 4 && insts <= 100 ? 2 : 1;
    for (const Member& m : members_)
      form_.wide |= m.nest.outer_count() * m.nest.rows >= INT32_MAX / (m.nest.columns + 1);
  }

  size_t members_at_once() const {
    const size_t words = stage_.slots.size() * (1 + static_cast<size_t>(form_.flat ? 0 : form_.axes)) + 12;
    return std::clamp<size_t>(std::bit_floor(most_bytes / (8 * words)), 1, most_members);
  }

  // Whether rows are whole vectors, and every one of every operand starts as aligned as the first one.
  bool steps_fit(int64_t vector) const {
    if (form_.flat) return true;
    for (const Member& m : members_) {
      if (m.nest.columns % vector) return false;
      for (size_t k = 0; k < stage_.slots.size(); ++k) {
        const Nest::Steps& s = m.nest.operands[operand(k)];
        if (!moves(k)) continue;
        if (m.nest.rows > 1 && s.row % vector) return false;
        for (int a = 0; a < m.nest.outer.rank(); ++a)
          if (m.nest.outer[a] > 1 && s.outer[a] % vector) return false;
      }
    }
    return true;
  }

  bool aligned(const RegionCall& call) const {
    uintptr_t bits = 0;
    for (const Member& m : members_)
      for (size_t k = 0; k < stage_.slots.size(); ++k)
        if (moves(k))
          bits |= reinterpret_cast<uintptr_t>(call.pointers[m.first + operand(k)]) &
                  (std::min<uintptr_t>(16, form_.vector * element(k)) - 1);
    return !bits;
  }

  std::vector<PlannedLaunch> planned(const Form& form) const {
    const auto function = std::make_shared<const LazyFunction>([this, form] { return MapText(stage_, form).run(); });
    std::vector<PlannedLaunch> launches;
    for (size_t first = 0; first < members_.size(); first += form.members) {
      PlannedLaunch p{.function = function};
      std::vector<uint32_t> first_block{0};
      const size_t last = std::min(members_.size(), first + form.members);
      for (size_t i = first; i < last; ++i)
        first_block.push_back(first_block.back() + add_member(p, form, members_[i]));
      p.how.blocks = first_block.back();
      if (form.members > 1) {
        const size_t member_bytes = p.args.size() / (last - first);
        p.args.reserve((form.members - (last - first)) * member_bytes / 8);
        first_block.resize(form.members + 2, p.how.blocks);
        p.args.add(first_block.data(), first_block.size() * 4, 4);
      }
      p.scalars = stage_.program.scalars;
      p.scalars_at = p.args.reserve(p.scalars);
      p.args.finish();
      launches.push_back(std::move(p));
    }
    return launches;
  }

  // Appends a member to the arguments and gives its number of blocks.
  uint32_t add_member(PlannedLaunch& p, const Form& form, const Member& m) const {
    for (size_t k = 0; k < stage_.slots.size(); ++k) p.operands.push_back({p.args.reserve(1), m.first + operand(k)});
    const auto columns = static_cast<uint64_t>(m.nest.columns);
    if (form.flat) {
      p.args.add(columns);
      const uint64_t each = uint64_t{threads} * form.vector * form.turns;
      return blocks_for((columns + each - 1) / each);
    }
    const int missing = form.axes - 1 - m.nest.outer.rank();  // axes of extent 1 in front
    for (size_t k = 0; k < stage_.slots.size(); ++k) {
      const Nest::Steps& s = m.nest.operands[operand(k)];
      for (int a = 0; a < missing; ++a) p.args.add(int64_t{0});
      for (int64_t step : s.outer) p.args.add(step);
      p.args.add(s.row);
    }
    const uint64_t chunks = columns / form.vector;
    const uint64_t pieces = chunks * static_cast<uint64_t>(m.nest.outer_count() * m.nest.rows);
    add_divisor(p.args, chunks, form.wide);
    for (int a = 1; a < form.axes; ++a) {
      const int outer = a - missing;
      add_divisor(p.args,
                  static_cast<uint64_t>(a == form.axes - 1 ? m.nest.rows
                                        : outer < 0        ? 1
                                                           : m.nest.outer[outer]),
                  form.wide);
    }
    for (uint64_t value : {columns, pieces}) form.wide ? p.args.add(value) : p.args.add(static_cast<uint32_t>(value));
    p.args.finish();
    return blocks_for((pieces + threads - 1) / threads);
  }

  Stage stage_;
  size_t per_member_;
  std::vector<Member> members_;
  Form form_;
  std::array<std::vector<PlannedLaunch>, 2> launches_;  // with vectors, and element by element
};

}  // namespace

std::unique_ptr<RegionKernel> compile_map(const Region& region) { return std::make_unique<MapKernel>(region); }

}  // namespace rp::cuda
