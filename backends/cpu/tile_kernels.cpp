// Compiled once per instruction set, with RP_TILE_ISA naming it. Nothing here may instantiate an inline function that
// other files use as well: the linker would keep one copy, possibly the one for the newer processor.
#include "reprise/backends/cpu/tile_kernels.h"

#include <cmath>

#ifndef RP_TILE_ISA
#define RP_TILE_ISA baseline
#endif
#define RP_TEXT_OF(x) #x
#define RP_TEXT(x) RP_TEXT_OF(x)

namespace rp::tile {
namespace RP_TILE_ISA {
namespace {

using Mask = uint32_t;

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = uint32_t;
};
template <>
struct BitsOf<int32_t> {
  using type = uint32_t;
};
template <>
struct BitsOf<Mask> {
  using type = uint32_t;
};
template <>
struct BitsOf<double> {
  using type = uint64_t;
};
template <>
struct BitsOf<int64_t> {
  using type = uint64_t;
};
template <class T>
using Bits = typename BitsOf<T>::type;

template <class T>
constexpr int type_index = 0;
template <>
constexpr int type_index<double> = static_cast<int>(Type::f64);
template <>
constexpr int type_index<int32_t> = static_cast<int>(Type::i32);
template <>
constexpr int type_index<int64_t> = static_cast<int>(Type::i64);
template <>
constexpr int type_index<Mask> = static_cast<int>(Type::mask);

constexpr Mask mask_of(bool v) { return Mask{0} - Mask{v}; }

// ---- loops ----------------------------------------------------------------------------------------------------------

template <class Out, class A, auto f>
void map1(void* out, const void* a, const void*, const void*, uint64_t, int64_t n) {
  auto* __restrict o = static_cast<Out*>(out);
  auto* __restrict x = static_cast<const A*>(a);
  for (int64_t i = 0; i < n; i += block)
    for (int64_t k = i; k < i + block; ++k) o[k] = f(x[k]);
}

template <class Out, class A, auto f>
void map2(void* out, const void* a, const void* b, const void*, uint64_t, int64_t n) {
  auto* __restrict o = static_cast<Out*>(out);
  auto *x = static_cast<const A*>(a), *y = static_cast<const A*>(b);
  for (int64_t i = 0; i < n; i += block)
    for (int64_t k = i; k < i + block; ++k) o[k] = f(x[k], y[k]);
}

template <class Out, class A, class B, auto f>
void map3(void* out, const void* a, const void* b, const void* c, uint64_t, int64_t n) {
  auto* __restrict o = static_cast<Out*>(out);
  auto* x = static_cast<const A*>(a);
  auto *y = static_cast<const B*>(b), *z = static_cast<const B*>(c);
  for (int64_t i = 0; i < n; i += block)
    for (int64_t k = i; k < i + block; ++k) o[k] = f(x[k], y[k], z[k]);
}

template <class T, auto f>
void shift(void* out, const void* a, const void*, const void*, uint64_t imm, int64_t n) {
  auto* __restrict o = static_cast<T*>(out);
  auto* __restrict x = static_cast<const T*>(a);
  const int by = static_cast<int>(imm);
  for (int64_t i = 0; i < n; i += block)
    for (int64_t k = i; k < i + block; ++k) o[k] = f(x[k], by);
}

void call1(void* out, const void* a, const void*, const void*, uint64_t imm, int64_t n) {
  auto* f = reinterpret_cast<double (*)(double)>(imm);
  for (int64_t i = 0; i < n; ++i) static_cast<double*>(out)[i] = f(static_cast<const double*>(a)[i]);
}

void call2(void* out, const void* a, const void* b, const void*, uint64_t imm, int64_t n) {
  auto* f = reinterpret_cast<double (*)(double, double)>(imm);
  auto *x = static_cast<const double*>(a), *y = static_cast<const double*>(b);
  for (int64_t i = 0; i < n; ++i) static_cast<double*>(out)[i] = f(x[i], y[i]);
}

template <class T>
void fill(void* out, uint64_t bits, int64_t n) {
  auto* o = static_cast<T*>(out);
  for (int64_t i = 0; i < n; ++i) o[i] = static_cast<T>(bits);
}

void iota(void* out, uint64_t first, int64_t n) {
  auto* o = static_cast<uint32_t*>(out);
  for (int64_t i = 0; i < n; ++i) o[i] = static_cast<uint32_t>(first) + static_cast<uint32_t>(i);
}

void mask_from_bool(void* out, const void* in, int64_t n) {
  auto* __restrict o = static_cast<Mask*>(out);
  auto* __restrict x = static_cast<const uint8_t*>(in);
  for (int64_t i = 0; i < n; ++i) o[i] = mask_of(x[i] != 0);
}

void bool_from_mask(void* out, const void* in, int64_t n) {
  auto* __restrict o = static_cast<uint8_t*>(out);
  auto* __restrict x = static_cast<const Mask*>(in);
  for (int64_t i = 0; i < n; ++i) o[i] = static_cast<uint8_t>(x[i] & 1);
}

// ---- 16-bit floats --------------------------------------------------------------------------------------------------

uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
float f32_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// As f32, the nearest f16: in a sum with 0.5 the last bit stands for 2^-24, the least subnormal number.
uint32_t rounded_f16(uint32_t bits) {
  const uint32_t sign = bits & 0x80000000u, size = bits & 0x7fffffffu;
  const uint32_t normal = (size + 0xfff + (size >> 13 & 1)) & 0xffffe000u;
  const uint32_t small = bits_of((f32_of(size) + 0.5f) - 0.5f), nan = (size | 0x400000u) & 0xffffe000u;
  const uint32_t finite = size < 0x38800000u ? small : normal >= 0x47800000u ? 0x7f800000u : normal;
  return sign | (size > 0x7f800000u ? nan : finite);
}

uint32_t rounded_bf16(uint32_t bits) {
  const uint32_t number = bits + 0x7fff + (bits >> 16 & 1), nan = bits | 0x400000u;
  return ((bits & 0x7fffffffu) > 0x7f800000u ? nan : number) & 0xffff0000u;
}

template <uint32_t (*f)(uint32_t)>
void round_all(uint32_t* __restrict out, const uint32_t* __restrict in, int64_t n) {
  for (int64_t i = 0; i < n; i += block)
    for (int64_t k = i; k < i + block; ++k) out[k] = f(in[k]);
}

void round16(void* out, const void* a, const void*, const void*, uint64_t dtype, int64_t n) {
  const auto round = dtype == static_cast<uint64_t>(DType::f16) ? round_all<rounded_f16> : round_all<rounded_bf16>;
  round(static_cast<uint32_t*>(out), static_cast<const uint32_t*>(a), n);
}

void f32_from_f16(void* out, const void* in, int64_t n) {
  auto* __restrict o = static_cast<uint32_t*>(out);
  auto* __restrict x = static_cast<const uint16_t*>(in);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t sign = (x[i] & 0x8000u) << 16, size = x[i] & 0x7fffu;
    const uint32_t small = bits_of(static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f);
    const uint32_t finite = size < 0x400u ? small : (size << 13) + 0x38000000u;
    const uint32_t other = size > 0x7c00u ? 0x7fc00000u | size << 13 : 0x7f800000u;
    o[i] = sign | (size < 0x7c00u ? finite : other);
  }
}

void f16_from_f32(void* out, const void* in, int64_t n) {
  auto* __restrict o = static_cast<uint16_t*>(out);
  auto* __restrict x = static_cast<const uint32_t*>(in);
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t sign = x[i] >> 16 & 0x8000u, size = x[i] & 0x7fffffffu;
    const auto small = static_cast<uint32_t>(static_cast<int32_t>(f32_of(size < 0x38800000u ? size : 0u) * 0x1p24f));
    const uint32_t finite = size < 0x38800000u ? small : (size - 0x38000000u) >> 13;
    const uint32_t other = 0x7c00u | (size >> 13 & 0x3ffu);
    o[i] = static_cast<uint16_t>(sign | (size < 0x7f800000u ? finite : other));
  }
}

