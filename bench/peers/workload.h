#pragma once
// What a row computes, as it is told to everybody who computes it: a family and kind, options, and the tensors with
// their values. bench/README.md has the families; peers/serve.py makes the same values in Python bit for bit.
#include <cmath>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// A tensor of a workload: element i is base + scale * v(i) in f32, rounded to the dtype, or an i64 in [0, classes) if
/// there are classes.
struct Part {
  std::string name;
  std::vector<int64_t> shape;
  uint32_t id = 0;  ///< v differs from id to id
  float scale = 1, base = 0;
  int64_t classes = 0;
  bool linear = false;        ///< a weight [in, out]: whoever computes faster with [out, in] may keep it so
  std::string dtype = "f32";  ///< or bf16 or f16

  int64_t numel() const { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Part, name, shape, id, scale, base, classes, linear, dtype)

/// 32 bits that look random, of element i of the part with this id.
inline uint32_t noise(uint32_t id, uint32_t i) {
  uint32_t h = i * 0x9E3779B1u + id * 0x85EBCA77u;
  h ^= h >> 15;
  h *= 0xC2B2AE3Du;
  return h ^ (h >> 13);
}

/// In [-1, 1), exact in f32.
inline float unit_noise(uint32_t id, uint32_t i) { return static_cast<float>(noise(id, i) >> 8) / 8388608.0f - 1.0f; }

inline std::vector<float> float_values(const Part& part) {
  std::vector<float> values(static_cast<size_t>(part.numel()));
  for (uint32_t i = 0; float& value : values) {
    const float scaled = unit_noise(part.id, i++) * part.scale;
    value = part.base + scaled;
  }
  return values;
}

inline std::vector<int64_t> integer_values(const Part& part) {
  std::vector<int64_t> values(static_cast<size_t>(part.numel()));
  for (uint32_t i = 0; int64_t& value : values) value = (noise(part.id, i++) >> 8) % part.classes;
  return values;
}

struct Spec {
  std::string family, kind;
  nlohmann::json options = nlohmann::json::object();
  std::vector<Part> parts = {};

  /// Adds a tensor of values in [base - scale, base + scale).
  Part& add(std::string name, std::vector<int64_t> shape, double scale = 1, double base = 0) {
    parts.push_back({std::move(name), std::move(shape), static_cast<uint32_t>(parts.size()), static_cast<float>(scale),
                     static_cast<float>(base)});
    return parts.back();
  }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Spec, family, kind, options, parts)

/// What results are compared by: the root of the sum of squares, and the sum of products with noise, which tells the
/// order of the elements.
struct Digest {
  double norm = 0, dot = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Digest, norm, dot)

inline constexpr uint32_t digest_id = 4242;

inline Digest digest(const float* values, int64_t count) {
  double squares = 0, dot = 0;
  for (int64_t i = 0; i < count; ++i) {
    squares += static_cast<double>(values[i]) * values[i];
    dot += static_cast<double>(values[i]) * unit_noise(digest_id, static_cast<uint32_t>(i));
  }
  return {std::sqrt(squares), dot};
}

}  // namespace bench
