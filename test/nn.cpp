#include <cmath>
#include <cstring>

#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/nn/nn.h"
#include "reprise/samples/models.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

struct Cell : Module {
  Tensor W = param("W", {3, 4}), U = param("U", {4, 4}), b = param("b", {4});
  Tensor operator()(const Tensor& x, const Tensor& h) const { return tanh(matmul(x, W) + matmul(h, U) + b); }
};

struct Net : Module {
  Cell cell = child("cell", Cell());
  Dense head = child("head", Dense(2));
  Tensor operator()(const Tensor& x) const { return head(cell(x, zeros({x.size(0), 4}))); }
};

struct Open : Module {
  Open() = default;
  using Module::buffer;
  using Module::child;
  using Module::param;
};

std::vector<std::string> names(const NamedTensors& tensors) {
  std::vector<std::string> out;
  for (const auto& [name, t] : tensors) out.push_back(name);
  return out;
}

template <class F>
Error error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  FAIL("nothing was thrown");
  throw std::logic_error("unreachable");
}

double stddev(const Tensor& t) { return std::sqrt(var(t).item<double>()); }

bool same_bits(const Tensor& a, const Tensor& b) {
  std::vector<float> x = a.to_vector<float>(), y = b.to_vector<float>();
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("parameters carry dotted names, in the order of registration") {
  Net net;
  CHECK(names(net.parameters()) == std::vector<std::string>{"cell.W", "cell.U", "cell.b"});
  net(ones({5, 3}));
  CHECK(names(net.parameters()) == std::vector<std::string>{"cell.W", "cell.U", "cell.b", "head.weight", "head.bias"});
  for (const auto& [name, p] : net.parameters()) CHECK(p.requires_grad());
  CHECK(net.parameters()[0].second.is(net.cell.W));
  CHECK(net.parameters()[3].second.shape() == Shape{4, 2});
}

TEST_CASE("copies of a module share what is made later") {
  Dense a(2), b = a;
  Open parent;
  parent.child("a", a);
  a(ones({1, 7}));
  CHECK(b.parameters().size() == 2);
  CHECK(parent.parameters()[0].second.is(a.parameters()[0].second));
  CHECK(same_bits(a(ones({1, 7})), b(ones({1, 7}))));
  b.train(false);
  CHECK(!a.training());
}

TEST_CASE("names must be new and plain, and a module cannot contain itself") {
  Open m, outer;
  m.param("w", {2, 2});
  CHECK_THROWS_AS(m.param("w", {2, 2}), Error);
  CHECK_THROWS_AS(m.buffer("w", zeros({2})), Error);
  CHECK_THROWS_AS(m.child("w", Dense(2)), Error);
  CHECK_THROWS_AS(m.param("a.b", {2}), Error);
  CHECK_THROWS_AS(m.param("", {2}), Error);
  CHECK_THROWS_AS(m.param("integers", zeros({2}, DType::i32)), Error);
  CHECK_THROWS_AS(m.param("undefined", Tensor()), Error);
  outer.child("m", m);
  CHECK_THROWS_AS(m.child("outer", outer), Error);
  CHECK_THROWS_AS(m.child("self", m), Error);
  CHECK(names(outer.parameters()) == std::vector<std::string>{"m.w"});
}

TEST_CASE("an initialiser that fails leaves the name free") {
  Open m;
  CHECK_THROWS_AS(m.param("w", {2, 2}, [](const Shape&) { return zeros({3}); }), Error);
  CHECK(m.param("w", {2, 2}).defined());
  CHECK(m.parameters().size() == 1);
}

TEST_CASE("a tensor under two names is one parameter") {
  Open m;
  Tensor w = m.param("w", {2, 2});
  m.param("again", w);
  CHECK(names(m.parameters()) == std::vector<std::string>{"w"});
  Dense layer(2);
  layer(ones({1, 2}));
  m.child("first", layer);
  m.child("second", layer);
  CHECK(names(m.parameters()) == std::vector<std::string>{"w", "first.weight", "first.bias"});
}

TEST_CASE("train reaches all children") {
  Net net;
  CHECK((net.training() && net.head.training()));
  net.train(false);
  CHECK((!net.training() && !net.cell.training() && !net.head.training()));
}

TEST_CASE("a summary lists names, shapes and counts") {
  Net net;
  std::string text = net.summary();
  CHECK(text.find("cell.U") != std::string::npos);
  CHECK(text.find("f32[4,4]") != std::string::npos);
  CHECK(text.find("32\n") != std::string::npos);
}

TEST_CASE("initialisers have the documented spread") {
  manual_seed(3);
  const Shape matrix{200, 300}, kernel{64, 32, 5, 5};
  CHECK(stddev(init::normal(1, 2)(matrix)) == Approx(2).epsilon(0.03));
  CHECK(mean(init::normal(1, 2)(matrix)).item<double>() == Approx(1).epsilon(0.05));
  CHECK(max(abs(init::fan_in_uniform()(matrix))).item<double>() == Approx(1 / std::sqrt(200.)).epsilon(0.01));
  CHECK(max(abs(init::xavier_uniform()(matrix))).item<double>() == Approx(std::sqrt(6. / 500)).epsilon(0.01));
  CHECK(stddev(init::xavier_normal()(matrix)) == Approx(std::sqrt(2. / 500)).epsilon(0.03));
  CHECK(max(abs(init::kaiming_uniform()(kernel))).item<double>() == Approx(std::sqrt(6. / 800)).epsilon(0.01));
  CHECK(stddev(init::kaiming_normal()(kernel)) == Approx(std::sqrt(2. / 800)).epsilon(0.03));
  CHECK(fan_of(kernel).out == 64 * 25);
  CHECK(max(init::constant(0.5)({3})).item<float>() == 0.5f);
  CHECK(max(abs(init::fan_in_uniform()({9}))).item<float>() == 0);
  CHECK_THROWS_AS(init::xavier_normal()({3}), Error);
  CHECK_THROWS_AS(init::orthogonal()({3}), Error);
}

TEST_CASE("orthogonal weights keep lengths") {
  for (Shape shape : {Shape{4, 9}, Shape{9, 4}, Shape{6, 6}, Shape{5, 2, 3, 3}}) {
    Tensor w = init::orthogonal(2)(shape).reshape({shape[0], -1});
    Tensor product = w.size(0) <= w.size(1) ? matmul(w, w.transpose()) : matmul(w.transpose(), w);
    std::vector<float> p = product.to_vector<float>();
    const int64_t n = product.size(0);
    for (int64_t i = 0; i < n * n; ++i) CHECK(p[i] == Approx(i / n == i % n ? 4 : 0).margin(1e-5));
  }
}

TEST_CASE("dense is a product and a sum, over any leading axes") {
  Dense layer(2);
  Tensor x = uniform({5, 4, 3});
  Tensor y = layer(x);
  CHECK(y.shape() == Shape{5, 4, 2});
  NamedTensors p = layer.parameters();
  Tensor expected = matmul(x, p[0].second) + p[1].second;
  CHECK(max(abs(y - expected)).item<float>() < 1e-6f);
  CHECK(max(abs(p[0].second)).item<double>() <= 1 / std::sqrt(3.));
  Dense plain(2, {.bias = false, .weight_init = init::ones()});
  CHECK(plain(ones({1, 3})).to_vector<float>() == std::vector<float>{3, 3});
  CHECK(plain.parameters().size() == 1);
  CHECK_THROWS_AS(Dense(0), Error);
}

TEST_CASE("errors name the line that called the layer") {
  Sequential net(Dense(2), rp::relu, Dense(3));
  net(ones({1, 4}));
  Tensor wrong = ones({1, 5});
  Error e = error_of([&] { net(wrong); });
  CHECK(e.where().line() == __LINE__ - 1);
  CHECK(std::string(e.where().file_name()).find("nn.cpp") != std::string::npos);
}

TEST_CASE("convolution and pooling infer channels in both formats") {
  Tensor x = uniform({2, 8, 8, 3});
  Conv2D last(4, {3, 5}, {.format = DataFormat::nhwc}), first(4, {3, 5});
  CHECK(last(x).shape() == Shape{2, 6, 4, 4});
  CHECK(first(x.permute({0, 3, 1, 2})).shape() == Shape{2, 4, 6, 4});
  CHECK(first.parameters()[0].second.shape() == Shape{4, 3, 3, 5});
  CHECK(last.parameters()[0].second.shape() == Shape{4, 3, 3, 5});
  Tensor image = arange(9, 1, 1, DType::f32).reshape({1, 1, 3, 3});
  MaxPool largest(2, {.padding = Padding::same});
  AvgPool average(2, {.padding = Padding::same});
  CHECK(largest(image).to_vector<float>() == std::vector<float>{5, 6, 8, 9});
  CHECK(average(image).to_vector<float>() == std::vector<float>{3, 4.5f, 7.5f, 9});
  CHECK_THROWS_AS(first(ones({2, 3})), Error);
}

TEST_CASE("the image network of the samples has 1,111,946 parameters in both formats") {
  for (DataFormat format : {DataFormat::nchw, DataFormat::nhwc}) {
    samples::FashionNet net(format);
    CHECK(net(zeros({1, 28, 28})).shape() == Shape{1, 10});
    int64_t count = 0;
    for (const auto& [name, p] : net.parameters()) count += p.numel();
    CHECK(count == 1111946);
  }
}

TEST_CASE("batch norm uses the batch in training and the running statistics afterwards") {
  manual_seed(1);
  BatchNorm norm;
  Tensor x = normal({50, 3, 4}, 5, 2);
  Tensor y = norm(x);
  for (float m : mean(y, {0, 2}).to_vector<float>()) CHECK(m == Approx(0).margin(1e-5));
  for (float v : var(y, {0, 2}, false, 0).to_vector<float>()) CHECK(v == Approx(1).epsilon(1e-3));
  CHECK(names(norm.parameters()) == std::vector<std::string>{"scale", "shift"});
  CHECK(names(norm.buffers()) == std::vector<std::string>{"mean", "variance"});
  Tensor running_mean = norm.buffers()[0].second, running_variance = norm.buffers()[1].second;
  CHECK(running_mean.to_vector<float>()[1] == Approx(0.1 * mean(x, {0, 2}).to_vector<float>()[1]));
  CHECK(running_variance.to_vector<float>()[1] == Approx(0.9 + 0.1 * var(x, {0, 2}).to_vector<float>()[1]));
  norm.train(false);
  Tensor z = norm(zeros({1, 3, 1}));
  float m = running_mean.to_vector<float>()[2], v = running_variance.to_vector<float>()[2];
  CHECK(z.to_vector<float>()[2] == Approx(-m / std::sqrt(v + 1e-5)));
  norm.train();
  CHECK_THROWS_AS(norm(zeros({1, 3, 1})), Error);
  CHECK(BatchNorm({.axis = -1})(normal({4, 4, 7})).shape() == Shape{4, 4, 7});
  CHECK_THROWS_AS(BatchNorm({.axis = 3})(zeros({4, 4})), Error);
}

TEST_CASE("gradients of batch norm pass through the batch's statistics") {
  BatchNorm norm;
  Tensor x = normal({8, 2});
  x.set_requires_grad();
  sum(norm(x)).backward();  // the sum of normalised values is zero whatever x is
  CHECK(max(abs(x.grad())).item<float>() < 1e-4f);
}

TEST_CASE("layer norm, dropout, embedding, flatten") {
  LayerNorm norm;
  Tensor y = norm(normal({6, 32}, 3, 2));
  CHECK(max(abs(mean(y, {1}))).item<float>() < 1e-5f);
  CHECK(norm.parameters()[0].second.shape() == Shape{32});

  Dropout dropout(0.25);
  float kept = mean(dropout(ones({100, 100}))).item<float>();
  CHECK(kept == Approx(1).epsilon(0.05));
  dropout.train(false);
  CHECK(same_bits(dropout(y), y));
  CHECK_THROWS_AS(Dropout(1), Error);

  Embedding embedding(10, 4);
  Tensor rows = embedding(tensor<int32_t>({3, 3, 9}));
  CHECK(rows.shape() == Shape{3, 4});
  CHECK(same_bits(rows[2], embedding.parameters()[0].second[9]));
  CHECK(Flatten()(zeros({2, 3, 4})).shape() == Shape{2, 12});
}

TEST_CASE("sequential takes layers and functions") {
  Sequential net(Dense(8), rp::relu, [](const Tensor& x) { return x * 2; }, Dense(3));
  CHECK(net(ones({2, 5})).shape() == Shape{2, 3});
  CHECK(names(net.parameters()) == std::vector<std::string>{"0.weight", "0.bias", "3.weight", "3.bias"});
}

TEST_CASE("lengths of time are told in one line") {
  CHECK(progress_line("train", 50, 200, 10, "loss 0.5") == "train 50/200 (25%)  5.0/s  30 s left  loss 0.5");
  CHECK(progress_line("train", 1, 100, 60, "") == "train 1/100 (1%)  60.0 s each  1 h 39 min left");
  CHECK(progress_line("read", 3, 0, 1, "") == "read 3  3.0/s");
  CHECK(progress_line("read", 0, 5, 0, "") == "read 0/5 (0%)");
}

TEST_CASE("a captured training step equals the eager one, bit for bit") {
  auto train = [](Mode mode) {
    ModeGuard guard(mode);
    manual_seed(7);
    Net net;
    Adam opt(net, {.lr = 0.01});
    Tensor x = normal({16, 3}), y = randint({16}, 0, 2);
    auto step = capture([&](const Tensor& x, const Tensor& y) {
      opt.zero_grad();
      Tensor loss = cross_entropy(net(x), y);
      loss.backward();
      opt.step();
      return loss;
    });
    Tensors all;
    for (int i = 0; i < 8; ++i) all.push_back(step(x, y));
    for (const auto& [name, p] : net.parameters()) all.push_back(p.detach());
    return all;
  };
  Tensors eager = train(Mode::eager), graph = train(Mode::graph), checked = train(Mode::verify);
  REQUIRE(eager.size() == graph.size());
  for (size_t i = 0; i < eager.size(); ++i) {
    CHECK(same_bits(eager[i], graph[i]));
    CHECK(same_bits(eager[i], checked[i]));
  }
  CHECK(eager[7].item<float>() < eager[0].item<float>());
}
