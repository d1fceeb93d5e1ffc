// The instructions of the loop IR, as the tile interpreter runs them, against plain C++.
#include "reprise/core/program.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "reprise/backends/cpu/tile.h"
#include "reprise/core/error.h"
#include "reprise/core/expr.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

const std::string_view isas[] = {"avx2", "baseline"};
struct Extent {
  int64_t rows, columns;
};
const Extent extents[] = {{1, 1},   {1, 7},   {3, 16},  {5, 33},   {37, 5}, {300, 1},
                          {2, 255}, {3, 256}, {2, 257}, {1, 1003}, {0, 4},  {4, 0}};

template <class T>
constexpr bool floating = std::is_floating_point_v<T>;

/// Values with many of the awkward ones among them.
template <class T>
std::vector<T> values(size_t n, unsigned seed) {
  std::mt19937_64 random(seed);
  using L = std::numeric_limits<T>;
  std::vector<T> out(n);
  for (auto&& v : out) {
    const uint64_t bits = random();
    if constexpr (std::is_same_v<T, bool>)
      v = bits & 1;
    else if constexpr (floating<T>) {
      const T awkward[] = {0,
                           T(-0.0),
                           1,
                           -1,
                           T(0.5),
                           T(-2.5),
                           L::infinity(),
                           -L::infinity(),
                           L::quiet_NaN(),
                           L::denorm_min(),
                           L::max(),
                           T(2147483648.0),
                           T(-2147483648.0),
                           T(9.3e18),
                           T(-9.3e18),
                           T(1e30)};
      v = bits % 3 == 0 ? awkward[(bits >> 8) % 16] : T(static_cast<int64_t>(bits >> 20) % 20001 - 10000) / T(64);
    } else {
      const T awkward[] = {0, 1, -1, 2, L::min(), L::max(), L::min() + 1, 7};
      v = bits % 3 == 0 ? awkward[(bits >> 8) % 8] : static_cast<T>(bits >> 13) % 1000;
      if (bits % 5 == 0) v = static_cast<T>(bits);
    }
  }
  return out;
}

template <class T>
bool same(T a, T b) {
  if constexpr (floating<T>)
    if (a != a || b != b) return a != a && b != b;
  return !std::memcmp(&a, &b, sizeof(T));
}

template <class T>
std::byte* bytes_of(std::vector<T>& v) {
  return reinterpret_cast<std::byte*>(v.data());
}

/// vector<bool> has no elements in memory.
template <class T>
struct Array {
  explicit Array(std::vector<T> v) : size(v.size()), data(new T[v.size() + 1]) {
    std::copy(v.begin(), v.end(), data.get());
  }
  std::byte* bytes() { return reinterpret_cast<std::byte*>(data.get()); }
  T& operator[](size_t i) { return data[i]; }
  size_t size;
  std::unique_ptr<T[]> data;
};

/// Runs `build(b, a0, a1, a2)` over all extents, with one operand dense, one with padded rows and one broadcast along
/// columns, and compares with `expected(a0, a1, a2)`.
template <class Out, class A, class B, class Build, class Expected>
void check(const char* what, Build build, Expected expected) {
  ProgramBuilder b;
  const int x = b.operand(dtype_of<A>(), Access::contiguous), y = b.operand(dtype_of<B>(), Access::contiguous);
  const int z = b.operand(dtype_of<B>(), Access::broadcast), o = b.operand(dtype_of<Out>(), Access::contiguous);
  const Value vx = b.load(x), vy = b.load(y), vz = b.load(z);
  b.store(build(vx, vy, vz), o);
  for (auto isa : isas)
    for (auto [rows, columns] : extents) {
      const int64_t pitch = columns + 3;
      Array<A> in0(values<A>(rows * columns, 1));
      Array<B> in1(values<B>(rows * pitch, 2)), in2(values<B>(rows, 3));
      Array<Out> out(std::vector<Out>(rows * columns));
      const TileProgramPtr program = decode(b.program(), isa);
      KernelArgs args{};
      std::byte* pointers[] = {in0.bytes(), in1.bytes(), in2.bytes(), out.bytes()};
      const size_t strides[] = {columns * sizeof(A), pitch * sizeof(B), sizeof(B), columns * sizeof(Out)};
      for (int k = 0; k < 4; ++k)
        args.pointers[k] = pointers[k], args.row_strides[k] = static_cast<int64_t>(strides[k]);
      args.rows = rows, args.columns = columns, args.context = program.get();
      run_tile(&args);
      int64_t wrong = 0;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          wrong += !same<Out>(out[r * columns + c], expected(in0[r * columns + c], in1[r * pitch + c], in2[r]));
      INFO(what << " " << name_of(dtype_of<A>()) << " to " << name_of(dtype_of<Out>()) << ", " << rows << " x "
                << columns << ", " << isa);
      CHECK(wrong == 0);
    }
}

