// Recurrent layers against plain loops in double precision, central differences, and themselves in other modes.
#include "reprise/nn/recurrent.h"

#include "reprise/test/capture_cases.h"
#include "reprise/test/recurrent_formulas.h"

using namespace rp;
using Catch::Matchers::Contains;

namespace {

constexpr DType f64 = DType::f64;
using formulas::Numbers;
using formulas::Row;
using formulas::Step;

Tensor draw(const Shape& shape) { return uniform(shape, -1, 1, f64); }

Tensor list(const std::vector<int64_t>& v) { return tensor(v, {static_cast<int64_t>(v.size())}); }

// Every parameter random, so that none hides behind a first value of zero.
CellWeights weights(bool bias = true, DType dtype = f64) { return {.bias = bias, .dtype = dtype}; }

void scramble(const Module& m) {
  NoGrad guard;
  for (const auto& [name, p] : m.parameters()) p.copy_(uniform(p.shape(), -0.8, 0.8, p.dtype()));
}

// ---- every option of every layer ----

Row row_of(const Tensor& t) { return t.to_vector<double>(); }

double worst(const Row& a, const Row& b) {
  REQUIRE(a.size() == b.size());
  double d = 0;
  for (size_t i = 0; i < a.size(); ++i) d = std::max(d, std::fabs(a[i] - b[i]) / (1 + std::fabs(b[i])));
  return d;
}

// Runs the loop over each sequence alone and compares outputs and states.
template <class Layer>
void check_values(const Layer& layer, const std::function<Step(const Numbers&)>& formula, bool batch_first,
                  bool reverse, const std::vector<int64_t>& lengths) {
  const int64_t steps = 5, batch = 3;
  const Tensor x = draw(batch_first ? Shape{batch, steps, 4} : Shape{steps, batch, 4});
  layer(x);
  scramble(layer);
  typename Layer::State first = layer.cell().initial_state(batch);
  for (const Tensor& t : detail::tensors_of(first)) t.copy_(draw(t.shape()));
  const Tensor given = lengths.empty() ? Tensor() : list(lengths);
  const auto [outputs, state] = no_grad([&] { return layer(x, given, first); });
  const Step step = formula(Numbers(layer));
  const Tensors starts = detail::tensors_of(first), ends = detail::tensors_of(state);
  const auto at = [&](const Tensor& t, int64_t b, int64_t k) {
    return row_of(batch_first ? t.select(0, b).select(0, k) : t.select(0, k).select(0, b));
  };
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t end = lengths.empty() ? steps : lengths[static_cast<size_t>(b)];
    std::vector<Row> s;
    for (const Tensor& t : starts) s.push_back(row_of(t.select(0, b)));
    for (int64_t i = 0; i < end; ++i) {
      const int64_t t = reverse ? end - 1 - i : i;
      s = step(at(x, b, t), s);
      CHECK(worst(at(outputs, b, t), s[0]) < 1e-12);
    }
    for (int64_t t = end; t < steps; ++t) CHECK(worst(at(outputs, b, t), Row(s[0].size())) == 0);
    for (size_t k = 0; k < s.size(); ++k) CHECK(worst(row_of(ends[k].select(0, b)), s[k]) < 1e-12);
  }
}

// Calls visit(name, make, formula) for every combination of the cells' own options; make(options) builds the layer.
template <class F>
void for_each_layer(DType dtype, F visit) {
  for (bool bias : {true, false}) {
    const CellWeights w = weights(bias, dtype);
    for (bool b : {false, true}) {
      const RNNOptions rnn{.relu = b, .weights = w};
      visit([=](RecurrentOptions o) { return RNN(3, rnn, o); },
            [=](const Numbers& p) { return formulas::rnn_step(p, rnn); });
      const GRUOptions gru{.reset_after = b, .weights = w};
      visit([=](RecurrentOptions o) { return GRU(3, gru, o); },
            [=](const Numbers& p) { return formulas::gru_step(p, gru); });
      const LiGRUOptions li{.layer_norm = b, .weights = w};
      visit([=](RecurrentOptions o) { return LiGRU(3, li, o); },
            [=](const Numbers& p) { return formulas::ligru_step(p, li); });
    }
    for (int k = 0; k < 8; ++k) {
      const LSTMOptions lstm{.peephole = k % 2 == 1, .projection = k / 2 % 2 * 2, .layer_norm = k > 3, .weights = w};
      visit([=](RecurrentOptions o) { return LSTM(3, lstm, o); },
            [=](const Numbers& p) { return formulas::lstm_step(p, lstm); });
    }
  }
}

template <class F>
void for_each_direction(F visit) {
  for (bool batch_first : {false, true})
    for (bool reverse : {false, true})
      for (bool lengths : {false, true}) visit(RecurrentOptions{batch_first, reverse}, lengths);
}

