// Sums at indices: index_add and scatter_add. Every destination adds what goes there in the order in which it stands in
// the source, from zero, as the CPU does. Where there are many columns, a thread adds up one of them. Otherwise the
// source's elements are sorted by where they go, equal ones staying in order, and each destination adds up its own.
#include <algorithm>
#include <bit>

#include "reprise/backends/cuda/recipe.h"
#include "reprise/core/ops/attrs.h"

namespace rp::cuda {
namespace {

constexpr int64_t many_columns = 1 << 15;  // that keep a large device busy
constexpr int64_t few_indices = 64;        // that are added up before a sort would have begun
constexpr int64_t chunk = 2048;            // elements that a block sorts
constexpr int digits = 256;

// PER_ELEMENT: there is an index for each element of the source, else one for each of its `count` slices.
constexpr std::string_view column_text = R"text(
struct Args {
  const T* source;
  const I* index;
  T* to;
  int* errors;
  Divisor<Index> inner;
  Index columns;
  i64 count, extent;
  int error;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const i64 inner = args.inner.value;
  for (Index column = first_index(); column < args.columns; column += index_step()) {
    const Index outer = quotient(column, args.inner), c = column - outer * args.inner.value;
    const i64 first = outer * args.count * inner + c;
    T* const to = args.to + outer * args.extent * inner + c;
    for (i64 j = 0; j < args.count; ++j) {
      const i64 at = args.index[PER_ELEMENT ? first + j * inner : j];
      if (at < 0 || at >= args.extent)
        raise_error(args.errors, args.error);
      else
        to[at * inner] = plus(to[at * inner], args.source[first + j * inner]);
    }
  }
}
)text";

// The destination of each element that is sorted; for a bad index one behind the last.
constexpr std::string_view key_text = R"text(
struct Args {
  const I* index;
  int* errors;
  u32 *keys, *order;
  Divisor<Index> inner, slice;  // slice: count * inner
  Index count;
  i64 extent, destinations;
  int error;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  for (Index i = first_index(); i < args.count; i += index_step()) {
    const i64 at = args.index[i];
    const bool good = at >= 0 && at < args.extent;
    if (!good) raise_error(args.errors, args.error);
    const Index outer = quotient(i, args.slice), inner = i - quotient(i, args.inner) * args.inner.value;
    const i64 place = PER_ELEMENT ? (outer * args.extent + at) * args.inner.value + inner : at;
    args.keys[i] = (u32)(good ? place : args.destinations);
    args.order[i] = i;
  }
}
)text";

// One digit of the keys of a chunk: thread d looks for digit d, in order.
constexpr std::string_view digit_text = R"text(
// Digits of the chunk's elements; `length` of them.
__device__ __forceinline__ u32 read_digits(const u32* keys, u32 count, u32 shift, u32 first, u8* to) {
  const u32 length = count - first < CHUNK ? count - first : CHUNK;
  for (u32 i = threadIdx.x; i < length; i += DIGITS) to[i] = (u8)(keys[first + i] >> shift);
  __syncthreads();
  return length;
}
)text";

// How often each digit comes in a chunk: counts[digit][chunk].
constexpr std::string_view count_text = R"text(
struct Args {
  const u32* keys;
  u32* counts;
  u32 count, shift, chunks;
};
extern "C" __global__ void __launch_bounds__(DIGITS) kernel_entry(const __grid_constant__ Args args) {
  u8* const all = (u8*)shared_memory();
  for (u32 c = blockIdx.x; c < args.chunks; c += gridDim.x) {
    const u32 length = read_digits(args.keys, args.count, args.shift, c * CHUNK, all);
    u32 found = 0;
    for (u32 i = 0; i < length; ++i) found += all[i] == threadIdx.x;
    args.counts[threadIdx.x * args.chunks + c] = found;
    __syncthreads();
  }
}
)text";