auto binary(Ir op) {
  return [op](Value a, Value b, Value) { return a.builder->emit(op, a.type, a, b); };
}
auto unary(Ir op, uint64_t imm = 0) {
  return [op, imm](Value a, Value, Value) { return a.builder->emit(op, a.type, a, {}, {}, imm); };
}

template <class T, class F>
void check_binary(const char* what, Ir op, F f) {
  check<T, T, T>(what, binary(op), [f](T a, T b, T) { return static_cast<T>(f(a, b)); });
}
template <class T, class F>
void check_unary(const char* what, Ir op, F f, uint64_t imm = 0) {
  check<T, T, T>(what, unary(op, imm), [f](T a, T, T) { return static_cast<T>(f(a)); });
}
template <class T, class F>
void check_comparison(const char* what, Ir op, F f) {
  check<bool, T, T>(what, binary(op), [f](T a, T b, T) -> bool { return f(a, b); });
}

template <class T>
void check_ordered() {
  check_binary<T>("min", Ir::min, [](T a, T b) { return a < b ? a : b; });
  check_binary<T>("max", Ir::max, [](T a, T b) { return a > b ? a : b; });
  check_comparison<T>("eq", Ir::eq, [](T a, T b) { return a == b; });
  check_comparison<T>("ne", Ir::ne, [](T a, T b) { return a != b; });
  check_comparison<T>("lt", Ir::lt, [](T a, T b) { return a < b; });
  check_comparison<T>("le", Ir::le, [](T a, T b) { return a <= b; });
  check_comparison<T>("gt", Ir::gt, [](T a, T b) { return a > b; });
  check_comparison<T>("ge", Ir::ge, [](T a, T b) { return a >= b; });
  check<T, bool, bool>(
      "select", [](Value a, Value b, Value) { return select(a, a.builder->convert(b, type_of(dtype_of<T>())), 7.0); },
      [](bool a, bool b, bool) { return a ? T(b) : T(7); });
  check<T, T, T>(
      "select of comparison", [](Value a, Value b, Value c) { return select(a < b, c, a); },
      [](T a, T b, T c) { return a < b ? c : a; });
}

template <class T, class U>
void check_bits() {
  auto with = [](auto f) {
    return [f](T a, T b) { return std::bit_cast<T>(static_cast<U>(f(std::bit_cast<U>(a), std::bit_cast<U>(b)))); };
  };
  check_binary<T>("band", Ir::band, with([](U a, U b) { return a & b; }));
  check_binary<T>("bor", Ir::bor, with([](U a, U b) { return a | b; }));
  check_binary<T>("bxor", Ir::bxor, with([](U a, U b) { return a ^ b; }));
  check_binary<T>("andnot", Ir::andnot, with([](U a, U b) { return ~a & b; }));
}

template <class To, class From>
To converted(From v) {
  if constexpr (std::is_same_v<To, bool>)
    return v != 0;
  else if constexpr (floating<From> && !floating<To>) {
    const long double wide = v, bound = std::ldexp(1.0L, 8 * sizeof(To) - 1);
    return wide >= -bound && wide < bound ? static_cast<To>(v) : std::numeric_limits<To>::min();
  } else
    return static_cast<To>(v);
}

template <class From, class To>
void check_conversion() {
  check<To, From, bool>(
      "convert", [](Value a, Value, Value) { return a.builder->convert(a, type_of(dtype_of<To>())); },
      [](From a, bool, bool) { return converted<To>(a); });
  // the store converts as well
  check<To, From, bool>(
      "store", [](Value a, Value, Value) { return a; }, [](From a, bool, bool) { return converted<To>(a); });
}

