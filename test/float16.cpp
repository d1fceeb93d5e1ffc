// 16-bit floats: conversions against a reference of their own, the same rounding in every compiled form, and what ops
// make of such elements.
#include "reprise/core/dtype.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "reprise/backends/cpu/backend.h"
#include "reprise/backends/cpu/jit.h"
#include "reprise/backends/cpu/tile.h"
#include "reprise/core/expr.h"
#include "reprise/core/graph.h"
#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/capture.h"
#include "reprise/nn/layers.h"
#include "reprise/nn/optim.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

constexpr DType short_dtypes[] = {DType::bf16, DType::f16};

// A format by the widths of its parts.
struct Format {
  DType dtype;
  int exponent, mantissa;

  int bias() const { return (1 << (exponent - 1)) - 1; }
  int infinity() const { return ((1 << exponent) - 1) << mantissa; }
  // Of a pattern without its sign; that of infinity is what the next number would be.
  double value(int pattern) const {
    const int e = pattern >> mantissa, m = pattern & ((1 << mantissa) - 1);
    if (!e) return std::ldexp(m, 1 - bias() - mantissa);
    return std::ldexp((1 << mantissa) + m, e - bias() - mantissa);
  }
  uint16_t bits(float x) const { return dtype == DType::f16 ? f16_bits(x) : bf16_bits(x); }
  float number(int pattern) const {
    const auto bits = static_cast<uint16_t>(pattern);
    return dtype == DType::f16 ? f16_value(bits) : bf16_value(bits);
  }
};
constexpr Format formats[] = {{DType::bf16, 8, 7}, {DType::f16, 5, 10}};

// All numbers of a format, the middle between neighbours, what stands beside it, and any other f32.
std::vector<float> around_all(const Format& f) {
  std::vector<float> all;
  for (int pattern = 0; pattern < 0x10000; ++pattern) all.push_back(f.number(pattern));
  for (int pattern = 0; pattern < f.infinity(); ++pattern) {
    const auto middle = static_cast<float>((f.value(pattern) + f.value(pattern + 1)) / 2);
    for (float x : {middle, std::nextafter(middle, 0.f), std::nextafter(middle, INFINITY)}) {
      all.push_back(x);
      all.push_back(-x);
    }
  }
  std::mt19937 random(7);
  for (int i = 0; i < 300'001; ++i) all.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
  return all;
}

Program converter(DType from, DType to, bool rounds) {
  ProgramBuilder b;
  Value x = b.load(b.operand(from, Access::contiguous));
  if (rounds) x = b.rounded(x, to) + 0.0;
  b.store(x, b.operand(rounds ? DType::f32 : to, Access::contiguous, true));
  return b.take();
}

// Runs a program of one operand and one result in every form there is; each gives `want`.
template <class From, class To>
void check_forms(const Program& program, const std::vector<From>& from, const std::vector<To>& want) {
  const auto check = [&](KernelFn run, const void* context, const char* form) {
    INFO(form);
    std::vector<To> got(want.size());
    KernelArgs args;
    args.pointers[0] = reinterpret_cast<std::byte*>(const_cast<From*>(from.data()));
    args.pointers[1] = reinterpret_cast<std::byte*>(got.data());
    args.row_strides[0] = args.row_strides[1] = 0;
    args.rows = 1;
    args.columns = static_cast<int64_t>(from.size());
    args.context = context;
    run(&args);
    CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(To)) == 0);
  };
  for (const char* isa : {"baseline", "avx2"}) {
    const TileProgramPtr tiles = decode(program, isa);
    check(run_tile, tiles.get(), isa);
  }
  for (int lanes : {4, 8, 16})
    if (const auto code = jit_compile(program, nullptr, lanes)) check(code->run, nullptr, "jit");
}

template <class T>
std::vector<T> rounded(const std::vector<float>& v) {
  return std::vector<T>(v.begin(), v.end());
}

Tensor short_tensor(std::initializer_list<float> values, DType dtype) {
  return tensor(std::span(values.begin(), values.size()), {static_cast<int64_t>(values.size())}).to(dtype);
}

std::vector<float> floats(const Tensor& t) { return t.to_vector<float>(); }

}  // namespace

