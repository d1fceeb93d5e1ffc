// Scans as one kernel on the device: the bits of eager steps on the CPU, forwards and backwards, however the work is
// spread.
#include "reprise/backends/cuda/region_kernels.h"
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/graph/executable.h"
#include "reprise/nn/recurrent.h"
#include "reprise/test/catch.h"
#include "reprise/test/cells.h"
#include "reprise/test/cuda_ptxas.h"
#include "reprise/test/cuda_scans.h"
#include "reprise/test/cuda_twin.h"

using namespace rp;
using namespace rp::test;
using cuda::ScanMeeting;

namespace {

struct Sizes {
  int64_t units, batch, steps = 4, inputs = 3;
};

bool same(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || first_differing(a, b) < 0);
}

using Step = std::function<Tensors(const Tensor& x)>;

/// Eager, then captured often enough to be planned; all results must agree.
void compare(const std::string& name, const Step& step, const Tensor& x) {
  INFO(name);
  const Tensors expected = [&] {
    ModeGuard eager(Mode::eager);
    return step(x);
  }();
  auto captured = capture(step);
  for (int i = 0; i < 3; ++i) {
    const Tensors got = captured(x);
    REQUIRE(got.size() == expected.size());
    for (size_t k = 0; k < got.size(); ++k) {
      INFO("call " << i << ", result " << k);
      CHECK(same(got[k], expected[k]));
    }
  }
}

/// The outputs, and the gradients of the input and of all parameters.
template <class Layer>
Step training(const Layer& layer, const Tensor& lengths = {}) {
  return [=](const Tensor& x) {
    for (const auto& [name, p] : layer.parameters()) p.set_grad({});
    x.set_grad({});
    const auto [y, state] = layer(x, lengths);
    sum(y * y).backward();
    Tensors all{y, x.grad()};
    for (const auto& [name, p] : layer.parameters()) all.push_back(p.grad());
    return all;
  };
}

template <class Layer>
void check(const std::string& name, const Layer& layer, const Sizes& s, DType dtype = DType::f32, bool masked = false) {
  manual_seed(7);
  const Tensor x = uniform({s.steps, s.batch, s.inputs}, -1, 1, DType::f64).to(dtype).set_requires_grad();
  layer(x);
  no_grad([&] {
    for (const auto& [n, p] : layer.parameters()) p.copy_(uniform(p.shape(), -0.8, 0.8, DType::f64).to(dtype));
  });
  std::vector<int64_t> lengths;
  for (int64_t b = 0; b < s.batch && masked; ++b) lengths.push_back(1 + b % s.steps);
  const std::string text = name + " of " + std::to_string(s.units) + " units, batch " + std::to_string(s.batch);
  compare(text, training(layer, masked ? tensor(lengths, {s.batch}) : Tensor()), x);
}

/// Every layer of nn; all of them are one kernel forwards and one backwards.
void check_layers(const Sizes& s, const Pick& pick) {
  ScansOnDevice scans(pick);
  const int64_t h = s.units;
  check("rnn", RNN(h), s);
  check("lstm", LSTM(h), s);
  check("lstm with peepholes", LSTM(h, {.peephole = true}), s);
  check("lstm with projection", LSTM(h, {.projection = h / 2 + 1}), s);
  check("gru", GRU(h), s);
  check("gru, reset before", GRU(h, {.reset_after = false}), s);
  check("ligru", LiGRU(h), s);
  check("lstm, masked", LSTM(h), s, DType::f32, true);
  check("lstm, reversed", LSTM(h, {}, {.reverse = true}), s, DType::f32, true);
  check("gru in f64", GRU(h, {.weights = {.dtype = DType::f64}}), s, DType::f64);
  CHECK(scans.forms.size() == 20);
  for (const std::string& why : scans.refusals) FAIL_CHECK(why);
}

Tensor weight(const Shape& shape) { return uniform(shape, -0.6, 0.6).set_requires_grad(); }

/// The results of a scan over x and the gradients of its weights.
Step scan_of(const Tensors& weights, const std::function<Tensors(const Tensors&, const Tensor&)>& body, size_t states,
             int64_t units) {
  return [=](const Tensor& x) {
    for (const Tensor& w : weights) w.set_grad({});
    const Tensors first(states, full({x.size(1), units}, 0.1));
    const auto [last, outputs] = scan(
        [&](const Tensors& before, const Tensor& in) {
          const Tensors next = body(before, in);
          return std::pair(next, next[0]);
        },
        first, x);
    Tensor loss = sum(outputs * outputs);
    for (const Tensor& t : last) loss = loss + sum(t * 0.5);
    loss.backward();
    Tensors all{outputs};
    all.insert(all.end(), last.begin(), last.end());
    for (const Tensor& w : weights) all.push_back(w.grad());
    return all;
  };
}

}  // namespace

TEST_CASE("the layers of nn in a block, in clusters and in the grid", "[cuda]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  const size_t number = GENERATE(0, 1);
  check_layers({number ? 21 : 12, number ? 5 : 3}, pick(meeting, number));
}

