// Programs that have gone wrong in systems that record: state, scalars, aliasing, outputs, gradients.
#include "reprise/test/capture_cases.h"

#include <optional>

using namespace rp;
using cases::agree;
using cases::leaf;
using cases::Log;
using cases::values;

TEST_CASE("a second function where a first one was gives its own result") {
  agree([](Log& log) {
    for (float k : {1.f, 2.f, 3.f}) {
      auto f = std::make_unique<Captured<std::function<Tensor(Tensor)>>>(
          capture(std::function<Tensor(Tensor)>([k](Tensor x) { return k == 2 ? x + k : x * k; })));
      for (int i = 0; i < 3; ++i) log.add((*f)(values({4}, i)));
    }
  });
}

TEST_CASE("a changing learning rate needs one plan") {
  const CaptureStats s = agree([](Log& log) {
    Tensor w = values({4, 3});
    double rate = 0.5;
    auto step = capture([&](const Tensor& g) { w -= g * rate; });
    for (int i = 0; i < 12; ++i, rate *= 0.7) step(values({4, 3}, i));
    log.add(w);
    log.stats = step.stats();
  });
  CHECK(s.plan_builds == 1);
  CHECK(s.recordings == 1);
  CHECK(s.divergences == 0);
}

TEST_CASE("scalars that become equal for a while stay two scalars") {
  const CaptureStats s = agree([](Log& log) {
    double rate = 0.1, momentum = 0.9;
    auto f = capture([&](const Tensor& x) { return x * rate + exp(x) * momentum; });
    for (int i = 0; i < 6; ++i, rate += 0.2, momentum -= 0.2) log.add(f(values({5}, i)));
    log.stats = f.stats();
  });
  CHECK(s.plan_builds == 1);
}

TEST_CASE("equal ops with different scalars give different results") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x) { return Tensors{x * 1.1, x * 1.2, x * 1.3, pow(x, 2), pow(x, 3)}; });
    for (int i = 0; i < 3; ++i) log.add(f(values({5}, i)));
  });
}

TEST_CASE("scalars may become 1, 0, -0, infinite and NaN without a new plan") {
  const CaptureStats s = agree([](Log& log) {
    double k = 0.5;
    auto f = capture(
        [&](const Tensor& x) { return Tensors{x * k, x + k, x / k, k - x, maximum(x, k), where(x > 0, x, k)}; });
    const double inf = std::numeric_limits<double>::infinity();
    for (double v : {0.5, 0.25, 1.0, 0.0, -0.0, inf, -inf, std::nan(""), 0.5}) {
      k = v;
      log.add(f(values({9})));
    }
    log.stats = f.stats();
  });
  CHECK(s.plan_builds == 1);
}

TEST_CASE("a number that is a scalar and a loop count is followed") {
  agree([](Log& log) {
    int n = 1;
    auto f = capture([&](Tensor x) {
      for (int i = 0; i < n; ++i) x = x * 0.5 + n;
      return x;
    });
    for (int k : {1, 1, 3, 3, 2, 1, 0, 3}) {
      n = k;
      log.add(f(values({4})));
    }
  });
}

TEST_CASE("a flag flips between calls") {
  const CaptureStats s = agree([](Log& log) {
    bool training = true;
    auto f = capture([&](const Tensor& x) { return training ? dropout(tanh(x), 0.5) : tanh(x); });
    for (int i = 0; i < 12; ++i, training = i % 3 != 0) log.add(f(values({6}, i)));
    log.stats = f.stats();
  });
  CHECK(s.plan_builds <= 2);
}

TEST_CASE("outputs of many calls stay what they were") {
  agree([](Log& log) {
    Tensors kept;
    auto f = capture([](const Tensor& x) { return Tensors{tanh(x) * 2, sum(x, {0}), x.transpose()}; });
    for (int i = 0; i < 10; ++i)
      for (const Tensor& t : f(values({3, 4}, i))) kept.push_back(t);
    log.add(kept);
  });
}

TEST_CASE("an output is fed back as the input") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x) { return tanh(x * 1.5) + 0.1; });
    Tensor x = values({4});
    for (int i = 0; i < 20; ++i) x = f(x);
    log.add(x);
    log.add(f(values({4}, 3)));
    log.add(x);
  });
}

