// Maps: one program over every element of one or several nests.
//
// A thread takes vectors of elements that lie together, 16 bytes of the widest operand, or single elements where
// operands are not aligned. What has no rows steps through the elements alone; the others find row and column of a
// piece by division. Several nests with one program are members of one launch: each has its share of the blocks.
#include <algorithm>
#include <array>
#include <bit>

#include "reprise/backends/cuda/launches.h"
#include "reprise/backends/cuda/map_text.h"
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/fail.h"

namespace rp::cuda {
namespace {

constexpr size_t most_bytes = 16384;  // of a launch's arguments
constexpr size_t most_members = 256;

class MapKernel final : public TextKernel {
 public:
  MapKernel(const Region& region, int64_t narrow) : stage_(region.stages[0]), per_member_(region.operands.size()) {
    for (size_t i = 0; i < region.members.size(); ++i)
      if (const Nest& n = region.members[i]; n.outer_count() * n.rows * n.columns > 0)
        members_.push_back({n, i * per_member_});
    choose_form(narrow);
    MapForm single = form_;
    single.vector = 1;
    single.turns = form_.flat ? 4 : 1;
    launches_[0] = planned(form_);
    launches_[1] = planned(single);
  }

  void run(const RegionCall& call) const override {
    for (const PlannedLaunch& p : launches_[aligned(call) ? 0 : 1]) p.run(call);
  }

  std::vector<std::string> texts() const override { return texts_of(launches_[0]); }
  std::string form() const override { return form_.vector > 1 ? fmt::format("cuda x{}", form_.vector) : "cuda"; }

 private:
  struct Member {
    Nest nest;
    size_t first;  // of its operands in the call
  };
  size_t operand(size_t slot) const { return static_cast<size_t>(stage_.slots[slot].index); }
  bool moves(size_t slot) const { return stage_.program.operands[slot].access == Access::contiguous; }
  size_t element(size_t slot) const { return rp::size_of(stage_.program.operands[slot].dtype); }

  void choose_form(int64_t narrow) {
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
    for (const Member& m : members_) form_.wide |= m.nest.outer_count() * m.nest.rows > narrow / m.nest.columns;
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

  std::vector<PlannedLaunch> planned(const MapForm& form) const {
    const auto function = std::make_shared<const LazyFunction>([this, form] { return map_text(stage_, form); });
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
      p.scalars_at = p.args.reserve_scalars(p.scalars);
      p.args.finish();
      launches.push_back(std::move(p));
    }
    return launches;
  }

  // Appends a member to the arguments and gives its number of blocks.
  uint32_t add_member(PlannedLaunch& p, const MapForm& form, const Member& m) const {
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
  MapForm form_;
  std::array<std::vector<PlannedLaunch>, 2> launches_;  // with vectors, and element by element
};

}  // namespace

std::unique_ptr<RegionKernel> compile_map(const Region& region, int64_t narrow) {
  return std::make_unique<MapKernel>(region, narrow);
}

}  // namespace rp::cuda
