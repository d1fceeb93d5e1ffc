#pragma once
#include <array>
#include <memory>
#include <vector>

#include "reprise/core/backend.h"
#include "reprise/fusion/region.h"

namespace rp {

std::unique_ptr<RegionKernel> compile_region(Backend& backend, const Region& region);

// One for each kind of region.
std::unique_ptr<RegionKernel> compile_map(Backend& backend, const Region& region);
std::unique_ptr<RegionKernel> compile_rows(Backend& backend, const Region& region);
std::unique_ptr<RegionKernel> compile_columns(Backend& backend, const Region& region);
std::unique_ptr<RegionKernel> compile_gemm(Backend& backend, const Region& region);
std::unique_ptr<RegionKernel> compile_conv(Backend& backend, const Region& region);
std::unique_ptr<RegionKernel> compile_copy(const Region& region);
std::unique_ptr<RegionKernel> compile_call(Backend& backend, const Region& region);

/// A stage with its compiled program.
struct CompiledStage {
  Stage stage;
  const Compiled* compiled = nullptr;
  int64_t cost = 1;                     // of one element, in simple instructions
  const Compiled* streaming = nullptr;  // the same with stores that pass the caches by, if it is of use

  /// Sets the context of the arguments.
  void run(KernelArgs& args) const;
};
CompiledStage compile_stage(Backend& backend, const Stage& stage);
/// For a region that moves so many bytes that its results are gone from the caches before anybody reads them.
CompiledStage compile_stage(Backend& backend, const Stage& stage, const Region& region);

/// Where the row `row` (counted through all outer loops) of an operand starts, in bytes.
class RowCursor {
 public:
  RowCursor(const Nest& nest, const Nest::Steps& steps, size_t element);
  int64_t at(int64_t outer_index) const;  // of the first row of an outer iteration
  int64_t row() const { return row_; }
  int64_t column() const { return column_; }

 private:
  Dims extents_, steps_;
  int64_t row_, column_;
};

/// Elements below which a parallel region costs more than it saves, for elements of the given cost.
int64_t parallel_grain(int64_t cost);

// Reductions: combining partial results in a fixed order.

/// The value that changes nothing.
void fill_identity(std::byte* lanes, int64_t count, Combine combine, Type type);
/// Combines the 16 lanes of `count` results into the first lane: lane i with lane i + 8, then 4, 2, 1. Lane l of result
/// i stands at l * count + i.
void combine_lanes(std::byte* lanes, int64_t count, Combine combine, Type type);
/// The same where the lanes of a result lie side by side, `stride` bytes from those of the next.
void combine_rows(const std::byte* lanes, int64_t count, int64_t stride, Combine combine, Type type,
                  std::byte* results);
/// a[i] = combine(a[i], b[i]).
void combine_into(std::byte* a, const std::byte* b, int64_t count, Combine combine, Type type);
size_t size_of(Type type);

/// The tree over blocks: partial results of equal size combine, as in a binary counter.
class BlockTree {
 public:
  BlockTree(int64_t width, Combine combine, Type type) : width_(width), combine_(combine), type_(type) {}
  void push(const std::byte* partial);
  /// The combination of everything pushed.
  void finish(std::byte* result);

 private:
  std::byte* level(size_t i);
  int64_t width_;
  Combine combine_;
  Type type_;
  uint64_t pushed_ = 0;
  std::vector<std::vector<std::byte>> levels_;
  std::vector<std::byte> carry_;
};

}  // namespace rp
