// Convolution, its gradients and pooling on the CPU, against plain loops.
#include <dlfcn.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "reprise/backends/cpu/conv.h"
#include "reprise/backends/cpu/kernels.h"
#include "reprise/core/error.h"
#include "reprise/test/kernel_call.h"

using namespace rp;
using namespace rp::test;

namespace {

struct Case {
  int n, c, h, w, out, kh, kw, stride = 1, dilation = 1;
  bool same = false;
};

struct Pads {
  int before, after;
};
Pads pads(const Case& t, int extent, int kernel) {
  if (!t.same) return {0, 0};
  const int total =
      std::max(0, ((extent + t.stride - 1) / t.stride - 1) * t.stride + (kernel - 1) * t.dilation + 1 - extent);
  return {total / 2, total - total / 2};
}
int extent_after(const Case& t, int extent, int kernel) {
  const Pads p = pads(t, extent, kernel);
  return (extent + p.before + p.after - (kernel - 1) * t.dilation - 1) / t.stride + 1;
}

Shape image(bool nhwc, int n, int c, int h, int w) { return nhwc ? Shape{n, h, w, c} : Shape{n, c, h, w}; }
int64_t at(bool nhwc, const Shape& s, int n, int c, int h, int w) {
  return nhwc ? ((n * s[1] + h) * s[2] + w) * s[3] + c : ((n * s[1] + c) * s[2] + h) * s[3] + w;
}

/// Calls f(x, w, y) with the elements of every product of a convolution.
template <class F>
void for_products(const Case& t, bool nhwc, F&& f) {
  const int oh = extent_after(t, t.h, t.kh), ow = extent_after(t, t.w, t.kw);
  const int top = pads(t, t.h, t.kh).before, left = pads(t, t.w, t.kw).before;
  const Shape xs = image(nhwc, t.n, t.c, t.h, t.w), ys = image(nhwc, t.n, t.out, oh, ow);
  for (int n = 0; n < t.n; ++n)
    for (int o = 0; o < t.out; ++o)
      for (int i = 0; i < oh * ow; ++i)
        for (int c = 0; c < t.c; ++c)
          for (int k = 0; k < t.kh * t.kw; ++k) {
            const int h = i / ow * t.stride - top + k / t.kw * t.dilation,
                      w = i % ow * t.stride - left + k % t.kw * t.dilation;
            if (h < 0 || h >= t.h || w < 0 || w >= t.w) continue;
            f(at(nhwc, xs, n, c, h, w), (o * t.c + c) * t.kh * t.kw + k, at(nhwc, ys, n, o, i / ow, i % ow));
          }
}

void check_conv(const Case& t, bool nhwc, DType dtype) {
  const int oh = extent_after(t, t.h, t.kh), ow = extent_after(t, t.w, t.kw);
  INFO(name_of(dtype) << " nhwc " << nhwc << " n " << t.n << " c " << t.c << " h " << t.h << " w " << t.w << " out "
                      << t.out << " kh " << t.kh << " kw " << t.kw << " stride " << t.stride << " dilation "
                      << t.dilation << " same " << t.same);
  const Pads v = pads(t, t.h, t.kh), u = pads(t, t.w, t.kw);
  const ConvAttrs attrs{t.stride,   t.stride,   v.before, u.before, v.after, u.after,
                        t.dilation, t.dilation, nhwc,     1,        nullptr};
  Array x = random(dtype, image(nhwc, t.n, t.c, t.h, t.w)), w = random(dtype, {t.out, t.c, t.kh, t.kw});
  Array y = random(dtype, image(nhwc, t.n, t.out, oh, ow));
  std::vector<double> to_y(y.size()), to_x(x.size()), to_w(w.size());
  for_products(t, nhwc, [&](int64_t i, int64_t k, int64_t o) {
    to_y[o] += x.at(i) * w.at(k);
    to_x[i] += y.at(o) * w.at(k);
    to_w[k] += y.at(o) * x.at(i);
  });
  check_close(run(cpu::conv2d, {&x, &w}, dtype, y.layout->shape(), attrs), to_y, t.c * t.kh * t.kw);
  check_close(run(cpu::conv2d_backward_data, {&y, &w}, dtype, x.layout->shape(), attrs), to_x, t.out * t.kh * t.kw);
  check_close(run(cpu::conv2d_backward_weights, {&x, &y}, dtype, w.layout->shape(), attrs), to_w, t.n * oh * ow);
}

constexpr DType numbers[] = {DType::f32, DType::f64, DType::i32, DType::i64};

}  // namespace