TEST_CASE("every pattern of a 16-bit float has its value and comes back", "[float16]") {
  for (const Format& f : formats) {
    int wrong = 0;
    for (int pattern = 0; pattern < 0x10000; ++pattern) {
      const int size = pattern & 0x7fff;
      const float got = f.number(pattern), sign = pattern == size ? 1.f : -1.f;
      wrong += std::signbit(got) != (sign < 0);
      if (size > f.infinity()) {
        const int quiet = pattern | 1 << (f.mantissa - 1);
        wrong += !std::isnan(got) || f.bits(got) != quiet;
        continue;
      }
      const double want = size == f.infinity() ? HUGE_VAL : f.value(size);
      wrong += static_cast<double>(got) != sign * want || f.bits(got) != pattern;
    }
    INFO(name_of(f.dtype));
    CHECK(wrong == 0);
  }
}

TEST_CASE("rounding to a 16-bit float takes the nearest, and of two the even one", "[float16]") {
  for (const Format& f : formats) {
    int wrong = 0;
    for (int pattern = 0; pattern < f.infinity(); ++pattern) {
      const auto middle = static_cast<float>((f.value(pattern) + f.value(pattern + 1)) / 2);
      const int even = pattern % 2 ? pattern + 1 : pattern;
      const std::array<std::pair<float, int>, 3> cases{
          {{middle, even}, {std::nextafter(middle, 0.f), pattern}, {std::nextafter(middle, INFINITY), pattern + 1}}};
      for (const auto& [x, want] : cases) wrong += f.bits(x) != want || f.bits(-x) != (want | 0x8000);
    }
    INFO(name_of(f.dtype));
    CHECK(wrong == 0);
  }
  CHECK(float(Half(65519.996f)) == 65504.f);
  CHECK(float(Half(65520.f)) == INFINITY);
  CHECK(float(Half(0x1p-25f)) == 0.f);
  CHECK(float(Half(0x1.8p-25f)) == 0x1p-24f);
  CHECK(float(BFloat16(std::numeric_limits<float>::max())) == INFINITY);
  CHECK(float(BFloat16(1.f + 0x1p-8f)) == 1.f);
}

TEST_CASE("every compiled form converts and rounds alike", "[float16]") {
  for (const Format& f : formats) {
    INFO(name_of(f.dtype));
    const std::vector<float> all = around_all(f);
    visit_dtype(f.dtype, [&]<class T>(T) {
      if constexpr (is_float16<T>) {
        const std::vector<T> elements = rounded<T>(all);
        const std::vector<float> values(elements.begin(), elements.end());
        check_forms(converter(DType::f32, f.dtype, false), all, elements);
        check_forms(converter(f.dtype, DType::f32, false), elements, values);
        check_forms(converter(f.dtype, f.dtype, false), elements, elements);
        std::vector<float> sums;
        for (float v : values) sums.push_back(v + 0.0f);
        check_forms(converter(DType::f32, f.dtype, true), all, sums);
      }
    });
  }
}

TEST_CASE("every length of a row of 16-bit floats", "[float16]") {
  for (DType d : short_dtypes)
    for (int64_t n = 0; n < 70; ++n) {
      const Tensor x = arange(n, 0.5, 0.25, d), y = x * 2 + x;
      CHECK(floats(y) == floats(arange(n, 1.5, 0.75, DType::f32)));
      CHECK(floats(x.to(DType::f32)) == floats(arange(n, 0.5, 0.25, DType::f32)));
    }
}

TEST_CASE("an op on 16-bit floats is rounded, alone or fused", "[float16]") {
  for (DType d : short_dtypes) {
    const auto f = [](const Tensor& x) { return (x + 0.3) * 1.7 - x; };
    const Tensor x = arange(97, 1, 1, d);
    std::vector<float> want;
    for (float v : floats(x))
      visit_dtype(d, [&]<class T>(T) {
        const auto round = [](float y) { return static_cast<float>(static_cast<T>(y)); };
        want.push_back(round(round(round(v + 0.3f) * 1.7f) - v));
      });
    CHECK(floats(f(x)) == want);
    CHECK(floats(f(x)) != floats(f(x.to(DType::f32)).to(d)));
    for (Mode mode : {Mode::graph, Mode::verify}) {
      const ModeGuard guard(mode);
      auto captured = capture(f);
      for (int call = 0; call < 3; ++call) CHECK(floats(captured(x)) == want);
    }
  }
}

