#include "reprise/backends/cpu/gemm.h"

#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "reprise/backends/cpu/memory.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

template <class T>
T multiply_add(T a, T b, T c) {
  if constexpr (std::is_floating_point_v<T>) {
    return std::fma(a, b, c);
  } else {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) * static_cast<U>(b) + static_cast<U>(c));
  }
}

template <class T>
T plus(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a + b;
  } else {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  }
}

/// Equal bits, or both NaN.
template <class T>
bool same(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    if (std::isnan(a) && std::isnan(b)) return true;
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

template <class T>
std::vector<T> random_values(int64_t count, std::mt19937& random) {
  std::vector<T> v(static_cast<size_t>(count));
  for (T& x : v) {
    if constexpr (std::is_floating_point_v<T>)
      x = std::normal_distribution<T>()(random);
    else
      x = std::uniform_int_distribution<T>(std::numeric_limits<T>::min(), std::numeric_limits<T>::max())(random);
  }
  return v;
}

/// A product with its operands, of any layout.
template <class T>
struct Case {
  GemmShape s;
  std::vector<T> a, b, expected;

  Case(int64_t m, int64_t n, int64_t k, int layout, std::mt19937& random) {
    const int64_t gap = layout & 4 ? 3 : 0;
    s.m = m, s.n = n, s.k = k, s.c_row = n + gap;
    s.a_row = layout & 1 ? 1 : k + gap, s.a_col = layout & 1 ? m + gap : 1;
    s.b_row = layout & 2 ? 1 : n + gap, s.b_col = layout & 2 ? k + gap : 1;
    if (layout & 8) s.a_col *= 2, s.b_col *= 2, s.a_row *= 2, s.b_row *= 2;
    if (layout & 16) s.b_row = 0;
    a = random_values<T>(1 + m * s.a_row + k * s.a_col, random);
    b = random_values<T>(1 + k * s.b_row + n * s.b_col, random);
  }

  void compute() {
    expected.assign(static_cast<size_t>(s.m * s.c_row + 1), T{77});
    for (int64_t i = 0; i < s.m; i++)
      for (int64_t j = 0; j < s.n; j++) {
        T total = 0, c = 0;
        for (int64_t k = 0; k < s.k; k++) {
          c = multiply_add(a[static_cast<size_t>(i * s.a_row + k * s.a_col)],
                           b[static_cast<size_t>(k * s.b_row + j * s.b_col)], c);
          if (!s.segment || (k + 1) % s.segment) continue;
          total = k < s.segment ? c : plus(total, c);
          c = 0;
        }
        expected[static_cast<size_t>(i * s.c_row + j)] = s.segment ? total : c;
      }
  }

  bool agrees(const std::vector<T>& c) const {
    for (size_t i = 0; i < c.size(); i++)
      if (!same(c[i], expected[i])) return false;
    return true;
  }

  bool check() {
    compute();
    return product_agrees();
  }

  bool product_agrees() const {
    std::vector<T> c(expected.size(), T{77});
    gemm<T>(s, a.data(), b.data(), c.data());
    if (!agrees(c)) return false;
    std::fill(c.begin(), c.end(), T{77});
    gemm<T>(s, a.data(), *pack_b<T>(s.k, s.n, b.data(), s.b_row, s.b_col), c.data());
    return agrees(c);
  }
};

/// Sets the number of threads and the kernels for a test.
struct Setting {
  Setting(int threads, GemmForm form) : threads(thread_count()), form(gemm_form()) {
    set_thread_count(threads);
    set_gemm_form(form);
  }
  ~Setting() {
    set_thread_count(threads);
    set_gemm_form(form);
  }
  int threads;
  GemmForm form;
};

/// What the processor and the build have.
std::vector<GemmForm> forms() {
  const GemmForm before = gemm_form();
  std::vector<GemmForm> all;
  for (GemmForm form : {GemmForm::portable, GemmForm::avx2, GemmForm::avx512})
    if (set_gemm_form(form)) all.push_back(form);
  set_gemm_form(before);
  return all;
}

/// Those of them that are fast enough for large products.
const std::vector<GemmForm>& vector_forms() {
  static const std::vector<GemmForm> some = [] {
    std::vector<GemmForm> all = forms();
    if (all.size() > 1) all.erase(all.begin());
    return all;
  }();
  return some;
}

/// Calls f with each of those, on one, two and five threads.
template <class F>
void on_threads(F&& f) {
  for (GemmForm form : vector_forms()) {
    for (int threads : {1, 2, 5}) {
      const Setting setting(threads, form);
      INFO("form " << static_cast<int>(form) << ", threads: " << threads);
      f();
    }
  }
}

std::string describe(const GemmShape& s) {
  return std::to_string(s.m) + "x" + std::to_string(s.k) + "x" + std::to_string(s.n) + " a " + std::to_string(s.a_row) +
         "," + std::to_string(s.a_col) + " b " + std::to_string(s.b_row) + "," + std::to_string(s.b_col);
}

}  // namespace