// Block d: where each chunk's first digit d goes among all digits d, and how many there are.
constexpr std::string_view scan_text = R"text(
struct Args {
  u32 *counts, *totals;
  u32 chunks;
};
extern "C" __global__ void __launch_bounds__(DIGITS) kernel_entry(const __grid_constant__ Args args) {
  u32* const sums = (u32*)shared_memory();
  u32* const counts = args.counts + blockIdx.x * args.chunks;
  u32 before = 0;
  for (u32 first = 0; first < args.chunks; first += DIGITS) {
    const u32 i = first + threadIdx.x, own = i < args.chunks ? counts[i] : 0;
    sums[threadIdx.x] = own;
    __syncthreads();
    for (u32 apart = 1; apart < DIGITS; apart *= 2) {
      const u32 more = threadIdx.x >= apart ? sums[threadIdx.x - apart] : 0;
      __syncthreads();
      sums[threadIdx.x] += more;
      __syncthreads();
    }
    if (i < args.chunks) counts[i] = before + sums[threadIdx.x] - own;
    before += sums[DIGITS - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) args.totals[blockIdx.x] = before;
}
)text";

constexpr std::string_view move_text = R"text(
struct Args {
  const u32 *keys, *order, *counts, *totals;
  u32 *to_keys, *to_order;
  u32 count, shift, chunks;
};
extern "C" __global__ void __launch_bounds__(DIGITS) kernel_entry(const __grid_constant__ Args args) {
  u32* const places = (u32*)shared_memory();
  u8* const all = (u8*)(places + CHUNK);
  u32 before = 0;
  for (u32 d = 0; d < threadIdx.x; ++d) before += args.totals[d];
  for (u32 c = blockIdx.x; c < args.chunks; c += gridDim.x) {
    const u32 length = read_digits(args.keys, args.count, args.shift, c * CHUNK, all);
    u32 place = before + args.counts[threadIdx.x * args.chunks + c];
    for (u32 i = 0; i < length; ++i)
      if (all[i] == threadIdx.x) places[i] = place++;
    __syncthreads();
    for (u32 i = threadIdx.x; i < length; i += DIGITS) {
      args.to_keys[places[i]] = args.keys[c * CHUNK + i];
      args.to_order[places[i]] = args.order[c * CHUNK + i];
    }
    __syncthreads();
  }
}
)text";

// Where each destination's elements begin in the sorted order.
constexpr std::string_view start_text = R"text(
struct Args {
  const u32* keys;
  u32* starts;
  u32 count;
  i64 destinations;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const i64 step = (i64)gridDim.x * blockDim.x;
  for (i64 d = (i64)blockIdx.x * blockDim.x + threadIdx.x; d <= args.destinations; d += step) {
    u32 low = 0, high = args.count;
    while (low < high) {
      const u32 middle = low + (high - low) / 2;
      if (args.keys[middle] < (u32)d)
        low = middle + 1;
      else
        high = middle;
    }
    args.starts[d] = low;
  }
}
)text";

constexpr std::string_view sum_text = R"text(
struct Args {
  const T* source;
  const u32 *starts, *order;
  T* to;
  Divisor<Index> inner, extent;
  Index results;
  i64 count;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  for (Index i = first_index(); i < args.results; i += index_step()) {
    const Index slice = quotient(i, args.inner), outer = quotient(slice, args.extent);
    const Index destination = slice - outer * args.extent.value;
    const T* const from = args.source + (i64)outer * args.count * args.inner.value + (i - slice * args.inner.value);
    T sum = 0;
    const u32 end = args.starts[destination + 1];
#pragma unroll 8
    for (u32 j = args.starts[destination]; j < end; ++j)
      sum = plus(sum, from[(i64)args.order[j] * args.inner.value]);
    args.to[i] = sum;
  }
}
)text";

struct Sum {
  const Region& region;
  Fold f;         // of the result
  int64_t count;  // source: [outer, count, inner]
  bool per_element;
  DType dtype() const { return region.operands[0].layout->dtype(); }
  int64_t results() const { return f.outer * f.extent * f.inner; }
  std::string elements() const { return type_text(dtype(), "T") + std::string(plus_text); }
  std::string indices() const {
    return index_type_text(region) + fmt::format("constexpr bool PER_ELEMENT = {};\n", per_element);
  }
};

Recipe by_columns(const Sum& s) {
  const int64_t columns = s.f.outer * s.f.inner;
  const bool wide = is_wide(columns);
  Recipe r = zeros(s.region, 2);
  if (!s.count) return r;
  r.steps
      .emplace_back(index_text(wide) + s.elements() + s.indices() + std::string(column_text),
                    std::vector{operand(0), operand(1), operand(2), error_word})
      .divisor(s.f.inner, wide)
      .add_index(columns, wide)
      .add(s.count)
      .add(s.f.extent)
      .add(range_error(s.region, s.f.extent))
      .threads_for(columns);
  return r;
}

