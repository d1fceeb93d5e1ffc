// What kernels read like, and that the device's own compiler takes them and keeps all but a few words in registers.
#include <fmt/format.h>
#include <regex>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/kernel_text.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/core/error.h"
#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_ptxas.h"
#include "reprise/test/cuda_twin.h"

using namespace rp;
using namespace rp::test;
using Catch::Matchers::Contains;

namespace {

// The text of the only kernel that a function's replay makes, from where `part` begins.
std::string text_of(const Tensors& inputs, const std::function<Tensors(const Tensors&)>& f, std::string_view part) {
  fake::Device gpu;
  auto captured = capture([&](const Tensors& in) { return f(in); });
  ModeGuard guard(Mode::graph);
  captured(inputs);
  Twins twins;
  captured(inputs);
  REQUIRE(twins.texts().size() == 1);
  const std::string& text = *twins.texts().begin();
  REQUIRE(text.find(part) != std::string::npos);
  return "\n" + text.substr(text.find(part));
}

std::string element(ProgramBuilder& b) {
  cuda::ElementText how;
  how.load = [](int k) { return fmt::format("x{}", k); };
  how.store = [](int k, const std::string& value) { return fmt::format("y{} = {};", k, value); };
  how.accumulate = [](int k, const std::string& value) { return fmt::format("add(a{}, {});", k, value); };
  how.index = "i";
  how.scalars = "s";
  return "\n" + cuda::element_text(b.take(), how);
}

constexpr const char* map_text = R"(
struct Args {
  const f32* x0;
  const f32* x1;
  f32* y2;
  u64 count;
  Scalars<1> scalars;
};

__device__ __forceinline__ void element(const u64* scalars, f32 x0, f32 x1, f32& y2) {
  const f32 v1 = f32_of((u32)scalars[0]);
  const f32 v2 = x0 * v1;
  const f32 v4 = v2 + x1;
  y2 = v4;
}

extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  u64 scalars[1];
  args.scalars.get(scalars);
  for (u64 first = (u64)blockIdx.x * 2048 + threadIdx.x * 4; first < args.count; first += (u64)gridDim.x * 2048) {
    if (first + 1028 <= args.count) {
      Vector<f32, 4> x0[2];
      Vector<f32, 4> x1[2];
      Vector<f32, 4> y2[2];
#pragma unroll
      for (u32 u = 0; u < 2; ++u) {
        x0[u] = load_vector<4>(args.x0 + first + u * 1024);
        x1[u] = load_vector<4>(args.x1 + first + u * 1024);
      }
#pragma unroll
      for (u32 u = 0; u < 2; ++u) {
#pragma unroll
        for (u32 e = 0; e < 4; ++e)
          element(scalars, x0[u][e], x1[u][e], y2[u][e]);
      }
#pragma unroll
      for (u32 u = 0; u < 2; ++u) {
        store_vector(args.y2 + first + u * 1024, y2[u]);
      }
    } else {
#pragma unroll 1
      for (u32 k = 0; k < 8; ++k) {
        const u64 i = first + k / 4 * 1024 + k % 4;
        if (i >= args.count) break;
        f32 y2;
        element(scalars, args.x0[i], args.x1[i], y2);
        args.y2[i] = y2;
      }
    }
  }
}
)";

constexpr const char* rows_text = R"(
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const u32 lane = threadIdx.x % 16;
  for (Index first = (Index)blockIdx.x * 16; first < args.rows; first += (Index)gridDim.x * 16) {
    const bool inside = first + threadIdx.x / 16 < args.rows;  // whole warps take part in shuffles
    const Index row = inside ? first + threadIdx.x / 16 : args.rows - 1;
    const u32 columns = inside ? args.columns : 0;
    const f32* x0_at = args.x0 + (i64)row * args.x0_steps[0];
    f32* y1_at = args.y1 + (i64)row * args.y1_steps[0];
    f32 row0;
    f32 x0[3];
    {
      f32 max0 = Max::identity<f32>();
#pragma unroll
      for (u32 u = 0; u < 3; ++u) {
        const u32 column = u * 16 + lane;
        if (column < columns) {
          x0[u] = x0_at[column];
        }
      }
#pragma unroll
      for (u32 u = 0; u < 3; ++u) {
        const u32 column = u * 16 + lane;
        if (column < columns) {
          f32 max0_next;
          stage0(x0[u], max0_next);
          max0 = Max::of(max0, max0_next);
        }
      }
      row0 = combine_lanes<Max>(max0);
    }
    {
#pragma unroll
      for (u32 u = 0; u < 3; ++u) {
        const u32 column = u * 16 + lane;
        if (column < columns) {
          f32 y1;
          stage1(x0[u], row0, y1);
          y1_at[column] = y1;
        }
      }
    }
  }
}
)";

