// The tape: leaves, accumulation, walks of any order, custom gradients, in-place writes.
#include "reprise/eager/grad.h"

#include <cmath>

#include "reprise/core/ops.h"
#include "reprise/test/catch.h"
#include "reprise/test/differences.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

using Doubles = std::vector<double>;

Tensor leaf(const Doubles& v) {
  const Tensor t = tensor(v, {static_cast<int64_t>(v.size())});
  t.set_requires_grad();
  return t;
}
Doubles values(const Tensor& t) { return t.to_vector<double>(); }

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}
bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("what requires a gradient", "[grad]") {
  const Tensor x = leaf({1, 2}), y = tensor({3., 4.});
  CHECK(x.requires_grad());
  CHECK(!y.requires_grad());
  CHECK((x + y).requires_grad());
  CHECK(!(y + y).requires_grad());
  CHECK(x[0].requires_grad());
  CHECK(!x.detach().requires_grad());
  CHECK(!(x > 0).requires_grad());
  CHECK(!cast(x, DType::i32).requires_grad());
  CHECK(cast(x, DType::f32).requires_grad());
  CHECK(!no_grad([&] { return x * 2; }).requires_grad());
  CHECK(grad_enabled());
  no_grad([] { CHECK(!grad_enabled()); });
  x.set_requires_grad(false);
  CHECK(!x.requires_grad());
  CHECK(has(message([] { tensor({1}).set_requires_grad(); }),
            "set_requires_grad: expected a floating-point tensor, got i32[1]"));
  CHECK(has(message([] { tensor({true}).set_requires_grad(); }), "at grad.cpp:"));
  const Tensor z = leaf({1});
  CHECK(has(message([&] { (z * 2).set_requires_grad(); }), "set_requires_grad:"));
}

TEST_CASE("backward adds to the leaves' gradients", "[grad]") {
  const Tensor x = leaf({1, 2, 3}), w = leaf({2, 2, 2});
  CHECK(!x.grad().defined());
  sum(x * x * w).backward();
  CHECK(values(x.grad()) == Doubles{4, 8, 12});
  CHECK(values(w.grad()) == Doubles{1, 4, 9});
  sum(x * 5).backward();
  CHECK(values(x.grad()) == Doubles{9, 13, 17});
  CHECK(values(w.grad()) == Doubles{1, 4, 9});
  x.set_grad({});
  CHECK(!x.grad().defined());
  (x * 2).backward(tensor({1., 10., 100.}));
  CHECK(values(x.grad()) == Doubles{2, 20, 200});
  x.set_grad(tensor({0., 0., 0.}));
  sum(x).backward();
  CHECK(values(x.grad()) == Doubles{1, 1, 1});
  CHECK(!x.grad().requires_grad());
  CHECK(last_backward_leaves().size() == 1);
  CHECK(last_backward_leaves()[0].shares_storage(x));
}

TEST_CASE("leaves' gradients have elements of their own", "[grad]") {
  const Tensor x = leaf({1, 2}), y = leaf({3, 4}), seed = tensor({1., 1.});
  (x + y).backward(seed);
  x.grad() *= 7;
  CHECK(values(y.grad()) == Doubles{1, 1});
  CHECK(values(seed) == Doubles{1, 1});
  const Tensor held = x.grad();
  (x + y).backward(seed);
  CHECK(values(x.grad()) == Doubles{8, 8});
  CHECK(values(held) == Doubles{7, 7});
}

TEST_CASE("a tensor used several times collects every use", "[grad]") {
  const Tensor x = leaf({3});
  const Tensor y = x * x;
  (y * x + y + x).backward();
  CHECK(values(x.grad()) == Doubles{27 + 6 + 1});
}

TEST_CASE("impossible walks", "[grad]") {
  const Tensor x = leaf({1, 2}), y = tensor({1., 2.});
  CHECK(has(message([&] { (x * 2).backward(); }), "backward: expected one element or a seed, got f64[2]"));
  CHECK(has(message([&] { (x * 2).backward(tensor({1.})); }), "backward: expected a seed f64[2], got f64[1]"));
  CHECK(has(message([&] { (x * 2).backward(tensor({1.f, 1.f})); }), "backward: expected a seed f64[2], got f32[2]"));
  CHECK(has(message([&] { sum(y).backward(); }), "backward: f64[] does not depend on anything"));
  CHECK(has(message([&] { grad({}, {x}); }), "grad: expected at least one output"));
  CHECK(has(message([&] { grad({sum(x)}, {y}); }), "grad: input f64[2] does not require a gradient"));
  CHECK(has(message([&] { grad({sum(x)}, {leaf({1})}); }), "grad: the outputs do not depend on input 0"));
  CHECK(has(message([&] { grad({sum(x)}, {x}, {.seeds = {y, y}}); }), "grad: expected 1 seeds"));
  CHECK(has(message([&] { x.set_grad(tensor({1.f, 2.f})); }), "set_grad: expected f64[2], got f32[2]"));
  const Tensors unused = grad({sum(x)}, {x, leaf({1})}, {.allow_unused = true});
  CHECK(unused[0].defined());
  CHECK(!unused[1].defined());
}