void f32_from_bf16(void* out, const void* in, int64_t n) {
  auto* __restrict o = static_cast<uint32_t*>(out);
  auto* __restrict x = static_cast<const uint16_t*>(in);
  for (int64_t i = 0; i < n; ++i) o[i] = static_cast<uint32_t>(x[i]) << 16;
}

void bf16_from_f32(void* out, const void* in, int64_t n) {
  auto* __restrict o = static_cast<uint16_t*>(out);
  auto* __restrict x = static_cast<const uint32_t*>(in);
  for (int64_t i = 0; i < n; ++i) o[i] = static_cast<uint16_t>(x[i] >> 16);
}

// ---- accumulators ---------------------------------------------------------------------------------------------------

template <class T>
T combine(Combine c, T r, T x) {
  switch (c) {
    case Combine::sum:
      if constexpr (static_cast<T>(0.5) != 0)
        return r + x;
      else
        return static_cast<T>(static_cast<Bits<T>>(r) + static_cast<Bits<T>>(x));
    case Combine::max:
      return x != x ? x : (x > r ? x : r);
    case Combine::min:
      return x != x ? x : (x < r ? x : r);
    case Combine::product:
      break;
  }
  if constexpr (static_cast<T>(0.5) != 0)
    return r * x;
  else
    return static_cast<T>(static_cast<Bits<T>>(r) * static_cast<Bits<T>>(x));
}

