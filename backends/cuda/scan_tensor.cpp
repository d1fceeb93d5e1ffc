#include "reprise/backends/cuda/scan_tensor.h"

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/kernel_text.h"

namespace rp::cuda {

// SPLIT warps share what a sum adds up, ACROSS stand side by side. Columns of the factor are the rows of mma's left
// operand, rows of the batch the columns of its right one. What is added up is permuted in the same way in both: the
// four lanes of a row have 8 neighbours each of 32, for two steps of 16.
constexpr std::string_view scan_tensor_pieces = R"text(
constexpr u32 HIGH = ROWS / 8;

// Behind the last column come 32 zeros: what stands there is multiplied by zeros.
template <class T, u32 COUNT, u32 COLUMNS, u32 PITCH>
__device__ __forceinline__ void clear_behind(T* rows) {
  for (u32 e = threadIdx.x; e < COUNT * (PITCH - COLUMNS); e += THREADS)
    rows[e / (PITCH - COLUMNS) * PITCH + COLUMNS + e % (PITCH - COLUMNS)].bits = 0;
}

// The row of the slice that is column n of a tile. A thread that forms its sums alone finds in each tile two of its own.
__device__ __forceinline__ u32 row_of_tile(u32 tile, u32 n) {
  return SPLIT == 1 ? n / 2 * EACH + tile * 2 + n % 2 : tile * 8 + n;
}

// A factor as a warp multiplies by it: its octets of columns, two in a tile. Octet o is that of group o % GROUPS.
template <class T, u32 INNER, u32 GROUPS, u32 LANES, u32 UNITS>
struct TiledFactor {
  static constexpr u32 OCTETS = (LANES + 7) / 8 * GROUPS;
  static constexpr u32 OWN = SPLIT == 1 ? GROUPS : (OCTETS + ACROSS - 1) / ACROSS, WIDE = (OWN + 1) / 2;
  static constexpr u32 PIECES = (INNER + 31) / 32, TURNS = (PIECES + SPLIT - 1) / SPLIT, FRAGMENTS = WIDE * TURNS * 2;
  static constexpr u32 PARTIAL = (LANES + 7) / 8 * 8 + 4;

  uint4 kept[KEPT ? FRAGMENTS : 1];
  uint4* stored;

  __device__ __forceinline__ static u32 across() { return threadIdx.x / 32 % ACROSS; }
  __device__ __forceinline__ static u32 split() { return threadIdx.x / 32 / ACROSS; }

  // Two elements of a column, k and k + 1.
  __device__ __forceinline__ static u32 pair(const f32* from, i64 row, i64 column, u32 first, u32 number, u32 k) {
    const u32 octet = across() * OWN + number, place = first + octet / GROUPS * 8 + threadIdx.x % 32 / 4;
    const u32 unit = place < UNITS ? place : UNITS - 1;
    const f32* const of_column = from + (i64)(octet % GROUPS * UNITS + unit) * column;
    u32 bits = 0;
#pragma unroll
    for (u32 i = 0; i < 2; ++i)
      if (number < OWN && octet < OCTETS && k + i < INNER)
        bits |= (u32)Wide<T>::back(of_column[(k + i) * row]).bits << (16 * i);
    return bits;
  }

  // `room` is for FRAGMENTS of each thread, if they are not kept.
  __device__ __forceinline__ void take(const f32* from, i64 row, i64 column, u32 first, char* room) {
    stored = (uint4*)room + threadIdx.x;
#pragma unroll (KEPT ? FRAGMENTS : 1)
    for (u32 f = 0; f < FRAGMENTS; ++f) {
      const u32 wide = f / 2 % WIDE, turn = f / 2 / WIDE;
      const u32 k = (turn * SPLIT + split()) * 32 + threadIdx.x % 4 * 8 + f % 2 * 4;
      uint4 a;
      a.x = pair(from, row, column, first, wide * 2, k);
      a.y = pair(from, row, column, first, wide * 2 + 1, k);
      a.z = pair(from, row, column, first, wide * 2, k + 2);
      a.w = pair(from, row, column, first, wide * 2 + 1, k + 2);
      if (KEPT)
        kept[KEPT ? f : 0] = a;
      else
        stored[f * THREADS] = a;
    }
  }

  __device__ __forceinline__ uint4 fragment(u32 f) const {
    uint4 a = KEPT ? kept[KEPT ? f : 0] : stored[f * THREADS];
    if (f / 2 % WIDE * 2 + 1 >= OWN) a.y = a.w = 0;
    return a;
  }

  template <u32 PITCH>
  __device__ __forceinline__ void add_products(const T* rows, f32 (&sums)[WIDE][HIGH][4]) const {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 i = 0; i < WIDE * HIGH * 4; ++i) sums[i / 4 / HIGH][i / 4 % HIGH][i % 4] = 0;
#pragma unroll (KEPT ? TURNS : 2)
    for (u32 turn = 0; turn < TURNS; ++turn) {
      const u32 piece = turn * SPLIT + split();
      if (PIECES % SPLIT && piece >= PIECES) continue;
#pragma unroll
      for (u32 tile = 0; tile < HIGH; ++tile) {
        const uint4 b = *(const uint4*)(rows + row_of_tile(tile, lane / 4) * PITCH + piece * 32 + lane % 4 * 8);
#pragma unroll
        for (u32 w = 0; w < WIDE; ++w) {
          multiply_tile<T>(sums[w][tile], fragment((turn * WIDE + w) * 2), b.x, b.y);
          multiply_tile<T>(sums[w][tile], fragment((turn * WIDE + w) * 2 + 1), b.z, b.w);
        }
      }
    }
  }