TEST_CASE("convolutions agree with plain loops") {
  const Case cases[] = {
      {2, 3, 7, 6, 5, 3, 3},
      {1, 1, 1, 1, 1, 1, 1},
      {3, 1, 9, 8, 4, 5, 5, 1, 1, true},
      {2, 4, 9, 7, 3, 3, 2, 2, 1, true},
      {2, 2, 11, 10, 3, 3, 3, 1, 2},
      {2, 9, 8, 8, 17, 2, 3, 2, 2, true},
      {5, 8, 6, 6, 16, 1, 1},
      {2, 6, 7, 7, 4, 1, 1, 2},
      {1, 16, 5, 5, 8, 4, 4, 1, 1, true},
      {4, 3, 8, 8, 8, 3, 3, 3},
      {2, 5, 4, 4, 3, 1, 1, 1, 1, true},
      {3, 2, 5, 1, 2, 3, 1, 1, 1, true},
  };
  for (const Case& t : cases)
    for (const bool nhwc : {false, true})
      for (const DType dtype : numbers) check_conv(t, nhwc, dtype);
}

TEST_CASE("convolutions of several slices agree with plain loops") {
  // Batches that do not divide into slices: the last slice has a primitive of its own.
  for (const bool nhwc : {false, true}) {
    check_conv({37, 1, 14, 14, 16, 5, 5}, nhwc, DType::f32);
    check_conv({23, 12, 10, 10, 24, 3, 3, 1, 1, true}, nhwc, DType::f32);
    check_conv({19, 3, 12, 12, 10, 3, 3, 1, 1, true}, nhwc, DType::f32);
    check_conv({21, 16, 8, 8, 32, 1, 1}, nhwc, DType::f32);
    check_conv({33, 8, 6, 6, 8, 3, 3}, nhwc, DType::f64);
  }
}

TEST_CASE("convolutions of random geometry agree with plain loops") {
  const auto pick = [](int low, int high) { return std::uniform_int_distribution<>(low, high)(random_bits()); };
  for (int i = 0; i < 60; ++i) {
    Case t{pick(1, 4), pick(1, 18), pick(1, 12), pick(1, 12), pick(1, 18),
           pick(1, 5), pick(1, 5),  pick(1, 3),  pick(1, 2),  pick(0, 1) == 1};
    if (!t.same && ((t.kh - 1) * t.dilation >= t.h || (t.kw - 1) * t.dilation >= t.w)) t.same = true;
    check_conv(t, i % 2, i % 3 ? DType::f32 : DType::f64);
  }
}

TEST_CASE("our own convolution is the same in both formats, and with other images beside it") {
  const Case t{3, 5, 7, 6, 4, 3, 3, 2, 1, true};
  Array x = random(DType::f64, {3, 5, 7, 6}), w = random(DType::f64, {4, 5, 3, 3});
  Array last(DType::f64, {3, 7, 6, 5}), one(DType::f64, {1, 5, 7, 6});
  for (int64_t i = 0; i < x.size(); ++i) last.set((i / 210 * 42 + i % 42) * 5 + i / 42 % 5, x.at(i));
  std::memcpy(one.bytes.data(), x.bytes.data() + one.bytes.size(), one.bytes.size());
  const Pads v = pads(t, 7, 3), u = pads(t, 6, 3);
  ConvAttrs attrs{2, 2, v.before, u.before, v.after, u.after, 1, 1, 0, 1, nullptr};
  Array y = run(cpu::conv2d, {&x, &w}, DType::f64, {3, 4, 4, 3}, attrs);
  Array alone = run(cpu::conv2d, {&one, &w}, DType::f64, {1, 4, 4, 3}, attrs);
  CHECK(!std::memcmp(alone.bytes.data(), y.bytes.data() + alone.bytes.size(), alone.bytes.size()));
  attrs.format = 1;
  Array z = run(cpu::conv2d, {&last, &w}, DType::f64, {3, 4, 3, 4}, attrs);
  bool equal = true;
  for (int64_t i = 0; i < y.size(); ++i) equal = equal && y.at(i) == z.at((i / 48 * 12 + i % 12) * 4 + i / 12 % 4);
  CHECK(equal);
}

