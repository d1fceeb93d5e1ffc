// Recurrent nets as plain loops: what the graph makes of the products that stand in it step by step, and that no bit of
// a result changes with it.
#include <optional>

#include "reprise/core/stats.h"
#include "reprise/test/capture_cases.h"

using namespace rp;
using cases::agree;
using cases::Log;

namespace {

constexpr int64_t batch = 4, width = 24, units = 32;

/// A loss from weights and a sequence [steps, batch, width].
using Net = std::function<Tensor(const Tensors& w, const Tensor& x)>;

Tensors random_weights(const std::vector<Shape>& shapes) {
  Tensors w;
  for (const Shape& s : shapes) w.push_back(uniform(s, -0.4, 0.4).set_requires_grad());
  return w;
}

/// The products and concats that stand in what `step` has recorded.
struct Count {
  int products = 0, segmented = 0, batched = 0, concats = 0, filled = 0;

  template <class F>
  explicit Count(const Captured<F>& step) {
    const std::string dump = step.dump(), report = step.explain();
    products = times(dump, " = matmul(");
    segmented = times(dump, " = segmented_matmul(");
    concats = times(dump, " = concat(");
    batched = times(report, "rows became one");
    filled = times(report, "filled in place");
  }
  static int times(const std::string& text, const std::string& part) {
    int n = 0;
    for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; ++at) ++n;
    return n;
  }
};

/// Trains by gradient descent inside one captured function on sequences of the given lengths; the same in every mode.
Count trains(const std::vector<Shape>& shapes, const Net& net, const std::vector<int64_t>& lengths) {
  std::optional<Count> count;
  agree([&](Log& log) {
    const Tensors w = random_weights(shapes);
    auto step = capture([&](const Tensor& x) {
      for (const Tensor& v : w) v.set_grad({});
      Tensor loss = net(w, x);
      loss.backward();
      NoGrad no_grad;
      for (const Tensor& v : w) v.copy_(v - v.grad() * 0.05);
      return loss;
    });
    for (int round = 0; round < 4; ++round)
      for (int64_t steps : lengths) log.add(step(uniform({steps, batch, width}, -1, 1)));
    log.add(w);
    if (log.mode == Mode::graph) count.emplace(step);
  });
  return *count;
}

/// Runs `f` in every mode and several times.
template <class F>
Count computes(F f) {
  std::optional<Count> count;
  agree([&](Log& log) {
    auto step = capture(f);
    for (int round = 0; round < 3; ++round) {
      log.add(step(uniform({6, batch, width}, -1, 1), uniform({width, units}, -1, 1)));
    }
    if (log.mode == Mode::graph) count.emplace(step);
  });
  return *count;
}

Tensor tanh_net(const Tensors& w, const Tensor& x) {
  Tensor h = zeros({batch, units}), loss = scalar(0);
  for (int64_t t = 0; t < x.size(0); ++t) {
    h = tanh(matmul(x.select(0, t), w[0]) + matmul(h, w[1]) + w[2]);
    loss = loss + mean(square(matmul(h, w[3])));
  }
  return loss;
}

Tensor lstm_net(const Tensors& w, const Tensor& x) {
  Tensor h = zeros({batch, units}), c = h;
  for (int64_t t = 0; t < x.size(0); ++t) {
    const Tensor v = x.select(0, t);
    const auto gate = [&](size_t k) { return matmul(v, w[3 * k]) + matmul(h, w[3 * k + 1]) + w[3 * k + 2]; };
    c = sigmoid(gate(0)) * c + sigmoid(gate(1)) * tanh(gate(2));
    h = sigmoid(gate(3)) * tanh(c);
  }
  return mean(square(h - 0.5));
}

Tensor merged_lstm_net(const Tensors& w, const Tensor& x) {
  Tensor h = zeros({batch, units}), c = h;
  for (int64_t t = 0; t < x.size(0); ++t) {
    const Tensor z = matmul(x.select(0, t), w[0]) + matmul(h, w[1]) + w[2];
    const auto gate = [&](int64_t k) { return z.slice(1, k * units, (k + 1) * units); };
    c = sigmoid(gate(0)) * c + sigmoid(gate(1)) * tanh(gate(2));
    h = sigmoid(gate(3)) * tanh(c);
  }
  return mean(square(h - 0.5));
}

