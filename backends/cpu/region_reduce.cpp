// Row and column reductions with what stands before, between and after them.
#include <algorithm>
#include <cstring>

#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/planted.h"

namespace rp {
namespace {

using SlotKind = StageSlot::Kind;

constexpr int64_t leaf = 4096;             // reduced elements of one leaf of the tree
constexpr int64_t strip_elements = 16384;  // what a strip of rows holds, so that its temporaries stay in cache
constexpr int64_t max_strip = 256;

// Scratch of one thread for one strip.
struct Scratch {
  std::vector<std::byte> memory;
  std::vector<std::byte*> row_temps, full_temps;
  std::byte* accumulators[max_accumulators];
};

class ReduceKernel : public RegionKernel {
 public:
  ReduceKernel(Backend& backend, const Region& region) : region_(region), nest_(region.members[0]) {
    for (const Stage& s : region.stages) stages_.push_back(compile_stage(backend, s, region));
    for (size_t k = 0; k < region.operands.size(); ++k)
      cursors_.push_back(RowCursor(nest_, nest_.operands[k], rp::size_of(region.operands[k].layout->dtype())));
    for (const CompiledStage& s : stages_) cost_ += s.cost;
  }

  std::string form() const override { return stages_[0].compiled->form; }

 protected:
  size_t element(int operand) const {
    return rp::size_of(region_.operands[static_cast<size_t>(operand)].layout->dtype());
  }

  // Memory for temporaries of `width` results and `full` elements, kept by the thread between runs.
  Scratch& scratch(int64_t width, int64_t full, int64_t accumulator_values) const {
    static thread_local Scratch s;
    s.row_temps.clear();
    s.full_temps.clear();
    const auto padded = [](size_t n) { return (n + 63) / 64 * 64; };
    const size_t row = padded(static_cast<size_t>(width) * 8), all = padded(static_cast<size_t>(full) * 8);
    const size_t acc = padded(static_cast<size_t>(accumulator_values) * 8);
    auto& memory = s.memory;
    memory.resize(std::max(
        memory.size(), 64 + row * region_.row_temps.size() + all * region_.full_temps.size() + acc * max_accumulators));
    auto* p = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    for (size_t i = 0; i < region_.row_temps.size(); ++i, p += row) s.row_temps.push_back(p);
    for (size_t i = 0; i < region_.full_temps.size(); ++i, p += all) s.full_temps.push_back(p);
    for (auto& a : s.accumulators) {
      a = p;
      p += acc;
    }
    return s;
  }

  // A stage over one value per result: `count` results from number `first`.
  void run_row_stage(const CompiledStage& s, const RegionCall& call, const Scratch& scratch, int64_t first,
                     int64_t count) const {
    KernelArgs args;
    args.rows = 1;
    args.columns = count;
    args.scalars = call.scalars;
    args.index = static_cast<uint32_t>(first);
    for (size_t k = 0; k < s.stage.slots.size(); ++k) {
      const StageSlot& slot = s.stage.slots[k];
      args.row_strides[k] = 0;
      if (slot.kind == SlotKind::row_temp) {
        args.pointers[k] = scratch.row_temps[static_cast<size_t>(slot.index)];
        continue;
      }
      const bool moves = s.stage.program.operands[k].access == Access::contiguous;
      args.pointers[k] = call.pointers[slot.index] + (moves ? first * static_cast<int64_t>(element(slot.index)) : 0);
    }
    s.run(args);
  }

  Region region_;
  Nest nest_;
  std::vector<CompiledStage> stages_;
  std::vector<RowCursor> cursors_;
  int64_t cost_ = 0;
};

class RowsKernel final : public ReduceKernel {
 public:
  using ReduceKernel::ReduceKernel;