TEST_CASE("a tape is walked once, unless it is retained", "[grad]") {
  const Tensor x = leaf({2});
  const Tensor y = exp(x * x);
  y.backward({}, true);
  y.backward({}, true);
  CHECK(values(x.grad())[0] == Approx(8 * std::exp(4.)));
  y.backward();
  const std::string text = message([&] { y.backward(); });
  CHECK(has(text, "was already walked; ask for retain_graph"));
  CHECK(has(text, "backward: the tape of exp"));
  const Tensor z = x * x;
  const Tensor first = grad({z}, {x}, {.retain_graph = true})[0];
  CHECK(values(first) == values(grad({z}, {x})[0]));
  CHECK(has(message([&] { grad({z}, {x}); }), "already walked"));
}

TEST_CASE("higher orders", "[grad]") {
  const Tensor x = leaf({0.7});
  Tensor y = sin(x);
  const double wanted[] = {std::cos(0.7), -std::sin(0.7), -std::cos(0.7), std::sin(0.7), std::cos(0.7)};
  for (double want : wanted) {
    y = grad({y}, {x}, {.create_graph = true})[0];
    CHECK(y.item<double>() == Approx(want));
  }
  const Tensor z = x * x * x;
  const Tensor dz = grad({z}, {x}, {.create_graph = true})[0];
  (dz * dz).backward();
  CHECK(x.grad().item<double>() == Approx(2 * 3 * 0.49 * 6 * 0.7));
  CHECK(!grad({x * x}, {x})[0].requires_grad());
}

TEST_CASE("gradients for intermediate results", "[grad]") {
  const Tensor x = leaf({3});
  const Tensor a = x * 2, b = a * a;
  const Tensors g = grad({b}, {a, x}, {.retain_graph = true});
  CHECK(values(g[0]) == Doubles{12});
  CHECK(values(g[1]) == Doubles{24});
  CHECK(values(grad({b + a}, {a})[0]) == Doubles{13});
  const Tensors several = grad({x * 2, x * 3}, {x}, {.seeds = {tensor({1.}), tensor({10.})}});
  CHECK(values(several[0]) == Doubles{32});
}

TEST_CASE("detach and no_grad cut", "[grad]") {
  const Tensor x = leaf({3});
  (x * x.detach()).backward();
  CHECK(values(x.grad()) == Doubles{3});
  x.set_grad({});
  (x * no_grad([&] { return x * x; })).backward();
  CHECK(values(x.grad()) == Doubles{9});
  CHECK(x.detach().shares_storage(x));
}

TEST_CASE("custom gradients", "[grad]") {
  const CustomGradient straight{
      [](const Tensors& in) { return round(in[0]) * in[1]; },
      [](const Tensors& in, const Tensor&, const Tensor& dy) { return Tensors{dy * in[1], dy * round(in[0])}; }};
  const Tensor x = leaf({1.4, 2.6}), s = leaf({2, 3});
  const Tensor y = straight({x, s});
  CHECK(values(y) == Doubles{2, 9});
  sum(y * y).backward();
  CHECK(values(x.grad()) == Doubles{8, 54});
  CHECK(values(s.grad()) == Doubles{4, 54});
  const Tensor d = grad({sum(straight({x, s}))}, {x}, {.create_graph = true})[0];
  CHECK(values(grad({sum(d * d)}, {s})[0]) == Doubles{4, 6});
  CHECK(!straight({x.detach(), s.detach()}).requires_grad());
}

TEST_CASE("custom gradients of the wrong shape, number or dtype", "[grad]") {
  const Tensor x = leaf({1, 2});
  const auto text = [&](std::function<Tensors(const Tensor&)> rule) {
    const CustomGradient f{[](const Tensors& in) { return in[0] * 2; },
                           [=](const Tensors&, const Tensor&, const Tensor& dy) { return rule(dy); }};
    return message([&] { sum(f({x})).backward(); });
  };
  CHECK(has(text([](const Tensor& dy) { return Tensors{sum(dy)}; }),
            "custom gradient: expected f64[2] for input 0, got f64[]"));
  CHECK(has(text([](const Tensor& dy) { return Tensors{dy, dy}; }), "custom gradient: expected 1 gradients, got 2"));
  CHECK(has(text([](const Tensor& dy) { return Tensors{cast(dy, DType::f32)}; }),
            "custom gradient: expected f64[2] for input 0, got f32[2]"));
  CHECK(has(text([](const Tensor&) { return Tensors{}; }), "custom gradient: expected 1 gradients, got 0"));
  CHECK(text([](const Tensor&) { return Tensors{Tensor()}; }) == "nothing was thrown");
  CHECK(text([](const Tensor& dy) { return Tensors{dy}; }) == "nothing was thrown");
}