Tensor squares(const Tensor& outputs, const Tensors& state) {
  Tensor s = sum(outputs * outputs);
  for (const Tensor& t : state) s = s + sum(t * t);
  return s;
}

// Gradients of a number that `f` computes for leaves against central differences.
void check_gradients(const std::function<Tensor()>& f, const Tensors& leaves) {
  const Tensors g = grad({f()}, leaves);
  NoGrad guard;
  for (size_t k = 0; k < leaves.size(); ++k) {
    const Row x = row_of(leaves[k]), got = row_of(g[k]);
    Row want;
    for (size_t i = 0; i < x.size(); ++i) {
      const auto moved = [&](double by) {
        Row y = x;
        y[i] += by;
        leaves[k].copy_(tensor(y, leaves[k].shape()));
        return f().item<double>();
      };
      want.push_back((moved(1e-5) - moved(-1e-5)) / 2e-5);
    }
    leaves[k].copy_(tensor(x, leaves[k].shape()));
    INFO("leaf " << k);
    CHECK(worst(got, want) < 1e-7);
  }
}

template <class M>
Tensors values_of(const M& m) {
  Tensors all;
  for (const auto& [name, p] : m.parameters()) all.push_back(p);
  return all;
}

// Steps of training must give the same bits in every mode.
template <class Make>
void check_modes(Make make, const Shape& shape, const std::vector<int64_t>& lengths) {
  cases::agree([&](cases::Log& log) {
    const auto layer = make();
    auto step = capture([&](const Tensor& x, const Tensor& ends) {
      const auto [outputs, state] = layer(x, ends);
      const Tensor loss = squares(outputs, detail::tensors_of(state));
      const Tensors leaves = values_of(layer), g = grad({loss}, leaves);
      NoGrad guard;
      for (size_t i = 0; i < g.size(); ++i) leaves[i].copy_(leaves[i] - g[i] * 0.02);
      return Tensors{outputs.detach(), loss.detach()};
    });
    const Tensor ends = lengths.empty() ? Tensor() : list(lengths);
    for (int i = 0; i < 4; ++i) log.add(step(uniform(shape, -1, 1), ends));
    log.add(values_of(layer));
  });
}

std::string shapes(const Module& m) {
  std::string text;
  for (const auto& [name, p] : m.parameters()) text += name + to_string(p.shape()) + " ";
  return text;
}

// A user's cell with layers in it, two carried tensors and an output of its own.
struct Mixture : Module {
  struct State {
    Tensor fast, slow;
  };
  State initial_state(int64_t batch) const { return {zeros({batch, 6}), ones({batch, 2, 3})}; }
  std::pair<State, Tensor> operator()(const Tensor& x, const State& s) const {
    const Tensor fast = tanh(from_x(x) + from_h(s.fast));
    const Tensor slow = s.slow * 0.9 + fast.reshape({-1, 2, 3}) * 0.1;
    return {State{fast, slow}, out(concat({fast, slow.flatten(1)}, 1))};
  }
  Dense from_x = child("from_x", Dense(6)), from_h = child("from_h", Dense(6, {.bias = false}));
  Dense out = child("out", Dense(2));
};

}  // namespace

TEST_CASE("recurrent layers compute their formulas, with every option") {
  manual_seed(11);
  for_each_layer(f64, [](auto make, const auto& formula) {
    for_each_direction([&](RecurrentOptions o, bool lengths) {
      INFO("batch_first " << o.batch_first << ", reverse " << o.reverse << ", lengths " << lengths);
      check_values(make(o), formula, o.batch_first, o.reverse,
                   lengths ? std::vector<int64_t>{2, 5, 0} : std::vector<int64_t>{});
    });
  });
}

TEST_CASE("gradients of recurrent layers are those of central differences") {
  manual_seed(12);
  int turn = 0;
  for_each_layer(f64, [&](auto make, const auto&) {
    const bool reverse = turn % 2, masked = turn++ % 3 == 1;
    const auto layer = make(RecurrentOptions{.reverse = reverse});
    const Tensor x = draw({4, 2, 3}).set_requires_grad(), ends = masked ? tensor<int64_t>({4, 2}) : Tensor();
    layer(x);
    scramble(layer);
    auto first = layer.cell().initial_state(2);
    Tensors leaves = values_of(layer);
    leaves.push_back(x);
    for (const Tensor& t : detail::tensors_of(first)) leaves.push_back(t.copy_(draw(t.shape())).set_requires_grad());
    check_gradients(
        [&] {
          const auto [y, s] = layer(x, ends, first);
          return squares(y, detail::tensors_of(s));
        },
        leaves);
  });
}

