#pragma once
// Element types. Of the floating ones f16 and bf16 are ways to store: elements are computed with as f32. Going back, a
// number is rounded to the nearest, to even between two; what is too large becomes infinite, what is small a subnormal
// number. A NaN keeps its sign and the leading bits of its payload, and is quiet.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace rp {

/// Element types, in the order of promotion (see `promoted`).
enum class DType : uint8_t { boolean, i32, i64, bf16, f16, f32, f64 };
inline constexpr int dtype_count = 7;

inline constexpr uint8_t dtype_sizes[dtype_count] = {1, 4, 8, 2, 2, 4, 8};
/// Bytes of one element.
constexpr size_t size_of(DType d) { return dtype_sizes[static_cast<int>(d)]; }

/// "bool", "i32", "i64", "bf16", "f16", "f32", "f64".
constexpr std::string_view name_of(DType d) {
  constexpr std::string_view names[dtype_count] = {"bool", "i32", "i64", "bf16", "f16", "f32", "f64"};
  return names[static_cast<int>(d)];
}

constexpr bool is_floating(DType d) { return d >= DType::bf16; }
/// Whether elements have 16 bits and are computed with as f32.
constexpr bool is_short(DType d) { return d == DType::bf16 || d == DType::f16; }

/// What elements are computed with.
constexpr DType widened(DType d) { return is_short(d) ? DType::f32 : d; }

/// The dtype that operands of both are converted to: the later one, but f32 for bf16 and f16.
constexpr DType promoted(DType a, DType b) {
  if (is_short(a) && is_short(b) && a != b) return DType::f32;
  return a > b ? a : b;
}

// ---- 16-bit floats ----

/// The bits of the f16 (IEEE binary16) nearest to x.
constexpr uint16_t f16_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
  if (size > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (size >> 13 & 0x3ff));
  if (size >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
  if (size >= 0x38800000)                                               // normal
    return static_cast<uint16_t>(sign | ((size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13));
  // In the sum the last bit stands for 2^-24, the least subnormal number.
  return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000));
}

/// The value of an f16.
constexpr float f16_value(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, size = bits & 0x7fffu;
  if (size > 0x7c00) return std::bit_cast<float>(sign | 0x7fc00000 | size << 13);
  if (size == 0x7c00) return std::bit_cast<float>(sign | 0x7f800000);
  if (size >= 0x400) return std::bit_cast<float>(sign | ((size << 13) + 0x38000000));
  const float value = static_cast<float>(size) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

/// The bits of the bf16 (the upper half of an f32) nearest to x.
constexpr uint16_t bf16_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// The value of a bf16.
constexpr float bf16_value(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

/// An element of a tensor of dtype f16.
struct Half {
  uint16_t bits = 0;
  constexpr Half() = default;
  constexpr explicit Half(float x) : bits(f16_bits(x)) {}
  constexpr operator float() const { return f16_value(bits); }
};

/// An element of a tensor of dtype bf16.
struct BFloat16 {
  uint16_t bits = 0;
  constexpr BFloat16() = default;
  constexpr explicit BFloat16(float x) : bits(bf16_bits(x)) {}
  constexpr operator float() const { return bf16_value(bits); }
};

template <class T>
constexpr bool is_float16 = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

/// What elements of type T are computed in.
template <class T>
using Computed = std::conditional_t<is_float16<T>, float, T>;

// ---- their C++ types ----

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, bool>)
    return DType::boolean;
  else if constexpr (std::is_same_v<T, int32_t>)
    return DType::i32;
  else if constexpr (std::is_integral_v<T> && sizeof(T) == 8)
    return DType::i64;
  else if constexpr (std::is_same_v<T, BFloat16>)
    return DType::bf16;
  else if constexpr (std::is_same_v<T, Half>)
    return DType::f16;
  else if constexpr (std::is_same_v<T, float>)
    return DType::f32;
  else {
    static_assert(std::is_same_v<T, double>, "no tensor has this element type");
    return DType::f64;
  }
}

/// Calls `f(T{})` with the C++ type of `d`.
template <class F>
decltype(auto) visit_dtype(DType d, F&& f) {
  switch (d) {
    case DType::boolean:
      return f(bool{});
    case DType::i32:
      return f(int32_t{});
    case DType::i64:
      return f(int64_t{});
    case DType::bf16:
      return f(BFloat16{});
    case DType::f16:
      return f(Half{});
    case DType::f32:
      return f(float{});
    case DType::f64:
      break;
  }
  return f(double{});
}

}  // namespace rp