TEST_CASE("a buffer that moves on by one element") {
  agree([](Log& log) {
    Tensor buffer = zeros({1 << 18});
    auto push = capture([&](const Tensor& x) {
      buffer.copy_(concat({buffer.slice(0, 1, buffer.size(0)), x}));
      return sum(buffer);
    });
    for (int i = 0; i < 6; ++i) log.add(push(values({1}, i)));
    log.add(buffer.slice(0, buffer.size(0) - 10, buffer.size(0)));
    auto shift = capture([&] { buffer.slice(0, 0, 1 << 17).copy_(buffer.slice(0, 1, (1 << 17) + 1)); });
    buffer.copy_(arange(1 << 18, 0, 1, DType::f32));
    for (int i = 0; i < 4; ++i) shift();
    log.add(buffer);
  });
}

TEST_CASE("two arguments become the same tensor") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x, const Tensor& y) {
      Tensor before = y * 2;
      x += 1;
      return before + y;
    });
    Tensor x = values({4}), y = values({4}, 2);
    for (int i = 0; i < 3; ++i) log.add(f(x, y));
    for (int i = 0; i < 3; ++i) log.add(f(x, x));
    for (int i = 0; i < 2; ++i) log.add(f(x, y));
    log.add({x, y});
  });
}

TEST_CASE("two arguments become overlapping views of one tensor") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x, const Tensor& y) {
      x *= 0.5;
      Tensor z = y + 1;
      x += y;
      return z - y;
    });
    Tensor base = values({10}), a = values({4}), b = values({4}, 1);
    for (int i = 0; i < 3; ++i) log.add(f(a, b));
    for (int start : {4, 4, 2, 2, 1, 0, 6}) {
      log.add(f(base.slice(0, 0, 4), base.slice(0, start, start + 4)));
      log.add(f(base.slice(0, start, start + 4), base.slice(0, 0, 4)));
    }
    log.add({base, a, b});
  });
}

TEST_CASE("three views of which two overlap, then the third elsewhere") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x, const Tensor& y, const Tensor& z) {
      x += 1;
      z *= 2;
      return x + y + z;
    });
    Tensor base = values({12}), other = values({4}, 5);
    for (int i = 0; i < 3; ++i) log.add(f(base.slice(0, 0, 4), base.slice(0, 2, 6), base.slice(0, 8, 12)));
    for (int i = 0; i < 3; ++i) log.add(f(base.slice(0, 0, 4), base.slice(0, 2, 6), other));
    log.add({base, other});
  });
}

TEST_CASE("what returns its argument itself is written through") {
  agree([](Log& log) {
    Tensor x = values({5});
    auto f = capture([&] { dropout(x, 0.5, false) += 1; });
    for (int i = 0; i < 3; ++i) f();
    log.add(x);
    auto g = capture([&] { x.reshape({5}).contiguous().expand({5}) *= 2; });
    for (int i = 0; i < 3; ++i) g();
    log.add(x);
  });
}

TEST_CASE("a write to an expanded view is the same error") {
  agree([](Log& log) {
    Tensor x = values({1, 3});
    auto f = capture([&] {
      x += 1;
      x.expand({4, 3})[3].fill_(2);
      x.expand({4, 3}) += 1;
    });
    for (int i = 0; i < 3; ++i) log.add_error(f);
    log.add(x);
  });
}

TEST_CASE("equal ops before and after a write are two values") {
  agree([](Log& log) {
    Tensor x = values({5});
    auto f = capture([&] {
      Tensor before = sin(x);
      x.copy_(x + 1);
      Tensor after = sin(x);
      x[2].fill_(9);
      return Tensors{before, after, sin(x)};
    });
    for (int i = 0; i < 4; ++i) log.add(f());
  });
}

TEST_CASE("a variable is re-pointed between calls") {
  agree([](Log& log) {
    Tensor cache = zeros({4}), first = cache;
    auto f = capture([&](const Tensor& x) {
      cache += x;
      return cache * 2;
    });
    for (int i = 0; i < 7; ++i) {
      if (i % 3 == 2) cache = zeros({4});
      log.add(f(values({4}, i)));
    }
    log.add({first, cache});
  });
}

