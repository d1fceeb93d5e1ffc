#pragma once
#include <functional>

#include "reprise/core/tensor.h"

namespace rp {

/// Makes the first value of a parameter of a given shape. Any function of that form will do; `rp::init` has the usual
/// ones.
using Init = std::function<Tensor(const Shape& shape)>;

/// How many inputs each output of a weight sums over, and how many outputs each input reaches. Matrices are [in, out];
/// weights of rank 3 and more are [out, in, window...]. Throws for rank 0 and 1.
struct Fan {
  double in, out;
};
Fan fan_of(const Shape& shape);

namespace init {

Init zeros();
Init ones();
Init constant(double value);
Init uniform(double low, double high);
Init normal(double mean = 0, double stddev = 1);
/// U(-b, b) with b = 1 / sqrt(fan in), and zeros for rank 0 and 1. What `Module::param` does when not told.
Init fan_in_uniform();
/// U(-b, b) with b = gain * sqrt(6 / (fan in + fan out)) (Glorot and Bengio, 2010).
Init xavier_uniform(double gain = 1);
/// N(0, s^2) with s = gain * sqrt(2 / (fan in + fan out)).
Init xavier_normal(double gain = 1);
/// U(-b, b) with b = gain * sqrt(3 / fan in); the default gain suits relu (He et al., 2015).
Init kaiming_uniform(double gain = 1.4142135623730951);
/// N(0, s^2) with s = gain / sqrt(fan in).
Init kaiming_normal(double gain = 1.4142135623730951);
inline Init glorot_uniform(double gain = 1) { return xavier_uniform(gain); }
inline Init glorot_normal(double gain = 1) { return xavier_normal(gain); }
inline Init he_uniform(double gain = 1.4142135623730951) { return kaiming_uniform(gain); }
inline Init he_normal(double gain = 1.4142135623730951) { return kaiming_normal(gain); }
/// Rows or columns, whichever are fewer, are orthogonal and of length `gain`; axes after the first count as one
/// (Saxe et al., 2013). Throws for rank 0 and 1.
Init orthogonal(double gain = 1);

}  // namespace init
}  // namespace rp