TEST_CASE("layers of more sizes", "[cuda][slow]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  for (const Sizes& s : {Sizes{8, 1}, Sizes{17, 33, 3}, Sizes{64, 4, 3}, Sizes{100, 7, 2}})
    for (size_t number : {2, 3}) check_layers(s, pick(meeting, number));
  check_layers({256, 4, 2}, fastest);
}

TEST_CASE("layers that normalise reduce along their units", "[cuda]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  ScansOnDevice scans(pick(meeting, 1));
  check("lstm", LSTM(18, {.layer_norm = true}), {18, 3});
  check("ligru", LiGRU(18, {.layer_norm = true}), {18, 3});
  CHECK(scans.forms.size() == 4);
  CHECK(scans.refusals.empty());
}

TEST_CASE("layers of 16-bit floats", "[cuda]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  const DType dtype = GENERATE(DType::bf16, DType::f16);
  ScansOnDevice scans(pick(meeting, 1));
  check("lstm", LSTM(12, {.weights = {.dtype = dtype}}), {12, 3}, dtype, true);
  check("lstm with norms", LSTM(12, {.layer_norm = true, .weights = {.dtype = dtype}}), {12, 3}, dtype);
  CHECK(scans.forms.size() == 4);
  for (const std::string& why : scans.refusals) FAIL_CHECK(why);
}

TEST_CASE("a cell of one's own with three coupled gates, written with slices", "[cuda]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  ScansOnDevice scans(pick(meeting, 2));
  manual_seed(3);
  const int64_t h = 10;
  const Tensor w = weight({5, 3 * h}), u = weight({h, 3 * h}), p = weight({h}), b = weight({3 * h});
  const auto body = [&](const Tensors& s, const Tensor& x) {
    const Tensor z = matmul(x, w) + matmul(s[0], u) + b;
    const Tensor f = sigmoid(z.slice(1, 0, h) + s[1] * p), o = sigmoid(z.slice(1, h, 2 * h));
    const Tensor c = f * s[1] + (1 - f) * tanh(z.slice(1, 2 * h, 3 * h));
    return Tensors{o * tanh(c), c};
  };
  compare("coupled", scan_of({w, u, p, b}, body, 2, h), uniform({5, 3, 5}, -1, 1));
  CHECK(scans.forms.size() == 2);
  CHECK(scans.refusals.empty());
}

TEST_CASE("two states with products of their own, of which one is swapped", "[cuda]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  ScansOnDevice scans(pick(meeting, 3));
  manual_seed(4);
  const int64_t h = 9;
  const Tensor u = weight({h, h}), v = weight({h, h});
  const auto body = [&](const Tensors& s, const Tensor& x) {
    return Tensors{tanh(matmul(s[0], u) + x), s[2], tanh(matmul(s[1], v) * s[0])};
  };
  compare("swapped", scan_of({u, v}, body, 3, h), uniform({6, 4, h}, -1, 1));
  CHECK(scans.forms.size() == 2);
}

TEST_CASE("a product of a state and the step's input side by side", "[cuda]") {
  fake::Device gpu;
  ScansOnDevice scans(pick(GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid), 1));
  manual_seed(5);
  const int64_t h = 8;
  const Tensor u = weight({h + 4, h});
  const auto body = [&](const Tensors& s, const Tensor& x) { return Tensors{tanh(matmul(concat({s[0], x}, 1), u))}; };
  compare("side by side", scan_of({u}, body, 1, h), uniform({4, 3, 4}, -1, 1));
  CHECK(scans.forms.size() == 2);
}

TEST_CASE("steps without products need no barrier", "[cuda]") {
  fake::Device gpu;
  ScansOnDevice scans;
  manual_seed(6);
  const Tensor a = weight({40});
  const auto body = [&](const Tensors& s, const Tensor& x) { return Tensors{s[0] * sigmoid(a) + x}; };
  compare("decay", scan_of({a}, body, 1, 40), uniform({9, 3, 40}, -1, 1));
  REQUIRE(scans.forms.size() == 2);
  CHECK(scans.forms[0].find("barrier") == std::string::npos);
}

TEST_CASE("random numbers and counters in a step", "[cuda]") {
  fake::Device gpu;
  ScansOnDevice scans(pick(GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid), 1));
  manual_seed(8);
  const int64_t h = 12;
  const Tensor u = weight({h, h}), x = uniform({7, 3, h}, -1, 1);
  const auto step = [&](const Tensor& in) {
    manual_seed(9);
    const auto [last, outputs] = scan(
        [&](const std::pair<Tensor, Tensor>& s, const Tensor& e) {
          const Tensor y = dropout(tanh(matmul(s.first, u) + e), 0.3) + cast(s.second, DType::f32) * 0.01;
          return std::pair(std::pair(y, s.second + 1), y);
        },
        std::pair(zeros({3, h}), zeros({3, 1}, DType::i32)), in);
    return Tensors{last.first, last.second, outputs};
  };
  compare("dropout", step, x);
  CHECK(scans.forms.size() == 1);
}