TEMPLATE_TEST_CASE("small products equal the naive loop bit for bit", "[gemm]", float, double, int32_t, int64_t) {
  for (GemmForm form : forms()) {
    const Setting setting(1, form);
    std::mt19937 random(7);
    for (int round = 0; round < 1500; round++) {
      const auto extent = [&] { return static_cast<int64_t>(1 + random() % 40); };
      Case<TestType> c(extent(), extent(), extent(), static_cast<int>(random() % 32), random);
      if (c.check()) continue;
      INFO(describe(c.s));
      REQUIRE(false);
    }
  }
}

TEMPLATE_TEST_CASE("every extent up to 40 beside fixed others", "[gemm]", float, double) {
  std::mt19937 random(8);
  for (int64_t e = 1; e <= 40; e++)
    for (int i = 0; i < 8; i++) {
      const int layout = i / 2;
      const Setting setting(thread_count(), vector_forms()[i % vector_forms().size()]);
      INFO(e << " layout " << layout << ", form " << static_cast<int>(gemm_form()));
      CHECK(Case<TestType>(e, 33, 17, layout, random).check());
      CHECK(Case<TestType>(13, e, 17, layout, random).check());
      CHECK(Case<TestType>(13, 33, e, layout, random).check());
      CHECK(Case<TestType>(1, 3 * e, e, layout, random).check());
      CHECK(Case<TestType>(3 * e, 1, e, layout, random).check());
      CHECK(Case<TestType>(2, 7 * e, e, layout, random).check());
      CHECK(Case<TestType>(3, 7 * e, e, layout, random).check());
    }
}

TEMPLATE_TEST_CASE("large and odd products on one to five threads", "[gemm]", float, double, int32_t, int64_t) {
  const int64_t shapes[][3] = {{1, 1000, 700}, {700, 1, 1000}, {2, 700, 800}, {129, 131, 127}, {97, 513, 385},
                               {20, 65, 2200}, {64, 2100, 50}, {500, 7, 301}, {5, 2500, 90},   {331, 40, 771}};
  std::mt19937 random(9);
  for (const auto& [m, n, k] : shapes)
    for (int layout = 0; layout < 4; layout++) {
      Case<TestType> c(m, n, k, layout, random);
      c.compute();
      INFO(describe(c.s));
      on_threads([&] { CHECK(c.product_agrees()); });
    }
}

TEMPLATE_TEST_CASE("segmented products equal the sum of their segments' products", "[gemm]", float, double, int32_t,
                   int64_t) {
  for (GemmForm form : forms()) {
    const Setting setting(1, form);
    std::mt19937 random(15);
    for (int round = 0; round < 600; round++) {
      const auto extent = [&](int most) { return static_cast<int64_t>(1 + random() % most); };
      const int64_t segment = extent(20);
      Case<TestType> c(extent(40), extent(40), segment * extent(9), static_cast<int>(random() % 32), random);
      c.s.segment = segment;
      INFO(describe(c.s) << " segment " << segment);
      if (!c.check()) REQUIRE(false);
    }
  }
}

TEST_CASE("segments shorter and longer than a block of k, on one to five threads", "[gemm]") {
  std::mt19937 random(16);
  for (const auto& [m, n, segment, count] : {std::array<int64_t, 4>{256, 256, 32, 32},
                                             {64, 300, 100, 9},
                                             {1, 500, 64, 12},
                                             {70, 90, 500, 3},
                                             {3, 700, 1, 40},
                                             {300, 1, 7, 90}})
    for (int layout = 0; layout < 4; layout++) {
      Case<float> c(m, n, segment * count, layout, random);
      c.s.segment = segment;
      c.compute();
      INFO(describe(c.s) << ", segment " << segment);
      on_threads([&] { CHECK(c.product_agrees()); });
    }
}

TEST_CASE("NaN and infinity go where the naive loop puts them", "[gemm]") {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  std::mt19937 random(10);
  for (int round = 0; round < 800; round++) {
    const auto extent = [&] { return static_cast<int64_t>(1 + random() % 70); };
    Case<float> c(extent(), extent(), extent(), static_cast<int>(random() % 4), random);
    for (std::vector<float>* v : {&c.a, &c.b})
      for (int i = 0; i < 3; i++) {
        const float special[] = {infinity, -infinity, nan, 0.0f, -0.0f, 3e38f, 1e-45f};
        (*v)[random() % v->size()] = special[random() % 7];
      }
    const Setting setting(thread_count(), vector_forms()[round % vector_forms().size()]);
    INFO(describe(c.s) << ", form " << static_cast<int>(gemm_form()));
    CHECK(c.check());
  }
}

