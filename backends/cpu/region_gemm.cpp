// Matrix products with a fused epilogue.
#include <algorithm>
#include <mutex>
#include <optional>

#include "reprise/backends/cpu/gemm.h"
#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

constexpr int64_t min_packed_elements = 4096;  // smaller right operands are packed as fast as they are found

constexpr int max_attachments = 8;  // of one storage: a data set whose slices are factors must not collect them

// A packed right operand, kept beside the weight's storage until the weight changes.
template <class T>
struct PackedWeight final : Attachment {
  const std::byte* data;
  int64_t k, n, b_row, b_col;
  uint32_t content;
  std::shared_ptr<const PackedB<T>> packed;
};

std::mutex& packed_mutex() {
  static std::mutex mutex;
  return mutex;
}

// The packed copy of a right operand that has been seen with the same content before; null on the first sight.
template <class T>
std::shared_ptr<const PackedB<T>> packed_weight(Storage& storage, const std::byte* data, const GemmShape& s) {
  std::lock_guard lock(packed_mutex());
  int others = 0;
  for (Attachment* a = storage.attached.get(); a; a = a->next.get(), ++others) {
    auto* w = dynamic_cast<PackedWeight<T>*>(a);
    if (!w || w->data != data || w->k != s.k || w->n != s.n || w->b_row != s.b_row || w->b_col != s.b_col) continue;
    if (w->content != storage.content && !(planted(Defect::stale_pack) && w->packed)) {
      w->content = storage.content;
      w->packed = nullptr;
    } else if (!w->packed) {
      w->packed = pack_b(s.k, s.n, reinterpret_cast<const T*>(data), s.b_row, s.b_col);
    }
    return w->packed;
  }
  if (others >= max_attachments) return nullptr;
  auto w = std::make_unique<PackedWeight<T>>();
  w->data = data;
  w->k = s.k;
  w->n = s.n;
  w->b_row = s.b_row;
  w->b_col = s.b_col;
  w->content = storage.content;
  attach(storage, std::move(w));
  return nullptr;
}

class GemmKernel final : public RegionKernel {
 public:
  GemmKernel(Backend& backend, const Region& region) : region_(region) {
    if (!region.stages.empty()) stage_ = compile_stage(backend, region.stages[0]);
    const Layout &a = *region.operands[0].layout, &b = *region.operands[1].layout, &c = *region.operands[2].layout;
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
  }

  void run(const RegionCall& call) const override {
    if (!shape_.m || !shape_.n || !batches_) return;
    const int64_t work = std::max<int64_t>(1, shape_.m * shape_.n * shape_.k);
    const auto one = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        visit_dtype(region_.operands[2].layout->dtype(), [&]<class T>(T) {
          if constexpr (!std::is_same_v<T, bool>) product<T>(call, i);
        });
    };
    if (batches_ == 1)
      one(0, 1);
    else
      parallel_for(batches_, std::max<int64_t>(1, 500000 / work), one);
  }

  std::string form() const override { return stage_ ? "gemm, " + stage_->compiled->form : "gemm"; }

 private:
  std::byte* pointer(const RegionCall& call, size_t operand, int64_t batch) const {
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
    if constexpr (std::is_floating_point_v<T>)
      if (storage && !storage->exposed && !disabled("pack") && shape_.k * shape_.n >= min_packed_elements)
        if (const auto packed = packed_weight<T>(*storage, right, shape_)) return gemm(shape_, a, *packed, c, after);
    gemm(shape_, a, b, c, after);
  }

  static void run_epilogue(const void* context, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    const Block& block = *static_cast<const Block*>(context);
    const GemmKernel& self = *block.kernel;
    KernelArgs args;
    args.rows = rows;
    args.columns = columns;
    args.scalars = block.call->scalars;
    args.context = self.stage_->compiled->context;
    args.index = static_cast<uint32_t>((block.batch * self.shape_.m + row) * self.shape_.n + column);
    args.index_row = static_cast<uint32_t>(self.shape_.n);
    for (size_t k = 0; k < self.stage_->stage.slots.size(); ++k) {
      const Nest::Steps& s = self.steps_[static_cast<size_t>(self.stage_->stage.slots[k].index)];
      args.pointers[k] = block.base[k] + (planted(Defect::epilogue_block) ? 0 : row) * s.row + column * s.column;
      args.row_strides[k] = s.row;
    }
    self.stage_->compiled->run(&args);
  }

  Region region_;
  std::optional<CompiledStage> stage_;
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
