// cond, while_loop and scan against the C++ control flow that they stand for.
#include "reprise/test/capture_cases.h"

using namespace rp;
using Catch::Matchers::Contains;

namespace {

constexpr DType f64 = DType::f64;

double distance(const Tensor& a, const Tensor& b) {
  REQUIRE(a.spec() == b.spec());
  return a.numel() ? max(abs(a - b)).item<double>() : 0;
}

Tensor draw(const Shape& shape) { return uniform(shape, -1, 1, f64); }

struct Net {
  Tensor xs = draw({5, 2, 3}), W = draw({3, 4}), U = draw({4, 4}), b = draw({4}), h0 = draw({2, 4});
  Tensors leaves() const { return {xs, W, U, b, h0}; }

  Tensor cell(const Tensor& h, const Tensor& x) const {
    return tanh(matmul(x, W) + matmul(h, U) + b) * 0.7 + h * h * 0.1;
  }
  Tensor by_scan() const {
    const auto [h, ys] = scan(
        [&](const Tensor& before, const Tensor& x) {
          const Tensor after = cell(before, x);
          return std::pair(after, after * 2);
        },
        h0, xs);
    return sum(h * h) + sum(sin(ys));
  }
  Tensor by_loop() const {
    Tensor h = h0, s = scalar(0, f64);
    for (int64_t t = 0; t < xs.size(0); ++t) {
      h = cell(h, xs.select(0, t));
      s = s + sum(sin(h * 2));
    }
    return sum(h * h) + s;
  }
};

// The gradients of y, of their sum of squares, and so on.
std::vector<Tensors> derivatives(Tensor y, const Tensors& x, int order) {
  std::vector<Tensors> all;
  for (int i = 0; i < order; ++i) {
    all.push_back(grad({y}, x, {.create_graph = true}));
    y = scalar(0, f64);
    for (const Tensor& g : all.back()) y = y + sum(g * g);
  }
  return all;
}

void check_derivatives(const Tensor& a, const Tensor& b, const Tensors& x, int order) {
  const auto one = derivatives(a, x, order), two = derivatives(b, x, order);
  for (size_t i = 0; i < one.size(); ++i)
    for (size_t k = 0; k < x.size(); ++k) {
      INFO("order " << i + 1 << ", leaf " << k);
      CHECK(distance(one[i][k], two[i][k]) <= 1e-11 * (1 + max(abs(two[i][k])).item<double>()));
    }
}

struct State {
  Tensor h;
  std::vector<Tensor> list;
  int tag = 3;
};

}  // namespace

TEST_CASE("scan and its first three derivatives are those of a loop", "[control]") {
  manual_seed(3);
  Net net;
  for (const Tensor& t : net.leaves()) t.set_requires_grad();
  CHECK(distance(net.by_scan(), net.by_loop()) == 0);
  check_derivatives(net.by_scan(), net.by_loop(), net.leaves(), 3);
}

TEST_CASE("weights have gradients where the steps' inputs have none", "[control]") {
  manual_seed(4);
  const Net net;
  const Tensors leaves{net.W, net.U};
  for (const Tensor& t : leaves) t.set_requires_grad();
  check_derivatives(net.by_scan(), net.by_loop(), leaves, 2);
}