template <class From>
void check_conversions() {
  check_conversion<From, bool>();
  check_conversion<From, int32_t>();
  check_conversion<From, int64_t>();
  check_conversion<From, float>();
  check_conversion<From, double>();
}

}  // namespace

TEMPLATE_TEST_CASE("float instructions", "[program]", float, double) {
  using T = TestType;
  check_binary<T>("add", Ir::add, [](T a, T b) { return a + b; });
  check_binary<T>("sub", Ir::sub, [](T a, T b) { return a - b; });
  check_binary<T>("mul", Ir::mul, [](T a, T b) { return a * b; });
  check_binary<T>("div", Ir::div, [](T a, T b) { return a / b; });
  check<T, T, T>(
      "fma", [](Value a, Value b, Value c) { return fma(a, b, c); }, [](T a, T b, T c) { return std::fma(a, b, c); });
  check_unary<T>("sqrt", Ir::sqrt, [](T a) { return std::sqrt(a); });
  check_unary<T>("floor", Ir::floor, [](T a) { return std::floor(a); });
  check_unary<T>("ceil", Ir::ceil, [](T a) { return std::ceil(a); });
  check_unary<T>("trunc", Ir::trunc, [](T a) { return std::trunc(a); });
  check_unary<T>("nearest", Ir::nearest, [](T a) { return std::nearbyint(a); });
  check_unary<T>("neg", Ir::neg, [](T a) { return -a; });
  check_unary<T>("abs", Ir::abs, [](T a) { return std::abs(a); });
  check_ordered<T>();
  check_bits<T, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>();
  check<T, T, T>(
      "max keeps NaN", [](Value a, Value b, Value) { return max(a, b); },
      [](T a, T b, T) { return a != a  ? a
                               : a > b ? a
                                       : b; });
  check<T, T, T>(
      "min with a constant", [](Value a, Value, Value) { return min(a, 0.5); },
      [](T a, T, T) { return a != a       ? a
                             : T(0.5) < a ? T(0.5)
                                          : a; });
}

TEMPLATE_TEST_CASE("integer instructions", "[program]", int32_t, int64_t) {
  using T = TestType;
  using U = std::make_unsigned_t<T>;
  check_binary<T>("add", Ir::add, [](T a, T b) { return U(a) + U(b); });
  check_binary<T>("sub", Ir::sub, [](T a, T b) { return U(a) - U(b); });
  check_binary<T>("mul", Ir::mul, [](T a, T b) { return U(a) * U(b); });
  check_binary<T>("div", Ir::div, [](T a, T b) { return b == 0 ? 0 : b == -1 ? T(0 - U(a)) : a / b; });
  check_binary<T>("rem", Ir::rem, [](T a, T b) { return b == 0 || b == -1 ? 0 : a % b; });
  check_unary<T>("neg", Ir::neg, [](T a) { return 0 - U(a); });
  check_unary<T>("abs", Ir::abs, [](T a) { return a < 0 ? 0 - U(a) : U(a); });
  check_unary<T>("shl", Ir::shl, [](T a) { return U(a) << 5; }, 5);
  check_unary<T>("shr", Ir::shr, [](T a) { return U(a) >> 5; }, 5);
  check_unary<T>("sar", Ir::sar, [](T a) { return a >> 5; }, 5);
  check_ordered<T>();
  check_bits<T, U>();
  if constexpr (sizeof(T) == 4)
    check_binary<T>("mulhi", Ir::mulhi, [](T a, T b) { return static_cast<T>(uint64_t{U(a)} * U(b) >> 32); });
}

TEST_CASE("mask instructions", "[program]") {
  check_binary<bool>("band", Ir::band, [](bool a, bool b) { return a && b; });
  check_binary<bool>("bor", Ir::bor, [](bool a, bool b) { return a || b; });
  check_binary<bool>("bxor", Ir::bxor, [](bool a, bool b) { return a != b; });
  check_binary<bool>("andnot", Ir::andnot, [](bool a, bool b) { return !a && b; });
  check<bool, bool, bool>("not", [](Value a, Value, Value) { return !a; }, [](bool a, bool, bool) { return !a; });
  check<bool, bool, bool>(
      "le", [](Value a, Value b, Value) { return a <= b; }, [](bool a, bool b, bool) { return a <= b; });
  check<bool, bool, bool>(
      "select", [](Value a, Value b, Value c) { return select(a, b, c); },
      [](bool a, bool b, bool c) { return a ? b : c; });
}