  void run(const RegionCall& call) const override {
    const int64_t rows = nest_.outer_count() * nest_.rows, columns = nest_.columns;
    if (!rows) return;
    const int64_t strip = std::clamp<int64_t>(strip_elements / std::max<int64_t>(columns, 1), 1, max_strip);
    parallel_for(rows, std::max<int64_t>(1, parallel_grain(cost_) / std::max<int64_t>(columns, 1)),
                 [&](int64_t b, int64_t e) {
                   Scratch& s = scratch(strip, region_.full_temps.empty() ? 0 : strip * columns, strip * lanes);
                   for (int64_t row = b; row < e;) {
                     const int64_t count = std::min({strip, e - row, nest_.rows - row % nest_.rows});
                     run_strip(call, s, row, count);
                     row += count;
                   }
                 });
  }

 private:
  // Bytes from a row's lanes to the next row's, for the widest of a stage's accumulators.
  static int64_t accumulator_stride(const Stage& stage) {
    size_t widest = 0;
    for (const Reduction& r : stage.reductions) widest = std::max(widest, rp::size_of(r.type));
    return lanes * static_cast<int64_t>(widest);
  }

  void run_strip(const RegionCall& call, Scratch& scratch, int64_t row, int64_t count) const {
    for (const CompiledStage& s : stages_) {
      if (!s.stage.full)
        run_row_stage(s, call, scratch, row, count);
      else if (s.stage.reductions.empty())
        run_full(s, call, scratch, row, count, 0, nest_.columns);
      else
        reduce(s, call, scratch, row, count);
    }
  }

  void reduce(const CompiledStage& s, const RegionCall& call, Scratch& scratch, int64_t row, int64_t count) const {
    const auto& reductions = s.stage.reductions;
    const int64_t stride = accumulator_stride(s.stage);
    const int64_t block = planted(Defect::long_blocks) && stages_.size() > 2 ? 2 * leaf : leaf;
    const bool one_block = nest_.columns <= block;
    std::vector<BlockTree> trees;
    if (!one_block)
      for (const Reduction& r : reductions) trees.emplace_back(count, r.combine, r.type);
    for (int64_t column = 0; column == 0 || column < nest_.columns; column += block) {
      for (size_t k = 0; k < reductions.size(); ++k)
        fill_identity(scratch.accumulators[k], count * stride / static_cast<int64_t>(rp::size_of(reductions[k].type)),
                      reductions[k].combine, reductions[k].type);
      run_full(s, call, scratch, row, count, column, std::min(nest_.columns - column, block));
      for (size_t k = 0; k < reductions.size(); ++k) {
        const Reduction& r = reductions[k];
        std::byte* values = scratch.row_temps[static_cast<size_t>(r.row_temp)];
        combine_rows(scratch.accumulators[k], count, stride, r.combine, r.type, values);
        if (!one_block) trees[k].push(values);
      }
    }
    for (size_t k = 0; k < trees.size(); ++k)
      trees[k].finish(scratch.row_temps[static_cast<size_t>(reductions[k].row_temp)]);
  }

  void run_full(const CompiledStage& s, const RegionCall& call, const Scratch& scratch, int64_t row, int64_t count,
                int64_t column, int64_t columns) const {
    KernelArgs args;
    args.rows = count;
    args.columns = columns;
    args.scalars = call.scalars;
    args.index = static_cast<uint32_t>(row * nest_.columns + column);
    args.index_row = static_cast<uint32_t>(nest_.columns);
    const int64_t outer = row / nest_.rows, first = row % nest_.rows;
    for (size_t k = 0; k < s.stage.slots.size(); ++k) {
      const StageSlot& slot = s.stage.slots[k];
      const auto size = static_cast<int64_t>(rp::size_of(s.stage.program.operands[k].dtype));
      if (slot.kind == SlotKind::operand) {
        const RowCursor& c = cursors_[static_cast<size_t>(slot.index)];
        args.pointers[k] = call.pointers[slot.index] + c.at(outer) + first * c.row() + column * c.column();
        args.row_strides[k] = c.row();
      } else if (slot.kind == SlotKind::row_temp) {
        args.pointers[k] = scratch.row_temps[static_cast<size_t>(slot.index)];
        args.row_strides[k] = size;
      } else {
        args.pointers[k] = scratch.full_temps[static_cast<size_t>(slot.index)] + column * size;
        args.row_strides[k] = nest_.columns * size;
      }
    }
    for (size_t k = 0; k < s.stage.reductions.size(); ++k) args.accumulators[k] = scratch.accumulators[k];
    args.accumulator_row_stride = accumulator_stride(s.stage);
    s.run(args);
  }
};

class ColumnsKernel final : public ReduceKernel {
 public:
  using ReduceKernel::ReduceKernel;