template <class T, Combine c>
void into_lanes(void* accumulator, const void* values, int64_t n) {
  auto* x = static_cast<const T*>(values);
  auto* r = static_cast<T*>(accumulator);
  T sum[lanes];
  for (int k = 0; k < lanes; ++k) sum[k] = r[k];
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int k = 0; k < lanes; ++k) sum[k] = combine<T>(c, sum[k], x[i + k]);
  for (int k = 0; i + k < n; ++k) sum[k] = combine<T>(c, sum[k], x[i + k]);
  for (int k = 0; k < lanes; ++k) r[k] = sum[k];
}

template <class T, Combine c>
void into_columns(void* accumulator, const void* values, int64_t n) {
  auto* __restrict x = static_cast<const T*>(values);
  auto* __restrict r = static_cast<T*>(accumulator);
  int64_t i = 0;
  for (; i + block <= n; i += block)
    for (int64_t k = i; k < i + block; ++k) r[k] = combine<T>(c, r[k], x[k]);
  for (; i < n; ++i) r[i] = combine<T>(c, r[i], x[i]);
}

// ---- the table ------------------------------------------------------------------------------------------------------

template <class T, auto f>
constexpr Compute unary = map1<T, T, f>;
template <class T, auto f>
constexpr Compute binary = map2<T, T, f>;
template <class T, auto f>
constexpr Compute compare = map2<Mask, T, f>;

struct Builder {
  Kernels k;

  template <class T>
  Compute& at(Ir op) {
    return k.compute[static_cast<int>(op)][type_index<T>];
  }

  template <class T>
  void add_float() {
    at<T>(Ir::add) = binary<T, [](T a, T b) { return a + b; }>;
    at<T>(Ir::sub) = binary<T, [](T a, T b) { return a - b; }>;
    at<T>(Ir::mul) = binary<T, [](T a, T b) { return a * b; }>;
    at<T>(Ir::div) = binary<T, [](T a, T b) { return a / b; }>;
    constexpr bool single = sizeof(T) == 4;
    at<T>(Ir::fma) =
        map3<T, T, T, [](T a, T b, T c) { return single ? T(__builtin_fmaf(a, b, c)) : T(__builtin_fma(a, b, c)); }>;
    at<T>(Ir::sqrt) = unary<T, [](T a) { return single ? T(__builtin_sqrtf(a)) : T(__builtin_sqrt(a)); }>;
    at<T>(Ir::floor) = unary<T, [](T a) { return single ? T(__builtin_floorf(a)) : T(__builtin_floor(a)); }>;
    at<T>(Ir::ceil) = unary<T, [](T a) { return single ? T(__builtin_ceilf(a)) : T(__builtin_ceil(a)); }>;
    at<T>(Ir::trunc) = unary<T, [](T a) { return single ? T(__builtin_truncf(a)) : T(__builtin_trunc(a)); }>;
    at<T>(Ir::nearest) = unary<T, [](T a) { return single ? T(__builtin_nearbyintf(a)) : T(__builtin_nearbyint(a)); }>;
    using U = Bits<T>;
    constexpr U sign = U{1} << (8 * sizeof(U) - 1);
    at<T>(Ir::neg) = unary<U, [](U a) { return a ^ sign; }>;
    at<T>(Ir::abs) = unary<U, [](U a) { return a & ~sign; }>;
  }

  template <class T>
  void add_integer() {
    using U = Bits<T>;
    at<T>(Ir::add) = binary<U, [](U a, U b) { return a + b; }>;
    at<T>(Ir::sub) = binary<U, [](U a, U b) { return a - b; }>;
    at<T>(Ir::mul) = binary<U, [](U a, U b) { return a * b; }>;
    at<T>(Ir::div) = binary<T, [](T a, T b) { return b == 0 ? T{0} : b == -1 ? T(U{0} - U(a)) : T(a / b); }>;
    at<T>(Ir::rem) = binary<T, [](T a, T b) { return b == 0 || b == -1 ? T{0} : T(a % b); }>;
    at<T>(Ir::neg) = unary<U, [](U a) { return U{0} - a; }>;
    at<T>(Ir::abs) = unary<T, [](T a) { return a < 0 ? T(U{0} - U(a)) : a; }>;
    at<T>(Ir::shl) = shift<U, [](U a, int by) { return a << by; }>;
    at<T>(Ir::shr) = shift<U, [](U a, int by) { return (a >> by); }>;
    at<T>(Ir::sar) = shift<T, [](T a, int by) { return T(a >> by); }>;
  }

