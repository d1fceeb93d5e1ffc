// Cells of public ops only, all gates of a cell in one product. Parameters come in the order of the spec, the weights
// transposed.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "reprise/bench/recurrence.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::matmul;
using rp::sigmoid;
using rp::Tensor;
using rp::Tensors;

Tensor products(const Tensor& x, const Tensor& h, const Tensors& p) { return matmul(x, p[0]) + matmul(h, p[1]); }

Tensors rnn_tanh(const Tensor& x, const Tensors& s, const Tensors& p) { return {tanh(products(x, s[0], p) + p[2])}; }

Tensors lstm(const Tensor& x, const Tensors& s, const Tensors& p) {
  const Tensors gates = split(products(x, s[0], p) + p[2], 4, 1);
  const Tensor c = sigmoid(gates[1]) * s[1] + sigmoid(gates[0]) * tanh(gates[2]);
  return {sigmoid(gates[3]) * tanh(c), c};
}

Tensors gru(const Tensor& x, const Tensors& s, const Tensors& p) {
  const Tensors of_x = split(matmul(x, p[0]) + p[2], 3, 1);
  const Tensors of_h = split(matmul(s[0], p[1]) + p[3], 3, 1);
  const Tensor r = sigmoid(of_x[0] + of_h[0]), z = sigmoid(of_x[1] + of_h[1]);
  const Tensor n = tanh(of_x[2] + r * of_h[2]);
  return {(1 - z) * n + z * s[0]};
}

Tensors ligru(const Tensor& x, const Tensors& s, const Tensors& p) {
  const Tensors gates = split(products(x, s[0], p), 2, 1);
  const Tensor z = sigmoid(gates[0]);
  return {z * s[0] + (1 - z) * relu(gates[1])};
}

Tensors lnlstm(const Tensor& x, const Tensors& s, const Tensors& p) {
  const Tensors gates = split(layer_norm(products(x, s[0], p), p[3], p[2]), 4, 1);
  const Tensor c = sigmoid(gates[1]) * s[1] + sigmoid(gates[0]) * tanh(gates[2]);
  return {sigmoid(gates[3]) * tanh(layer_norm(c, p[4], p[5])), c};
}

}  // namespace

const std::vector<RecurrentSize>& recurrent_sizes() {
  static const std::vector<RecurrentSize> sizes{{"b32-h256-t100", 32, 256, 100}, {"b1-h32-t100", 1, 32, 100}};
  return sizes;
}

const std::vector<RecurrentCell>& recurrent_cells() {
  static const std::vector<RecurrentCell> cells{
      {"rnn_tanh", 1, true}, {"lstm", 4, true}, {"gru", 3, true}, {"ligru", 2, false}, {"lnlstm", 4, false}};
  return cells;
}

const RecurrentCell& recurrent_cell(const std::string& name) {
  const std::vector<RecurrentCell>& all = recurrent_cells();
  const auto it = std::find_if(all.begin(), all.end(), [&](const RecurrentCell& c) { return c.name == name; });
  if (it == all.end()) throw std::runtime_error("no cell is called " + name);
  return *it;
}

Spec recurrence_spec(const RecurrentCell& cell, const RecurrentSize& size) {
  const int64_t hidden = size.hidden, width = cell.gates * hidden;
  const double scale = 1 / std::sqrt(static_cast<double>(hidden));
  Spec spec{"recurrence", cell.name};
  spec.add("x", {size.steps, size.batch, hidden});
  spec.add("W", {width, hidden}, scale);
  spec.add("U", {width, hidden}, scale);
  if (cell.name != "ligru") spec.add("b", {width}, scale);
  if (cell.name == "gru") spec.add("c", {width}, scale);
  if (cell.name == "lnlstm") {
    spec.add("a", {width}, scale, 1);
    spec.add("a2", {hidden}, scale, 1);
    spec.add("b2", {hidden}, scale);
  }
  return stored_as(size.dtype, spec);
}

Recurrence::Step Recurrence::step_of(const std::string& cell) {
  if (cell == "rnn_tanh") return rnn_tanh;
  if (cell == "lstm") return lstm;
  if (cell == "gru") return gru;
  if (cell == "ligru") return ligru;
  if (cell == "lnlstm") return lnlstm;
  throw std::runtime_error("no cell is called " + cell);
}

Recurrence::Recurrence(const RecurrentCell& cell, const RecurrentSize& size)
    : step_(step_of(cell.name)),
      states_(cell.name.ends_with("lstm") ? 2 : 1),
      size_(size),
      parameters_(tensors_of(recurrence_spec(cell, size))) {
  for (Tensor& t : parameters_) t.set_requires_grad();
  x_ = parameters_.front();
  parameters_.erase(parameters_.begin());
}

Tensors Recurrence::initial_state() const {
  return Tensors(states_, rp::zeros({size_.batch, size_.hidden}, size_.dtype));
}

Tensors Recurrence::transposed() const {
  Tensors p = parameters_;
  for (size_t i = 0; i < 2; ++i) p[i] = p[i].transpose();
  return p;
}

Tensor Recurrence::by_scan() const {
  const auto body = [&](const Tensors& state, const Tensor& x) {
    const Tensors next = step_(x, state, transposed());
    return std::pair(next, next[0]);
  };
  return rp::scan(body, initial_state(), x_).second;
}

Tensor Recurrence::by_loop(Transposed when) const {
  const Tensors once = when == Transposed::once ? transposed() : Tensors();
  Tensors state = initial_state(), all;
  for (int64_t t = 0; t < size_.steps; ++t) {
    state = step_(x_.select(0, t), state, when == Transposed::once ? once : transposed());
    all.push_back(state[0]);
  }
  return stack(all);
}

Tensors Recurrence::gradients(const Tensor& h) const {
  Tensors leaves{x_};
  leaves.insert(leaves.end(), parameters_.begin(), parameters_.end());
  return rp::grad({sum(h)}, leaves);
}

}  // namespace bench