TEST_CASE("numbers beside 16-bit floats are f32", "[float16]") {
  const Tensor x = short_tensor({3}, DType::bf16);
  CHECK((x * (1 + 0x1p-8)).dtype() == DType::bf16);
  CHECK((x * (1 + 0x1p-8)).item<float>() == 3.015625f);  // the number itself would be rounded to 1
  CHECK((x + 1).dtype() == DType::bf16);
  CHECK((tensor({1, 2}) + short_tensor({1, 2}, DType::f16)).dtype() == DType::f16);
  CHECK((x + short_tensor({1}, DType::f16)).dtype() == DType::f32);
  CHECK((x + 1e30).item<float>() == float(BFloat16(1e30f)));
  CHECK((short_tensor({1}, DType::f16) + 1e30).item<float>() == INFINITY);
}

TEST_CASE("sums and products of 16-bit floats are added up as f32 and rounded once", "[float16]") {
  for (DType d : short_dtypes) {
    CHECK(sum(ones({4096}, d)).item<float>() == 4096.f);
    CHECK(sum(ones({4096}, d)).dtype() == d);
    CHECK(mean(full({2, 50'000}, 3, d), {1}).to_vector<float>() == std::vector<float>(2, 3.f));
    CHECK(floats(var(short_tensor({300, 302}, d), {0}, false, 0)) == std::vector<float>{1.f});
    const Tensor a = uniform({9, 300}, -1, 1, d), b = uniform({300, 7}, -1, 1, d);
    const Tensor wide = matmul(a.to(DType::f32), b.to(DType::f32));
    CHECK(matmul(a, b).dtype() == d);
    CHECK(floats(matmul(a, b)) == floats(wide.to(d)));
    const Tensor image = uniform({2, 3, 9, 9}, -1, 1, d), w = uniform({4, 3, 3, 3}, -1, 1, d);
    CHECK(floats(conv2d(image, w)) == floats(conv2d(image.to(DType::f32), w.to(DType::f32)).to(d)));
    CHECK(floats(softmax(a)) == floats(softmax(a.to(DType::f32)).to(d)));
    CHECK(softmax(a).dtype() == d);
    CHECK(argmax(a, 1).dtype() == DType::i64);
    CHECK(floats(concat({a, a}, 0).slice(0, 9, 18)) == floats(a));
  }
  CHECK(matmul(ones({2, 2}, DType::bf16), ones({2, 2}, DType::f16)).dtype() == DType::f32);
}

TEST_CASE("uniform 16-bit floats stay below the upper end", "[float16]") {
  for (DType d : short_dtypes) CHECK(max(uniform({20'000}, 0, 1, d)).item<float>() < 1.f);
}

TEST_CASE("gradients through 16-bit floats are near those of f32", "[float16]") {
  for (DType d : short_dtypes) {
    const auto loss = [](const Tensor& x, const Tensor& w) {
      return mean(square(layer_norm(tanh(matmul(x, w)))) * softmax(matmul(x, w)));
    };
    const Tensor x = uniform({6, 20}, -1, 1, d), w = uniform({20, 8}, -1, 1, d);
    Tensor a = w.clone(), b = w.to(DType::f32);
    a.set_requires_grad(), b.set_requires_grad();
    loss(x, a).backward();
    loss(x.to(DType::f32), b).backward();
    CHECK(a.grad().dtype() == d);
    const std::vector<float> got = floats(a.grad()), want = floats(b.grad());
    const float most = max(abs(b.grad())).item<float>();
    for (size_t i = 0; i < got.size(); ++i)
      CHECK(std::abs(got[i] - want[i]) <= (d == DType::f16 ? 0.02f : 0.1f) * most);
  }
}

TEST_CASE("an optimiser takes small and vanishing gradients of 16-bit parameters", "[float16]") {
  for (const DType d : short_dtypes) {
    const Tensor p = short_tensor({1, 1, 1}, d), g = short_tensor({0, 1e-4f, 1}, d);
    p.set_requires_grad();
    Adam adam({p}, {.lr = 0.125});
    for (int i = 0; i < 2; ++i) {
      adam.zero_grad();
      sum(p * g).backward();
      adam.step();
    }
    CHECK(floats(p) == std::vector<float>{1, 0.75f, 0.75f});
  }
}

TEST_CASE("extremes beyond what 16 bits can count share the gradient", "[float16]") {
  const Tensor x = full({70000}, 2, DType::f16).set_requires_grad();
  max(x * 1024).backward();
  CHECK(floats(x.grad())[69999] == Approx(1024.0 / 70000).epsilon(0.01));
}

TEST_CASE("parameters of 16 bits are trained, with state of 32", "[float16]") {
  for (DType d : short_dtypes) {
    Tensor p = short_tensor({1, -2, 3}, d);
    p.set_requires_grad();
    Adam adam({p}, {.lr = 0.05});
    auto step = capture([&] {
      adam.zero_grad();
      const Tensor loss = sum(square(p));
      loss.backward();
      adam.step();
      return loss;
    });
    const float first = step().item<float>();
    float last = first;
    for (int i = 0; i < 30; ++i) last = step().item<float>();
    CHECK(p.dtype() == d);
    CHECK(last < first / 2);
  }
}

TEST_CASE("layers make 16-bit floats of 16-bit floats, and their parameters stay f32", "[float16]") {
  for (const DType d : short_dtypes) {
    manual_seed(1);
    const Conv2D conv(4, 3);
    const Dense dense(3);
    const Sequential net(conv, BatchNorm(), relu, Flatten(), dense, LayerNorm());
    const Tensor x = uniform({4, 2, 5, 5}, -1, 1), same = x.to(d);
    const Tensor y = net(same);
    CHECK(y.dtype() == d);
    CHECK(net(x).dtype() == DType::f32);
    sum(square(y).to(DType::f32)).backward();
    CHECK(net.parameters().size() == 8);
    for (const auto& [name, p] : net.parameters()) {
      INFO(name);
      CHECK(p.dtype() == DType::f32);
      CHECK(p.grad().dtype() == DType::f32);
    }
    const Tensor rows = same.reshape({5, 40}).slice(1, 0, 36).contiguous();
    const NamedTensors p = dense.parameters();
    CHECK(dense(rows).to_vector<float>() == linear(rows, p[0].second.to(d), p[1].second.to(d)).to_vector<float>());
    auto captured = capture([&](const Tensor& in) { return net(in); });
    for (int call = 0; call < 3; ++call) CHECK(captured(same).to_vector<float>() == net(same).to_vector<float>());
  }
}

TEST_CASE("16-bit floats as text and in host memory", "[float16]") {
  CHECK(to_string(short_tensor({0.1f, 2.5f, -1000}, DType::bf16)) == to_string(tensor({0.1f, 2.5f, -1000.f})));
  CHECK(to_string(short_tensor({0.1f, 65504}, DType::f16).slice(0, 0, 1)) == "[0.1]");
  CHECK(to_string(short_tensor({NAN, INFINITY, 1}, DType::f16)) == to_string(tensor({NAN, INFINITY, 1.f})));
  CHECK(to_string(zeros({2, 3}, DType::bf16).spec()) == "bf16[2,3]");
  const std::vector<Half> halves{Half(1.5f), Half(-2.f)};
  Tensor t = tensor(halves, {2});
  CHECK(t.dtype() == DType::f16);
  CHECK(t.to_vector<double>() == std::vector<double>{1.5, -2});
  CHECK(t.data<Half>()[0].bits == 0x3e00);
  CHECK(t.to_vector<int32_t>() == std::vector<int32_t>{1, -2});
  t.copy_from<double>(std::vector<double>{1e-3, 1e9});
  CHECK(t.to_vector<Half>()[0].bits == f16_bits(1e-3f));
  CHECK(t[1].item<float>() == INFINITY);
  CHECK_THROWS_AS(t.data<float>(), Error);
  CHECK_THROWS_AS(t.data<BFloat16>(), Error);
  CHECK_THROWS_AS(index_select(ones({3}), t, 0), Error);
  std::string why;
  CHECK(!cpu_backend().find(*find_op("max_pool2d"), DType::f16, &why));
  CHECK(why == "max_pool2d: not defined for f16");
  CHECK(cpu_backend().find(*find_op("index_select"), DType::bf16, &why));
}
