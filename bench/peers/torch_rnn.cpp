// libtorch as a peer, by its own layers and by cells that a user writes. workload.py says what is computed.
#include <ATen/Parallel.h>
#include <torch/torch.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "reprise/bench/peers/workload.h"

namespace bench {
namespace {

using Named = std::map<std::string, at::Tensor>;
using State = std::vector<at::Tensor>;  // h and, of the LSTMs, c
using Cell = State (*)(const at::Tensor& wx, const State& state, Named& p);
using Run = std::function<at::Tensor(const at::Tensor& x)>;

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

/// One cell at one size: its tensors, and the forms of running it.
class Peer {
 public:
  Peer(const RecurrentCell& cell, const RecurrentSize& size) : cell_(cell), x_(tensor(recurrent_input(size))) {
    for (const RecurrentTensor& t : recurrent_parameters(cell, size)) {
      p_[t.name] = tensor(t).set_requires_grad(true);
      parameters_.push_back(p_[t.name]);
    }
    checked_ = parameters_.size();
  }

  void use(const std::string& form) {
    if (form == "own") {
      use_layer();
    } else {
      run_ = [this, hoisted = form == "hoisted"](const at::Tensor& x) { return loop(x, hoisted); };
    }
  }

  at::Tensor forward() {
    c10::InferenceMode guard;
    return run_(x_);
  }

  /// The gradients of x and of all parameters; those that the workload does not name come last.
  State train() {
    State inputs = {x_.detach().requires_grad_()};
    inputs.insert(inputs.end(), parameters_.begin(), parameters_.end());
    return torch::autograd::grad({run_(inputs[0]).sum()}, inputs);
  }

  size_t checked() const { return checked_; }

 private:
  static at::Tensor tensor(const RecurrentTensor& t) {
    return torch::from_blob(const_cast<float*>(t.values.data()), t.shape).clone();
  }

  at::Tensor project(const at::Tensor& x) {
    const bool biased = p_.count("b") && cell_.name != "lnlstm";
    return at::linear(x, p_["W"], biased ? c10::optional<at::Tensor>(p_["b"]) : c10::nullopt);
  }

  at::Tensor loop(const at::Tensor& x, bool hoisted) {
    const Cell cell = cells.at(cell_.name);
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
    checked_ = p_.count("c") ? 4 : 3;
    torch::NoGradGuard guard;
    for (size_t i = 0; i < parameters_.size(); ++i)
      if (i < checked_)
        parameters_[i].copy_(p_[sources[i]]);
      else
        parameters_[i].zero_();
    run_ = [layer](const at::Tensor& x) mutable { return std::get<0>(layer->forward(x)); };
  }

  void use_layer() {
    const int64_t hidden = p_["U"].size(1);
    if (cell_.name == "lstm") return use_layer(torch::nn::LSTM(hidden, hidden));
    if (cell_.name == "gru") return use_layer(torch::nn::GRU(hidden, hidden));
    use_layer(torch::nn::RNN(torch::nn::RNNOptions(hidden, hidden).nonlinearity(torch::kTanh)));
  }

  RecurrentCell cell_;
  at::Tensor x_;
  Named p_;
  State parameters_;
  size_t checked_ = 0;
  Run run_;
};

double seconds_of(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Adds the median, the distance of the quartiles in relation to it and the time of the first call.
void time_calls(nlohmann::json& row, const std::string& name, double seconds, const std::function<void()>& call) {
  constexpr size_t least_calls = 5, most_calls = 2000;
  constexpr int warm_up_calls = 2;
  row[name + "_first_s"] = seconds_of(call);
  for (int i = 0; i < warm_up_calls; ++i) call();
  std::vector<double> times;
  for (double total = 0; times.size() < least_calls || (total < seconds && times.size() < most_calls);) {
    times.push_back(seconds_of(call));
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  const double middle = times[times.size() / 2];
  row[name + "_ns"] = middle * 1e9;
  row[name + "_spread"] = (times[times.size() * 3 / 4] - times[times.size() / 4]) / middle;
}

double norm(const State& tensors) {
  double squares = 0;
  for (const at::Tensor& t : tensors) squares += t.to(at::kDouble).square().sum().item<double>();
  return std::sqrt(squares);
}

struct Options {
  std::vector<std::string> cells, sizes;
  int threads = 1;
  double seconds = 1;
};

void measure(const RecurrentCell& cell, const RecurrentSize& size, const std::string& form, const Options& o) {
  Peer peer(cell, size);
  peer.use(form);
  nlohmann::json row = {{"peer", "libtorch"}, {"version", TORCH_VERSION}, {"cell", cell.name},
                        {"form", form},       {"size", size.name},        {"threads", o.threads}};
  time_calls(row, "forward", o.seconds, [&] { peer.forward(); });
  row["mean_h"] = peer.forward()[-1].to(at::kDouble).mean().item<double>();
  time_calls(row, "train", o.seconds, [&] { peer.train(); });
  const State grads = peer.train();
  row["x_grad_norm"] = norm({grads[0]});
  row["grad_norm"] = norm({grads.begin() + 1, grads.begin() + 1 + static_cast<std::ptrdiff_t>(peer.checked())});
  std::puts(row.dump().c_str());
  std::fflush(stdout);
}

bool chosen(const std::vector<std::string>& names, const std::string& name) {
  return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
}

void measure_all(const Options& o) {
  at::set_num_threads(o.threads);
  for (const RecurrentSize& size : recurrent_sizes())
    for (const RecurrentCell& cell : recurrent_cells())
      for (const char* form : {"own", "user", "hoisted"})
        if (chosen(o.sizes, size.name) && chosen(o.cells, cell.name) && (cell.has_layer || form != std::string("own")))
          measure(cell, size, form, o);
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  CLI::App app("Measures the recurrences by libtorch, one line of JSON each.");
  bench::Options o;
  app.add_option("--cell", o.cells);
  app.add_option("--size", o.sizes);
  app.add_option("--threads", o.threads)->check(CLI::Range(1, 64));
  app.add_option("--seconds", o.seconds, "how long each figure is measured, at least");
  CLI11_PARSE(app, argc, argv);
  bench::measure_all(o);
}
