#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>

#include "reprise/core/device.h"
#include "reprise/core/dtype.h"

namespace rp {

inline constexpr int max_rank = 8;

/// Up to eight extents (or strides, or axes), held in place.
class Dims {
 public:
  constexpr Dims() = default;
  Dims(std::initializer_list<int64_t> dims) : Dims(std::span(dims.begin(), dims.size())) {}
  /// Throws if there are more than eight.
  Dims(std::span<const int64_t> dims);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return dims_[axis]; }
  int64_t& operator[](int axis) { return dims_[axis]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  int64_t back() const { return dims_[rank_ - 1]; }
  void push_back(int64_t d);
  void insert(int axis, int64_t d);
  void erase(int axis);
  bool operator==(const Dims&) const = default;

 private:
  std::array<int64_t, max_rank> dims_{};  // unused places stay zero: equality compares all of them
  int rank_ = 0;
};

using Shape = Dims;
using Strides = Dims;

/// Product of the extents. Throws if it does not fit in 63 bits or an extent is negative.
int64_t element_count(const Shape& shape);

/// "[2,3]".
std::string to_string(const Dims& dims);

/// What a shape rule sees: element type, extents and place of a value.
struct Spec {
  DType dtype = DType::f32;
  Shape shape;
  Device device;
  bool operator==(const Spec&) const = default;
};

/// "f32[2,3]"; "f32[2,3]@cuda:0" elsewhere than on the CPU.
std::string to_string(const Spec& spec);

/// A Spec with strides (in elements), interned: equal layouts are the same object, for the life of the process. So
/// comparing two tensors' metadata is comparing two pointers.
struct Layout {
  Spec spec;
  Strides strides;
  int64_t numel = 0;
  bool contiguous = false;         // row-major without gaps, or at most one element
  const Layout* packed = nullptr;  // the contiguous layout of the same spec

  DType dtype() const { return spec.dtype; }
  const Shape& shape() const { return spec.shape; }
  int rank() const { return spec.shape.rank(); }
  size_t bytes() const { return static_cast<size_t>(numel) * size_of(spec.dtype); }
};

/// The contiguous layout of a spec.
const Layout* intern(const Spec& spec);
const Layout* intern(const Spec& spec, const Strides& strides);

/// Row-major strides of a shape.
Strides packed_strides(const Shape& shape);

/// The axes from the slowest to the fastest, if the elements lie together without gaps or repetition, but not in
/// row-major order.
std::optional<Dims> memory_order(const Layout& layout);

/// Elements between the first and the one past the last that a layout can reach (strides are never negative).
int64_t extent_of(const Layout& layout);

}  // namespace rp