TEST_CASE("empty convolutions") {
  for (const DType dtype : numbers) {
    const ConvAttrs attrs{1, 1, 0, 0, 0, 0, 1, 1, 0, 1, nullptr};
    Array none(dtype, {0, 2, 4, 4}), w = random(dtype, {3, 2, 3, 3}), y(dtype, {0, 3, 2, 2});
    CHECK(run(cpu::conv2d, {&none, &w}, dtype, {0, 3, 2, 2}, attrs).size() == 0);
    check_close(run(cpu::conv2d_backward_weights, {&none, &y}, dtype, {3, 2, 3, 3}, attrs), std::vector<double>(54), 0);
    Array flat(dtype, {2, 0, 4, 4}), thin(dtype, {3, 0, 3, 3});
    check_close(run(cpu::conv2d, {&flat, &thin}, dtype, {2, 3, 2, 2}, attrs), std::vector<double>(24), 0);
  }
}

TEST_CASE("convolutions whose shapes do not fit throw") {
  const ConvAttrs attrs{1, 1, 0, 0, 0, 0, 1, 1, 0, 1, nullptr};
  Array y = random(DType::f32, {2, 3, 3, 3}), w = random(DType::f32, {3, 2, 3, 3});
  CHECK_THROWS_AS(run(cpu::conv2d_backward_data, {&y, &w}, DType::f32, {2, 2, 4, 4}, attrs), Error);
}

TEST_CASE("a convolution's choice depends on its geometry alone") {
  cpu::ConvShape s{128, 128, 12, 12, 64, 5, 5, 8, 8, 1, 1, 0, 0, 0, 0, 1, 1, 0, cpu::ConvPass::forward};
  const int before = thread_count();
  set_thread_count(1);
  const cpu::ConvChoice& one = cpu::conv_choice(s, DType::f32);
  set_thread_count(2);
  CHECK(&one == &cpu::conv_choice(s, DType::f32));
  set_thread_count(before);
  CHECK(one.slice * (one.slices - 1) < s.n);
  CHECK(one.slice * one.slices >= s.n);
  CHECK(one.form.find("ref") == std::string::npos);
  CHECK(cpu::conv_choice(s, DType::f64).form == "im2col");
  s.nhwc = 1;
  CHECK(cpu::conv_choice(s, DType::f32).form == "patches");
}

TEST_CASE("a convolution leaves the caller's OpenMP setting as found") {
  const auto get = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  const auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (!get || !set) return;
  const int before = get();
  set(3);
  check_conv({3, 8, 6, 6, 8, 3, 3}, false, DType::f32);
  CHECK(get() == 3);
  set(before);
}

