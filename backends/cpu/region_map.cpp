// Maps: one program over every element of one or several nests.
#include <algorithm>

#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/backends/cpu/threads.h"

namespace rp {
namespace {

class MapKernel final : public RegionKernel {
 public:
  MapKernel(Backend& backend, const Region& region) : stage_(compile_stage(backend, region.stages[0], region)) {
    const size_t per_member = region.operands.size();
    for (const Nest& nest : region.members) {
      Member m{nest, {}, nest.outer_count(), per_member * members_.size()};
      for (const StageSlot& slot : stage_.stage.slots) {
        const auto k = static_cast<size_t>(slot.index);
        m.cursors.push_back(RowCursor(nest, nest.operands[k], rp::size_of(region.operands[k].layout->dtype())));
        m.operands.push_back(m.first + k);
      }
      members_.push_back(std::move(m));
    }
  }

  void run(const RegionCall& call) const override {
    if (members_.size() > 1) {  // small updates: whole members are dealt out
      const int64_t each = members_[0].outer * members_[0].nest.rows * members_[0].nest.columns;
      parallel_for(static_cast<int64_t>(members_.size()), std::max<int64_t>(1, grain_ / (each + 1)),
                   [&](int64_t b, int64_t e) {
                     for (int64_t i = b; i < e; ++i) run_member(members_[static_cast<size_t>(i)], call, grain_);
                   });
      return;
    }
    run_member(members_[0], call, grain_);
  }

  std::string form() const override { return stage_.compiled->form; }

 private:
  struct Member {
    Nest nest;
    std::vector<RowCursor> cursors;  // per program operand
    int64_t outer;                   // iterations of the outer loops
    size_t first;                    // of its operands in the call
    std::vector<size_t> operands{};  // per program operand: which of the call
  };

  void run_member(const Member& m, const RegionCall& call, int64_t grain) const {
    const int64_t rows = m.outer * m.nest.rows;
    if (rows * m.nest.columns <= grain) {
      if (!rows || !m.nest.columns) return;
      return m.outer == 1 ? run_whole(m, call) : run_part(m, call, 0, rows, 0, m.nest.columns);
    }
    if (rows == 1) {
      // Whole cache lines for each thread.
      parallel_for((m.nest.columns + 63) / 64, std::max<int64_t>(1, grain / 64),
                   [&](int64_t b, int64_t e) { run_part(m, call, 0, 1, b * 64, std::min(e * 64, m.nest.columns)); });
      return;
    }
    parallel_for(rows, std::max<int64_t>(1, grain / m.nest.columns),
                 [&](int64_t b, int64_t e) { run_part(m, call, b, e, 0, m.nest.columns); });
  }

  // A nest without outer loops, at once.
  void run_whole(const Member& m, const RegionCall& call) const {
    KernelArgs args;
    args.scalars = call.scalars;
    args.rows = m.nest.rows;
    args.columns = m.nest.columns;
    args.index_row = static_cast<uint32_t>(m.nest.columns);
    for (size_t k = 0; k < m.cursors.size(); ++k) {
      args.pointers[k] = call.pointers[m.operands[k]];
      args.row_strides[k] = m.cursors[k].row();
    }
    stage_.run(args);
  }

  void run_part(const Member& m, const RegionCall& call, int64_t row, int64_t last_row, int64_t column,
                int64_t last_column) const {
    KernelArgs args;
    args.scalars = call.scalars;
    args.columns = last_column - column;
    args.index_row = static_cast<uint32_t>(m.nest.columns);
    while (row < last_row) {
      const int64_t outer = m.outer == 1 ? 0 : row / m.nest.rows, first = row - outer * m.nest.rows;
      args.rows = std::min(m.nest.rows - first, last_row - row);
      args.index = static_cast<uint32_t>(row * m.nest.columns + column);
      for (size_t k = 0; k < m.cursors.size(); ++k) {
        const RowCursor& c = m.cursors[k];
        args.pointers[k] = call.pointers[m.operands[k]] + c.at(outer) + first * c.row() + column * c.column();
        args.row_strides[k] = c.row();
      }
      stage_.run(args);
      row += args.rows;
    }
  }

  CompiledStage stage_;
  int64_t grain_ = parallel_grain(stage_.cost);
  std::vector<Member> members_;
};

}  // namespace

std::unique_ptr<RegionKernel> compile_map(Backend& backend, const Region& region) {
  return std::make_unique<MapKernel>(backend, region);
}

}  // namespace rp