TEST_CASE("gradients end in a body where its author ends them", "[control]") {
  manual_seed(6);
  const Tensor x = draw({2, 3}).set_requires_grad(), w = draw({3, 3}).set_requires_grad(), xs = draw({4, 2, 3});
  const auto step = [&](const Tensor& h, const Tensor& v) {
    const Tensor still = no_grad([&] { return sigmoid(matmul(h, w) + v); });
    const Tensor slope = grad({sum(tanh(v * w.select(0, 0)))}, {w})[0].select(0, 0);
    return tanh(matmul(h, w.detach()) + matmul(h.detach(), w)) * still + v + slope;
  };
  Tensor h = x;
  for (int t = 0; t < 4; ++t) h = step(h, xs.select(0, t));
  const Tensor by_scan = scan(step, x, xs);
  CHECK(distance(by_scan, h) == 0);
  check_derivatives(sum(by_scan * by_scan), sum(h * h), {x, w}, 2);
  const Tensor one = scalar(1, f64);
  const Tensor chosen = cond(one > 0, [&] { return x * x.detach(); }, [&] { return x; });
  CHECK(distance(grad({sum(chosen)}, {x})[0], x) == 0);
  const CustomGradient custom{.forward = [](const Tensors& in) { return in[0]; },
                              .backward = [](const Tensors&, const Tensor&, const Tensor& dy) { return Tensors{dy}; }};
  CHECK_THROWS_WITH(scan([&](const Tensor& c) { return custom({c}); }, x, {.length = 2}), Contains("custom gradient"));
}

TEST_CASE("scan in training steps has the same bits in every mode", "[control]") {
  cases::agree([](cases::Log& log) {
    Net net;
    for (const Tensor& t : net.leaves()) t.set_requires_grad();
    auto step = capture([&] {
      const Tensor y = net.by_scan();
      Tensors g = grad({y}, net.leaves());
      NoGrad no_grad;
      for (size_t i = 1; i < g.size(); ++i) net.leaves()[i].copy_(net.leaves()[i] - g[i] * 0.01);
      g.push_back(y.detach());
      return g;
    });
    for (int i = 0; i < 5; ++i) log.add(step());
    log.add(net.leaves());
  });
}

TEST_CASE("carries and inputs may be structures", "[control]") {
  const Tensor xs = draw({4, 3});
  struct Input {
    Tensor x;
    std::pair<Tensor, std::map<std::string, Tensor>> rest;
  };
  const Input inputs{xs, {xs * 2, {{"a", xs * 3}, {"b", xs * 4}}}};
  const State init{zeros({3}, f64), {ones({3}, f64), zeros({}, f64)}, 5};
  const auto [state, y] = scan(
      [](const State& s, const Input& in) {
        CHECK(s.tag == 5);
        const Tensor h = s.h + in.x + in.rest.second.at("b");
        return std::pair(State{h, {s.list[0] * in.rest.first, sum(h)}, s.tag}, std::tuple(h, s.list[0]));
      },
      init, inputs);
  Tensor h = init.h, l = init.list[0];
  for (int t = 0; t < 4; ++t) {
    CHECK(distance(std::get<1>(y).select(0, t), l) == 0);
    h = h + xs.select(0, t) + xs.select(0, t) * 4;
    l = l * (xs.select(0, t) * 2);
    CHECK(distance(std::get<0>(y).select(0, t), h) == 0);
  }
  CHECK(distance(state.h, h) == 0);
  CHECK(distance(state.list[1], sum(h)) == 0);
  CHECK(state.tag == 5);
}

TEST_CASE("scans of no steps, in reverse and without inputs", "[control]") {
  cases::agree([](cases::Log& log) {
    const Tensor x = draw({3, 4}), xs = draw({6, 3, 4});
    auto f = capture([&](const Tensor& steps, bool reverse) {
      const auto [h, y] = scan([](const Tensor& h, const Tensor& v) { return std::pair(h * 0.5 + v, h * 2); }, x, steps,
                               {.reverse = reverse});
      const Tensor k = scan([](const Tensor& c) { return c * 1.5; }, x, {.length = 3});
      return Tensors{h, y, k};
    });
    for (int i = 0; i < 4; ++i)
      for (bool reverse : {false, true})
        for (const Tensor& steps :
             {xs, zeros({0, 3, 4}, f64), xs.slice(0, 2, 5), xs.transpose(0, 1).contiguous().transpose(0, 1)})
          log.add(f(steps, reverse));
  });
  const Tensor xs = draw({6, 2});
  const auto [h, y] = scan([](const Tensor& h, const Tensor& v) { return std::pair(h * 0.5 + v, h); }, zeros({2}, f64),
                           xs, {.reverse = true});
  Tensor c = zeros({2}, f64);
  for (int t = 5; t >= 0; --t) {
    CHECK(distance(y.select(0, t), c) == 0);
    c = c * 0.5 + xs.select(0, t);
  }
  CHECK(distance(h, c) == 0);
}

