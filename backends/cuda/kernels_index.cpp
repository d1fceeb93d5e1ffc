// Argmax, indexing and concat. Every tensor is seen as [outer, extent, inner] around the axis in question.
#include <algorithm>

#include "reprise/backends/cuda/recipe.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/attrs.h"

namespace rp::cuda {
namespace {

// ---- positions of the best ----

// GROUP threads share a result. Of equal elements the first counts, and a NaN is the best.
constexpr std::string_view arg_text = R"text(
struct Args {
  const T* x;
  i64* to;
  Divisor<Index> inner;
  Index results;
  i64 extent;
};
__device__ __forceinline__ bool better(T v, T best) {
  return (LARGEST ? v > best : v < best) || (v != v && best == best);
}
// The best so far, at -1 if there is none.
struct Best {
  T value;
  i64 at;
  __device__ __forceinline__ void take(T v, i64 i) {
    if (i >= 0 && (at < 0 || better(v, value) || (!better(value, v) && i < at))) {
      value = v;
      at = i;
    }
  }
};
__device__ __forceinline__ Best best_of_warp(Best best) {
#pragma unroll
  for (int apart = 16; apart; apart /= 2) {
    const T value = (T)__shfl_xor_sync(0xffffffffu, (Shuffled)best.value, apart);
    const i64 at = __shfl_xor_sync(0xffffffffu, best.at, apart);
    best.take(value, at);
  }
  return best;
}
__device__ __forceinline__ Best best_of_block(Best best) {
  Best* const all = (Best*)shared_memory();
  __syncthreads();
  if (threadIdx.x % 32 == 0) all[threadIdx.x / 32] = best;
  __syncthreads();
  for (int w = 0; w < GROUP / 32; ++w) best.take(all[w].value, all[w].at);
  return best;
}

extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  constexpr u32 TOGETHER = 256 / GROUP;  // results of a block
  const Index rounds = (args.results + TOGETHER - 1) / TOGETHER;
  for (Index round = blockIdx.x; round < rounds; round += gridDim.x) {
    const Index result = round * TOGETHER + threadIdx.x / GROUP;
    const bool inside = result < args.results;
    const Index outer = quotient(result, args.inner), inner = result - outer * args.inner.value;
    const T* const from = args.x + (i64)outer * args.extent * args.inner.value + inner;
    Best best = {T(0), -1};
    if (inside)
      for (i64 e = threadIdx.x % GROUP; e < args.extent; e += GROUP) best.take(from[e * args.inner.value], e);
    if (GROUP >= 32) best = best_of_warp(best);
    if (GROUP > 32) best = best_of_block(best);
    if (inside && threadIdx.x % GROUP == 0) args.to[result] = best.at;
  }
}
)text";

Recipe arg_recipe(const Region& region, bool largest) {
  const Layout& x = *region.operands[0].layout;
  const Fold f = fold(x.shape(), region.attrs.as<ArgAttrs>().axis);
  const int64_t results = f.outer * f.inner;
  if (results && !f.extent) fail("{}: the axis is empty in {}", region.op->name, to_string(x.spec));
  const bool wide = is_wide(results), alone = f.extent < 32 || (f.inner > 1 && results >= 1 << 14);
  const int group = alone ? 1 : f.extent <= 4096 ? 32 : 256;
  std::string text = index_text(wide) + type_text(x.dtype(), "T");
  text += fmt::format("typedef {} Shuffled;\n", x.dtype() == DType::boolean ? "u32" : "T");
  text += fmt::format("constexpr bool LARGEST = {};\nconstexpr u32 GROUP = {};\n", largest, group);
  Recipe r;
  r.steps.emplace_back(text + std::string(arg_text), std::vector{operand(0), operand(1)})
      .divisor(f.inner, wide)
      .add_index(results, wide)
      .add(f.extent)
      .blocks_of((results * group + 255) / 256, 16 * 8);
  return r;
}

// ---- elements by index ----

// PER_ELEMENT: there is an index for each element of the result, else one for each of `count` slices.
constexpr std::string_view pick_text = R"text(
struct Args {
  const Unit* x;
  const I* index;
  Unit* to;
  int* errors;
  Divisor<Index> inner, count;
  Index results;
  i64 extent;
  int error;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  for (Index i = first_index(); i < args.results; i += index_step()) {
    const Index slice = quotient(i, args.inner), inner = i - slice * args.inner.value;
    const Index outer = quotient(slice, args.count);
    const i64 at = args.index[PER_ELEMENT ? i : slice - outer * args.count.value];
    if (at < 0 || at >= args.extent)
      raise_error(args.errors, args.error);
    else
      args.to[i] = args.x[((i64)outer * args.extent + at) * args.inner.value + inner];
  }
}
)text";

