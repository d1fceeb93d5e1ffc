#include <cmath>
#include <type_traits>

#include "reprise/backends/cpu/gemm_kernel.h"

namespace rp::gemm_detail {
namespace {

/// A vector without vector instructions.
template <class T>
struct Plain {
  using Element = T;
  static constexpr int64_t width = 32 / sizeof(T);
  static constexpr int tile_rows = 6, panel_vectors = 2;
  struct Reg {
    T lanes[width];
  };

  static int64_t mask(int64_t count) { return count; }
  static Reg zero() { return {}; }
  static Reg load(const T* p) { return load(p, width); }
  static Reg load(const T* p, int64_t count) {
    Reg r{};
    for (int64_t i = 0; i < count; i++) r.lanes[i] = p[i];
    return r;
  }
  static void store(T* p, const Reg& r) { store(p, r, width); }
  static void store(T* p, const Reg& r, int64_t count) {
    for (int64_t i = 0; i < count; i++) p[i] = r.lanes[i];
  }
  static Reg splat(const T* p) {
    Reg r;
    for (T& lane : r.lanes) lane = *p;
    return r;
  }
  static Reg fma(const Reg& a, const Reg& b, Reg c) {
    for (int64_t i = 0; i < width; i++) c.lanes[i] = fma(a.lanes[i], b.lanes[i], c.lanes[i]);
    return c;
  }
  static Reg add(Reg a, const Reg& b) {
    for (int64_t i = 0; i < width; i++) a.lanes[i] = add(a.lanes[i], b.lanes[i]);
    return a;
  }
  static void transpose(const T* from, int64_t from_row, T* to, int64_t to_row) {
    for (int64_t i = 0; i < width; i++)
      for (int64_t j = 0; j < width; j++) to[j * to_row + i] = from[i * from_row + j];
  }

 private:
  static T add(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      return a + b;
    } else {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    }
  }
  static T fma(T a, T b, T c) {
    if constexpr (std::is_floating_point_v<T>) {
      return std::fma(a, b, c);
    } else {
      using U = std::make_unsigned_t<T>;
      return static_cast<T>(static_cast<U>(a) * static_cast<U>(b) + static_cast<U>(c));
    }
  }
};

}  // namespace

template <class T>
const Kernels<T>* portable_kernels() {
  return &kernels_of<Plain<T>>;
}
template const Kernels<float>* portable_kernels();
template const Kernels<double>* portable_kernels();
template const Kernels<int32_t>* portable_kernels();
template const Kernels<int64_t>* portable_kernels();

}  // namespace rp::gemm_detail