TEST_CASE("gradients belong to the variable of this call, and stay when kept") {
  const CaptureStats s = agree([](Log& log) {
    auto step = capture([](const Tensor& w, const Tensor& x) {
      sum(square(matmul(x, w))).backward();
      return w.grad();
    });
    Tensors kept;
    for (int i = 0; i < 6; ++i) {
      Tensor w = leaf({3, 2}, i / 2);
      kept.push_back(step(w, values({4, 3}, i)));
      log.add(w.grad());
    }
    log.add(kept);
    log.stats = step.stats();
  });
  CHECK(s.plan_builds == 1);
}

TEST_CASE("gradients accumulate over calls") {
  agree([](Log& log) {
    Tensor w = leaf({3});
    auto step = capture([&](const Tensor& x) { sum(exp(w) * x).backward(); });
    for (int i = 0; i < 5; ++i) {
      step(values({3}, i));
      log.add(w.grad());
      if (i == 3) w.set_grad({});
    }
  });
}

TEST_CASE("step counters advance, rebound or written") {
  agree([](Log& log) {
    Tensor n = scalar(0), m = scalar(0, DType::i64);
    auto f = capture([&](const Tensor& x) {
      n = n + 1;
      m += 1;
      return x / n + m;
    });
    for (int i = 0; i < 6; ++i) log.add(f(values({3})));
    log.add({n, m});
  });
}

TEST_CASE("running statistics move as often as in eager runs") {
  agree([](Log& log) {
    BatchNorm norm;
    auto f = capture([&](const Tensor& x) { return norm(x); });
    for (int i = 0; i < 5; ++i) log.add(f(values({6, 3}, i)));
    for (const auto& [name, t] : norm.buffers()) log.add(t);
    log.add(f(values({4, 3})));
  });
}

TEST_CASE("values put into outer containers are those of their call") {
  agree([](Log& log) {
    Tensors losses;
    std::optional<Tensor> last;
    auto f = capture([&](const Tensor& x) {
      Tensor h = exp(x);
      losses.push_back(mean(h));
      last = h * 2;
    });
    for (int i = 0; i < 6; ++i) f(values({3, 2}, i));
    CHECK(losses.size() == 6);
    log.add(losses);
    log.add(*last);
  });
}

TEST_CASE("random numbers are those of the eager run, and of the call") {
  agree([](Log& log) {
    auto f = capture(
        [](const Tensor& x) { return Tensors{dropout(x, 0.5), normal({3}), uniform({2}), randint({4}, 0, 99)}; });
    for (int i = 0; i < 3; ++i) log.add(f(ones({20})));
    manual_seed(3);
    for (int i = 0; i < 3; ++i) log.add(f(ones({20})));
  });
}

TEST_CASE("the generator is saved while ops are pending, and restored") {
  agree([](Log& log) {
    Generator saved;
    auto f = capture([&] {
      Tensor a = normal({3});
      saved = generator();
      return a + uniform({3});
    });
    for (int i = 0; i < 3; ++i) log.add(f());
    generator() = saved;
    log.add({uniform({3}), f()});
    log.add(std::to_string(generator().position));
  });
}

TEST_CASE("a random op whose result is dropped moves the next ones on") {
  agree([](Log& log) {
    auto f = capture([] {
      normal({100});
      return uniform({3});
    });
    for (int i = 0; i < 4; ++i) log.add({f(), normal({2})});
  });
}

TEST_CASE("double backward, and two walks with different seeds") {
  agree([](Log& log) {
    Tensor x = leaf({4});
    auto f = capture([&](const Tensor& k) {
      Tensor y = sum(tanh(x * k) * x);
      Tensor g = grad({y}, {x}, {.create_graph = true})[0];
      return grad({sum(square(g))}, {x})[0];
    });
    for (int i = 0; i < 4; ++i) log.add(f(values({4}, i)));
    auto twice = capture([&](const Tensor& seed) {
      Tensor y = exp(x * 0.5);
      y.backward(seed, true);
      Tensor first = x.grad();
      x.set_grad({});
      y.backward(seed * 3 + 1);
      return Tensors{first, x.grad()};
    });
    for (int i = 0; i < 4; ++i) log.add(twice(values({4}, i)));
  });
}