TEST_CASE("products of a step's 16-bit input leave the loop", "[control]") {
  const DType dtype = GENERATE(DType::bf16, DType::f16);
  const bool read_again = GENERATE(false, true);
  manual_seed(12);
  const Tensor w = draw({3, 4}).to(dtype), u = draw({4, 4}).to(dtype), xs = draw({5, 2, 3}).to(dtype);
  const auto step = [&](const Tensor& h, const Tensor& x) {
    const Tensor z = matmul(x, w) + matmul(h, u);
    return tanh(read_again ? z + sum(cast(x, DType::f32)).to(dtype) : z);
  };
  const auto by_scan = [&] {
    return scan([&](const Tensor& h, const Tensor& x) { return step(h, x); }, zeros({2, 4}, dtype), xs);
  };
  Tensor h = zeros({2, 4}, dtype);
  for (int64_t t = 0; t < xs.size(0); ++t) h = step(h, xs.select(0, t));
  CHECK(distance(by_scan(), h) == 0);
  auto captured = capture(by_scan);
  for (int i = 0; i < 3; ++i) CHECK(distance(captured(), h) == 0);
  CHECK_THAT(captured.explain(), Contains("one product over all steps: matmul"));
}

TEST_CASE("random ops in a body draw anew at every step", "[control]") {
  manual_seed(7);
  const auto [h, y] = scan([](const Tensor& h) { return std::pair(h + 1, uniform({2})); }, zeros({1}), {.length = 4});
  const Tensor after = uniform({2});
  manual_seed(7);
  for (int t = 0; t < 4; ++t) CHECK(uniform({2}).to_vector<float>() == y.select(0, t).to_vector<float>());
  CHECK(uniform({2}).to_vector<float>() == after.to_vector<float>());
  cases::agree([](cases::Log& log) {
    const Tensor x = draw({3, 4}).set_requires_grad();
    auto f = capture([&] {
      const auto [c, out] = scan(
          [&](const Tensor& c) {
            const Tensor inner = scan([](const Tensor& a) { return dropout(a * 1.1, 0.3, true); }, c, {.length = 2});
            return std::pair(inner, uniform({2}));
          },
          x, {.length = 3});
      return Tensors{c.detach(), out, grad({sum(c * c)}, {x})[0], uniform({2})};
    });
    for (int i = 0; i < 5; ++i) log.add(f());
  });
}

TEST_CASE("cond runs and differentiates the branch taken", "[control]") {
  const Tensor x = draw({3, 4}).set_requires_grad(), w = draw({4, 4}).set_requires_grad();
  for (double sign : {1.0, -1.0}) {
    const Tensor flag = scalar(sign, f64) > 0;
    const Tensor y = cond(flag, [&] { return tanh(matmul(x, w)); }, [&] { return x * x; });
    const Tensor z = sign > 0 ? tanh(matmul(x, w)) : x * x;
    CHECK(distance(y, z) == 0);
    check_derivatives(sum(y * y), sum(z * z), {x}, 2);
  }
  cases::agree([&](cases::Log& log) {
    auto f = capture([&](const Tensor& v) {
      const auto [a, b] = cond(
          sum(v) > 0, [&] { return std::pair(v * 2, uniform({2})); }, [&] { return std::pair(v.detach(), ones({2})); });
      return Tensors{a.detach(), b, a.requires_grad() ? grad({sum(a * a)}, {x})[0] : a};
    });
    for (int i = 0; i < 6; ++i) log.add(f(i % 3 ? x * w.slice(0, 0, 3) : x * -1));
  });
}

