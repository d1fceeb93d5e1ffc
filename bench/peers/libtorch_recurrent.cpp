// Recurrent cells by libtorch, over all steps of an input: its own layers (form own), cells that a user writes (user),
// and these with the products of x before the loop (hoisted).
#include <memory>

#include "reprise/bench/peers/libtorch_work.h"

namespace bench {
namespace {

using State = Tensors;  // h and, of the LSTMs, c
using Cell = State (*)(const at::Tensor& wx, const State& state, Named& p);

at::Tensor recurrent_product(const State& state, Named& p, const at::Tensor& bias = {}) {
  return at::linear(state[0], p["U"], bias.defined() ? c10::optional<at::Tensor>(bias) : c10::nullopt);
}

State rnn_tanh(const at::Tensor& wx, const State& state, Named& p) {
  return {at::tanh(wx + recurrent_product(state, p))};
}

at::Tensor next_c(const State& gates, const at::Tensor& c) {
  return at::sigmoid(gates[1]) * c + at::sigmoid(gates[0]) * at::tanh(gates[2]);
}

State lstm(const at::Tensor& wx, const State& state, Named& p) {
  const State gates = (wx + recurrent_product(state, p)).chunk(4, 1);
  const at::Tensor c = next_c(gates, state[1]);
  return {at::sigmoid(gates[3]) * at::tanh(c), c};
}

State gru(const at::Tensor& wx, const State& state, Named& p) {
  const State x = wx.chunk(3, 1), h = recurrent_product(state, p, p["c"]).chunk(3, 1);
  const at::Tensor z = at::sigmoid(x[1] + h[1]);
  const at::Tensor n = at::tanh(x[2] + at::sigmoid(x[0] + h[0]) * h[2]);
  return {(1 - z) * n + z * state[0]};
}

State ligru(const at::Tensor& wx, const State& state, Named& p) {
  const State gates = (wx + recurrent_product(state, p)).chunk(2, 1);
  const at::Tensor z = at::sigmoid(gates[0]);
  return {z * state[0] + (1 - z) * at::relu(gates[1])};
}

State lnlstm(const at::Tensor& wx, const State& state, Named& p) {
  const at::Tensor sum = wx + recurrent_product(state, p);
  const State gates = at::layer_norm(sum, {sum.size(1)}, p["a"], p["b"]).chunk(4, 1);
  const at::Tensor c = next_c(gates, state[1]);
  return {at::sigmoid(gates[3]) * at::tanh(at::layer_norm(c, {c.size(1)}, p["a2"], p["b2"])), c};
}

const std::map<std::string, Cell> cells = {
    {"rnn_tanh", rnn_tanh}, {"lstm", lstm}, {"gru", gru}, {"ligru", ligru}, {"lnlstm", lnlstm}};

/// One cell in one form.
class Recurrence {
 public:
  explicit Recurrence(const Task& task) : cell_(task.spec.kind), x_(task.tensor("x")) {
    for (size_t i = 1; i < task.spec.parts.size(); ++i) {
      const Part& part = task.spec.parts[i];
      p_[part.name] = task.tensor(part).set_requires_grad(true);
      parameters_.push_back(p_[part.name]);
    }
    named_ = parameters_.size();
    if (task.form == "own") {
      use_layer();
    } else {
      run_ = [this, hoisted = task.form == "hoisted"](const at::Tensor& x) { return loop(x, hoisted); };
    }
  }
  Recurrence(const Recurrence&) = delete;

  Tensors forward() { return {run_(x_)}; }

  /// h, then the gradients of x and of the parameters that the workload names.
  Tensors train() {
    Tensors inputs = {x_.detach().requires_grad_()};
    inputs.insert(inputs.end(), parameters_.begin(), parameters_.end());
    const at::Tensor h = run_(inputs[0]);
    Tensors results = torch::autograd::grad({h.sum()}, inputs);
    results.resize(1 + named_);
    results.insert(results.begin(), h);
    return results;
  }

 private:
  at::Tensor project(const at::Tensor& x) {
    const bool biased = p_.count("b") && cell_ != "lnlstm";
    return at::linear(x, p_["W"], biased ? c10::optional<at::Tensor>(p_["b"]) : c10::nullopt);
  }

  at::Tensor loop(const at::Tensor& x, bool hoisted) {
    const Cell cell = cells.at(cell_);
    const at::Tensor zeros = at::zeros({x.size(1), x.size(2)});
    State state = {zeros, zeros}, outputs;
    for (const at::Tensor& x_t : (hoisted ? project(x) : x).unbind(0)) {
      state = cell(hoisted ? x_t : project(x_t), state, p_);
      outputs.push_back(state[0]);
    }
    return at::stack(outputs);
  }

  template <class Layer>
  void use_layer(Layer layer) {
    const std::vector<std::string> sources = {"W", "U", "b", "c"};
    parameters_ = layer->parameters();
    named_ = p_.count("c") ? 4 : 3;
    torch::NoGradGuard guard;
    for (size_t i = 0; i < parameters_.size(); ++i)
      if (i < named_)
        parameters_[i].copy_(p_[sources[i]]);
      else
        parameters_[i].zero_();
    run_ = [layer](const at::Tensor& x) mutable { return std::get<0>(layer->forward(x)); };
  }

  void use_layer() {
    const int64_t hidden = p_["U"].size(1);
    if (cell_ == "lstm") return use_layer(torch::nn::LSTM(hidden, hidden));
    if (cell_ == "gru") return use_layer(torch::nn::GRU(hidden, hidden));
    use_layer(torch::nn::RNN(torch::nn::RNNOptions(hidden, hidden).nonlinearity(torch::kTanh)));
  }

  std::string cell_;
  at::Tensor x_;
  Named p_;
  Tensors parameters_;
  size_t named_ = 0;
  std::function<at::Tensor(const at::Tensor&)> run_;
};

}  // namespace

Work make_recurrence(const Task& task) {
  const auto r = std::make_shared<Recurrence>(task);
  if (task.spec.options.at("backward")) return {[r] { return r->train(); }};
  return {inference([r] { return r->forward(); })};
}

}  // namespace bench