TEST_CASE("value_and_grad and implicit_gradients", "[grad]") {
  const auto f = value_and_grad([](const Tensor& x, const Tensor& w) { return sum(x * w * w); });
  const Tensor x = tensor({1., 2.}), w = tensor({3., 4.});
  const auto [value, grads] = f(x, w);
  CHECK(value.item<double>() == 41);
  CHECK(values(grads[0]) == Doubles{9, 16});
  CHECK(values(grads[1]) == Doubles{6, 16});
  CHECK(!x.requires_grad());
  CHECK(!value.requires_grad());

  const Tensor a = leaf({2}), b = leaf({5}), idle = leaf({1});
  const ImplicitGradients g = implicit_gradients([&] { return b * a * a; });
  CHECK(g.value.item<double>() == 20);
  REQUIRE(g.grads.size() == 2);
  CHECK(g.grads[0].first.shares_storage(b));
  CHECK(values(g.grads[0].second) == Doubles{4});
  CHECK(g.grads[1].first.shares_storage(a));
  CHECK(values(g.grads[1].second) == Doubles{20});
  CHECK(implicit_gradients([&] { return tensor({1.}); }).grads.empty());
  std::vector<Tensor> leaves;
  for_each_leaf(a * a + b, [&](const Tensor& t) { leaves.push_back(t); });
  CHECK(leaves.size() == 2);
}

TEST_CASE("what was saved must not change in place", "[grad]") {
  const Tensor x = leaf({1, 2});
  const Tensor a = x * 2, b = exp(a), c = a * a;
  a += 1;
  CHECK(has(message([&] { sum(c).backward(); }), "an input of mul was changed in place"));
  b += 1;
  CHECK(has(message([&] { sum(b).backward(); }), "the result of exp was changed in place"));
  const Tensor f = x * 2;
  f *= x;  // the rule sees f as it was
  CHECK(values(grad({sum(f)}, {x})[0]) == Doubles{4, 8});
  const Tensor d = x * 3;
  const Tensor e = d + 1;  // needs nothing of d
  d += 1;
  sum(e).backward();
  CHECK(values(x.grad()) == Doubles{3, 3});
}

TEST_CASE("leaves are not written under the tape", "[grad]") {
  const Tensor x = leaf({1, 2});
  CHECK(has(message([&] { x += 1; }), "write: f64[2] is a leaf that requires a gradient"));
  CHECK(has(message([&] { x[0].fill_(1); }), "view of a leaf that requires a gradient"));
  CHECK(has(message([&] { x.slice(0, 0, 1).copy_(tensor({1.})); }), "at grad.cpp:"));
  CHECK(has(message([&] { Tensor(x).copy_from(std::span<const double>(Doubles{1, 2})); }), "leaf"));
  no_grad([&] { x += 1; });
  CHECK(values(x) == Doubles{2, 3});
  CHECK(x.requires_grad());
  sum(x * x).backward();
  CHECK(values(x.grad()) == Doubles{4, 6});
}