  // Straight into the sums of those whose units they are.
  template <u32 PITCH>
  __device__ __forceinline__ void multiply(const T* rows, f32 (&to)[GROUPS][EACH]) const {
    if (across() * OWN >= OCTETS) return;
    f32 sums[WIDE][HIGH][4];
    add_products<PITCH>(rows, sums);
#pragma unroll
    for (u32 g = 0; g < GROUPS; ++g)
#pragma unroll
      for (u32 j = 0; j < EACH; ++j) to[g][j] = sums[g / 2][j / 2][g % 2 * 2 + j % 2];
  }

  // This warp's share of the sums, beside those of others.
  template <u32 PITCH>
  __device__ __forceinline__ void multiply(const T* rows, f32* partial) const {
    if (across() * OWN >= OCTETS) return;
    const u32 lane = threadIdx.x % 32;
    f32 sums[WIDE][HIGH][4];
    add_products<PITCH>(rows, sums);
#pragma unroll
    for (u32 i = 0; i < WIDE * HIGH * 4; ++i) {
      const u32 w = i / 4 / HIGH, tile = i / 4 % HIGH, number = w * 2 + i % 4 / 2, octet = across() * OWN + number;
      if (number >= OWN || octet >= OCTETS) continue;
      partial[((split() * GROUPS + octet % GROUPS) * ROWS + row_of_tile(tile, lane % 4 * 2 + i % 2)) * PARTIAL +
              octet / GROUPS * 8 + lane / 4] = sums[w][tile][i % 4];
    }
  }

  __device__ __forceinline__ static void take_sums(const f32* partial, u32 lane, u32 strip, f32 (&to)[GROUPS][EACH]) {
#pragma unroll
    for (u32 g = 0; g < GROUPS; ++g)
#pragma unroll
      for (u32 j = 0; j < EACH; ++j) {
        to[g][j] = 0;
#pragma unroll
        for (u32 s = 0; s < SPLIT; ++s) to[g][j] += partial[((s * GROUPS + g) * ROWS + strip + j) * PARTIAL + lane];
      }
  }
};
)text";

std::string thread_text(const ScanChoice& choice) {
  if (choice.split == 1)
    return "const u32 lane = threadIdx.x / 32 * 8 + threadIdx.x % 32 / 4, strip = threadIdx.x % 4 * EACH;\n"
           "const bool works = lane < WIDTH;\n";
  return "const bool works = threadIdx.x < WIDTH * (ROWS / EACH);\n"
         "const u32 lane = threadIdx.x % WIDTH, strip = works ? threadIdx.x / WIDTH * EACH : 0;\n";
}

std::string factor_text(const ScanBody& body, const ScanChoice& choice, const ScanMemory& memory, size_t v) {
  const ScanValue& value = body.values[v];
  const ScanSpace& space = body.spaces[static_cast<size_t>(value.space)];
  const int64_t lanes = units_of_block(space, choice);
  const std::string type = c_type(value.dtype), place = fmt::format("shared + {}", memory.weights[v]);
  const std::string sizes = fmt::format("<{}, {}, {}, {}, {}>", c_type(choice.split ? value.numbers : value.dtype),
                                        value.inner, body.groups(value), lanes, space.units);
  const std::string from =
      fmt::format("(const {}*)args.operands[{}] + {}, {}, {}, {}", type, value.factor.operand, value.factor.offset,
                  value.factor.row, value.factor.column, space.everywhere() ? "0" : fmt::format("rank * {}", lanes));
  Text text;
  if (choice.split) {
    text.line("TiledFactor{} factor{};", sizes, v);
    text.line("factor{}.take({}, {});", v, from, place);
  } else {
    text.line("{0}* const factor{1} = ({0}*)({2});", type, v, place);
    text.line("take_factor{}({}, factor{});", sizes, from, v);
  }
  return text.take();
}

std::string tiles_text(const ScanBody& body, const ScanChoice& choice, const ScanMemory& memory, int level,
                       const std::function<std::string(size_t exchange)>& rows) {
  Text products, sums;
  for (size_t k = 0; k < body.values.size(); ++k) {
    const ScanValue& v = body.values[k];
    if (v.kind != ScanValue::Kind::product || v.level != level) continue;
    const auto e = static_cast<size_t>(body[v.reads[0].value].exchange);
    const std::string from = fmt::format("{} + {}", rows(e), v.reads[0].column),
                      partial = fmt::format("(f32*)(shared + {})", memory.partial[k]);
    const int64_t lanes = units_of_block(body.spaces[static_cast<size_t>(v.space)], choice);
    products.line("factor{}.multiply<{}>({}, {});", k, memory.exchanges[e].pitch, from,
                  choice.split == 1 ? fmt::format("n{}", k) : partial);
    if (choice.split > 1)
      sums.line("factor{}.take_sums({}, {}, strip, n{});", k, partial,
                lanes == choice.width ? "lane" : fmt::format("lane % {}", lanes), k);
  }
  // All warps' shares of the sums have to be there.
  const std::string shared = sums.take();
  if (!shared.empty()) products.line("__syncthreads();");
  return products.take() + shared;
}

}  // namespace rp::cuda