TEST_CASE("control ops inside each other have the derivatives of the loops they stand for", "[control]") {
  manual_seed(5);
  const Tensor x = draw({3, 4}).set_requires_grad(), w = draw({4, 4}).set_requires_grad(), xs = draw({6, 3, 4});
  const auto program = [&] {
    const auto [h, y] = scan(
        [&](const Tensor& c, const Tensor& v) {
          const Tensor k = scan([&](const Tensor& a) { return tanh(matmul(a, w)) + v; }, c, {.length = 3});
          const Tensor n = cond(sum(v) > 0, [&] { return tanh(k) + v; }, [&] { return k * k * 0.3; });
          return std::pair(n, n * 2);
        },
        x, xs);
    return sum(h * h) + sum(y * y);
  };
  Tensor h = x, s = scalar(0, f64);
  for (int t = 0; t < 6; ++t) {
    const Tensor v = xs.select(0, t);
    for (int i = 0; i < 3; ++i) h = tanh(matmul(h, w)) + v;
    h = sum(v).item<double>() > 0 ? tanh(h) + v : h * h * 0.3;
    s = s + sum((h * 2) * (h * 2));
  }
  check_derivatives(program(), sum(h * h) + s, {x, w}, 2);
  cases::agree([&](cases::Log& log) {
    auto f = capture([&] {
      Tensors g = grad({program()}, {x, w}, {.create_graph = true});
      const Tensors second = grad({sum(g[0] * g[0])}, {x, w});
      return Tensors{g[0].detach(), g[1].detach(), second[0], second[1]};
    });
    for (int i = 0; i < 4; ++i) log.add(f());
  });
}

TEST_CASE("while_loop stops when its condition says so", "[control]") {
  cases::agree([](cases::Log& log) {
    const Tensor w = draw({3});
    auto f = capture([&](double limit, int64_t most) {
      const Tensor bound = scalar(limit, f64);
      const State s = while_loop([&](const State& c) { return sum(c.list[0]) < bound; },
                                 [&](const State& c) { return State{c.h * 1.5 + w, {c.list[0] + 1}, c.tag}; },
                                 State{ones({3}, f64), {zeros({}, f64)}}, {.max_trips = most});
      return Tensors{s.h, s.list[0]};
    });
    for (int i = 0; i < 4; ++i)
      for (double limit : {0., 4., 100.}) log.add(f(limit, 20));
    CHECK(f(4, -1)[1].item<double>() == 4);
    CHECK(f(100, 20)[1].item<double>() == 20);
  });
}

TEST_CASE("a bounded while_loop has the gradient of the trips it makes", "[control]") {
  const Tensor x = draw({3}).set_requires_grad(), w = draw({3}).set_requires_grad();
  const auto program = [&] {
    const State s = while_loop([&](const State& c) { return c.list[0] < 4; },
                               [&](const State& c) { return State{sqrt(abs(c.h) + 1) * w, {c.list[0] + 1}, c.tag}; },
                               State{x, {zeros({}, f64)}}, {.max_trips = 9});
    return sum(s.h * s.h);
  };
  Tensor h = x;
  for (int i = 0; i < 4; ++i) h = sqrt(abs(h) + 1) * w;
  check_derivatives(program(), sum(h * h), {x, w}, 2);
  cases::agree([&](cases::Log& log) {
    auto f = capture([&] { return grad({program()}, {x, w}); });
    for (int i = 0; i < 4; ++i) log.add(f());
  });
  const Tensor y =
      while_loop([](const Tensor& c) { return sum(c) < 4; }, [&](const Tensor& c) { return c + w * w; }, x);
  CHECK_THROWS_WITH(sum(y).backward(), Contains("max_trips"));
}