TEST_CASE("conversions and bitcasts", "[program]") {
  check_conversions<bool>();
  check_conversions<int32_t>();
  check_conversions<int64_t>();
  check_conversions<float>();
  check_conversions<double>();
  check<float, int32_t, bool>(
      "bitcast", [](Value a, Value, Value) { return a.builder->bitcast(a, Type::f32); },
      [](int32_t a, bool, bool) { return std::bit_cast<float>(a); });
  check<double, float, bool>(
      "bitcast, then convert",
      [](Value a, Value, Value) { return a.builder->convert(a.builder->bitcast(a, Type::i32), Type::f64); },
      [](float a, bool, bool) { return double(std::bit_cast<int32_t>(a)); });
  check<int64_t, double, bool>(
      "bitcast", [](Value a, Value, Value) { return a.builder->bitcast(a, Type::i64); },
      [](double a, bool, bool) { return std::bit_cast<int64_t>(a); });
}

TEST_CASE("index and scalars", "[program]") {
  for (auto [rows, columns] : extents) {
    ProgramBuilder b;
    const int o = b.operand(DType::i32, Access::contiguous), p = b.operand(DType::f64, Access::contiguous);
    b.store(select(b.scalar(2, Type::mask), b.index() + b.scalar(0, Type::i32), b.constant(0, Type::i32)), o);
    b.store(b.scalar(1, Type::f64), p);
    CHECK(b.program().scalars == 3);
    const TileProgramPtr program = decode(b.program());
    std::vector<int32_t> out(rows * columns + 1);
    std::vector<double> copies(rows * columns + 1);
    const uint64_t scalars[] = {static_cast<uint32_t>(-5), std::bit_cast<uint64_t>(0.1), 1};
    KernelArgs args{};
    args.pointers[0] = bytes_of(out), args.pointers[1] = bytes_of(copies);
    args.row_strides[0] = columns * 4, args.row_strides[1] = columns * 8;
    args.rows = rows, args.columns = columns, args.scalars = scalars, args.context = program.get();
    args.index = 0xFFFFFFF0u, args.index_row = 1000;
    run_tile(&args);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) {
        REQUIRE(out[r * columns + c] == static_cast<int32_t>(0xFFFFFFF0u + 1000u * r + c - 5));
        REQUIRE(copies[r * columns + c] == 0.1);
      }
  }
}

