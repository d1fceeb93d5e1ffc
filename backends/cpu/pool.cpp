// Pooling. A tensor is seen as planes of [height, width, lanes]: nchw has n * c planes of one lane, nhwc has n of c
// lanes. Windows are walked tap by tap over a whole row of outputs, so that the innermost loop is long and without
// branches.
#include <algorithm>
#include <limits>
#include <vector>

#include "reprise/backends/cpu/kernel_call.h"
#include "reprise/backends/cpu/kernels.h"
#include "reprise/backends/cpu/pool_lanes.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"

namespace rp::cpu {

namespace {

struct Geometry {
  int64_t planes, height, width, out_height, out_width, lanes;
  int64_t window_h, window_w, stride_h, stride_w, top, left;

  int64_t out_row() const { return out_width * lanes; }
  int64_t plane() const { return height * width * lanes; }
  int64_t out_plane() const { return out_height * out_row(); }
};

Geometry geometry(const KernelCall& call, const Shape& image, const Shape& pooled) {
  const auto& a = call.attrs.as<PoolAttrs>();
  const bool nhwc = a.format == static_cast<int32_t>(DataFormat::nhwc);
  const int h = nhwc ? 1 : 2;
  const Geometry g{nhwc ? image[0] : image[0] * image[1],
                   image[h],
                   image[h + 1],
                   pooled[h],
                   pooled[h + 1],
                   nhwc ? image[3] : 1,
                   a.window_h,
                   a.window_w,
                   a.stride_h,
                   a.stride_w,
                   a.top,
                   a.left};
  // Every window meets the image; otherwise it would have no maximum and no mean.
  const bool met = g.top < g.window_h && g.left < g.window_w && (g.out_height - 1) * g.stride_h - g.top < g.height &&
                   (g.out_width - 1) * g.stride_w - g.left < g.width;
  if (!met) fail("{}: a window lies outside of the image {}", call.op.name, to_string(image));
  return g;
}

/// The part of [0, window) that stays inside [0, extent) for output position `at`.
struct Taps {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};
Taps taps(int64_t at, int64_t stride, int64_t before, int64_t window, int64_t extent) {
  const int64_t start = at * stride - before;
  return {std::max<int64_t>(0, -start), std::min(window, extent - start)};
}

/// Calls f(output, input, n, step): n outputs of the row at `output`, the inputs they meet through one tap at `input`,
/// in elements of the row and of the plane; neighbouring inputs are `step` apart. Taps come in row-major order.
template <class F>
void for_taps(const Geometry& g, int64_t row, F&& f) {
  const Taps high = taps(row, g.stride_h, g.top, g.window_h, g.height);
  for (int64_t kh = high.begin; kh < high.end; ++kh) {
    const int64_t line = (row * g.stride_h - g.top + kh) * g.width;
    for (int64_t kw = 0; kw < g.window_w; ++kw) {
      const int64_t shift = kw - g.left;
      const int64_t begin = shift >= 0 ? 0 : (-shift + g.stride_w - 1) / g.stride_w;
      const int64_t room = g.width - 1 - shift;
      const int64_t end = room < 0 ? 0 : std::min(g.out_width, room / g.stride_w + 1);
      if (begin >= end) continue;
      const int64_t input = line + begin * g.stride_w + shift;
      if (g.lanes == 1) {
        f(begin, input, end - begin, g.stride_w);
      } else {
        for (int64_t ow = begin; ow < end; ++ow)
          f(ow * g.lanes, (line + ow * g.stride_w + shift) * g.lanes, g.lanes, 1);
      }
    }
  }
}

template <class T>
constexpr T lowest() {
  if constexpr (std::is_floating_point_v<T>)
    return -std::numeric_limits<T>::infinity();
  else
    return std::numeric_limits<T>::lowest();
}

/// The maxima of one row of outputs.
template <class T>
void max_row(const Geometry& g, int64_t row, const T* x, T* best) {
  std::fill_n(best, g.out_row(), lowest<T>());
  for_taps(g, row, [&](int64_t o, int64_t i, int64_t n, int64_t gap) {
    walk<T>(n, gap, [=, from = x + i, to = best + o]<class V, int step>(int64_t j) {
      const V v = load<V, step>(from + j * (step ? step : gap)), b = load<V, 1>(to + j);
      store<V>(to + j, larger<T>(v, b) ? v : b);
    });
  });
}

// ---- windows of two by two that tile the image: each element is read once and, going back, written once ----

bool halves(const Geometry& g) {
  return g.window_h == 2 && g.window_w == 2 && g.stride_h == 2 && g.stride_w == 2 && !g.top && !g.left &&
         g.height == 2 * g.out_height && g.width == 2 * g.out_width;
}

/// Calls f<V>(output, input): offsets in the row of outputs and, of the window's first element, in the pair of rows.
template <class T, class F>
void for_pairs(const Geometry& g, F f) {
  if (g.lanes == 1)
    return walk_by<T, 1>(g.out_width, [=]<class V, int>(int64_t j) { f.template operator()<V>(j, 2 * j); });
  for (int64_t ow = 0; ow < g.out_width; ++ow) {
    const int64_t o = ow * g.lanes;
    walk_by<T, 1>(g.lanes, [=]<class V, int>(int64_t j) { f.template operator()<V>(o + j, 2 * o + j); });
  }
}

template <class T, class V>
V maximum(Pair<V> top, Pair<V> bottom) {
  V best = top.a;
  best = larger<T>(top.b, best) ? top.b : best;
  best = larger<T>(bottom.a, best) ? bottom.a : best;
  return larger<T>(bottom.b, best) ? bottom.b : best;
}

template <class T>
void halve_row(const Geometry& g, const T* x, T* y) {
  for_pairs<T>(g, [=, lanes = g.lanes, line = g.width * g.lanes]<class V>(int64_t o, int64_t i) {
    store(y + o, maximum<T>(load_pair<V>(x + i, lanes), load_pair<V>(x + line + i, lanes)));
  });
}

/// v where x equals the maximum, and zero in v there.
template <class T, class V>
V take(V x, V best, V& v) {
  const auto here = matches<T>(x, best);
  const V taken = here ? v : V{};
  v = here ? V{} : v;
  return taken;
}

template <class T>
void unhalve_row(const Geometry& g, const T* x, const T* dy, T* dx) {
  for_pairs<T>(g, [=, lanes = g.lanes, line = g.width * g.lanes]<class V>(int64_t o, int64_t i) {
    const Pair<V> top = load_pair<V>(x + i, lanes), bottom = load_pair<V>(x + line + i, lanes);
    const V best = maximum<T>(top, bottom);
    V left = load<V, 1>(dy + o);
    Pair<V> up, down;
    up.a = take<T>(top.a, best, left);
    up.b = take<T>(top.b, best, left);
    down.a = take<T>(bottom.a, best, left);
    down.b = take<T>(bottom.b, best, left);
    store_pair(dx + i, lanes, up);
    store_pair(dx + line + i, lanes, down);
  });
}

/// The same, and where in the plane each stands. An element of the lowest value beats nothing, so that positions start
/// at each window's first element.
template <class T>
void max_row(const Geometry& g, int64_t row, const T* x, T* best, int64_t* where) {
  std::fill_n(best, g.out_row(), lowest<T>());
  const int64_t line = std::max<int64_t>(0, row * g.stride_h - g.top) * g.width;
  for (int64_t o = 0; o < g.out_row(); ++o)
    where[o] = (line + std::max<int64_t>(0, o / g.lanes * g.stride_w - g.left)) * g.lanes + o % g.lanes;
  for_taps(g, row, [&](int64_t o, int64_t i, int64_t n, int64_t step) {
    for (int64_t j = 0; j < n; ++j) {
      const T v = x[i + j * step];
      const bool take = larger<T>(v, best[o + j]);
      best[o + j] = take ? v : best[o + j];
      where[o + j] = take ? i + j * step : where[o + j];
    }
  });
}

/// Runs body(plane, row) for every row of outputs.
template <class F>
void for_rows(const Geometry& g, F&& body) {
  const int64_t each = g.out_row() * g.window_h * g.window_w;
  parallel_for(g.planes * g.out_height, grain(each), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) body(u / g.out_height, u % g.out_height);
  });
}

