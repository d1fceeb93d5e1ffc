// Products of scans on tensor cores: as near to the exact ones as sums in another order are.
#include <algorithm>
#include <cmath>

#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/nn/recurrent.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda_ptxas.h"
#include "reprise/test/cuda_scans.h"

using namespace rp;
using namespace rp::test;
using Catch::Matchers::Contains;
using cuda::ScanMeeting;

namespace {

using Step = std::function<Tensors(const Tensor& x)>;

Tensors on_tensor_cores(const Step& step, const Tensor& x) {
  auto captured = capture(step);
  for (int i = 0; i < 2; ++i) captured(x);
  return captured(x);
}

Tensors eagerly(const Step& step, const Tensor& x) {
  ModeGuard eager(Mode::eager);
  return step(x);
}

double distance(const Tensor& a, const Tensor& b) {
  return max(abs(cast(a, DType::f64) - cast(b, DType::f64))).item<double>();
}

Tensor weight(const Shape& shape, DType dtype) {
  const double most = 2 / std::sqrt(static_cast<double>(shape[0]));
  return uniform(shape, -most, most, DType::f64).to(dtype).set_requires_grad();
}

/// What is multiplied has 16 bits; states, sums and all else are f32. So nothing is rounded but sums, or, of what is
/// multiplied, both ways alike, if it lies not between two numbers.
Tensor product_of(const Tensor& a, const Tensor& w) {
  return matmul(cast(cast(a, w.dtype()), DType::f32), cast(w, DType::f32));
}

Step lstm_step(const Tensor& u, int64_t units) {
  return [=](const Tensor& x) {
    const auto [last, outputs] = scan(
        [&](const std::pair<Tensor, Tensor>& s, const Tensor& in) {
          const Tensor z = product_of(s.first, u) + in;
          const Tensor i = sigmoid(z.slice(1, 0, units)), f = sigmoid(z.slice(1, units, 2 * units));
          const Tensor c = f * s.second + i * tanh(z.slice(1, 2 * units, 3 * units));
          const Tensor h = sigmoid(z.slice(1, 3 * units, 4 * units)) * tanh(c);
          return std::pair(std::pair(h, c), z);
        },
        std::pair(full({x.size(1), units}, 0.25), zeros({x.size(1), units})), x);
    return Tensors{outputs, last.first, last.second};
  };
}

/// The outputs, and the gradients of the input and of all parameters.
template <class Layer>
Step training(const Layer& layer) {
  return [=](const Tensor& x) {
    for (const auto& [name, p] : layer.parameters()) p.set_grad({});
    x.set_grad({});
    const Tensor y = layer(x).outputs;
    sum(y * y).backward();
    Tensors all{y, x.grad()};
    for (const auto& [name, p] : layer.parameters()) all.push_back(p.grad());
    return all;
  };
}

/// With the same weights and input, results and gradients by tensor cores, exact, and in f64: on the way to the last,
/// the first must not be farther off than the second, but for luck.
template <class Layer>
void check_near(const std::string& name, DType dtype, const Layer& layer, const Layer& wide) {
  INFO(name);
  manual_seed(7);
  const Tensor x = uniform({5, 5, 16}, -1, 1, DType::f64).to(dtype).set_requires_grad();
  const Tensor x64 = x.detach().to(DType::f64).set_requires_grad();
  layer(x);
  wide(x64);
  const auto parameters = layer.parameters(), copies = wide.parameters();
  no_grad([&] {
    for (size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].second.copy_(uniform(parameters[i].second.shape(), -0.4, 0.4, DType::f64).to(dtype));
      copies[i].second.copy_(parameters[i].second.to(DType::f64));
    }
  });
  const Tensors got = on_tensor_cores(training(layer), x), want = eagerly(training(layer), x),
                reference = eagerly(training(wide), x64);
  const double step = dtype == DType::bf16 ? 1.0 / 256 : 1.0 / 2048;
  for (size_t k = 0; k < got.size(); ++k) {
    INFO("result " << k);
    const double size = max(abs(reference[k])).item<double>();
    CHECK(distance(got[k], reference[k]) <= 2 * distance(want[k], reference[k]) + 2 * step * size);
    CHECK(distance(got[k], want[k]) <= 6 * step * size);
  }
}

}  // namespace