constexpr const char* long_rows_text = R"(
    {
      f32* max0_parts = (f32*)(shared + args.parts);
      for (Index from = 0; from < args.columns; from += args.chunk) {
        const Index to = from + args.chunk < args.columns ? from + args.chunk : args.columns;
        const f32* max0_values = x0_all + from;
        for (Index column = from + threadIdx.x * 4; column < to; column += 1024) {
          Vector<f32, 4> x0;
          Vector<f32, 4> max0;
          x0 = load_vector<4>(x0_at + column);
#pragma unroll
          for (u32 e = 0; e < 4; ++e)
            stage0(x0[e], max0[e]);
          store_vector(x0_all + column, x0);
        }
        __syncthreads();
        combine_leaves<Max>(max0_values, to - from, max0_parts + from / 4096, 0, args.leaves_at_once);
        __syncthreads();
      }
      combine_parts<Max>(max0_parts, args.leaves);
      row0 = max0_parts[0];
    }
    {
      const Index from = 0, to = args.columns;
      for (Index column = from + threadIdx.x * 4; column < to; column += 1024) {
        Vector<f32, 4> x0;
        Vector<f32, 4> y1;
        x0 = load_vector<4>(x0_all + column);
#pragma unroll
        for (u32 e = 0; e < 4; ++e)
          stage1(x0[e], row0, y1[e]);
        store_vector(y1_at + column, y1);
      }
    }
  }
}
)";

constexpr const char* turned_text = R"(
    const u8* from = args.from + (i64)number * args.from_steps[0];
    u8* to = args.to + (i64)number * args.to_steps[0];
#pragma unroll
    for (u32 k = 0; k < 32; k += 8)
      if (row + x < args.rows && column + y + k < args.columns)
        tile[(y + k) * 33 + x] = from[(i64)(row + x) * from_row + (i64)(column + y + k) * from_column];
    __syncthreads();
#pragma unroll
    for (u32 k = 0; k < 32; k += 8)
      if (row + y + k < args.rows && column + x < args.columns)
        to[(i64)(row + y + k) * to_row + (i64)(column + x) * to_column] = tile[x * 33 + y + k];
    __syncthreads();
  }
}
)";

// Programs that give every kind of kernel, in every width.
void run_samples() {
  const auto samples = [](const Tensors& in) {
    const Tensor &x = in[0], &line = in[1];
    const Tensor centred = x - mean(x, {-1}, true);
    return Tensors{gelu(x * line) + 1.0,
                   where(x > 0.0, sin(x), pow(abs(x), line)),
                   softmax(x, -1),
                   log_softmax(x * line, -1),
                   layer_norm(x, line, line),
                   centred / sqrt(mean(centred * centred, {-1}, true) + 1e-5),
                   sum(x, {-1}) + max(x, {-1}) * min(x * 2.0, {-1}),
                   mean(x * x, {0}),
                   sum(exp(x), {0}) + max(x, {0}),
                   x.permute({1, 0}).contiguous(),
                   dropout(x, 0.5)};
  };
  for (DType d : {DType::f32, DType::f64})
    for (const auto& [rows, columns] : {std::pair{3, 10},
                                        {40, 61},
                                        {20, 200},
                                        {2000, 1000},
                                        {8, 4096},
                                        {2, 9001},
                                        {3, 24000},
                                        {1, 50000},
                                        {9000, 20},
                                        {20, 1}})
      if (d == DType::f32 || rows * columns < 100000)
        replay({normal({rows, columns}, 0, 1, d), normal({columns}, 0, 1, d)}, samples);
  replay({randint({40, 61}, 0, 9, DType::i32)}, [](const Tensors& in) {
    return Tensors{in[0] / 3 + remainder(in[0], 5), sum(in[0], {1}), max(in[0], {0}), equal(in[0], 4)};
  });
  replay({normal({77}), normal({4000}), normal({5})}, [](const Tensors& in) {
    for (const Tensor& t : in) t += t * t;
    return Tensors{};
  });
}

}  // namespace