// What is moved at a time: 16 bytes where `bytes`, the length of what lies together, allows that, else an element.
struct Unit {
  std::string text;
  int64_t size;
};
Unit unit_of(DType dtype, int64_t bytes, bool aligned) {
  if (aligned && bytes % 16 == 0) return {"typedef Vector<u32, 4> Unit;\n", 16};
  const auto size = static_cast<int64_t>(size_of(dtype));
  return {fmt::format("typedef {} Unit;\n", size == 8 ? "u64" : size == 4 ? "u32" : size == 2 ? "u16" : "u8"), size};
}

Recipe pick_recipe(const Region& region, bool per_element, int64_t axis, int64_t count, bool aligned) {
  const Layout& x = *region.operands[0].layout;
  const auto size = static_cast<int64_t>(size_of(x.dtype()));
  const Fold f = fold(x.shape(), axis);
  const Unit unit = unit_of(x.dtype(), f.inner * size, aligned && !per_element);
  const int64_t inner = f.inner * size / unit.size, results = f.outer * count * inner;
  const bool wide = is_wide(results);
  std::string text = index_text(wide) + unit.text + index_type_text(region);
  text += fmt::format("constexpr bool PER_ELEMENT = {};\n", per_element);
  Recipe r;
  r.steps.emplace_back(text + std::string(pick_text), std::vector{operand(0), operand(1), operand(2), error_word})
      .divisor(inner, wide)
      .divisor(count, wide)
      .add_index(results, wide)
      .add(f.extent)
      .add(range_error(region, f.extent))
      .threads_for(results);
  return r;
}

// ---- concat ----

// Some neighbouring parts of each row of the result; `ends` are those of the parts in that.
constexpr std::string_view concat_text = R"text(
struct Args {
  const Unit* parts[PARTS];
  Unit* to;
  Divisor<Index> width;
  Index ends[PARTS], results;
  i64 pitch, offset;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  for (Index i = first_index(); i < args.results; i += index_step()) {
    const Index row = quotient(i, args.width), column = i - row * args.width.value;
    Index begin = 0, end = args.ends[0];
    const Unit* part = args.parts[0];
#pragma unroll
    for (int p = 1; p < PARTS; ++p)
      if (column >= args.ends[p - 1]) {
        begin = args.ends[p - 1];
        end = args.ends[p];
        part = args.parts[p];
      }
    args.to[(i64)row * args.pitch + args.offset + column] = part[(i64)row * (end - begin) + (column - begin)];
  }
}
)text";

constexpr size_t parts_at_once = 16;

}  // namespace

Recipe argmax_recipe(const Region& region, bool) { return arg_recipe(region, true); }
Recipe argmin_recipe(const Region& region, bool) { return arg_recipe(region, false); }

Recipe index_select_recipe(const Region& region, bool aligned) {
  return pick_recipe(region, false, region.attrs.as<AxisAttrs>().axis, region.operands[1].layout->numel, aligned);
}

Recipe gather_recipe(const Region& region, bool aligned) {
  const int axis = region.attrs.as<AxisAttrs>().axis;
  return pick_recipe(region, true, axis, region.operands[1].layout->shape()[axis], aligned);
}

Recipe concat_recipe(const Region& region, bool aligned) {
  const int64_t axis = region.attrs.as<AxisAttrs>().axis;
  const size_t count = region.operands.size() - 1;
  const Layout& result = *region.operands[count].layout;
  const auto size = static_cast<int64_t>(size_of(result.dtype()));
  const Fold whole = fold(result.shape(), axis);
  const auto row_bytes = [&](size_t k) {
    const Fold f = fold(region.operands[k].layout->shape(), axis);
    return f.extent * f.inner * size;
  };
  bool even = aligned;
  for (size_t k = 0; k < count; ++k) even = even && row_bytes(k) % 16 == 0;
  const Unit unit = unit_of(result.dtype(), 16, even);
  Recipe r;
  int64_t offset = 0;
  for (size_t first = 0; first < count; first += parts_at_once) {
    const size_t last = std::min(count, first + parts_at_once);
    std::vector<Pointer> pointers;
    std::vector<int64_t> ends;
    int64_t width = 0;
    for (size_t k = first; k < last; ++k) {
      pointers.push_back(operand(k));
      ends.push_back(width += row_bytes(k) / unit.size);
    }
    pointers.push_back(operand(count));
    const bool wide = is_wide(whole.outer * width);
    Step step(index_text(wide) + unit.text + fmt::format("constexpr int PARTS = {};\n", last - first) +
                  std::string(concat_text),
              std::move(pointers));
    step.divisor(width, wide);
    for (int64_t end : ends) step.add_index(end, wide);
    step.add_index(whole.outer * width, wide).add(whole.extent * whole.inner * size / unit.size).add(offset);
    step.threads_for(whole.outer * width);
    if (width) r.steps.push_back(std::move(step));
    offset += width;
  }
  return r;
}

}  // namespace rp::cuda
