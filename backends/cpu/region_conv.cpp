// Convolutions and gradients of images with a fused epilogue.
#include <algorithm>
#include <memory>
#include <optional>

#include "reprise/backends/cpu/conv.h"
#include "reprise/backends/cpu/kept.h"
#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

using cpu::ConvPass;
using cpu::ConvShape;

// All that packed weights depend on beside their elements.
struct PackKey {
  int64_t out, c, kh, kw;
  bool forward, turned;
  bool operator==(const PackKey&) const = default;
};

const PackedB<float>* kept_weights(Storage& storage, const ConvShape& s, const std::byte* data) {
  const PackKey key{s.out, s.c, s.kh, s.kw, s.pass == ConvPass::forward, s.turns()};
  return kept<PackedB<float>>(storage, data, key, [&] { return pack_conv_weights(s, DType::f32, data); });
}

class ConvKernel final : public RegionKernel {
 public:
  ConvKernel(Backend& backend, const Region& region)
      : shape_(shape_of(region)), dtype_(region.operands[2].layout->dtype()) {
    if (is_short(dtype_)) fail("{}: not defined for {}", region.op->name, name_of(dtype_));
    const Layout &first = *region.operands[0].layout, &second = *region.operands[1].layout;
    empty_ = !first.numel || !second.numel;
    bytes_ = region.operands[2].layout->bytes();
    if (!empty_ && bytes_) choice_ = &cpu::conv_choice(shape_, dtype_);
    if (region.stages.empty()) return;
    stage_ = compile_stage(backend, region.stages[0]);
    nest_ = flat(region.members[0]);
    for (const StageSlot& slot : stage_->stage.slots) {
      const auto k = static_cast<size_t>(slot.index);
      operands_.push_back(k);
      cursors_.push_back(RowCursor(nest_, nest_.operands[k], rp::size_of(region.operands[k].layout->dtype())));
    }
  }

  void run(const RegionCall& call) const override {
    if (!bytes_) return;
    const Block block{this, &call};
    const Epilogue epilogue{run_epilogue, &block};
    const Epilogue* const after = stage_ ? &epilogue : nullptr;
    std::byte* const result = call.pointers[2];
    if (empty_) {
      std::fill_n(result, bytes_, std::byte{});
      if (after) run_epilogue(&block, 0, nest_.outer_count() * nest_.rows, 0, nest_.columns);
      return;
    }
    const PackedB<float>* weights = kept_weights(call);
    std::unique_ptr<const PackedB<float>> own;
    if (!weights) {
      own = pack_conv_weights(shape_, dtype_, call.pointers[1]);
      weights = own.get();
    }
    std::byte* const image = call.pointers[0];
    const bool forward = shape_.pass == ConvPass::forward;
    cpu::convolve(shape_, dtype_, forward ? image : result, call.pointers[1], forward ? result : image, weights, after);
  }

  std::string form() const override {
    const std::string text = choice_ ? "conv " + choice_->form : "nothing to add up";
    return stage_ ? text + ", " + stage_->compiled->form : text;
  }
  int reorders() const override { return choice_ ? choice_->reorders : 0; }

 private:
  struct Block {
    const ConvKernel* kernel;
    const RegionCall* call;
  };

  static ConvShape shape_of(const Region& region) {
    View views[3];
    for (size_t k = 0; k < 3; ++k) views[k].layout = region.operands[k].layout;
    const Scalars none;
    return cpu::conv_shape(region.op == &conv2d_op ? ConvPass::forward : ConvPass::backward_data,
                           {*region.op, {views, 2}, views[2], region.attrs, none});
  }

  // Outer axes through which every operand steps evenly become rows.
  static Nest flat(Nest nest) {
    while (nest.outer.rank()) {
      const int last = nest.outer.rank() - 1;
      for (const Nest::Steps& s : nest.operands)
        if (s.outer[last] != s.row * nest.rows) return nest;
      nest.rows *= nest.outer[last];
      nest.outer.erase(last);
      for (Nest::Steps& s : nest.operands) s.outer.erase(last);
    }
    return nest;
  }

  const PackedB<float>* kept_weights(const RegionCall& call) const {
    Storage* const storage = call.storages[1];
    if (dtype_ != DType::f32 || !storage || storage->exposed || disabled("pack")) return nullptr;
    return rp::kept_weights(*storage, shape_, call.pointers[1]);
  }

  static void run_epilogue(const void* context, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    const Block& block = *static_cast<const Block*>(context);
    const ConvKernel& self = *block.kernel;
    KernelArgs args;
    args.columns = columns;
    args.scalars = block.call->scalars;
    args.index_row = static_cast<uint32_t>(self.nest_.columns);
    for (const int64_t last = row + rows; row < last; row += args.rows) {
      const int64_t outer = row / self.nest_.rows, first = row - outer * self.nest_.rows;
      args.rows = std::min(self.nest_.rows - first, last - row);
      args.index = static_cast<uint32_t>(row * self.nest_.columns + column);
      for (size_t k = 0; k < self.cursors_.size(); ++k) {
        const RowCursor& c = self.cursors_[k];
        args.pointers[k] = block.call->pointers[self.operands_[k]] + c.at(outer) +
                           (planted(Defect::conv_block) ? 0 : first) * c.row() + column * c.column();
        args.row_strides[k] = c.row();
      }
      self.stage_->run(args);
    }
  }

  ConvShape shape_;
  DType dtype_;
  bool empty_ = false;
  size_t bytes_ = 0;
  const cpu::ConvChoice* choice_ = nullptr;
  std::optional<CompiledStage> stage_;
  Nest nest_;
  std::vector<RowCursor> cursors_;  // per operand of the stage's program
  std::vector<size_t> operands_;    // which of the call
};

}  // namespace

std::unique_ptr<RegionKernel> compile_conv(Backend& backend, const Region& region) {
  return std::make_unique<ConvKernel>(backend, region);
}

}  // namespace rp
