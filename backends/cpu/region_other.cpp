// Strided copies and calls of library kernels.
#include <algorithm>
#include <cstring>
#include <utility>

#include "reprise/backends/cpu/region_kernels.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/fail.h"

namespace rp {
namespace {

class CopyKernel final : public RegionKernel {
 public:
  explicit CopyKernel(const Region& region) {
    const Layout &from = *region.operands[0].layout, &to = *region.operands[1].layout;
    element_ = static_cast<int64_t>(rp::size_of(from.dtype()));
    for (int i = 0; i < to.rank(); ++i)
      if (to.shape()[i] != 1) axes_.push_back({to.shape()[i], from.strides[i] * element_, to.strides[i] * element_});
    std::sort(axes_.begin(), axes_.end(),
              [](const Axis& a, const Axis& b) { return std::pair(a.to, a.from) > std::pair(b.to, b.from); });
    // The axis along which the source moves least goes next to the innermost, so that tiles use whole cache lines of
    // both.
    if (axes_.size() > 2) {
      const auto least = std::min_element(axes_.begin(), axes_.end() - 1,
                                          [](const Axis& a, const Axis& b) { return a.from < b.from; });
      std::rotate(least, least + 1, axes_.end() - 1);
    }
    while (axes_.size() < 2) axes_.insert(axes_.begin(), {1, 0, 0});
  }

  void run(const RegionCall& call) const override {
    int64_t outer = 1;
    for (size_t i = 0; i + 2 < axes_.size(); ++i) outer *= axes_[i].extent;
    const Axis &rows = axes_[axes_.size() - 2], &columns = axes_.back();
    const int64_t tiles = (rows.extent + tile - 1) / tile;
    const int64_t each = std::max<int64_t>(1, tile * columns.extent);
    parallel_for(outer * tiles, std::max<int64_t>(1, parallel_grain(1) / each), [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const std::byte* from = call.pointers[0];
        std::byte* to = call.pointers[1];
        int64_t index = i / tiles;
        for (size_t a = axes_.size() - 2; a-- > 0; index /= axes_[a].extent) {
          from += index % axes_[a].extent * axes_[a].from;
          to += index % axes_[a].extent * axes_[a].to;
        }
        const int64_t row = i % tiles * tile;
        copy_rows(from, to, row, std::min(row + tile, rows.extent));
      }
    });
  }

  std::string form() const override { return "copy"; }
  int reorders() const override { return 1; }

 private:
  struct Axis {
    int64_t extent, from, to;
  };  // steps in bytes
  static constexpr int64_t tile = 16;

  void copy_rows(const std::byte* from, std::byte* to, int64_t row, int64_t last) const {
    switch (element_) {
      case 1:
        return copy_tile<uint8_t>(from, to, row, last);
      case 2:
        return copy_tile<uint16_t>(from, to, row, last);
      case 4:
        return copy_tile<uint32_t>(from, to, row, last);
      default:
        return copy_tile<uint64_t>(from, to, row, last);
    }
  }

  template <class T>
  void copy_tile(const std::byte* from, std::byte* to, int64_t row, int64_t last) const {
    const Axis &rows = axes_[axes_.size() - 2], &columns = axes_.back();
    for (int64_t c0 = 0; c0 < columns.extent; c0 += tile)
      for (int64_t r = row; r < last; ++r)
        for (int64_t c = c0; c < std::min(c0 + tile, columns.extent); ++c)
          *reinterpret_cast<T*>(to + r * rows.to + c * columns.to) =
              *reinterpret_cast<const T*>(from + r * rows.from + c * columns.from);
  }

  int64_t element_;
  std::vector<Axis> axes_;
};

class CallKernel final : public RegionKernel {
 public:
  CallKernel(Backend& backend, const Region& region) : op_(*region.op), attrs_(region.attrs), scalars_(region.scalars) {
    for (const RegionOperand& o : region.operands) layouts_.push_back(o.layout);
    std::string why;
    kernel_ = backend.find(op_, layouts_[0]->dtype(), &why);
    if (!kernel_) fail("{}: {}", op_.name, why);
  }

  void run(const RegionCall& call) const override {
    View views[16];
    std::vector<View> many;
    View* inputs = views;
    if (layouts_.size() > std::size(views)) {
      many.resize(layouts_.size());
      inputs = many.data();
    }
    for (size_t k = 0; k < layouts_.size(); ++k) inputs[k] = {call.pointers[k], layouts_[k]};
    const Scalars scalars({call.scalars, static_cast<size_t>(scalars_)});
    const size_t n = layouts_.size() - 1;
    kernel_({op_, {inputs, n}, inputs[n], attrs_, scalars});
  }

  std::string form() const override { return "library"; }

 private:
  const Op& op_;
  Attrs attrs_;
  int scalars_;
  std::vector<const Layout*> layouts_;
  Kernel kernel_;
};

}  // namespace

std::unique_ptr<RegionKernel> compile_copy(const Region& region) { return std::make_unique<CopyKernel>(region); }

std::unique_ptr<RegionKernel> compile_call(Backend& backend, const Region& region) {
  return std::make_unique<CallKernel>(backend, region);
}

}  // namespace rp