namespace {

// A program that writes in place, and the same one without.
struct Pair {
  RealFunction written, functional;
};
const Pair pairs[] = {
    {[](const Tensors& v) {
       const Tensor y = v[0] * 2;
       y += v[1];
       return y * y;
     },
     [](const Tensors& v) { return square(v[0] * 2 + v[1]); }},
    {[](const Tensors& v) {
       const Tensor y = v[0] * 2;
       y[1].copy_(v[1]);
       return y * y;
     },
     [](const Tensors& v) {
       return square(concat({v[0].slice(0, 0, 1) * 2, v[1].unsqueeze(0), v[0].slice(0, 2, 3) * 2}));
     }},
    {[](const Tensors& v) {
       const Tensor y = v[0] * 2;
       y.transpose().slice(0, 1, 3) += v[1].slice(0, 0, 2).unsqueeze(1);
       return exp(y);
     },
     [](const Tensors& v) {
       return exp(v[0] * 2 + concat({zeros({1}, DType::f64), v[1].slice(0, 0, 2), zeros({1}, DType::f64)}));
     }},
    {[](const Tensors& v) {
       const Tensor y = zeros({3, 4}, DType::f64);
       for (int i = 0; i < 3; ++i) y[i].copy_(v[0][i] * v[1]);
       return y;
     },
     [](const Tensors& v) { return v[0] * v[1]; }},
    {[](const Tensors& v) {
       const Tensor y = v[0].clone(), row = y[2];
       y *= 3;
       row += v[1];
       y -= v[1] * v[1];
       return y;
     },
     [](const Tensors& v) {
       return concat({v[0].slice(0, 0, 2) * 3, (v[0].slice(0, 2, 3) * 3 + v[1])}) - v[1] * v[1];
     }},
    {[](const Tensors& v) {
       const Tensor y = v[0].clone(), view = y.select(1, 0);
       view.fill_(5);
       return y * v[1] * sum(view);
     },
     [](const Tensors& v) { return concat({full({3, 1}, 5, DType::f64), v[0].slice(1, 1, 4)}, 1) * v[1] * 15; }},
    {[](const Tensors& v) {
       const Tensor y = v[0] + 0;
       relu_(y.select(0, 1));
       y.reshape({12}).slice(0, 0, 12, 5) -= 2;
       return y * v[1];
     },
     [](const Tensors& v) {
       const Tensor count = arange(12).reshape({3, 4}), every = remainder(count, 5) == 0;
       const Tensor y = where(arange(3).unsqueeze(1) == 1, relu(v[0]), v[0]);
       return where(every, y - 2, y) * v[1];
     }},
};

}  // namespace

TEST_CASE("writes under the tape", "[grad]") {
  Draw draw(3);
  const Tensor x = contiguous(draw.array({{3, 4}, DType::f64})), w = contiguous(draw.array({{4}, DType::f64}));
  for (const Pair& p : pairs) {
    const Tensors in{x, w};
    CHECK(values(p.written(in)) == values(p.functional(in)));
    CHECK(gradient_error(p.written, in) == "");
    CHECK(second_gradient_error(p.written, in) == "");
    Tensors a{x.clone(), w.clone()}, b{x.clone(), w.clone()};
    for (Tensors* list : {&a, &b})
      for (const Tensor& t : *list) t.set_requires_grad();
    const Tensors da = grad({sum(p.written(a))}, a), db = grad({sum(p.functional(b))}, b);
    for (int i = 0; i < 2; ++i) {
      const Doubles u = values(da[static_cast<size_t>(i)]), v = values(db[static_cast<size_t>(i)]);
      for (size_t k = 0; k < u.size(); ++k) CHECK(u[k] == Approx(v[k]).margin(1e-12));
    }
  }
}

TEST_CASE("a recurrence that writes its state in place", "[grad]") {
  Draw draw(6);
  const Tensor w = contiguous(draw.array({{3, 3}, DType::f64})), x = contiguous(draw.array({{4, 3}, DType::f64}));
  const RealFunction f = [](const Tensors& v) {
    const Tensor h = zeros({3}, DType::f64), all = zeros({4, 3}, DType::f64);
    for (int t = 0; t < 4; ++t) {
      h.copy_(tanh(matmul(h, v[0]) + v[1][t]));
      all[t].copy_(h);
    }
    return all;
  };
  // matmul keeps h, which is written afterwards: the tape refuses that unless h is copied.
  CHECK_THROWS_AS(gradient_error(f, {w, x}), Error);
  const RealFunction g = [](const Tensors& v) {
    const Tensor h = zeros({3}, DType::f64), all = zeros({4, 3}, DType::f64);
    for (int t = 0; t < 4; ++t) {
      h.copy_(tanh(matmul(h.clone(), v[0]) + v[1][t]));
      all[t].copy_(h);
    }
    return all;
  };
  CHECK(gradient_error(g, {w, x}) == "");
  CHECK(second_gradient_error(g, {w, x}) == "");
}

TEST_CASE("long chains neither overflow the stack nor leak into each other", "[grad]") {
  const Tensor x = leaf({1});
  Tensor y = x;
  for (int i = 0; i < 20000; ++i) y = y + 1;
  y.backward();
  CHECK(values(x.grad()) == Doubles{1});
  Tensor z = x;
  for (int i = 0; i < 6000; ++i) z = z * 1.0001;
  const Tensor dz = grad({z * z}, {x}, {.create_graph = true})[0];
  CHECK(dz.item<double>() == Approx(2 * std::pow(1.0001, 12000)));
  CHECK(grad({dz}, {x})[0].item<double>() == Approx(2 * std::pow(1.0001, 12000)));
  Tensor w = x * 1;
  for (int i = 0; i < 3000; ++i) w += 1;
  w.backward();
  CHECK(values(x.grad()) == Doubles{2});
}