namespace {

/// Pooling by plain loops: for every output element, the positions of its window inside the image, in row-major order.
template <class F>
void for_windows(const Case& t, bool nhwc, F&& f) {
  const int oh = extent_after(t, t.h, t.kh), ow = extent_after(t, t.w, t.kw);
  const int top = pads(t, t.h, t.kh).before, left = pads(t, t.w, t.kw).before;
  const Shape xs = image(nhwc, t.n, t.c, t.h, t.w), ys = image(nhwc, t.n, t.c, oh, ow);
  for (int n = 0; n < t.n; ++n)
    for (int c = 0; c < t.c; ++c)
      for (int i = 0; i < oh * ow; ++i) {
        std::vector<int64_t> window;
        for (int k = 0; k < t.kh * t.kw; ++k) {
          const int h = i / ow * t.stride - top + k / t.kw, w = i % ow * t.stride - left + k % t.kw;
          if (h >= 0 && h < t.h && w >= 0 && w < t.w) window.push_back(at(nhwc, xs, n, c, h, w));
        }
        f(at(nhwc, ys, n, c, i / ow, i % ow), window);
      }
}

int64_t first_maximum(const Array& x, const std::vector<int64_t>& window) {
  int64_t best = window[0];
  for (const int64_t i : window)
    if (x.at(i) > x.at(best) || (std::isnan(x.at(i)) && !std::isnan(x.at(best)))) best = i;
  return best;
}

void check_pool(const Case& t, bool nhwc, DType dtype) {
  INFO(name_of(dtype) << " nhwc " << nhwc << " c " << t.c << " h " << t.h << " w " << t.w << " kh " << t.kh << " kw "
                      << t.kw << " stride " << t.stride << " same " << t.same);
  const Pads v = pads(t, t.h, t.kh), u = pads(t, t.w, t.kw);
  const PoolAttrs attrs{t.kh, t.kw, t.stride, t.stride, v.before, u.before, v.after, u.after, nhwc, 0, nullptr};
  const Shape pooled = image(nhwc, t.n, t.c, extent_after(t, t.h, t.kh), extent_after(t, t.w, t.kw));
  Array x = random(dtype, image(nhwc, t.n, t.c, t.h, t.w)), other = random(dtype, x.layout->shape()),
        dy = random(dtype, pooled);
  for (int64_t i = 0; i < x.size(); ++i) x.set(i, std::round(4 * x.at(i)) / 4);  // so that equal ones occur
  std::vector<double> maxima(dy.size()), means(dy.size()), picked(dy.size()), max_dx(x.size()), mean_dx(x.size());
  for_windows(t, nhwc, [&](int64_t o, const std::vector<int64_t>& window) {
    const int64_t best = first_maximum(x, window);
    maxima[o] = x.at(best);
    picked[o] = other.at(best);
    max_dx[best] += dy.at(o);
    for (const int64_t i : window) means[o] += x.at(i);
    means[o] /= static_cast<double>(window.size());
    const double share = dy.at(o) / static_cast<double>(window.size());
    for (const int64_t i : window) mean_dx[i] += is_floating(dtype) ? share : std::trunc(share);
    if (!is_floating(dtype)) means[o] = std::trunc(means[o]);
  });
  check_close(run(cpu::max_pool2d, {&x}, dtype, pooled, attrs), maxima, -4);
  check_close(run(cpu::max_pool2d_pick, {&x, &other}, dtype, pooled, attrs), picked, -4);
  check_close(run(cpu::max_pool2d_backward, {&x, &dy}, dtype, x.layout->shape(), attrs), max_dx, t.kh * t.kw);
  check_close(run(cpu::avg_pool2d, {&x}, dtype, pooled, attrs), means, t.kh * t.kw);
  check_close(run(cpu::avg_pool2d_backward, {&dy}, dtype, x.layout->shape(), attrs), mean_dx, t.kh * t.kw);
}

}  // namespace

TEST_CASE("pooling agrees with plain loops") {
  const Case cases[] = {
      {2, 3, 8, 8, 0, 2, 2, 2},
      {2, 9, 6, 14, 0, 2, 2, 2},
      {2, 3, 7, 9, 0, 2, 2, 2, 1, true},
      {1, 5, 9, 7, 0, 3, 2, 1, 1, true},
      {2, 1, 1, 1, 0, 1, 1},
      {1, 4, 6, 5, 0, 3, 3, 2},
      {3, 2, 5, 5, 0, 5, 5, 5},
      {1, 1, 40, 40, 0, 3, 3, 3, 1, true},
      {2, 9, 4, 3, 0, 2, 3, 1, 1, true},
      {0, 2, 4, 4, 0, 2, 2, 2},
      {2, 0, 4, 4, 0, 2, 2, 2},
      {2, 3, 2, 9, 0, 5, 4, 3, 1, true},
  };
  for (const Case& t : cases)
    for (const bool nhwc : {false, true})
      for (const DType dtype : numbers) check_pool(t, nhwc, dtype);
}

TEST_CASE("max pooling takes the first NaN, and infinities as they are") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  Array x(DType::f32, {1, 1, 2, 6}), ids(DType::f32, {1, 1, 2, 6});
  const float values[] = {1, nan, -inf, -inf, 3, 3, nan, 2, -inf, -inf, 3, 1};
  for (int i = 0; i < 12; ++i) x.set(i, values[i]), ids.set(i, i);
  const PoolAttrs attrs{2, 2, 2, 2, 0, 0, 0, 0, 0, 0, nullptr};
  Array y = run(cpu::max_pool2d, {&x}, DType::f32, {1, 1, 1, 3}, attrs);
  CHECK(std::isnan(y.at(0)));
  CHECK(y.at(1) == -inf);
  CHECK(y.at(2) == 3);
  Array where = run(cpu::max_pool2d_pick, {&x, &ids}, DType::f32, {1, 1, 1, 3}, attrs);
  CHECK(where.at(0) == 1);
  CHECK(where.at(1) == 2);
  CHECK(where.at(2) == 4);
}
