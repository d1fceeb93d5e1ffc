#pragma once
// Arrays of any dtype to call a backend's kernels with.
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "reprise/backends/cpu/threads.h"
#include "reprise/core/backend.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/test/catch.h"

namespace rp::test {

struct Array {
  const Layout* layout;
  std::vector<std::byte> bytes;

  Array(DType dtype, const Shape& shape) : layout(intern(Spec{dtype, shape, {}})), bytes(layout->bytes()) {}
  View view() { return {bytes.data(), layout}; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(bytes.data());
  }
  int64_t size() const { return layout->numel; }
  double at(int64_t i) const {
    return visit_dtype(layout->dtype(),
                       [&]<class T>(T) { return static_cast<double>(reinterpret_cast<const T*>(bytes.data())[i]); });
  }
  void set(int64_t i, double v) {
    visit_dtype(layout->dtype(), [&]<class T>(T) { as<T>()[i] = static_cast<T>(v); });
  }
};

inline std::mt19937& random_bits() {
  static std::mt19937 r(7);
  return r;
}

inline Array random(DType dtype, const Shape& shape) {
  Array a(dtype, shape);
  for (int64_t i = 0; i < a.size(); ++i)
    a.set(i, is_floating(dtype) ? std::uniform_real_distribution<>(-1, 1)(random_bits())
                                : std::uniform_int_distribution<>(dtype == DType::boolean ? 0 : -9,
                                                                  dtype == DType::boolean ? 1 : 9)(random_bits()));
  return a;
}

inline Array indices(DType dtype, const Shape& shape, int extent) {
  Array a(dtype, shape);
  for (int64_t i = 0; i < a.size(); ++i) a.set(i, std::uniform_int_distribution<>(0, extent - 1)(random_bits()));
  return a;
}

/// Runs a kernel into memory that was filled with rubbish, with one thread and with two: the bits must be the same.
inline Array run(Kernel kernel, std::vector<Array*> inputs, DType dtype, const Shape& shape, const Attrs& attrs) {
  const Op op{.name = "tested", .kind = Kind::kernel};
  std::vector<View> views;
  for (Array* a : inputs) views.push_back(a->view());
  Array first(dtype, shape), second(dtype, shape);
  const int before = thread_count();
  for (Array* result : {&first, &second}) {
    std::fill(result->bytes.begin(), result->bytes.end(),
              std::byte{dtype == DType::boolean ? uint8_t{1} : uint8_t{0x5A}});
    set_thread_count(result == &first ? 1 : 2);
    kernel({op, views, result->view(), attrs, Scalars{}});
  }
  set_thread_count(before);
  CHECK(first.bytes == second.bytes);
  return first;
}

/// Largest deviation allowed after a sum of `terms` products of numbers up to one.
inline void check_close(const Array& got, const std::vector<double>& wanted, double terms) {
  const DType dtype = got.layout->dtype();
  const double tolerance = !is_floating(dtype) ? 0 : (dtype == DType::f32 ? 2e-7 : 1e-15) * (4 + terms);
  double worst = 0;
  REQUIRE(static_cast<size_t>(got.size()) == wanted.size());
  for (int64_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(got.at(i) - wanted[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : 1e9;
  }
  CHECK(worst <= tolerance);
}

}  // namespace rp::test