TEST_CASE("a negative zero never comes out of an empty or zero sum", "[gemm]") {
  const float a = -0.0f, b = 1;
  float c = 5;
  gemm<float>({1, 1, 1, 1, 1, 1, 1, 1}, &a, &b, &c);
  CHECK(std::bit_cast<uint32_t>(c) == 0);
  c = 5;
  gemm<float>({1, 1, 0, 1, 1, 1, 1, 1}, &a, &b, &c);
  CHECK(std::bit_cast<uint32_t>(c) == 0);
  gemm<float>({0, 1, 3, 1, 1, 1, 1, 1}, &a, &b, &c);
  gemm<float>({1, 0, 3, 1, 1, 1, 1, 0}, &a, &b, &c);
}

TEST_CASE("rows of a product do not depend on the others", "[gemm]") {
  std::mt19937 random(11);
  Case<float> c(67, 150, 900, 0, random);
  c.compute();
  for (int64_t first = 0; first < c.s.m; first += 7)
    for (int64_t rows : {1, 2, 3, 4, 11, 29}) {
      GemmShape s = c.s;
      s.m = std::min(rows, c.s.m - first);
      std::vector<float> part(static_cast<size_t>(s.m * s.c_row));
      on_threads([&] {
        gemm<float>(s, c.a.data() + first * s.a_row, c.b.data(), part.data());
        CHECK(std::memcmp(part.data(), c.expected.data() + first * s.c_row, part.size() * 4) == 0);
      });
    }
}

TEST_CASE("the epilogue sees each finished element once", "[gemm]") {
  struct Context {
    const Case<float>* given;
    float* c;
    std::vector<std::atomic<int>> seen;
    std::atomic<int> wrong = 0;
  };
  const int64_t shapes[][3] = {{1, 1, 1},      {4, 16, 8},     {130, 700, 33}, {1, 3000, 400},
                               {3000, 1, 400}, {200, 90, 900}, {300, 1100, 3}, {10, 20, 0}};
  std::mt19937 random(12);
  for (const auto& [m, n, k] : shapes)
    for (int layout : {0, 3}) {
      Case<float> given(m, n, k, layout, random);
      given.compute();
      on_threads([&, m = m, n = n] {
        std::vector<float> c(given.expected.size(), 77);
        Context context{&given, c.data(), std::vector<std::atomic<int>>(c.size())};
        const auto run = [](const void* p, int64_t row0, int64_t rows, int64_t col0, int64_t cols) {
          Context& x = *static_cast<Context*>(const_cast<void*>(p));
          for (int64_t i = row0; i < row0 + rows; i++)
            for (int64_t j = col0; j < col0 + cols; j++) {
              const auto at = static_cast<size_t>(i * x.given->s.c_row + j);
              x.seen[at]++;
              if (!same(x.c[at], x.given->expected[at])) x.wrong++;
              x.c[at] += 1;
            }
        };
        const Epilogue epilogue{run, &context};
        gemm<float>(given.s, given.a.data(), given.b.data(), c.data(), &epilogue);
        bool once = true;
        for (int64_t i = 0; i < m; i++)
          for (int64_t j = 0; j < n; j++) once = once && context.seen[static_cast<size_t>(i * given.s.c_row + j)] == 1;
        INFO(describe(given.s));
        CHECK(once);
        CHECK(context.wrong == 0);
      });
    }
}

TEST_CASE("a packed B moves and keeps what it was made of", "[gemm]") {
  std::mt19937 random(13);
  Case<double> c(9, 21, 14, 2, random);
  c.compute();
  PackedB<double> first(14, 21, c.b.data(), c.s.b_row, c.s.b_col);
  std::fill(c.b.begin(), c.b.end(), 0.0);
  PackedB<double> second(std::move(first));
  PackedB<double> third(1, 1, c.a.data(), 1, 1);
  third = std::move(second);
  CHECK(third.k() == 14);
  CHECK(third.n() == 21);
  std::vector<double> out(c.expected.size(), 77);
  gemm<double>(c.s, c.a.data(), third, out.data());
  CHECK(c.agrees(out));
}

TEST_CASE("a warm product allocates nothing", "[gemm]") {
  const Setting setting(1, gemm_form());
  std::mt19937 random(14);
  std::vector<Case<float>> cases;
  for (int layout = 0; layout < 4; layout++) cases.emplace_back(100, 300, 200, layout, random);
  std::vector<float> c(30000);
  const auto run = [&] {
    for (const auto& x : cases) gemm<float>(x.s, x.a.data(), x.b.data(), c.data());
  };
  run();
  const size_t before = memory_stats().allocations;
  run();
  CHECK(memory_stats().allocations == before);
}