TEST_CASE("recurrent layers train with the same bits in every mode") {
  int turn = 0;
  for_each_layer(DType::f32, [&](auto make, const auto&) {
    for_each_direction([&](RecurrentOptions o, bool lengths) {
      if (turn++ % 3) return;  // 8 directions: in turn, every layer meets several, every direction several layers
      check_modes([&] { return make(o); }, {3, 3, 4}, lengths ? std::vector<int64_t>{1, 3, 2} : std::vector<int64_t>{});
    });
  });
}

TEST_CASE("every direction and option of recurrent layers agrees between modes", "[slow]") {
  for_each_layer(DType::f32, [&](auto make, const auto&) {
    for_each_direction([&](RecurrentOptions o, bool lengths) {
      for (int64_t batch : {1, 3})
        check_modes([&] { return make(o); }, o.batch_first ? Shape{batch, 4, 5} : Shape{4, batch, 5},
                    lengths ? std::vector<int64_t>(static_cast<size_t>(batch), 2) : std::vector<int64_t>{});
    });
  });
}

TEST_CASE("layers in stacks and both directions are their parts one by one") {
  manual_seed(13);
  const auto make = [] { return Bidirectional(GRUCell(3), GRUCell(3), true); };
  const Stacked net(2, make, 0.5);
  const Tensor x = uniform({2, 5, 4}, -1, 1), ends = tensor<int64_t>({5, 3});
  net.train(false);
  const auto [y, state] = net(x, ends);
  CHECK(y.shape() == Shape{2, 5, 6});
  CHECK(shapes(net) ==
        "0.forward.cell.input_weight[4,9] 0.forward.cell.recurrent_weight[3,9] 0.forward.cell.bias[9] "
        "0.forward.cell.candidate_bias[3] 0.backward.cell.input_weight[4,9] 0.backward.cell.recurrent_weight[3,9] "
        "0.backward.cell.bias[9] 0.backward.cell.candidate_bias[3] 1.forward.cell.input_weight[6,9] "
        "1.forward.cell.recurrent_weight[3,9] 1.forward.cell.bias[9] 1.forward.cell.candidate_bias[3] "
        "1.backward.cell.input_weight[6,9] 1.backward.cell.recurrent_weight[3,9] 1.backward.cell.bias[9] "
        "1.backward.cell.candidate_bias[3] ");
  // The same weights in layers of one direction.
  const auto p = values_of(net);
  Tensor below = x;
  for (size_t layer = 0; layer < 2; ++layer) {
    Tensors sides;
    for (size_t side = 0; side < 2; ++side) {
      const GRU alone(3, {}, {.batch_first = true, .reverse = side == 1});
      alone(below);
      const Tensors mine = values_of(alone);
      no_grad([&] {
        for (size_t k = 0; k < 4; ++k) mine[k].copy_(p[(layer * 2 + side) * 4 + k]);
      });
      const auto [out, s] = alone(below, ends);
      const Tensor& other = side ? state[layer].second : state[layer].first;
      CHECK(s.to_vector<float>() == other.to_vector<float>());
      sides.push_back(out);
    }
    below = concat(sides, 2);
  }
  CHECK(below.to_vector<float>() == y.to_vector<float>());
  // Given back as the initial state, the state goes on from there.
  CHECK(net(x, ends, state).outputs.to_vector<float>() != y.to_vector<float>());
  CHECK_THROWS_WITH(net(x, ends, decltype(state)(1, state[0])), Contains("initial states of 2 layers, got 1"));
}

TEST_CASE("dropout between layers is for training alone") {
  manual_seed(14);
  const Stacked net(3, [] { return RNN(8); }, 0.5);
  const Stacked plain(std::vector{RNN(8)}, 0.5);
  const Tensor x = uniform({4, 2, 3});
  const auto run = [&](const auto& module) { return module(x).outputs.template to_vector<float>(); };
  CHECK(run(net) != run(net));
  CHECK(run(plain) == run(plain));
  net.train(false);
  CHECK(run(net) == run(net));
  CHECK_THROWS_WITH(Stacked(std::vector<RNN>()), Contains("at least one layer"));
}

TEST_CASE("stacks, both directions and users' cells train with the same bits in every mode") {
  check_modes([] { return Stacked(2, [] { return Bidirectional(LSTMCell(4), LSTMCell(4)); }, 0.3); }, {3, 2, 5},
              {3, 1});
  check_modes([] { return Stacked(std::vector{LSTM(4, {.projection = 2}), LSTM(3, {.layer_norm = true})}, 0.3); },
              {3, 2, 5}, {});
  check_modes([] { return Recurrent(Mixture(), {.batch_first = true}); }, {2, 4, 3}, {});
  check_modes([] { return Recurrent(Mixture(), {.reverse = true}); }, {4, 2, 3}, {0, 3});
}

