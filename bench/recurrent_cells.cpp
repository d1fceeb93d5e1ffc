// Cells of public ops only, all gates of a cell in one product. Parameters come in the workload's order, the weights
// transposed.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "reprise/bench/recurrence.h"

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

Tensor tensor_of(const RecurrentTensor& t) { return rp::tensor(t.values, rp::Shape(std::span(t.shape))); }

double sum_of_squares(const Tensor& t) {
  double sum = 0;
  for (float v : t.to_vector<float>()) sum += static_cast<double>(v) * v;
  return sum;
}

bool equal_bits(const Tensor& a, const Tensor& b) {
  const std::vector<float> left = a.to_vector<float>(), right = b.to_vector<float>();
  return a.shape() == b.shape() && !std::memcmp(left.data(), right.data(), left.size() * sizeof(float));
}

}  // namespace

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
      x_(tensor_of(recurrent_input(size))) {
  x_.set_requires_grad();
  for (const RecurrentTensor& t : recurrent_parameters(cell, size))
    parameters_.push_back(tensor_of(t).set_requires_grad());
}

Tensors Recurrence::initial_state() const { return Tensors(states_, rp::zeros({size_.batch, size_.hidden})); }

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

RecurrentChecks checks_of(const Tensor& h, const Tensors& gradients) {
  double total = 0, squares = 0;
  const std::vector<float> last = h.select(0, -1).to_vector<float>();
  for (float v : last) total += v;
  for (size_t i = 1; i < gradients.size(); ++i) squares += sum_of_squares(gradients[i]);
  return {total / static_cast<double>(last.size()), std::sqrt(squares), std::sqrt(sum_of_squares(gradients[0]))};
}

const RecurrentCell& recurrent_cell(const std::string& name) {
  const std::vector<RecurrentCell>& all = recurrent_cells();
  const auto it = std::find_if(all.begin(), all.end(), [&](const RecurrentCell& c) { return c.name == name; });
  if (it == all.end()) throw std::runtime_error("no cell is called " + name);
  return *it;
}

Tensors same_bits(const std::string& name, const std::function<Tensors()>& captured) {
  const auto run = [&](rp::Mode mode) {
    const rp::ModeGuard guard(mode);
    return captured();
  };
  Tensors eager = run(rp::Mode::eager);
  for (int call = 1; call <= 3; ++call) {  // recorded, planned, planned before
    const Tensors graph = run(rp::Mode::graph);
    for (size_t i = 0; i < eager.size(); ++i)
      if (!equal_bits(eager[i], graph[i]))
        throw std::runtime_error(name + ": call " + std::to_string(call) + " of the capture has other bits than eager" +
                                 " in result " + std::to_string(i));
  }
  return eager;
}

}  // namespace bench