TEST_CASE("statements of a program", "[cuda]") {
  ProgramBuilder b;
  const Value x = b.load(b.operand(DType::f32, Access::contiguous));
  const Value flag = b.load(b.operand(DType::boolean, Access::broadcast));
  const Value n = b.scalar(1, Type::i64);
  (void)(x * x);  // used by nothing
  const Value sum = fma(x, b.constant(-1.5, Type::f32), x), minus = -x;
  const Value y = select(flag, sum, minus);
  b.store(y, b.operand(DType::f32, Access::contiguous, true));
  b.store(y < x, b.operand(DType::boolean, Access::contiguous, true));
  b.store(n / b.convert(b.index(), Type::i64), b.operand(DType::i64, Access::contiguous, true));
  b.accumulate(max(y, b.bits(0xff800000, Type::f32)), Combine::max);
  CHECK(element(b) == R"(
const bool v1 = x1 != 0;
const i64 v2 = (i64)s[1];
const f32 v5 = fmaf(x0, -1.5f, x0);
const f32 v6 = -x0;
const f32 v7 = v1 ? v5 : v6;
y2 = v7;
const bool v9 = v7 < x0;
y3 = (u8)v9;
const i32 v11 = (i32)i;
const i64 v12 = (i64)v11;
const i64 v13 = wrap_div(v2, v12);
y4 = v13;
const f32 v16 = f32_of(0xff800000u) > v7 ? f32_of(0xff800000u) : v7;
add(a0, v16);
)");
}

TEST_CASE("the text of a map", "[cuda]") {
  CHECK(text_of(
            {normal({5000}), normal({5000})}, [](const Tensors& in) { return Tensors{in[0] * 2 + in[1]}; },
            "struct Args") == map_text);
}

TEST_CASE("the text of rows", "[cuda]") {
  const auto f = [](const Tensors& in) { return Tensors{in[0] - max(in[0], {1}, true)}; };
  CHECK(text_of({normal({5, 44})}, f, "extern") == rows_text);
  // As far as the long ones differ: the passes over a row.
  CHECK(text_of({normal({5, 2000})}, f, "    {\n      f32* max0_parts") == long_rows_text);
}

TEST_CASE("the text of a copy into another order", "[cuda]") {
  CHECK(text_of(
            {zeros({3, 70, 40}, DType::boolean)},
            [](const Tensors& in) { return Tensors{in[0].permute({0, 2, 1}).contiguous()}; },
            "    const u8* from") == turned_text);
}

TEST_CASE("shapes share a text", "[cuda]") {
  std::set<std::string> maps, rows;
  for (int64_t n : {1000, 2000, 3333})
    maps.insert(text_of(
        {normal({n, 64}), normal({64})}, [](const Tensors& in) { return Tensors{exp(in[0] + in[1])}; }, "struct"));
  CHECK(maps.size() == 1);
  for (int64_t n : {4096, 5000, 8000})
    rows.insert(text_of({normal({7, n})}, [](const Tensors& in) { return Tensors{softmax(in[0], -1)}; }, "struct"));
  CHECK(rows.size() == 1);
}

TEST_CASE("kernels stay in the registers of every architecture", "[cuda][slow]") {
  if (!compiler_is_there()) return;
  std::set<std::string> texts;
  for (bool wide : {false, true}) {
    fake::Device gpu;
    Twins twins(wide);
    run_samples();
    texts.insert(twins.texts().begin(), twins.texts().end());
  }
  CHECK(texts.size() > 100);
  for (const std::string& text : texts)
    for (int architecture : {80, 90, 100}) {
      const std::string log = ptxas_log(text, architecture);
      INFO("sm_" << architecture << "\n" << text << log);
      REQUIRE_THAT(log, Contains("Used "));
      CHECK(!Contains("warning").match(log));
      // Some of f64's functions are calls, which save registers and have tables, and so is what is rare in divisions
      // and roots. Others may have a few words aside where ptxas takes fewer registers than it could, for more threads.
      static const std::regex calling("sqrtf| v\\d+ = \\S+ / ");
      const int bound = Contains("f64").match(text) ? 64 : std::regex_search(text, calling) ? 32 : 16;
      CHECK(reported(log, "bytes stack frame") <= bound);
      CHECK(bytes_spilled(log) <= bound);
    }
}