namespace {

template <class T>
T combined(Combine c, T r, T x) {
  using W = std::conditional_t<floating<T>, T, std::make_unsigned_t<std::conditional_t<floating<T>, int, T>>>;
  switch (c) {
    case Combine::sum:
      return T(W(r) + W(x));
    case Combine::product:
      return T(W(r) * W(x));
    case Combine::max:
      return x != x || x > r ? x : r;
    case Combine::min:
      break;
  }
  return x != x || x < r ? x : r;
}

template <class T>
void check_accumulators(bool column_form, Extent e, std::string_view isa) {
  const auto [rows, columns] = e;
  ProgramBuilder b;
  const Value x = b.load(b.operand(dtype_of<T>(), Access::contiguous));
  const Combine kinds[] = {Combine::sum, Combine::max, Combine::min, Combine::product};
  for (Combine c : kinds) b.accumulate(c == Combine::sum ? x + x : x, c);
  if (column_form) b.set_column_form();
  const TileProgramPtr program = decode(b.program(), isa);
  Array<T> in(values<T>(rows * columns, 5));
  const int64_t count = column_form ? columns : rows;
  std::vector<T> got[4], want[4];
  KernelArgs args{};
  for (int k = 0; k < 4; ++k) {
    got[k].assign(count * lanes + 1, T(k == 3));
    want[k] = got[k];
    args.accumulators[k] = bytes_of(got[k]);
  }
  args.pointers[0] = in.bytes(), args.row_strides[0] = columns * sizeof(T);
  args.accumulator_row_stride = lanes * sizeof(T);
  args.rows = rows, args.columns = columns, args.context = program.get();
  run_tile(&args);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      for (int k = 0; k < 4; ++k) {
        const T v = in[r * columns + c], term = k == 0 ? combined(Combine::sum, v, v) : v;
        T& to = want[k][column_form ? r % lanes * columns + c : r * lanes + c % lanes];
        to = combined(kinds[k], to, term);
      }
  for (int k = 0; k < 4; ++k)
    for (size_t i = 0; i < got[k].size(); ++i) {
      INFO(rows << " x " << columns << ", combine " << k << ", " << i << (column_form ? " columns" : " rows"));
      REQUIRE(same(got[k][i], want[k][i]));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("accumulators of both forms", "[program]", float, double, int32_t, int64_t) {
  for (auto isa : isas)
    for (const Extent& e : extents)
      for (bool column_form : {false, true}) check_accumulators<TestType>(column_form, e, isa);
}

TEST_CASE("operands in place, with negative and zero strides", "[program]") {
  ProgramBuilder b;
  const int x = b.operand(DType::f32, Access::contiguous), bias = b.operand(DType::f32, Access::contiguous);
  const int o = b.operand(DType::f32, Access::contiguous);
  b.store(b.load(x) * 2.0 + b.load(bias), o);
  const TileProgramPtr program = decode(b.program());
  for (auto [rows, columns] : extents) {
    if (!rows || !columns) continue;
    std::vector<float> a(rows * columns), offset(columns);
    for (size_t i = 0; i < a.size(); ++i) a[i] = float(i);
    for (int64_t c = 0; c < columns; ++c) offset[c] = float(100 * c);
    KernelArgs args{};
    auto* last = bytes_of(a) + (rows - 1) * columns * 4;  // from the last row upwards
    args.pointers[0] = last, args.pointers[1] = bytes_of(offset), args.pointers[2] = last;
    args.row_strides[0] = args.row_strides[2] = -columns * 4;
    args.rows = rows, args.columns = columns, args.context = program.get();
    run_tile(&args);
    for (size_t i = 0; i < a.size(); ++i) REQUIRE(a[i] == float(i) * 2 + float(100 * (i % columns)));
  }
}

TEST_CASE("a broadcast operand may be written: the last column wins", "[program]") {
  ProgramBuilder b;
  const Value x = b.load(b.operand(DType::i32, Access::contiguous));
  b.store(x, b.operand(DType::i32, Access::broadcast));
  const TileProgramPtr program = decode(b.program());
  std::vector<int32_t> in(5 * 9), out(5);
  for (int i = 0; i < 45; ++i) in[i] = i;
  KernelArgs args{};
  args.pointers[0] = bytes_of(in), args.pointers[1] = bytes_of(out);
  args.row_strides[0] = 36, args.row_strides[1] = 4;
  args.rows = 5, args.columns = 9, args.context = program.get();
  run_tile(&args);
  CHECK(out == std::vector<int32_t>{8, 17, 26, 35, 44});
}

TEST_CASE("a tile program runs in several threads at once", "[program]") {
  ProgramBuilder b;
  const int x = b.operand(DType::f32, Access::contiguous), o = b.operand(DType::f32, Access::contiguous);
  b.store(tanh(b.load(x)) + sigmoid(b.load(x)), o);
  const TileProgramPtr program = decode(b.program());
  const std::vector<float> in = values<float>(5000, 9);
  std::vector<float> out[4];
  std::vector<std::thread> threads;
  for (auto& result : out)
    threads.emplace_back([&] {
      result.resize(in.size());
      KernelArgs args{};
      args.pointers[0] = reinterpret_cast<std::byte*>(const_cast<float*>(in.data()));
      args.pointers[1] = bytes_of(result);
      args.rows = 1, args.columns = static_cast<int64_t>(in.size()), args.context = program.get();
      for (int i = 0; i < 20; ++i) run_tile(&args);
    });
  for (auto& t : threads) t.join();
  for (const auto& result : out) CHECK(!std::memcmp(result.data(), out[0].data(), result.size() * 4));
}