// The reset gate acts before the product.
Tensor gru_net(const Tensors& w, const Tensor& x) {
  Tensor h = zeros({batch, units});
  for (int64_t t = 0; t < x.size(0); ++t) {
    const Tensor v = x.select(0, t);
    const Tensor r = sigmoid(matmul(v, w[0]) + matmul(h, w[1])), z = sigmoid(matmul(v, w[2]) + matmul(h, w[3]));
    const Tensor n = tanh(matmul(v, w[4]) + matmul(r * h, w[5]));
    h = (1 - z) * n + z * h;
  }
  return mean(square(h - 0.5));
}

Tensors terms(const Tensor& x, const Tensor& w) {
  Tensors list;
  for (int64_t t = 0; t < x.size(0); ++t) list.push_back(matmul(x.select(0, t).transpose(), tanh(x.select(0, t)) + t));
  list.push_back(w);
  return list;
}

std::vector<Shape> lstm_shapes() {
  std::vector<Shape> shapes;
  for (int k = 0; k < 4; ++k) shapes.insert(shapes.end(), {{width, units}, {units, units}, {units}});
  return shapes;
}

const Shape in_shape{width, units}, state_shape{units, units};

}  // namespace

TEST_CASE("a loop's products with one weight become one", "[batch]") {
  const Count c = trains({in_shape, state_shape, {units}, {units, 20}}, tanh_net, {6});
  CHECK(c.segmented == 3);                 // the gradients of the three weights
  CHECK(c.batched == 3);                   // x W, h V and the latter's gradient with respect to h
  CHECK(c.products == 6 + 5 + c.batched);  // and those that the recurrence needs step by step, both ways
  CHECK(c.concats == 4);
  CHECK(c.filled == 3);  // all but the parts of the sequence
}

TEST_CASE("a long loop is batched too", "[batch]") {
  const Count c = trains({in_shape, state_shape, {units}, {units, 20}}, tanh_net, {70});
  CHECK(c.segmented == 3);
  CHECK(c.batched == 3);
}

TEST_CASE("loops of different length", "[batch]") {
  const Count c = trains({in_shape, state_shape, {units}, {units, 20}}, tanh_net, {6, 1, 9, 2});
  CHECK(c.segmented == 6);
}

TEST_CASE("an LSTM with a weight for each gate", "[batch]") {
  const Count c = trains(lstm_shapes(), lstm_net, {5});
  CHECK(c.segmented == 8 + 4);  // also the four terms of each state's gradient
  CHECK(c.batched == 4);
}

TEST_CASE("an LSTM with one weight for all gates", "[batch]") {
  const Count c = trains({{width, 4 * units}, {units, 4 * units}, {4 * units}}, merged_lstm_net, {5});
  CHECK(c.segmented == 2);
  CHECK(c.batched == 1);
}

TEST_CASE("a GRU whose reset gate acts before the product", "[batch]") {
  const Count c = trains({in_shape, state_shape, in_shape, state_shape, in_shape, state_shape}, gru_net, {6});
  CHECK(c.segmented == 6);
  CHECK(c.batched == 3);
}

TEST_CASE("products that depend on each other stay apart", "[batch]") {
  const Count c = computes([](const Tensor& x, const Tensor& w) {
    const Tensor square = matmul(w.transpose(), w) * 0.01;
    Tensor h = matmul(x.select(0, 0), w);
    for (int t = 0; t < 5; ++t) h = tanh(matmul(h, square));
    return h;
  });
  CHECK(c.batched == 0);
  CHECK(c.products == 7);
}

TEST_CASE("two chains of dependent products are batched step by step", "[batch]") {
  const Count c = computes([](const Tensor& x, const Tensor& w) {
    const Tensor square = matmul(w.transpose(), w) * 0.01;
    Tensor h = matmul(x.select(0, 0), w), g = matmul(x.select(0, 1), w);
    for (int t = 0; t < 5; ++t) {
      h = tanh(matmul(h, square));
      g = sigmoid(matmul(g, square));
    }
    return Tensors{h + 0, g + 0};
  });
  CHECK(c.batched == 6);
  CHECK(c.products == 7);
}

TEST_CASE("groups that would wait for each other are not made", "[batch]") {
  const Count c = computes([](const Tensor& x, const Tensor& w) {
    const Tensor v = sin(w);
    const Tensor a = matmul(x.select(0, 0), w), b = matmul(x.select(0, 1), v);
    const Tensor c = matmul(sin(a.slice(1, 0, width)), v),
                 d = matmul(sin(b.slice(1, 0, width)), w);  // a and d, b and c
    return a * b + c * d;
  });
  CHECK(c.batched == 1);
  CHECK(c.products == 3);
}

