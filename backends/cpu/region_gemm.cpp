// Matrix products with a fused epilogue.
#include <fmt/core.h>

#include <algorithm>
#include <optional>

#include "reprise/backends/cpu/gemm.h"
#include "reprise/backends/cpu/kept.h"
#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

// Smaller right operands are packed as fast as they are found; what lies by columns takes longer.
constexpr int64_t min_packed_elements = 4096, min_turned_elements = 512;

// Of a product with a map on its parts: what is worth cutting up, what is worth sharing among threads, and how much of
// C stays in the nearest cache.
constexpr int64_t min_part_work = 1 << 16, min_shared_work = 500'000, hot_bytes = 32 << 10;

// All that a packed right operand depends on beside its elements.
struct PackKey {
  int64_t k, n, b_row, b_col;
  bool operator==(const PackKey&) const = default;
};

template <class T>
const PackedB<T>* packed_weight(Storage& storage, const std::byte* data, const GemmShape& s) {
  return kept<PackedB<T>>(storage, data, PackKey{s.k, s.n, s.b_row, s.b_col},
                          [&] { return pack_b(s.k, s.n, reinterpret_cast<const T*>(data), s.b_row, s.b_col); });
}

class GemmKernel final : public RegionKernel {
 public:
  GemmKernel(Backend& backend, const Region& region) : region_(region) {
    if (!region.stages.empty()) stage_ = compile_stage(backend, region.stages[0]);
    const Layout &a = *region.operands[0].layout, &b = *region.operands[1].layout, &c = *region.operands[2].layout;
    if (c.dtype() == DType::boolean || is_short(c.dtype()))
      fail("{}: not defined for {}", region.op->name, name_of(c.dtype()));
    const int r = c.rank();
    shape_ = {c.shape()[r - 2], c.shape()[r - 1], a.shape()[r - 1], a.strides[r - 2],
              a.strides[r - 1], b.strides[r - 2], b.strides[r - 1], c.strides[r - 2]};
    if (region.op == &segmented_matmul_op) shape_.segment = region.attrs.as<SegmentAttrs>().segment;
    batch_ = region.members[0].outer;
    batches_ = region.members[0].outer_count();
    for (size_t k = 0; k < region.operands.size(); ++k) {
      const Layout& l = *region.operands[k].layout;
      Nest::Steps s = region.members[0].operands[k];
      for (int i = 0; k < 2 && i < r - 2; ++i) s.outer[i] = l.strides[i];  // A and B have shapes of their own
      const auto element = static_cast<int64_t>(rp::size_of(l.dtype()));
      for (int i = 0; i < r - 2; ++i) s.outer[i] *= element;
      s.row *= element;
      s.column *= element;
      steps_.push_back(s);
    }
    if (region.after) take_after(backend, *region.after);
  }