TEST_CASE("values that every thread has are computed in order, whichever columns are read alone", "[cuda]") {
  fake::Device gpu;
  ScansOnDevice scans(pick(GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid), 1));
  manual_seed(10);
  const auto step = [](const Tensor& in) {
    const auto [last, outputs] = scan(
        [](const Tensors& s, const Tensor& e) {
          const Tensor u = tanh(s[1]), a = s[0].slice(1, 1, 2) * 2;
          return std::pair(Tensors{s[0] * u + e * a, s[1] + 0.1}, s[0] - mean(s[0], {1}, true));
        },
        Tensors{full({3, 4}, 0.5), full({3, 1}, 0.2)}, in);
    return Tensors{last[0], last[1], outputs};
  };
  compare("columns", step, uniform({5, 3, 4}, -1, 1));
  const auto spread = [](const Tensor& in) {
    const auto [last, outputs] = scan(
        [](const Tensors& s, const Tensor& e) {
          return std::pair(Tensors{s[0] + 0.1, s[0].expand({3, 4})}, s[1] * e * e.slice(1, 2, 3));
        },
        Tensors{full({3, 1}, 0.5), full({3, 4}, 0.2)}, in);
    return Tensors{last[0], last[1], outputs};
  };
  compare("spread", spread, uniform({5, 3, 4}, -1, 1));
  CHECK(scans.forms.size() == 2);
  CHECK(scans.refusals.empty());
}

TEST_CASE("where clusters do not fit, blocks meet in the grid", "[cuda]") {
  const bool clusters = GENERATE(true, false);
  fake::Device gpu({.clusters = clusters});
  std::vector<std::string> forms;
  scan_hook = [&](const Region& region, std::string* why) {
    const auto kernel = cuda::compile_scan(region, why);
    forms.push_back(kernel ? kernel->form() : *why);
    return nullptr;
  };
  const LSTM layer(256);
  auto captured = capture([&](const Tensor& x) { return layer(x).outputs; });
  for (int i = 0; i < 3; ++i) captured(zeros({2, 16, 3}));
  scan_hook = nullptr;
  REQUIRE(forms.size() == 1);
  CHECK_THAT(forms[0], Catch::Matchers::Contains(clusters ? "in a cluster" : "in the grid"));
}

TEST_CASE("no steps give the first carry", "[cuda]") {
  fake::Device gpu;
  ScansOnDevice scans(pick(GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid), 1));
  const Tensor u = weight({6, 6});
  const auto body = [&](const Tensors& s, const Tensor& x) { return Tensors{tanh(matmul(s[0], u) + x)}; };
  compare("nothing", scan_of({u}, body, 1, 6), uniform({0, 2, 6}, -1, 1));
}

TEST_CASE("the real compiler keeps a scan's values in registers", "[cuda][slow]") {
  std::vector<std::string> texts;
  for (const auto meeting : {ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid}) {
    fake::Device gpu;
    ScansOnDevice scans(pick(meeting, 1));
    check("lstm", LSTM(256), {256, 8, 1});
    check("gru, reset before", GRU(96, {.reset_after = false}), {96, 8, 1});
    check("lstm with norms in bf16", LSTM(24, {.layer_norm = true, .weights = {.dtype = DType::bf16}}), {24, 8, 1},
          DType::bf16);
    texts.insert(texts.end(), scans.texts.begin(), scans.texts.end());
  }
  CHECK(texts.size() == 18);
  if (!compiler_is_there()) return;
  for (const std::string& text : texts) {
    const std::string log = ptxas_log(text, 90);
    INFO(text.substr(0, text.find('\n')) << "\n" << log);
    CHECK(bytes_spilled(log) == 0);
  }
}

TEST_CASE("random cells on the device are the loops they stand for", "[cuda]") {
  fake::Device gpu;
  ScansOnDevice scans(pick(GENERATE(ScanMeeting::block, ScanMeeting::grid), 0));
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const cells::Cell cell = cells::generate(seed);
    INFO(cells::to_text(cell));
    CHECK(cells::problem(cell) == "");
  }
  for (const std::string& why : scans.refusals) UNSCOPED_INFO(why);
  CHECK(2 * scans.forms.size() > scans.refusals.size());
}

TEST_CASE("many random cells on the device", "[cuda][slow]") {
  fake::Device gpu;
  const int way = GENERATE(0, 1, 2, 3);
  ScansOnDevice scans(way ? pick(static_cast<ScanMeeting>(way), 1) : fastest);
  for (uint64_t seed = 1000 * static_cast<uint64_t>(way); seed < 1000 * static_cast<uint64_t>(way) + 100; ++seed) {
    const cells::Cell cell = cells::generate(seed);
    INFO(cells::to_text(cell));
    CHECK(cells::problem(cell) == "");
  }
}
