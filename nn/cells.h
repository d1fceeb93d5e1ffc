#pragma once
// Recurrent cells: one step of a recurrent network each, written with public ops. A cell is a Module with
//
//     State initial_state(int64_t batch) const;
//     State operator()(const Tensor& x, const State& state) const;   // x: [batch, inputs]
//
// where State is a Tensor or a structure of tensors, each of [batch, ...]. Its step's output is the first tensor of the
// new state; a cell whose output is another one returns a std::pair of the new state and the output. The cells here
// take the same path as any other: see recurrent.h for the layers that run them over time.
//
// Parameters of several gates stand side by side in one tensor, in the order given with each cell, so that one product
// computes them all.
#include <optional>

#include "reprise/core/ops.h"
#include "reprise/nn/module.h"

namespace rp {

/// What all cells here have: W = input_weight, U = recurrent_weight, b = bias. Initialisers are called once for each
/// gate, with the shape of that gate's part.
struct CellWeights {
  bool bias = true;
  DType dtype = DType::f32;
  Init input_init = {};      ///< [inputs, units]; default: init::xavier_uniform()
  Init recurrent_init = {};  ///< [units, units]; default: init::orthogonal()
  Init bias_init = {};       ///< [units]; default: init::zeros()
};

namespace detail {

/// The weights of `gates` gates of `units` each; the product with the state takes `carried` numbers.
/// Parameters: input_weight [inputs, gates * units], recurrent_weight [carried, gates * units], bias [gates * units].
class GatedCell : public Module {
 protected:
  GatedCell(const char* name, int64_t units, int64_t carried, int64_t gates, CellWeights weights, const Loc& loc);

  /// Creates W, U and b if this is the first step. Returns whether it is. Throws unless x is [batch, inputs].
  bool begin(const Tensor& x) const;
  Tensor input_weight() const { return value(input_weight_); }
  Tensor recurrent_weight() const { return value(recurrent_weight_); }
  Tensor bias() const { return bias_ ? value(*bias_) : Tensor(); }
  Device device() const;
  Tensor zero_state(int64_t batch, int64_t width) const;
  /// Creates one more parameter, in the dtype of the cell.
  void make(Lazy place, const Shape& shape, const Init& init) const;

  int64_t units_, carried_, gates_;
  CellWeights weights_;

 private:
  const char* name_;
  Lazy input_weight_, recurrent_weight_;
  std::optional<Lazy> bias_;
};

}  // namespace detail

struct RNNOptions {
  bool relu = false;  ///< instead of tanh
  CellWeights weights = {};
};
/// h' = tanh(x · W + h · U + b) (Elman, 1990). State: h [batch, units]. Parameters: input_weight [inputs, units],
/// recurrent_weight [units, units], bias [units].
class RNNCell : public detail::GatedCell {
 public:
  explicit RNNCell(int64_t units, RNNOptions options = {}, Loc loc = Loc::current());
  Tensor initial_state(int64_t batch) const { return zero_state(batch, units_); }
  Tensor operator()(In x, const Tensor& h) const;

 private:
  bool relu_;
};

struct LSTMState {
  Tensor h;  ///< [batch, units], or [batch, projection]
  Tensor c;  ///< [batch, units]
};
struct LSTMOptions {
  bool peephole = false;    ///< gates also see the cell state, each unit its own
  int64_t projection = 0;   ///< h' is projected to that many numbers, unless 0
  bool layer_norm = false;  ///< products and cell state are normalised over their features
  double forget_bias = 1;   ///< added to the first bias of the forget gate (Jozefowicz et al., 2015)
  CellWeights weights = {};
};
/// Long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000). Gates in the order i, f, g, o:
///
///     i, f, o = sigmoid(x · W + h · U + b), g = tanh(x · W + h · U + b)
///     c' = f * c + i * g,  h' = o * tanh(c')
///
/// * peephole (Gers et al., 2002): i and f add c * p, o adds c' * p before the sigmoid.
/// * projection (Sak et al., 2014): h' = (o * tanh(c')) · P.
/// * layer_norm (Ba, Kiros and Hinton, 2016): norm(x · W) * s + norm(h · U) * r + b takes the place of the sum, and
///   tanh(norm(c') * k + d) that of tanh(c'); each norm of a sum of all four gates.
///
/// Parameters, with H = units and R = projection or else units: input_weight W [inputs, 4H], recurrent_weight U
/// [R, 4H], bias b [4H]; peephole p [3, H] for i, f, o; projection P [H, R]; input_scale s [4H], recurrent_scale r
/// [4H], state_scale k [H], state_shift d [H].
class LSTMCell : public detail::GatedCell {
 public:
  explicit LSTMCell(int64_t units, LSTMOptions options = {}, Loc loc = Loc::current());
  LSTMState initial_state(int64_t batch) const;
  LSTMState operator()(In x, const LSTMState& state) const;

 private:
  void create_extras() const;
  Tensor sums(const Tensor& x, const Tensor& h) const;

  LSTMOptions options_;
  Lazy peephole_, projection_, input_scale_, recurrent_scale_, state_scale_, state_shift_;
};

struct GRUOptions {
  bool reset_after = true;  ///< the reset gate scales h · U rather than h
  CellWeights weights = {};
};
/// Gated recurrent unit. Gates in the order r, z, n:
///
///     r, z = sigmoid(x · W + h · U + b)
///     n = tanh(x · W + b + r * (h · U + q))   reset after the product, as cuDNN and PyTorch compute it
///     n = tanh(x · W + b + (r * h) · U)       reset before it (Cho et al., 2014)
///     h' = (1 - z) * n + z * h
///
/// State: h [batch, units]. Parameters, with H = units: input_weight W [inputs, 3H], recurrent_weight U [H, 3H], bias b
/// [3H]; candidate_bias q [H] if the reset is after the product.
class GRUCell : public detail::GatedCell {
 public:
  explicit GRUCell(int64_t units, GRUOptions options = {}, Loc loc = Loc::current());
  Tensor initial_state(int64_t batch) const { return zero_state(batch, units_); }
  Tensor operator()(In x, const Tensor& h) const;

 private:
  Tensor candidate(const Tensor& from_x, const Tensor& from_h, const Tensor& reset, const Tensor& h) const;

  bool reset_after_;
  std::optional<Lazy> candidate_bias_;
};

struct LiGRUOptions {
  bool layer_norm = false;  ///< x · W is normalised over its features
  CellWeights weights = {};
};
/// Light gated recurrent unit (Ravanelli et al., 2018): no reset gate, relu for the candidate. Gates in the order z, n:
///
///     z = sigmoid(x · W + h · U + b),  n = relu(x · W + h · U + b),  h' = z * h + (1 - z) * n
///
/// The paper normalises x · W over the batch; a cell, which sees one step at a time, can do so over the features:
/// layer_norm puts norm(x · W) * s for x · W. State: h [batch, units]. Parameters, with H = units: input_weight W
/// [inputs, 2H], recurrent_weight U [H, 2H], bias b [2H]; input_scale s [2H].
class LiGRUCell : public detail::GatedCell {
 public:
  explicit LiGRUCell(int64_t units, LiGRUOptions options = {}, Loc loc = Loc::current());
  Tensor initial_state(int64_t batch) const { return zero_state(batch, units_); }
  Tensor operator()(In x, const Tensor& h) const;

 private:
  std::optional<Lazy> input_scale_;
};

}  // namespace rp