struct Sorted {
  Pointer keys, order;
};

// By eight bits at a time, from the lowest; the order of equal keys stays.
Sorted add_sort(Recipe& r, Sorted from, int64_t count, int64_t greatest) {
  const int64_t chunks = (count + chunk - 1) / chunk;
  Sorted to{r.room(4 * count), r.room(4 * count)};
  const Pointer counts = r.room(4 * digits * chunks), totals = r.room(4 * digits);
  const std::string constants = fmt::format("constexpr u32 CHUNK = {}, DIGITS = {};\n", chunk, digits);
  const auto narrow = [](int64_t n) { return static_cast<uint32_t>(n); };
  const auto bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(greatest)));
  for (int shift = 0; shift < bits; shift += 8) {
    r.steps.emplace_back(constants + std::string(digit_text) + std::string(count_text), std::vector{from.keys, counts})
        .add(narrow(count))
        .add(narrow(shift))
        .add(narrow(chunks))
        .blocks_of(chunks, chunk);
    r.steps.emplace_back(constants + std::string(scan_text), std::vector{counts, totals})
        .add(narrow(chunks))
        .blocks_of(digits, 4 * digits);
    r.steps
        .emplace_back(constants + std::string(digit_text) + std::string(move_text),
                      std::vector{from.keys, from.order, counts, totals, to.keys, to.order})
        .add(narrow(count))
        .add(narrow(shift))
        .add(narrow(chunks))
        .blocks_of(chunks, 5 * chunk);
    std::swap(from, to);
  }
  return from;
}

Recipe by_destinations(const Sum& s) {
  // With an index for each element, all elements are sorted, each by its own place in the result.
  const int64_t count = s.per_element ? s.f.outer * s.count * s.f.inner : s.count;
  const int64_t destinations = s.per_element ? s.results() : s.f.extent;
  const Fold f = s.per_element ? Fold{1, s.results(), 1} : s.f;
  Recipe r;
  const Sorted plain{r.room(4 * count), r.room(4 * count)};
  r.steps
      .emplace_back(index_text(false) + s.indices() + std::string(key_text),
                    std::vector{operand(1), error_word, plain.keys, plain.order})
      .divisor(s.f.inner, false)
      .divisor(s.count * s.f.inner, false)
      .add_index(count, false)
      .add(s.f.extent)
      .add(destinations)
      .add(range_error(s.region, s.f.extent))
      .threads_for(count);
  const Sorted sorted = add_sort(r, plain, count, destinations);
  const Pointer starts = r.room(4 * (destinations + 1));
  r.steps.emplace_back(std::string(start_text), std::vector{sorted.keys, starts})
      .add(static_cast<uint32_t>(count))
      .add(destinations)
      .threads_for(destinations + 1);
  const bool wide = is_wide(s.results());
  r.steps
      .emplace_back(index_text(wide) + s.elements() + std::string(sum_text),
                    std::vector{operand(0), starts, sorted.order, operand(2)})
      .divisor(f.inner, wide)
      .divisor(f.extent, wide)
      .add_index(s.results(), wide)
      .add(count)
      .threads_for(s.results());
  return r;
}

Recipe sum_recipe(const Sum& s) {
  const bool countable = !is_wide(std::max({s.results(), s.count, s.region.operands[0].layout->numel}));
  if (s.count <= few_indices || s.f.outer * s.f.inner >= many_columns || !countable) return by_columns(s);
  return by_destinations(s);
}

}  // namespace

Recipe index_add_recipe(const Region& region, bool) {
  const Fold f = fold(region.operands[2].layout->shape(), region.attrs.as<ScatterAttrs>().axis);
  return sum_recipe({region, f, region.operands[1].layout->numel, false});
}

Recipe scatter_add_recipe(const Region& region, bool) {
  const int axis = static_cast<int>(region.attrs.as<ScatterAttrs>().axis);
  const Fold f = fold(region.operands[2].layout->shape(), axis);
  return sum_recipe({region, f, region.operands[1].layout->shape()[axis], true});
}

}  // namespace rp::cuda
