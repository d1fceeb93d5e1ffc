#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace rp {

/// Element types. Their order is the order of promotion.
enum class DType : uint8_t { boolean, i32, i64, f32, f64 };
inline constexpr int dtype_count = 5;

inline constexpr uint8_t dtype_sizes[dtype_count] = {1, 4, 8, 4, 8};
/// Bytes of one element.
constexpr size_t size_of(DType d) { return dtype_sizes[static_cast<int>(d)]; }

/// "bool", "i32", "i64", "f32", "f64".
constexpr std::string_view name_of(DType d) {
  constexpr std::string_view names[dtype_count] = {"bool", "i32", "i64", "f32", "f64"};
  return names[static_cast<int>(d)];
}

constexpr bool is_floating(DType d) { return d >= DType::f32; }

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, bool>)
    return DType::boolean;
  else if constexpr (std::is_same_v<T, int32_t>)
    return DType::i32;
  else if constexpr (std::is_integral_v<T> && sizeof(T) == 8)
    return DType::i64;
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
    case DType::f32:
      return f(float{});
    case DType::f64:
      break;
  }
  return f(double{});
}

}  // namespace rp