  void run(const RegionCall& call) const override {
    const int64_t columns = nest_.columns, strips = (columns + max_strip - 1) / max_strip;
    const int64_t total = nest_.outer_count() * strips;
    if (!total || !columns) return;
    const int64_t each = std::max<int64_t>(1, nest_.rows * std::min(columns, max_strip));
    parallel_for(total, std::max<int64_t>(1, parallel_grain(cost_) / each), [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const int64_t column = i % strips * max_strip;
        run_strip(call, i / strips, column, std::min(max_strip, columns - column));
      }
    });
  }

 private:
  void run_strip(const RegionCall& call, int64_t outer, int64_t column, int64_t width) const {
    Scratch& s = scratch(width, 0, width * lanes);
    for (const CompiledStage& stage : stages_) {
      if (stage.stage.full)
        reduce(stage, call, s, outer, column, width);
      else
        run_row_stage(stage, call, s, outer * nest_.columns + column, width);
    }
  }

  void reduce(const CompiledStage& s, const RegionCall& call, Scratch& scratch, int64_t outer, int64_t column,
              int64_t width) const {
    const auto& reductions = s.stage.reductions;
    const bool one_block = nest_.rows <= leaf;
    std::vector<BlockTree> trees;
    if (!one_block)
      for (const Reduction& r : reductions) trees.emplace_back(width, r.combine, r.type);
    for (int64_t row = 0; row == 0 || row < nest_.rows; row += leaf) {
      for (size_t k = 0; k < reductions.size(); ++k)
        fill_identity(scratch.accumulators[k], width * lanes, reductions[k].combine, reductions[k].type);
      run_full(s, call, scratch, outer, row, std::min(leaf, nest_.rows - row), column, width);
      for (size_t k = 0; k < reductions.size(); ++k) {
        const Reduction& r = reductions[k];
        combine_lanes(scratch.accumulators[k], width, r.combine, r.type);
        if (!one_block)
          trees[k].push(scratch.accumulators[k]);
        else
          std::memcpy(scratch.row_temps[static_cast<size_t>(r.row_temp)], scratch.accumulators[k],
                      static_cast<size_t>(width) * rp::size_of(r.type));
      }
    }
    for (size_t k = 0; k < trees.size(); ++k)
      trees[k].finish(scratch.row_temps[static_cast<size_t>(reductions[k].row_temp)]);
  }

  void run_full(const CompiledStage& s, const RegionCall& call, const Scratch& scratch, int64_t outer, int64_t row,
                int64_t rows, int64_t column, int64_t width) const {
    KernelArgs args;
    args.rows = rows;
    args.columns = width;
    args.scalars = call.scalars;
    args.index = static_cast<uint32_t>((outer * nest_.rows + row) * nest_.columns + column);
    args.index_row = static_cast<uint32_t>(nest_.columns);
    for (size_t k = 0; k < s.stage.slots.size(); ++k) {
      const RowCursor& c = cursors_[static_cast<size_t>(s.stage.slots[k].index)];
      args.pointers[k] = call.pointers[s.stage.slots[k].index] + c.at(outer) + row * c.row() + column * c.column();
      args.row_strides[k] = c.row();
    }
    for (size_t k = 0; k < s.stage.reductions.size(); ++k) args.accumulators[k] = scratch.accumulators[k];
    s.run(args);
  }
};

}  // namespace

std::unique_ptr<RegionKernel> compile_rows(Backend& backend, const Region& region) {
  return std::make_unique<RowsKernel>(backend, region);
}

std::unique_ptr<RegionKernel> compile_columns(Backend& backend, const Region& region) {
  return std::make_unique<ColumnsKernel>(backend, region);
}

}  // namespace rp
