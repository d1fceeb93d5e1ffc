#include "reprise/nn/cells.h"

#include "reprise/core/fail.h"
#include "reprise/eager/grad.h"

namespace rp {
namespace detail {
namespace {

/// One initialiser's values for each gate, side by side.
Init by_gate(const Init& init, int64_t gates) {
  return [=](const Shape& shape) {
    Shape part = shape;
    const int last = shape.rank() - 1;
    part[last] = shape[last] / gates;
    Tensors parts;
    for (int64_t k = 0; k < gates; ++k) parts.push_back(init(part));
    return concat(parts, last);
  };
}

}  // namespace

GatedCell::GatedCell(const char* name, int64_t units, int64_t carried, int64_t gates, CellWeights weights,
                     const Loc& loc)
    : units_(units), carried_(carried), gates_(gates), weights_(std::move(weights)), name_(name) {
  At at(loc);
  if (units <= 0) fail("{}: the number of units must be positive, got {}", name, units);
  if (!is_floating(weights_.dtype))
    fail("{}: parameters must be floating-point, not {}", name, name_of(weights_.dtype));
  if (!weights_.input_init) weights_.input_init = init::xavier_uniform();
  if (!weights_.recurrent_init) weights_.recurrent_init = init::orthogonal();
  if (!weights_.bias_init) weights_.bias_init = init::zeros();
  input_weight_ = lazy_param("input_weight", loc);
  recurrent_weight_ = lazy_param("recurrent_weight", loc);
  if (weights_.bias) bias_ = lazy_param("bias", loc);
}

bool GatedCell::begin(const Tensor& x) const {
  if (x.rank() != 2) fail("{}: a step takes [batch, inputs], got {}", name_, to_string(x.spec()));
  if (input_weight().defined()) {
    if (x.size(1) != input_weight().size(0))
      fail("{}: expected {} inputs, got {}", name_, input_weight().size(0), to_string(x.spec()));
    return false;
  }
  const DeviceScope on(x.device());
  make(input_weight_, {x.size(1), gates_ * units_}, by_gate(weights_.input_init, gates_));
  make(recurrent_weight_, {carried_, gates_ * units_}, by_gate(weights_.recurrent_init, gates_));
  if (bias_) make(*bias_, {gates_ * units_}, by_gate(weights_.bias_init, gates_));
  return true;
}

Device GatedCell::device() const { return input_weight().defined() ? input_weight().device() : default_device(); }

Tensor GatedCell::zero_state(int64_t batch, int64_t width) const {
  const DeviceScope on(device());
  return zeros({batch, width}, weights_.dtype);
}

void GatedCell::make(Lazy place, const Shape& shape, const Init& init) const {
  create(place, shape, [&](const Shape& s) { return init(s).to(weights_.dtype); }, device());
}

}  // namespace detail

// ---- RNN ----

RNNCell::RNNCell(int64_t units, RNNOptions options, Loc loc)
    : GatedCell("rnn", units, units, 1, std::move(options.weights), loc), relu_(options.relu) {}

Tensor RNNCell::operator()(In x, const Tensor& h) const {
  const Scope scope(*this, x.loc);
  begin(x);
  const Tensor sum = linear(x, input_weight(), bias()) + matmul(h, recurrent_weight());
  return relu_ ? relu(sum) : tanh(sum);
}

// ---- LSTM ----

LSTMCell::LSTMCell(int64_t units, LSTMOptions options, Loc loc)
    : GatedCell("lstm", units, options.projection ? options.projection : units, 4, options.weights, loc),
      options_(std::move(options)) {
  At at(loc);
  if (options_.projection < 0)
    fail("lstm: the size of the projection must not be negative, got {}", options_.projection);
  if (options_.peephole) peephole_ = lazy_param("peephole", loc);
  if (options_.projection) projection_ = lazy_param("projection", loc);
  if (!options_.layer_norm) return;
  input_scale_ = lazy_param("input_scale", loc);
  recurrent_scale_ = lazy_param("recurrent_scale", loc);
  state_scale_ = lazy_param("state_scale", loc);
  state_shift_ = lazy_param("state_shift", loc);
}

LSTMState LSTMCell::initial_state(int64_t batch) const {
  return {zero_state(batch, carried_), zero_state(batch, units_)};
}

void LSTMCell::create_extras() const {
  if (bias().defined()) no_grad([&] { bias().slice(0, units_, 2 * units_) += options_.forget_bias; });
  if (options_.peephole) make(peephole_, {3, units_}, init::xavier_uniform());
  if (options_.projection) make(projection_, {units_, options_.projection}, weights_.input_init);
  if (!options_.layer_norm) return;
  make(input_scale_, {4 * units_}, init::ones());
  make(recurrent_scale_, {4 * units_}, init::ones());
  make(state_scale_, {units_}, init::ones());
  make(state_shift_, {units_}, init::zeros());
}

Tensor LSTMCell::sums(const Tensor& x, const Tensor& h) const {
  const Tensor from_x = matmul(x, input_weight()), from_h = matmul(h, recurrent_weight());
  const Tensor sum = options_.layer_norm
                         ? layer_norm(from_x, value(input_scale_)) + layer_norm(from_h, value(recurrent_scale_))
                         : from_x + from_h;
  return bias().defined() ? sum + bias() : sum;
}

LSTMState LSTMCell::operator()(In x, const LSTMState& state) const {
  const Scope scope(*this, x.loc);
  if (begin(x)) create_extras();
  const Tensors gates = split(sums(x, state.h), 4, 1);
  const auto gate = [&](size_t k, int64_t peep, const Tensor& c) {
    return sigmoid(options_.peephole ? gates[k] + c * value(peephole_).select(0, peep) : gates[k]);
  };
  const Tensor c = gate(1, 1, state.c) * state.c + gate(0, 0, state.c) * tanh(gates[2]);
  const Tensor seen = options_.layer_norm ? layer_norm(c, value(state_scale_), value(state_shift_)) : c;
  const Tensor h = gate(3, 2, c) * tanh(seen);
  return {options_.projection ? matmul(h, value(projection_)) : h, c};
}

// ---- GRU ----

GRUCell::GRUCell(int64_t units, GRUOptions options, Loc loc)
    : GatedCell("gru", units, units, 3, std::move(options.weights), loc), reset_after_(options.reset_after) {
  if (reset_after_ && weights_.bias) candidate_bias_ = lazy_param("candidate_bias", loc);
}

Tensor GRUCell::candidate(const Tensor& from_x, const Tensor& from_h, const Tensor& reset, const Tensor& h) const {
  if (!reset_after_) return tanh(from_x + matmul(reset * h, recurrent_weight().slice(1, 2 * units_, 3 * units_)));
  return tanh(from_x + reset * (candidate_bias_ ? from_h + value(*candidate_bias_) : from_h));
}

Tensor GRUCell::operator()(In x, const Tensor& h) const {
  const Scope scope(*this, x.loc);
  if (begin(x) && candidate_bias_) make(*candidate_bias_, {units_}, weights_.bias_init);
  const int64_t products = reset_after_ ? 3 : 2;
  const Tensors from_x = split(linear(x, input_weight(), bias()), 3, 1);
  const Tensors from_h = split(matmul(h, recurrent_weight().slice(1, 0, products * units_)), products, 1);
  const Tensor r = sigmoid(from_x[0] + from_h[0]), z = sigmoid(from_x[1] + from_h[1]);
  return (1 - z) * candidate(from_x[2], reset_after_ ? from_h[2] : Tensor(), r, h) + z * h;
}

// ---- LiGRU ----

LiGRUCell::LiGRUCell(int64_t units, LiGRUOptions options, Loc loc)
    : GatedCell("ligru", units, units, 2, std::move(options.weights), loc) {
  if (options.layer_norm) input_scale_ = lazy_param("input_scale", loc);
}

Tensor LiGRUCell::operator()(In x, const Tensor& h) const {
  const Scope scope(*this, x.loc);
  if (begin(x) && input_scale_) make(*input_scale_, {2 * units_}, init::ones());
  const Tensor product = matmul(x, input_weight());
  const Tensor from_x = input_scale_ ? layer_norm(product, value(*input_scale_)) : product;
  const Tensor sum = from_x + matmul(h, recurrent_weight());
  const Tensors gates = split(bias().defined() ? sum + bias() : sum, 2, 1);
  const Tensor z = sigmoid(gates[0]);
  return z * h + (1 - z) * relu(gates[1]);
}

}  // namespace rp