TEST_CASE("a weight written between two products", "[batch]") {
  const Count c = computes([](const Tensor& x, const Tensor& given) {
    const Tensor w = given + 0;
    Tensor y = zeros({batch, units});
    for (int64_t t = 0; t < 4; ++t) {
      y = y * 0.5 + matmul(x.select(0, t), w);
      if (t == 1) mul_(w, 1.25);
    }
    return y;
  });
  CHECK(c.batched == 2);
  CHECK(c.products == 2);
}

TEST_CASE("a parameter written between two products", "[batch]") {
  agree([](Log& log) {
    const Tensor w = uniform({width, units}, -1, 1), x = uniform({4, batch, width}, -1, 1);
    auto step = capture([&] {
      Tensor y = zeros({batch, units});
      for (int64_t t = 0; t < 4; ++t) {
        y = y * 0.5 + matmul(x.select(0, t), w);
        if (t == 1) mul_(w, 0.75);
        if (t == 2) add_(x, 0.125);
      }
      return y;
    });
    for (int i = 0; i < 4; ++i) log.add(step());
    log.add(Tensors{w, x});
  });
}

TEST_CASE("a factor of a sum's products written before the last of them", "[batch]") {
  const Count c = computes([](const Tensor& given, const Tensor& w) {
    const Tensor x = given * 2;
    Tensors products;
    for (int64_t t = 0; t < 5; ++t) products.push_back(matmul(x.select(0, t).transpose(), matmul(x.select(0, t), w)));
    mul_(x, 0.5);
    Tensor sum = products[0];
    for (size_t t = 1; t < 5; ++t) sum = sum + products[t];
    return Tensors{sum, x};
  });
  CHECK(c.segmented == 0);
}

TEST_CASE("sums of products", "[batch]") {
  SECTION("in order, and with the new term first") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      return ((p[3] + (p[2] + (p[0] + p[1]))) + p[4]) + p[5];
    });
    CHECK(c.segmented == 1);
    CHECK(c.products == 0);
  }
  SECTION("an intermediate sum is used elsewhere") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      const Tensor early = (p[0] + p[1]) + p[2];
      return ((early + p[3]) + p[4]) * square(early);
    });
    CHECK(c.segmented == 1);
    CHECK(c.products == 2);
  }
  SECTION("an intermediate sum is returned") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      const Tensor early = (p[0] + p[1]) + p[2], all = early + p[3];
      return Tensors{early, all};
    });
    CHECK(c.segmented == 1);
    CHECK(c.products == 1);
  }
}

TEST_CASE("sums of products that are not or only in part chains", "[batch]") {
  SECTION("a product is used elsewhere") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      return ((p[0] + p[1]) + p[2]) * p[1];
    });
    CHECK(c.segmented == 0);
    CHECK(c.products == 3);
  }
  SECTION("a product is added twice") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      return ((p[0] + p[1]) + p[1]) + p[2];
    });
    CHECK(c.segmented == 0);
  }
  SECTION("mixed shapes") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      const Tensor odd = matmul(x.select(0, 0).slice(0, 1, 3).transpose(), x.select(0, 1).slice(0, 0, 2));
      return ((((p[0] + p[1]) + p[2]) + odd) + p[3]) + p[4];
    });
    CHECK(c.segmented == 1);
    CHECK(c.products == 3);
  }
  SECTION("a tree is no chain") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      return (p[0] + p[1]) + (p[2] + p[3]);
    });
    CHECK(c.segmented == 0);
  }
  SECTION("the sum is written afterwards") {
    const Count c = computes([](const Tensor& x, const Tensor& w) {
      const Tensors p = terms(x, w);
      const Tensor all = (p[0] + p[1]) + p[2], twice = all * 2;
      all.select(0, 1).fill_(3);
      return Tensors{all, twice};
    });
    CHECK(c.segmented == 1);
  }
  SECTION("factors as they are, turned on the right") {
    const Count c = computes([](const Tensor& x, const Tensor&) {
      const auto term = [&](int64_t t) {
        const Tensor rows = x.select(0, t).slice(1, 0, 8);
        return matmul(exp(rows), sin(rows).transpose());
      };
      return (term(0) + term(1)) + term(2);
    });
    CHECK(c.segmented == 1);
  }
}