/// Runs body(plane, row) row after row for every plane: for sums into planes, whose order is thereby fixed.
template <class F>
void for_planes(const Geometry& g, F&& body) {
  const int64_t each = g.plane() + g.out_plane() * g.window_h * g.window_w;
  parallel_for(g.planes, grain(each), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      for (int64_t row = 0; row < g.out_height; ++row) body(p, row);
  });
}

/// What sums of T are formed in: integers wrap.
template <class T>
struct SumOf {
  using Type = T;
};
template <>
struct SumOf<int32_t> {
  using Type = uint32_t;
};
template <>
struct SumOf<int64_t> {
  using Type = uint64_t;
};
template <class T>
typename SumOf<T>::Type* as_sum(T* p) {
  return reinterpret_cast<typename SumOf<T>::Type*>(p);
}

/// Divides a row of outputs by the extent of their windows inside the image, `high` times `wide`.
template <class T>
void divide_row(const Geometry& g, const T* from, int64_t high, const std::vector<int64_t>& wide, T* to) {
  for (int64_t ow = 0; ow < g.out_width; ++ow) {
    const T count = static_cast<T>(high * wide[ow]);
    for (int64_t o = ow * g.lanes; o < (ow + 1) * g.lanes; ++o) to[o] = from[o] / count;
  }
}

