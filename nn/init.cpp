#include "reprise/nn/init.h"

#include <cmath>

#include "reprise/core/fail.h"
#include "reprise/core/ops.h"

namespace rp {
namespace {

/// Makes the `rows` vectors of length `columns` orthogonal and of length 1. Two rounds: the second removes what
/// rounding left in the first.
void orthonormalise(std::vector<double>& m, int64_t rows, int64_t columns) {
  auto dot = [&](const double* a, const double* b) {
    double s = 0;
    for (int64_t i = 0; i < columns; ++i) s += a[i] * b[i];
    return s;
  };
  for (int64_t r = 0; r < rows; ++r) {
    double* row = &m[r * columns];
    for (int round = 0; round < 2; ++round) {
      for (int64_t k = 0; k < r; ++k) {
        const double* other = &m[k * columns];
        double s = dot(row, other);
        for (int64_t i = 0; i < columns; ++i) row[i] -= s * other[i];
      }
    }
    double length = std::sqrt(dot(row, row));
    for (int64_t i = 0; i < columns; ++i) row[i] /= length;
  }
}

}  // namespace

Fan fan_of(const Shape& shape) {
  if (shape.rank() < 2) fail("init: the fan of a weight needs two axes or more, got shape {}", to_string(shape));
  if (shape.rank() == 2) return {static_cast<double>(shape[0]), static_cast<double>(shape[1])};
  double window = 1;
  for (int i = 2; i < shape.rank(); ++i) window *= static_cast<double>(shape[i]);
  return {static_cast<double>(shape[1]) * window, static_cast<double>(shape[0]) * window};
}

namespace init {

Init zeros() { return constant(0); }

Init ones() { return constant(1); }

Init constant(double value) {
  return [value](const Shape& s) { return full(s, value); };
}

Init uniform(double low, double high) {
  return [=](const Shape& s) { return rp::uniform(s, low, high); };
}

Init normal(double mean, double stddev) {
  return [=](const Shape& s) { return rp::normal(s, mean, stddev); };
}

Init fan_in_uniform() {
  return [](const Shape& s) {
    if (s.rank() < 2) return full(s, 0);
    double bound = 1 / std::sqrt(fan_of(s).in);
    return rp::uniform(s, -bound, bound);
  };
}

Init xavier_uniform(double gain) {
  return [gain](const Shape& s) {
    Fan fan = fan_of(s);
    double bound = gain * std::sqrt(6 / (fan.in + fan.out));
    return rp::uniform(s, -bound, bound);
  };
}

Init xavier_normal(double gain) {
  return [gain](const Shape& s) {
    Fan fan = fan_of(s);
    return rp::normal(s, 0, gain * std::sqrt(2 / (fan.in + fan.out)));
  };
}

Init kaiming_uniform(double gain) {
  return [gain](const Shape& s) {
    double bound = gain * std::sqrt(3 / fan_of(s).in);
    return rp::uniform(s, -bound, bound);
  };
}

Init kaiming_normal(double gain) {
  return [gain](const Shape& s) { return rp::normal(s, 0, gain / std::sqrt(fan_of(s).in)); };
}

Init orthogonal(double gain) {
  return [gain](const Shape& s) {
    if (s.rank() < 2) fail("orthogonal: expected two axes or more, got shape {}", to_string(s));
    const int64_t count = element_count(s), rows = s[0], columns = rows ? count / rows : 0;
    const bool wide = rows <= columns;
    std::vector<double> m;
    {
      const DeviceScope home(Device::cpu());  // devices differ in their f64 functions
      m = rp::normal(s, 0, 1, DType::f64).to_vector<double>();
    }
    orthonormalise(m, wide ? rows : columns, wide ? columns : rows);
    std::vector<float> values(m.size());
    for (int64_t i = 0; i < count; ++i) {
      int64_t from = wide ? i : i % columns * rows + i / columns;
      values[i] = static_cast<float>(gain * m[from]);
    }
    return tensor(values, s);
  };
}

}  // namespace init
}  // namespace rp