TEST_CASE("products that the caller keeps have buffers of their own", "[batch]") {
  const Count c = computes([](const Tensor& x, const Tensor& w) {
    Tensors y;
    for (int64_t t = 0; t < 6; ++t) y.push_back(matmul(x.select(0, t), w));
    const Tensor used = tanh(y[3] + y[4]);
    y.erase(y.begin() + 3, y.begin() + 5);
    y.push_back(used);
    return y;
  });
  CHECK(c.batched == 1);
  CHECK(c.products == 5);
}

TEST_CASE("rows that stand behind each other are not copied", "[batch]") {
  const Count c = computes([](const Tensor& x, const Tensor& w) {
    const Tensor back = sin(w).transpose();
    Tensor y = zeros({batch, width});
    for (int64_t t = 0; t < 6; ++t) y = y * 0.5 + matmul(matmul(x.select(0, t), w), back);
    return y;
  });
  CHECK(c.batched == 2);
  CHECK(c.concats == 1);
}

TEST_CASE("a result that is a part of what was batched", "[batch]") {
  const Count c = computes([](const Tensor& x, const Tensor& w) {
    Tensors y;
    for (int64_t t = 0; t < 6; ++t) y.push_back(matmul(x.select(0, t), w));
    return Tensors{concat({y[1], y[2], y[3]}), concat({y[0], y[1]}) * 2, tanh(y[4] + y[5])};
  });
  CHECK(c.batched == 1);
  CHECK(c.products == 1);
}

TEST_CASE("four gradients in one buffer are one kernel", "[batch]") {
  const Tensor a = uniform({batch, units}, -1, 1), b = uniform({batch, units}, -1, 1);
  const Tensor w = uniform({4 * units, width}, -1, 1);
  const auto gates = [&] {
    const Tensor s = sigmoid(a * b), t = tanh(a + b);
    return matmul(concat({s * t, s * (1 - s), t * t * s, s + t * 2}, 1), w);
  };
  const CaptureStats stats = agree([&](Log& log) {
    auto step = capture(gates);
    for (int i = 0; i < 3; ++i) log.add(step());
    if (log.mode == Mode::graph) CHECK(Count(step).filled == 1);
    log.stats = step.stats();
  });
  CHECK(stats.kernels == 2);
}

TEST_CASE("concats of all that can and cannot be made in place", "[batch]") {
  const auto program = [](const Tensor& x, const Tensor& w) {
    const Tensor a = x.select(0, 0), b = tanh(a), c = x.select(0, 1) * 2, row = sum(b, {0}), column = max(c, {1});
    const Tensor inner = concat({b * 3, c});
    return Tensors{
        concat({a, b, c.transpose().contiguous().transpose(), b}, 1),
        concat({b + 1, b - 1, a * 2}, 1) * 0.5,
        concat({inner, concat({c * 4, exp(a)})}),
        stack({b * 5, c * 6, sin(a)}, 1) + 1,
        stack({row, row * 2, sum(c, {0})}, 1),
        concat({column, column + 1, row}),
        concat({matmul(a, w), cos(matmul(b, w)), exp(matmul(c, w))}, 1) + 1,
        concat({index_select(w, tensor({int64_t{3}, int64_t{1}})), w * 2}),
        stack({sum(a), sum(b)}) + 1,
        concat({a.slice(1, 0, 0), b * 7}, 1),
        concat({b.flatten() + 1, row * 0.5}),
        b,
    };
  };
  const Count c = computes(program);
  CHECK(c.filled >= 7);
}

TEST_CASE("elements written after they went into a concat", "[batch]") {
  computes([](const Tensor& x, const Tensor&) {
    const Tensor a = x.select(0, 0) * 2, b = x.select(0, 1) * 3, both = concat({a, b});
    const Tensor before = both * 1;
    mul_(a, 5);
    both.slice(0, 1, 3).fill_(7);
    return Tensors{a, b, both, before};
  });
}

TEST_CASE("equal regions of a loop share one compiled program", "[batch]") {
  Tensor h = uniform({batch, units}, -1, 1), w = uniform(state_shape, -0.4, 0.4);
  const auto forms = [&](int64_t steps) {
    auto step = capture([&] {
      Tensor y = h;
      for (int64_t t = 0; t < steps; ++t) y = tanh(matmul(y, w) * y - 0.375) * 1.5 + y * sin(y);
      return y;
    });
    for (int i = 0; i < 3; ++i) step();
    CHECK(step.stats().kernels == steps + 1);
    return launch_stats().programs;
  };
  const int64_t before = launch_stats().programs, few = forms(4), many = forms(40);
  CHECK(few > before);
  CHECK(many == few);
}