/// Adds to a row of outputs the inputs of their windows.
template <class T>
void sum_row(const Geometry& g, int64_t row, const T* x, T* y) {
  std::fill_n(y, g.out_row(), T{});
  for_taps(g, row, [&](int64_t o, int64_t i, int64_t n, int64_t gap) {
    walk<T>(n, gap, [=, from = x + i, to = y + o]<class V, int step>(int64_t j) {
      add<1>(to + j, load<V, step>(from + j * (step ? step : gap)));
    });
  });
}

/// Adds each of a row's outputs to every input of its window.
template <class T>
void spread_row(const Geometry& g, int64_t row, const T* share, T* dx) {
  for_taps(g, row, [&](int64_t o, int64_t i, int64_t n, int64_t gap) {
    walk<T>(n, gap, [=, from = share + o, to = dx + i]<class V, int step>(int64_t j) {
      add<step>(to + j * gap, load<V, 1>(from + j));
    });
  });
}

/// Adds each of a row's dy to the first input of its window that equals the maximum; `dy` is used up.
template <class T, class S>
void route_row(const Geometry& g, int64_t row, const T* x, const T* best, S* dy, S* dx) {
  for_taps(g, row, [&](int64_t o, int64_t i, int64_t n, int64_t gap) {
    walk<T>(n, gap, [=, from = x + i, to = dx + i, most = best + o, give = dy + o]<class V, int step>(int64_t j) {
      using Sum = std::conditional_t<std::is_same_v<V, T>, S, typename Pack<S>::Type>;
      const Sum left = load<Sum, 1>(give + j);
      const auto here = matches<T>(load<V, step>(from + j * (step ? step : gap)), load<V, 1>(most + j));
      add<step>(to + j * gap, here ? left : Sum{});
      store<Sum>(give + j, here ? Sum{} : left);
    });
  });
}

/// Elements inside the image, per output of a row.
std::vector<int64_t> counts(const Geometry& g) {
  std::vector<int64_t> n(g.out_width);
  for (int64_t o = 0; o < g.out_width; ++o) n[o] = taps(o, g.stride_w, g.left, g.window_w, g.width).count();
  return n;
}

}  // namespace