  void run(const RegionCall& call) const override {
    if (!shape_.m || !shape_.n || !batches_) return;
    const int64_t work = std::max<int64_t>(1, shape_.m * shape_.n * shape_.k);
    const auto one = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        visit_dtype(region_.operands[2].layout->dtype(), [&]<class T>(T) {
          if constexpr (!std::is_same_v<T, bool> && !is_float16<T>) product<T>(call, i);
        });
    };
    if (batches_ == 1)
      one(0, 1);
    else
      parallel_for(batches_, std::max<int64_t>(1, 500000 / work), one);
  }

  std::string form() const override {
    std::string text = "gemm";
    if (stage_) text += ", " + stage_->compiled->form;
    if (after_) text += fmt::format(", {} on columns of {} parts", after_->compiled->form, region_.groups);
    return text;
  }

 private:
  std::byte* pointer(const RegionCall& call, size_t operand, int64_t batch) const {
    if (!batch) return call.pointers[operand];
    int64_t offset = 0;
    for (int i = batch_.rank() - 1; i >= 0; --i) {
      offset += batch % batch_[i] * steps_[operand].outer[i];
      batch /= batch_[i];
    }
    return call.pointers[operand] + offset;
  }

  // What the epilogue of one product needs.
  struct Block {
    const GemmKernel* kernel;
    const RegionCall* call;
    std::byte* base[max_operands];  // per program operand
    int64_t batch;
  };

  template <class T>
  void product(const RegionCall& call, int64_t batch) const {
    const auto* a = reinterpret_cast<const T*>(pointer(call, 0, batch));
    const std::byte* right = pointer(call, 1, batch);
    const auto* b = reinterpret_cast<const T*>(right);
    auto* c = reinterpret_cast<T*>(pointer(call, 2, batch));
    Block block{this, &call, {}, batch};
    Epilogue epilogue{run_epilogue, &block};
    if (stage_)
      for (size_t k = 0; k < stage_->stage.slots.size(); ++k)
        block.base[k] = pointer(call, static_cast<size_t>(stage_->stage.slots[k].index), batch);
    const Epilogue* after = stage_ ? &epilogue : nullptr;
    Storage* storage = call.storages[1];
    const PackedB<T>* packed = nullptr;
    if constexpr (std::is_floating_point_v<T>) {
      const int64_t least = shape_.b_col == 1 ? min_packed_elements : min_turned_elements;
      if (storage && shape_.k * shape_.n >= least && !storage->exposed && !disabled("pack"))
        packed = packed_weight<T>(*storage, right, shape_);
      if (after_ && in_parts<T>()) return run_in_parts(call, a, b, packed, c, after);
    }
    if (packed)
      gemm(shape_, a, *packed, c, after);
    else
      gemm(shape_, a, b, c, after);
    if (after_) run_after(call, 0, shape_.n / region_.groups);
  }

  // ---- with a map on columns of the product's parts ----

  void take_after(Backend& backend, const Region& map) {
    after_ = compile_stage(backend, map.stages[0]);
    for (size_t k = 0; k < map.operands.size(); ++k) {
      const auto element = static_cast<int64_t>(rp::size_of(map.operands[k].layout->dtype()));
      const Nest::Steps& s = map.members[0].operands[k];
      after_steps_.push_back({{}, s.row * element, s.column * element});
    }
  }

  // Products too small to be worth cutting up are finished first.
  template <class T>
  bool in_parts() const {
    return shape_.k > 0 && shape_.n / region_.groups % gemm_width<T>() == 0 &&
           shape_.m * shape_.n * shape_.k > min_part_work;
  }

  // Some columns at a time: their part of every group, then the map on them, while all that is in the nearest cache.
  template <class T>
  void run_in_parts(const RegionCall& call, const T* a, const T* b, const PackedB<T>* packed, T* c,
                    const Epilogue* epilogue) const {
    const int64_t units = shape_.n / region_.groups, width = gemm_width<T>(), panels = units / width;
    const int64_t threads =
        in_parallel_region() || shape_.m * shape_.n * shape_.k < min_shared_work ? 1 : thread_count();
    const int64_t fits = hot_bytes / (shape_.m * region_.groups * width * static_cast<int64_t>(sizeof(T)));
    const int64_t step = std::clamp<int64_t>(fits, 1, std::max<int64_t>(1, panels / threads));
    const int64_t blocks = (panels + step - 1) / step;
    const auto run = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * step * width, columns = std::min(units, (i + 1) * step * width) - first;
        for (int64_t g = 0; g < region_.groups; ++g)
          gemm_columns(shape_, a, b, packed, c, epilogue, g * units + first, columns);
        run_after(call, first, columns);
      }
    };
    if (threads == 1)
      run(0, blocks);
    else
      parallel_for(blocks, 1, run);
  }

  void run_after(const RegionCall& call, int64_t column, int64_t columns) const {
    KernelArgs args;
    args.rows = shape_.m;
    args.columns = columns;
    args.scalars = call.scalars + region_.scalars;
    args.index = static_cast<uint32_t>(column);
    args.index_row = static_cast<uint32_t>(shape_.n / region_.groups);
    for (size_t k = 0; k < after_->stage.slots.size(); ++k) {
      const auto operand = static_cast<size_t>(after_->stage.slots[k].index);
      const Nest::Steps& s = after_steps_[operand];
      args.pointers[k] = call.pointers[region_.operands.size() + operand] + column * s.column;
      args.row_strides[k] = s.row;
    }
    after_->run(args);
  }

  static void run_epilogue(const void* context, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    const Block& block = *static_cast<const Block*>(context);
    const GemmKernel& self = *block.kernel;
    KernelArgs args;
    args.rows = rows;
    args.columns = columns;
    args.scalars = block.call->scalars;
    args.index = static_cast<uint32_t>((block.batch * self.shape_.m + row) * self.shape_.n + column);
    args.index_row = static_cast<uint32_t>(self.shape_.n);
    for (size_t k = 0; k < self.stage_->stage.slots.size(); ++k) {
      const Nest::Steps& s = self.steps_[static_cast<size_t>(self.stage_->stage.slots[k].index)];
      args.pointers[k] = block.base[k] + (planted(Defect::epilogue_block) ? 0 : row) * s.row + column * s.column;
      args.row_strides[k] = s.row;
    }
    self.stage_->run(args);
  }

  Region region_;
  std::optional<CompiledStage> stage_, after_;
  std::vector<Nest::Steps> after_steps_;  // in bytes
  GemmShape shape_;
  Dims batch_;
  int64_t batches_ = 1;
  std::vector<Nest::Steps> steps_;  // in bytes
};

}  // namespace

std::unique_ptr<RegionKernel> compile_gemm(Backend& backend, const Region& region) {
  return std::make_unique<GemmKernel>(backend, region);
}

}  // namespace rp