TEST_CASE("bodies may write to tensors from outside", "[control]") {
  cases::agree([](cases::Log& log) {
    const Tensor counter = zeros({}, f64), matrix = zeros({3, 4}, f64), xs = draw({5, 4}), w = draw({4});
    const Tensor row = matrix.select(0, 1);
    auto f = capture([&](const Tensor& x) {
      const Tensor h = scan(
          [&](const Tensor& c, const Tensor& v) {
            counter.copy_(counter + 1);
            row.copy_(row * 0.5 + v);
            matrix.select(0, 2).copy_(matrix.select(0, 1) + counter);
            return c + matrix.select(0, 2) * w + sum(matrix);
          },
          x, xs);
      const Tensor y = cond(
          sum(h) > 0,
          [&] {
            counter.copy_(counter * 2);
            return h * counter;
          },
          [&] {
            row.copy_(h);
            return h + 0.0;
          });
      const Tensor z = while_loop([&](const Tensor& c) { return sum(c) < counter; },
                                  [&](const Tensor& c) {
                                    counter.copy_(counter - 1);
                                    return c + 1;
                                  },
                                  y, {.max_trips = 30});
      return Tensors{h, y, z};
    });
    for (int i = 0; i < 6; ++i) {
      log.add(f(i % 2 ? w : w * -3));
      log.add({counter, matrix, row});
    }
  });
  // with gradients through what was written
  const Tensor x = draw({4}).set_requires_grad(), xs = draw({3, 4});
  const auto by = [&](bool loop) {
    const Tensor state = zeros({4}, f64), h0 = x * 1;
    const auto step = [&](const Tensor& c, const Tensor& v) {
      state.copy_(state + c * v);
      return tanh(c + state);
    };
    Tensor h = h0;
    if (loop)
      for (int t = 0; t < 3; ++t) h = step(h, xs.select(0, t));
    else
      h = scan(step, h0, xs);
    return sum(h * state);
  };
  CHECK(distance(by(true), by(false)) == 0);
  check_derivatives(by(false), by(true), {x}, 2);
}

TEST_CASE("wrong bodies are told what is wrong with them", "[control]") {
  struct Two {
    Tensor h, c;
  };
  const Two init{zeros({2}), zeros({2})};
  CHECK_THROWS_WITH(scan([](const Two& s) { return Two{concat({s.h, s.h}, 0), s.c}; }, init, {.length = 3}),
                    Contains("scan carry .h: in f32[2], out f32[4] (body at control.cpp:"));
  CHECK_THROWS_WITH(scan([](const Tensor& h) { return h > 0; }, zeros({2}), {.length = 3}),
                    Contains("scan carry: in f32[2], out bool[2]"));
  CHECK_THROWS_WITH(scan([](const Tensor& h, const Tensor&) { return h; }, zeros({2}), Tensor(scalar(1))),
                    Contains("axis of steps"));
  CHECK_THROWS_WITH(scan([](const Tensor& h, const std::vector<Tensor>&) { return h; }, zeros({2}),
                         std::vector{zeros({3}), zeros({4})}),
                    Contains("expected inputs of 3 steps, got f32[4]"));
  CHECK_THROWS_WITH(scan([](const Tensor& h) { return h; }, zeros({2}), ScanOptions{}), Contains("`length`"));
  CHECK_THROWS_WITH(
      cond(ones({2}), [] { return ones({2}); }, [] { return ones({2}); }), Contains("bool tensor of one"));
  CHECK_THROWS_WITH(cond(
                        ones({}) > 0, [] { return ones({2}); }, [] { return ones({3}); }),
                    Contains("cond: the branches differ: (f32[2]) if true, (f32[3]) if not"));
  const auto reads = [] { return scan([](const Tensor& h) { return h * h.item<float>(); }, ones({1}), {.length = 3}); };
  CHECK_THROWS_WITH(reads(), Contains("choose with where or cond"));
  auto captured = capture(reads);
  for (int i = 0; i < 3; ++i) CHECK_THROWS_WITH(captured(), Contains("choose with where or cond"));
}
