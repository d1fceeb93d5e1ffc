#pragma once
// What the recurrences compute, for Reprise's rows and for peers in C++. workload.py has it in words: values, cells,
// the order of their gates, what is timed and what is checked.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <numeric>
#include <string>
#include <vector>

namespace bench {

struct RecurrentSize {
  std::string name;
  int64_t batch, hidden, steps;  ///< as many inputs as hidden units
};

inline const std::vector<RecurrentSize>& recurrent_sizes() {
  static const std::vector<RecurrentSize> sizes = {{"b32-h256-t128", 32, 256, 128}, {"b1-h32-t100", 1, 32, 100}};
  return sizes;
}

struct RecurrentCell {
  std::string name;
  int64_t gates;
  bool has_layer;  ///< libraries have it as a layer
};

inline const std::vector<RecurrentCell>& recurrent_cells() {
  static const std::vector<RecurrentCell> cells = {
      {"rnn_tanh", 1, true}, {"lstm", 4, true}, {"gru", 3, true}, {"ligru", 2, false}, {"lnlstm", 4, false}};
  return cells;
}

/// A tensor of the workload with its values, row by row.
struct RecurrentTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

/// base + scale * v of the elements of tensor `id`, with v in [-1, 1).
inline std::vector<float> recurrent_values(uint32_t id, int64_t count, float scale = 1, float base = 0) {
  std::vector<float> values(static_cast<size_t>(count));
  for (uint32_t i = 0; float& value : values) {
    uint32_t h = i++ * 0x9E3779B1u + id * 0x85EBCA77u;
    h ^= h >> 15;
    h *= 0xC2B2AE3Du;
    h ^= h >> 13;
    const float v = static_cast<float>(h >> 8) / 8388608.0f - 1.0f;
    const float scaled = v * scale;
    value = base + scaled;
  }
  return values;
}

inline RecurrentTensor recurrent_input(const RecurrentSize& size) {
  return {"x", {size.steps, size.batch, size.hidden}, recurrent_values(0, size.steps * size.batch * size.hidden)};
}

inline std::vector<RecurrentTensor> recurrent_parameters(const RecurrentCell& cell, const RecurrentSize& size) {
  const int64_t hidden = size.hidden, width = cell.gates * hidden;
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(hidden)));
  std::vector<RecurrentTensor> all;
  auto add = [&](const char* name, uint32_t id, std::vector<int64_t> shape, float base = 0) {
    const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    all.push_back({name, std::move(shape), recurrent_values(id, count, scale, base)});
  };
  add("W", 1, {width, hidden});
  add("U", 2, {width, hidden});
  if (cell.name != "ligru") add("b", 3, {width});
  if (cell.name == "gru") add("c", 4, {width});
  if (cell.name == "lnlstm") {
    add("a", 5, {width}, 1);
    add("a2", 6, {hidden}, 1);
    add("b2", 7, {hidden});
  }
  return all;
}

}  // namespace bench