  template <class T>
  void add_ordered() {
    at<T>(Ir::min) = binary<T, [](T a, T b) { return a < b ? a : b; }>;
    at<T>(Ir::max) = binary<T, [](T a, T b) { return (a > b) ? a : b; }>;
    at<T>(Ir::eq) = compare<T, [](T a, T b) { return mask_of(a == b); }>;
    at<T>(Ir::ne) = compare<T, [](T a, T b) { return mask_of(a != b); }>;
    at<T>(Ir::lt) = compare<T, [](T a, T b) { return mask_of(a < b); }>;
    at<T>(Ir::le) = compare<T, [](T a, T b) { return mask_of(a <= b); }>;
    at<T>(Ir::gt) = compare<T, [](T a, T b) { return mask_of(a > b); }>;
    at<T>(Ir::ge) = compare<T, [](T a, T b) { return mask_of(a >= b); }>;
  }

  template <class T>
  void add_bits() {
    using U = Bits<T>;
    at<T>(Ir::band) = binary<U, [](U a, U b) { return a & b; }>;
    at<T>(Ir::bor) = binary<U, [](U a, U b) { return a | b; }>;
    at<T>(Ir::bxor) = binary<U, [](U a, U b) { return a ^ b; }>;
    at<T>(Ir::andnot) = binary<U, [](U a, U b) { return ~a & b; }>;
    at<T>(Ir::select) = map3<U, Mask, U, [](Mask m, U a, U b) { return m ? a : b; }>;
  }

  template <class From, class To>
  static To converted(From x) {
    constexpr bool to_integer = static_cast<To>(0.5) == 0, from_float = static_cast<From>(0.5) != 0;
    if constexpr (to_integer && from_float) {
      constexpr To least = To(Bits<To>{1} << (8 * sizeof(To) - 1));
      constexpr From bound = -static_cast<From>(least);
      return x >= -bound && x < bound ? static_cast<To>(x) : least;
    } else {
      return static_cast<To>(x);
    }
  }

  template <class From, class To>
  void add_conversion() {
    Compute& c = k.convert[type_index<From>][type_index<To>];
    if constexpr (type_index<From> == type_index<To>)
      c = unary<Bits<From>, [](Bits<From> a) { return a; }>;
    else if constexpr (type_index<To> == type_index<Mask>)
      c = map1<Mask, From, [](From a) { return mask_of(a != 0); }>;
    else if constexpr (type_index<From> == type_index<Mask>)
      c = map1<To, Mask, [](Mask a) { return static_cast<To>(static_cast<int32_t>(a & 1)); }>;
    else
      c = map1<To, From, [](From a) { return converted<From, To>(a); }>;
  }

  template <class From>
  void add_conversions() {
    add_conversion<From, float>();
    add_conversion<From, double>();
    add_conversion<From, int32_t>();
    add_conversion<From, int64_t>();
    add_conversion<From, Mask>();
  }

  template <class T, Combine c>
  void add_gather() {
    k.lanes[static_cast<int>(c)][type_index<T>] = into_lanes<T, c>;
    k.columns[static_cast<int>(c)][type_index<T>] = into_columns<T, c>;
  }

  template <class T>
  void add_number() {
    add_ordered<T>();
    add_bits<T>();
    add_conversions<T>();
    add_gather<T, Combine::sum>();
    add_gather<T, Combine::max>();
    add_gather<T, Combine::min>();
    add_gather<T, Combine::product>();
  }

  Builder() {
    add_float<float>();
    add_float<double>();
    add_integer<int32_t>();
    add_integer<int64_t>();
    add_number<float>();
    add_number<double>();
    add_number<int32_t>();
    add_number<int64_t>();
    add_bits<Mask>();
    add_conversions<Mask>();
    at<int32_t>(Ir::mulhi) = binary<uint32_t, [](uint32_t a, uint32_t b) { return uint32_t(uint64_t{a} * b >> 32); }>;
    at<float>(Ir::round16) = round16;
    at<float>(Ir::call) = call1;  // by the number of arguments: `type` is always f64
    at<double>(Ir::call) = call2;
    k.mask_from_bool = rp::tile::RP_TILE_ISA::mask_from_bool;
    k.bool_from_mask = rp::tile::RP_TILE_ISA::bool_from_mask;
    k.f32_from_f16 = rp::tile::RP_TILE_ISA::f32_from_f16;
    k.f16_from_f32 = rp::tile::RP_TILE_ISA::f16_from_f32;
    k.f32_from_bf16 = rp::tile::RP_TILE_ISA::f32_from_bf16;
    k.bf16_from_f32 = rp::tile::RP_TILE_ISA::bf16_from_f32;
    k.fill4 = fill<uint32_t>;
    k.fill8 = fill<uint64_t>;
    k.iota = rp::tile::RP_TILE_ISA::iota;
    k.name = RP_TEXT(RP_TILE_ISA);
  }
};

}  // namespace

const Kernels& kernels() {
  static const Builder table;
  return table.k;
}

}  // namespace RP_TILE_ISA
}  // namespace rp::tile