TEST_CASE("inputs are returned unchanged, twice, as views, and as views of other outputs") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x) {
      Tensor y = x * 2;
      return Tensors{x, y, y, x.transpose(), y[1], y.reshape({6})};
    });
    Tensor x = values({2, 3});
    Tensors kept;
    for (int i = 0; i < 4; ++i) {
      Tensors out = f(x);
      CHECK((out[0].is(x) && out[1].is(out[2]) && out[3].shares_storage(x)));
      CHECK((out[4].shares_storage(out[1]) && out[5].shares_storage(out[1])));
      out[4].fill_(i);
      kept.insert(kept.end(), out.begin(), out.end());
    }
    log.add(kept);
  });
}

TEST_CASE("a weight is updated after its product has been computed") {
  agree([](Log& log) {
    Tensor w = values({40, 24});
    auto f = capture([&](const Tensor& x) { return matmul(x, w); });
    for (int i = 0; i < 8; ++i) {
      log.add(f(values({32, 40}, i)));
      if (i % 3 == 1) w += 0.5;
      if (i % 3 == 2) w.copy_from<float>(values({40, 24}, i).to_vector<float>());
    }
    auto step = capture([&](const Tensor& x) {
      Tensor y = matmul(x, w);
      w -= matmul(x.transpose(), y) * 0.01;
      return matmul(x, w);
    });
    for (int i = 0; i < 5; ++i) log.add(step(values({32, 40}, i)));
  });
}

TEST_CASE("NaN and signed zero through every kind of pointwise op") {
  agree([](Log& log) {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
    const Tensor x = tensor({0.f, -0.f, 1.f, -1.f, inf, -inf, nan, -nan, 1e-42f});
    auto f = capture([](const Tensor& a, const Tensor& b) {
      Tensors out{-a,     abs(a),   sign(a),  sqrt(a),  exp(a),  rp::log(a), tanh(a),
                  erf(a), floor(a), round(a), trunc(a), relu(a), gelu(a)};
      for (auto op : {add, sub, mul, div, maximum, minimum, remainder, floor_div, pow}) out.push_back(op(a, b));
      out.push_back(where(a < b, a, b));
      out.push_back(clamp(a, -0.0, 0.0));
      Tensors seen = out;
      for (const Tensor& t : out) seen.push_back(t * -0.0 + t);
      return seen;
    });
    for (int i = 0; i < 3; ++i) log.add(f(x.unsqueeze(0).expand({9, 9}).contiguous(), x.unsqueeze(1)));
  });
}

TEST_CASE("products whose results are read under another shape") {
  agree([](Log& log) {
    Tensor row = values({1}), column = leaf({1, 2});
    auto f = capture([&](const Tensor& x) {
      Tensor flat = abs(matmul(x, x.transpose()).reshape({4}));
      Tensor batched = matmul(row, x.reshape({2, 1, 1}));
      batched += batched;
      sum(matmul(column, column.transpose())).backward();
      return Tensors{flat, batched, column.grad()};
    });
    for (int i = 0; i < 5; ++i) log.add(f(values({2, 1}, i)));
  });
}

TEST_CASE("random numbers are reduced over a middle axis") {
  agree([](Log& log) {
    auto f = capture([] {
      return Tensors{mean(uniform({1, 2, 5, 6}), {2}), sum(normal({3, 4, 5}), {0, 1}), sum(normal({40, 3, 7}), {1})};
    });
    for (int i = 0; i < 4; ++i) log.add(f());
  });
}

TEST_CASE("results of different number and structure") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x, int n) {
      Tensors out;
      for (int i = 0; i < n; ++i) out.push_back(i % 2 ? x[i % 3] + i : x * i);
      return out;
    });
    for (int n : {1, 2, 3, 3, 2, 1, 0, 4, 2}) log.add(f(values({3, 2}, n), n));
  });
}
