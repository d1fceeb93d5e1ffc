// Convolution and pooling: one visit per output element and window element.
#include <cmath>
#include <map>

#include "reprise/backends/ref/ref.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"

namespace rp::ref {
namespace {

using Real = long double;
using Reals = std::vector<Real>;

// An image of either data format.
struct Image {
  int64_t n, channels, h, w;
  bool last;  // channels stand last

  Image(const Shape& s, int32_t format) : last(static_cast<DataFormat>(format) == DataFormat::nhwc) {
    n = s[0], channels = s[last ? 3 : 1], h = s[last ? 1 : 2], w = s[last ? 2 : 3];
  }
  size_t at(int64_t i, int64_t c, int64_t y, int64_t x) const {
    return static_cast<size_t>(last ? ((i * h + y) * w + x) * channels + c : ((i * channels + c) * h + y) * w + x);
  }
  bool holds(int64_t y, int64_t x) const { return y >= 0 && y < h && x >= 0 && x < w; }
};

// Calls f(place in x, place in w, place in y) for every product of a convolution.
template <class F>
void convolve(const ConvAttrs& a, const Shape& xs, const Shape& w, const Shape& ys, F f) {
  const Image x(xs, a.format), y(ys, a.format);
  const auto at_w = [&](int64_t o, int64_t c, int64_t kh, int64_t kw) {
    return static_cast<size_t>(((o * w[1] + c) * w[2] + kh) * w[3] + kw);
  };
  for (int64_t i = 0; i < y.n; ++i)
    for (int64_t o = 0; o < w[0]; ++o)
      for (int64_t r = 0; r < y.h; ++r)
        for (int64_t s = 0; s < y.w; ++s)
          for (int64_t c = 0; c < w[1]; ++c)
            for (int64_t kh = 0; kh < w[2]; ++kh)
              for (int64_t kw = 0; kw < w[3]; ++kw) {
                const int64_t row = r * a.stride_h - a.top + kh * a.dilation_h;
                const int64_t column = s * a.stride_w - a.left + kw * a.dilation_w;
                if (x.holds(row, column)) f(x.at(i, c, row, column), at_w(o, c, kh, kw), y.at(i, o, r, s));
              }
}

Reals conv2d(const LoopCall& c) {
  const Array &x = c.inputs[0], &w = c.inputs[1];
  Reals y(static_cast<size_t>(c.out.numel));
  convolve(c.attrs.as<ConvAttrs>(), x.shape, w.shape, c.out.shape(),
           [&](size_t i, size_t k, size_t o) { y[o] += x.values[i] * w.values[k]; });
  return y;
}

Reals conv2d_backward_data(const LoopCall& c) {
  const Array &dy = c.inputs[0], &w = c.inputs[1];
  Reals dx(static_cast<size_t>(c.out.numel));
  convolve(c.attrs.as<ConvAttrs>(), c.out.shape(), w.shape, dy.shape,
           [&](size_t i, size_t k, size_t o) { dx[i] += dy.values[o] * w.values[k]; });
  return dx;
}

Reals conv2d_backward_weights(const LoopCall& c) {
  const Array &x = c.inputs[0], &dy = c.inputs[1];
  Reals dw(static_cast<size_t>(c.out.numel));
  convolve(c.attrs.as<ConvAttrs>(), x.shape, c.out.shape(), dy.shape,
           [&](size_t i, size_t k, size_t o) { dw[k] += x.values[i] * dy.values[o]; });
  return dw;
}

// Calls f(places in the image, place in the result) for every window.
template <class F>
void pool(const PoolAttrs& a, const Shape& xs, const Shape& ys, F f) {
  const Image x(xs, a.format), y(ys, a.format);
  for (int64_t i = 0; i < y.n; ++i)
    for (int64_t c = 0; c < y.channels; ++c)
      for (int64_t r = 0; r < y.h; ++r)
        for (int64_t s = 0; s < y.w; ++s) {
          std::vector<size_t> window;
          for (int64_t row = r * a.stride_h - a.top; row < r * a.stride_h - a.top + a.window_h; ++row)
            for (int64_t column = s * a.stride_w - a.left; column < s * a.stride_w - a.left + a.window_w; ++column)
              if (x.holds(row, column)) window.push_back(x.at(i, c, row, column));
          f(window, y.at(i, c, r, s));
        }
}

// The first largest element of a window; a NaN is larger than any number.
size_t first_maximum(const std::vector<size_t>& window, const Reals& x) {
  size_t best = window[0];
  for (size_t p : window)
    if (!std::isnan(x[best]) && (std::isnan(x[p]) || x[p] > x[best])) best = p;
  return best;
}

Reals max_pool2d(const LoopCall& c) {
  const Array& x = c.inputs[0];
  Reals y(static_cast<size_t>(c.out.numel));
  pool(c.attrs.as<PoolAttrs>(), x.shape, c.out.shape(),
       [&](const auto& window, size_t o) { y[o] = x.values[first_maximum(window, x.values)]; });
  return y;
}

Reals max_pool2d_backward(const LoopCall& c) {
  const Array &x = c.inputs[0], &dy = c.inputs[1];
  Reals dx(x.values.size());
  pool(c.attrs.as<PoolAttrs>(), x.shape, dy.shape,
       [&](const auto& window, size_t o) { dx[first_maximum(window, x.values)] += dy.values[o]; });
  return dx;
}

Reals max_pool2d_pick(const LoopCall& c) {
  const Array &x = c.inputs[0], &v = c.inputs[1];
  Reals y(static_cast<size_t>(c.out.numel));
  pool(c.attrs.as<PoolAttrs>(), x.shape, c.out.shape(),
       [&](const auto& window, size_t o) { y[o] = v.values[first_maximum(window, x.values)]; });
  return y;
}

Reals avg_pool2d(const LoopCall& c) {
  const Array& x = c.inputs[0];
  Reals y(static_cast<size_t>(c.out.numel));
  pool(c.attrs.as<PoolAttrs>(), x.shape, c.out.shape(), [&](const auto& window, size_t o) {
    for (size_t p : window) y[o] += x.values[p] / static_cast<Real>(window.size());
  });
  return y;
}

Reals avg_pool2d_backward(const LoopCall& c) {
  const Array& dy = c.inputs[0];
  Reals dx(static_cast<size_t>(c.out.numel));
  pool(c.attrs.as<PoolAttrs>(), c.out.shape(), dy.shape, [&](const auto& window, size_t o) {
    for (size_t p : window) dx[p] += dy.values[o] / static_cast<Real>(window.size());
  });
  return dx;
}

}  // namespace

Loop find_window_loop(std::string_view op) {
  static const std::map<std::string_view, Loop> table{
      {"conv2d", conv2d},
      {"conv2d_backward_data", conv2d_backward_data},
      {"conv2d_backward_weights", conv2d_backward_weights},
      {"max_pool2d", max_pool2d},
      {"max_pool2d_backward", max_pool2d_backward},
      {"max_pool2d_pick", max_pool2d_pick},
      {"avg_pool2d", avg_pool2d},
      {"avg_pool2d_backward", avg_pool2d_backward},
  };
  const auto it = table.find(op);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace rp::ref