TEST_CASE("one step's products on tensor cores are sums in another order", "[cuda]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  const DType dtype = GENERATE(DType::bf16, DType::f16);
  for (size_t number = 0; number < 8; ++number)
    for (const auto& [units, batch] : {std::pair(24, 3), std::pair(64, 9), std::pair(40, 17)}) {
      ScansOnDevice scans(pick(meeting, number));
      scans.tensor = true;
      manual_seed(3);
      const Tensor u = weight({units, 4 * units}, dtype), x = uniform({1, batch, 4 * units}, -1, 1);
      const Step step = lstm_step(u, units);
      const Tensors got = on_tensor_cores(step, x), want = eagerly(step, x);
      REQUIRE(!scans.forms.empty());
      CHECK_THAT(scans.forms.back(), Contains("tensor cores"));
      INFO(units << " units, batch " << batch << ", " << scans.forms.back());
      for (size_t k = 0; k < got.size(); ++k) CHECK(distance(got[k], want[k]) < 1e-5);
    }
}

TEST_CASE("layers on tensor cores are as near to what they stand for as exact ones", "[cuda]") {
  fake::Device gpu;
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  const DType dtype = GENERATE(DType::bf16, DType::f16);
  ScansOnDevice scans(pick(meeting, dtype == DType::f16 ? 5 : 2));
  scans.tensor = true;
  const CellWeights weights{.dtype = dtype}, wide{.dtype = DType::f64};
  check_near("lstm", dtype, LSTM(32, {.weights = weights}), LSTM(32, {.weights = wide}));
  check_near("lstm with projection", dtype, LSTM(40, {.projection = 24, .weights = weights}),
             LSTM(40, {.projection = 24, .weights = wide}));
  check_near("lstm with norms", dtype, LSTM(24, {.layer_norm = true, .weights = weights}),
             LSTM(24, {.layer_norm = true, .weights = wide}));
  check_near("gru", dtype, GRU(21, {.weights = weights}), GRU(21, {.weights = wide}));
  check_near("gru, reset before", dtype, GRU(32, {.reset_after = false, .weights = weights}),
             GRU(32, {.reset_after = false, .weights = wide}));
  int tensor = 0;
  for (const std::string& form : scans.forms) tensor += form.find("tensor cores") != std::string::npos;
  CHECK(tensor == 10);
  for (const std::string& why : scans.refusals) FAIL_CHECK(why);
}

// Bytes of a thread: an address or two that ptxas puts aside before the steps begin.
constexpr int most_spilled = 32;

TEST_CASE("the real compiler keeps what tensor cores need in registers", "[cuda][slow]") {
  const auto [architecture, device] =
      GENERATE(std::pair(80, cuda::ScanDevice{.multiprocessors = 108, .shared_bytes = 163 << 10, .cluster = 1}),
               std::pair(90, cuda::ScanDevice{}), std::pair(100, cuda::ScanDevice{.multiprocessors = 148}));
  const int64_t units = GENERATE(256, 512, 768, 1024);
  const CellWeights weights{.dtype = DType::bf16, .recurrent_init = init::xavier_uniform()};
  std::vector<std::string> texts;
  for (const int64_t batch : {1, 16, 64})
    for (const bool gru : {false, true}) {
      fake::Device gpu;
      ScansOnDevice scans;
      scans.tensor = true;
      scans.device = device;
      const Tensor x = zeros({2, batch, 32}, DType::bf16).set_requires_grad();
      on_tensor_cores(gru ? training(GRU(units, {.weights = weights})) : training(LSTM(units, {.weights = weights})),
                      x);
      for (const std::string& text : scans.texts)
        if (text.find("TiledFactor") != std::string::npos && std::ranges::find(texts, text) == texts.end())
          texts.push_back(text);
    }
  if (!compiler_is_there()) return;
  for (const std::string& text : texts) {
    const std::string log = ptxas_log(text, architecture);
    INFO(text.substr(0, text.find('\n')) << "\n" << log);
    CHECK(bytes_spilled(log) <= most_spilled);
  }
}