void max_pool2d(const KernelCall& call) {
  if (!call.output.layout->numel) return;
  const Geometry g = geometry(call, call.inputs[0].layout->shape(), call.output.layout->shape());
  const bool half = halves(g);
  visit_numbers(call, call.output.layout->dtype(), [&]<class T>(T) {
    for_rows(g, [&](int64_t p, int64_t row) {
      const T* x = in<const T>(call, 0) + p * g.plane();
      T* y = out<T>(call) + p * g.out_plane() + row * g.out_row();
      if (half)
        halve_row(g, x + 2 * row * g.width * g.lanes, y);
      else
        max_row(g, row, x, y);
    });
  });
}

void max_pool2d_pick(const KernelCall& call) {
  if (!call.output.layout->numel) return;
  const Geometry g = geometry(call, call.inputs[0].layout->shape(), call.output.layout->shape());
  visit_numbers(call, call.output.layout->dtype(), [&]<class T>(T) {
    for_rows(g, [&](int64_t p, int64_t row) {
      thread_local std::vector<int64_t> where;
      where.resize(g.out_row());
      T* y = out<T>(call) + p * g.out_plane() + row * g.out_row();
      max_row(g, row, in<const T>(call, 0) + p * g.plane(), y, where.data());
      const T* v = in<const T>(call, 1) + p * g.plane();
      for (int64_t o = 0; o < g.out_row(); ++o) y[o] = v[where[o]];
    });
  });
}

void max_pool2d_backward(const KernelCall& call) {
  if (!call.output.layout->numel) return;
  if (!call.inputs[1].layout->numel) return zero(call.output);
  const Geometry g = geometry(call, call.output.layout->shape(), call.inputs[1].layout->shape());
  const bool half = halves(g);
  visit_numbers(call, call.output.layout->dtype(), [&]<class T>(T) {
    for_planes(g, [&](int64_t p, int64_t row) {
      const T* x = in<const T>(call, 0) + p * g.plane();
      const T* dy = in<const T>(call, 1) + p * g.out_plane() + row * g.out_row();
      T* dx = out<T>(call) + p * g.plane();
      const int64_t first = 2 * row * g.width * g.lanes;
      if (half) return unhalve_row(g, x + first, dy, dx + first);
      thread_local std::vector<T> best, left;
      best.resize(g.out_row());
      left.assign(dy, dy + g.out_row());
      if (row == 0) std::fill_n(dx, g.plane(), T{});
      max_row(g, row, x, best.data());
      route_row(g, row, x, best.data(), as_sum(left.data()), as_sum(dx));
    });
  });
}

void avg_pool2d(const KernelCall& call) {
  if (!call.output.layout->numel) return;
  const Geometry g = geometry(call, call.inputs[0].layout->shape(), call.output.layout->shape());
  const std::vector<int64_t> wide = counts(g);
  visit_numbers(call, call.output.layout->dtype(), [&]<class T>(T) {
    for_rows(g, [&](int64_t p, int64_t row) {
      T* x = in<T>(call, 0) + p * g.plane();
      T* y = out<T>(call) + p * g.out_plane() + row * g.out_row();
      sum_row(g, row, as_sum(x), as_sum(y));
      const int64_t high = taps(row, g.stride_h, g.top, g.window_h, g.height).count();
      divide_row(g, y, high, wide, y);
    });
  });
}

void avg_pool2d_backward(const KernelCall& call) {
  if (!call.output.layout->numel) return;
  if (!call.inputs[0].layout->numel) return zero(call.output);
  const Geometry g = geometry(call, call.output.layout->shape(), call.inputs[0].layout->shape());
  const std::vector<int64_t> wide = counts(g);
  visit_numbers(call, call.output.layout->dtype(), [&]<class T>(T) {
    for_planes(g, [&](int64_t p, int64_t row) {
      thread_local std::vector<T> share;
      share.resize(g.out_row());
      T* dx = out<T>(call) + p * g.plane();
      if (row == 0) std::fill_n(dx, g.plane(), T{});
      const T* dy = in<const T>(call, 0) + p * g.out_plane() + row * g.out_row();
      const int64_t high = taps(row, g.stride_h, g.top, g.window_h, g.height).count();
      divide_row(g, dy, high, wide, share.data());
      spread_row(g, row, as_sum(share.data()), as_sum(dx));
    });
  });
}

}  // namespace rp::cpu