TEST_CASE("users' cells run as the loop that calls them") {
  manual_seed(15);
  const Mixture cell;
  const Recurrent layer(cell);
  const Tensor x = uniform({4, 2, 3}, -1, 1);
  const auto [y, state] = layer(x);
  CHECK(y.shape() == Shape{4, 2, 2});
  CHECK(values_of(layer).size() == 5);
  Mixture::State s = cell.initial_state(2);
  for (int64_t t = 0; t < 4; ++t) {
    const auto [next, out] = cell(x.select(0, t), s);
    CHECK(out.to_vector<float>() == y.select(0, t).to_vector<float>());
    s = next;
  }
  CHECK(s.slow.to_vector<float>() == state.slow.to_vector<float>());
}

TEST_CASE("recurrent parameters: names, shapes, first values") {
  manual_seed(16);
  const LSTM full(8, {.peephole = true, .projection = 5, .layer_norm = true});
  CHECK(shapes(full).empty());
  full(ones({0, 2, 3}));  // no steps, but the parameters are there
  CHECK(shapes(full) ==
        "cell.input_weight[3,32] cell.recurrent_weight[5,32] cell.bias[32] cell.peephole[3,8] cell.projection[8,5] "
        "cell.input_scale[32] cell.recurrent_scale[32] cell.state_scale[8] cell.state_shift[8] ");
  const LSTM lstm(8);
  lstm(ones({1, 2, 3}));
  CHECK_THAT(lstm.summary(), Contains("cell.recurrent_weight") && Contains("384"));
  const Tensors p = values_of(lstm);
  for (int64_t k = 0; k < 4; ++k) {
    const Tensor u = p[1].slice(1, 8 * k, 8 * k + 8);
    const Tensor unit = list({0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(max(abs(matmul(u, u.transpose()) - one_hot(unit, 8))).item<float>() < 1e-5f);
    CHECK(p[2].slice(0, 8 * k, 8 * k + 8).to_vector<float>() == std::vector<float>(8, k == 1 ? 1.f : 0.f));
  }
  CHECK(values_of(lstm)[0].requires_grad());
  const LSTM remembers(4, {.forget_bias = 3, .weights = {.bias_init = init::ones()}});
  remembers(ones({1, 1, 2}));
  CHECK(values_of(remembers)[2].slice(0, 3, 9).to_vector<float>() == std::vector<float>{1, 4, 4, 4, 4, 1});
}

TEST_CASE("wrong arguments of recurrent layers are told") {
  const GRU gru(4);
  const Tensor x = ones({3, 2, 5});
  gru(x);
  CHECK_THROWS_WITH(gru(ones({3, 5})), Contains("[steps, batch, inputs], got f32[3,5]"));
  CHECK_THROWS_WITH(GRU(4, {}, {.batch_first = true})(ones({3})), Contains("[batch, steps, inputs], got f32[3]"));
  CHECK_THROWS_WITH(gru(zeros({3, 2, 5}, DType::i64)), Contains("floating-point"));
  CHECK_THROWS_WITH(gru(ones({3, 2, 6})), Contains("gru: expected 5 inputs, got f32[2,6]"));
  CHECK_THROWS_WITH(gru(x, tensor<int64_t>({1, 4})), Contains("lengths from 0 to 3 steps, got 4"));
  CHECK_THROWS_WITH(gru(x, tensor<int64_t>({1, -1})), Contains("lengths from 0 to 3 steps, got -1"));
  CHECK_THROWS_WITH(gru(x, tensor<int64_t>({1, 2, 3})), Contains("lengths of 2 sequences, got i64[3]"));
  CHECK_THROWS_WITH(gru(x, ones({2})), Contains("integer lengths"));
  CHECK_THROWS_WITH(gru(x, {}, zeros({3, 4})), Contains("a state of 2 rows, as the batch has, got f32[3,4]"));
  CHECK_THROWS_WITH(gru(x, {}, zeros({2, 7})), Contains("matmul"));
  CHECK_THROWS_WITH(GRU(0), Contains("gru: the number of units must be positive, got 0"));
  CHECK_THROWS_WITH(LSTM(4, {.projection = -1}), Contains("projection"));
  CHECK_THROWS_WITH(RNN(4, {.weights = {.dtype = DType::i32}}), Contains("floating-point, not i32"));
  CHECK_THROWS_WITH(gru(x.to(f64)), Contains("scan carry: in f32[2,4], out f64[2,4] (body at recurrent.cpp:"));
  CHECK(gru(x).outputs.shape() == Shape{3, 2, 4});
}
