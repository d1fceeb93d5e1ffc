// Pooling. A tensor is seen as planes of [height, width, lanes]: nchw has n * c planes of one lane, nhwc has n of c
// lanes.
#include <algorithm>

#include "reprise/backends/cuda/recipe.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"

namespace rp::cuda {
namespace {

// The elements of a tensor, and the windows of outputs.
constexpr std::string_view window_text = R"text(
struct Windows {
  Divisor<Index> lanes, width, height, out_width, out_height;
  int window_h, window_w, stride_h, stride_w, top, left;
};
struct Element {
  Index plane;
  int h, w, lane;
};
__device__ __forceinline__ Element element(Index i, const Windows& g, const Divisor<Index>& width,
                                           const Divisor<Index>& height) {
  const Index pixel = quotient(i, g.lanes), row = quotient(pixel, width), plane = quotient(row, height);
  return {plane, (int)(row - plane * height.value), (int)(pixel - row * width.value),
          (int)(i - pixel * g.lanes.value)};
}
__device__ __forceinline__ Element input(Index i, const Windows& g) { return element(i, g, g.width, g.height); }
__device__ __forceinline__ Element output(Index i, const Windows& g) {
  return element(i, g, g.out_width, g.out_height);
}
__device__ __forceinline__ Index input_at(const Windows& g, const Element& e, int h, int w) {
  return ((e.plane * g.height.value + h) * g.width.value + w) * g.lanes.value + e.lane;
}
__device__ __forceinline__ Index output_at(const Windows& g, const Element& e, int h, int w) {
  return ((e.plane * g.out_height.value + h) * g.out_width.value + w) * g.lanes.value + e.lane;
}

// [begin, end): the pixels of a window that are inside of the image, or the windows that see a pixel.
struct Stretch {
  int begin, end;
  __device__ __forceinline__ int count() const { return end - begin; }
};
__device__ __forceinline__ Stretch pixels(int at, int stride, int before, int window, Index extent) {
  const int start = at * stride - before, end = start + window;
  return {start < 0 ? 0 : start, end < (int)extent ? end : (int)extent};
}
__device__ __forceinline__ Stretch rows_of(const Windows& g, int h) {
  return pixels(h, g.stride_h, g.top, g.window_h, g.height.value);
}
__device__ __forceinline__ Stretch columns_of(const Windows& g, int w) {
  return pixels(w, g.stride_w, g.left, g.window_w, g.width.value);
}
__device__ __forceinline__ Stretch windows(int at, int stride, int before, int window, Index extent) {
  const int last = (at + before) / stride + 1, behind = at + before - window;
  return {behind < 0 ? 0 : behind / stride + 1, last < (int)extent ? last : (int)extent};
}
__device__ __forceinline__ Stretch windows_above(const Windows& g, int h) {
  return windows(h, g.stride_h, g.top, g.window_h, g.out_height.value);
}
__device__ __forceinline__ Stretch windows_beside(const Windows& g, int w) {
  return windows(w, g.stride_w, g.left, g.window_w, g.out_width.value);
}
)text";

// A NaN is the largest element; of equal ones the first in row-major order of the window counts. What is stored of the
// maximum is said by `chosen`: itself, where it stands, or what stands there in another tensor.
constexpr std::string_view max_args_text = R"text(
struct Args {
  const T *x, *other;
  To* to;
  Windows windows;
  Index results;
};
)text";
constexpr std::string_view max_text = R"text(
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const Windows& g = args.windows;
  for (Index i = first_index(); i < args.results; i += index_step()) {
    const Element e = output(i, g);
    const Stretch rows = rows_of(g, e.h), columns = columns_of(g, e.w);
    T best = Range<T>::least();
    Index at = input_at(g, e, rows.begin, columns.begin);
    for (int h = rows.begin; h < rows.end; ++h)
      for (int w = columns.begin; w < columns.end; ++w) {
        const Index here = input_at(g, e, h, w);
        const T v = args.x[here];
        if (!(v <= best) && best == best) {
          best = v;
          at = here;
        }
      }
    args.to[i] = chosen(args, best, at);
  }
}
)text";

// Each window's dy goes to where its maximum stands; an input adds what it gets row by row of the windows, in a row
// from the last to the first. ONCE: every input lies in one window, and is not added to zero.
constexpr std::string_view route_text = R"text(
struct Args {
  const Index* maxima;
  const T* dy;
  T* dx;
  Windows windows;
  Index results;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const Windows& g = args.windows;
  for (Index i = first_index(); i < args.results; i += index_step()) {
    const Element e = input(i, g);
    const Stretch rows = windows_above(g, e.h), columns = windows_beside(g, e.w);
    T sum = 0;
    for (int h = rows.begin; h < rows.end; ++h)
      for (int w = columns.end - 1; w >= columns.begin; --w) {
        const Index window = output_at(g, e, h, w);
        if (args.maxima[window] == i) sum = ONCE ? args.dy[window] : plus(sum, args.dy[window]);
      }
    args.dx[i] = sum;
  }
}
)text";

// The mean of a window's elements inside the image.
constexpr std::string_view mean_text = R"text(
struct Args {
  const T* x;
  T* to;
  Windows windows;
  Index results;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const Windows& g = args.windows;
  for (Index i = first_index(); i < args.results; i += index_step()) {
    const Element e = output(i, g);
    const Stretch rows = rows_of(g, e.h), columns = columns_of(g, e.w);
    T sum = 0;
    for (int h = rows.begin; h < rows.end; ++h)
      for (int w = columns.begin; w < columns.end; ++w) sum = plus(sum, args.x[input_at(g, e, h, w)]);
    args.to[i] = sum / (T)((i64)rows.count() * columns.count());
  }
}
)text";

// An input adds its shares in the order of `route_text`.
constexpr std::string_view spread_text = R"text(
struct Args {
  const T* dy;
  T* dx;
  Windows windows;
  Index results;
};
extern "C" __global__ void __launch_bounds__(256) kernel_entry(const __grid_constant__ Args args) {
  const Windows& g = args.windows;
  for (Index i = first_index(); i < args.results; i += index_step()) {
    const Element e = input(i, g);
    const Stretch rows = windows_above(g, e.h), columns = windows_beside(g, e.w);
    T sum = 0;
    for (int h = rows.begin; h < rows.end; ++h)
      for (int w = columns.end - 1; w >= columns.begin; --w) {
        const i64 count = (i64)rows_of(g, h).count() * columns_of(g, w).count();
        sum = plus(sum, args.dy[output_at(g, e, h, w)] / (T)count);
      }
    args.dx[i] = sum;
  }
}
)text";

struct Geometry {
  int64_t planes, height, width, out_height, out_width, lanes;
  PoolAttrs a;

  int64_t inputs() const { return planes * height * width * lanes; }
  int64_t outputs() const { return planes * out_height * out_width * lanes; }
  bool wide() const { return is_wide(std::max(inputs(), outputs())); }
  bool tiles() const {
    return a.window_h == 2 && a.window_w == 2 && a.stride_h == 2 && a.stride_w == 2 && !a.top && !a.left &&
           height == 2 * out_height && width == 2 * out_width;
  }
};

Geometry geometry(const Region& region, const Layout& image, const Layout& pooled) {
  const auto& a = region.attrs.as<PoolAttrs>();
  const bool nhwc = a.format == static_cast<int32_t>(DataFormat::nhwc);
  const int h = nhwc ? 1 : 2;
  const Shape &x = image.shape(), &y = pooled.shape();
  const Geometry g{nhwc ? x[0] : x[0] * x[1], x[h], x[h + 1], y[h], y[h + 1], nhwc ? x[3] : 1, a};
  // Every window meets the image; otherwise it would have no maximum and no mean.
  const bool met = a.top < a.window_h && a.left < a.window_w && (g.out_height - 1) * a.stride_h - a.top < g.height &&
                   (g.out_width - 1) * a.stride_w - a.left < g.width;
  if (!met && g.outputs()) fail("{}: a window lies outside of the image {}", region.op->name, to_string(x));
  constexpr int64_t most = 1 << 30;
  if (std::max({g.height, g.width, g.out_height * a.stride_h, g.out_width * a.stride_w, g.lanes}) >= most)
    fail("{}: an extent of {} reaches 2^30", region.op->name, to_string(x));
  return g;
}

void add_windows(Step& step, const Geometry& g, int64_t results) {
  for (int64_t extent : {g.lanes, g.width, g.height, g.out_width, g.out_height}) step.divisor(extent, g.wide());
  for (int32_t n : {g.a.window_h, g.a.window_w, g.a.stride_h, g.a.stride_w, g.a.top, g.a.left}) step.add(n);
  step.add_index(results, g.wide()).threads_for(results);
}

std::string common_text(const Region& region, const Geometry& g) {
  return index_text(g.wide()) + type_text(region.operands.back().layout->dtype(), "T") + std::string(plus_text) +
         std::string(window_text);
}

// `to`: the type of what is stored; `chosen`: an expression of `best`, `at` and `args`.
void add_maxima(Recipe& r, const Region& region, const Geometry& g, Pointer other, Pointer to, std::string_view type,
                std::string_view chosen) {
  std::string text = common_text(region, g) + fmt::format("typedef {} To;\n", type) + std::string(max_args_text);
  text += fmt::format("__device__ __forceinline__ To chosen(const Args& args, T best, Index at) {{ return {}; }}\n",
                      chosen);
  text += max_text;
  add_windows(r.steps.emplace_back(std::move(text), std::vector{operand(0), other, to}), g, g.outputs());
}

const Layout& layout(const Region& region, size_t k) { return *region.operands[k].layout; }

}  // namespace

Recipe max_pool2d_recipe(const Region& region, bool) {
  Recipe r;
  add_maxima(r, region, geometry(region, layout(region, 0), layout(region, 1)), operand(0), operand(1), "T", "best");
  return r;
}

Recipe max_pool2d_pick_recipe(const Region& region, bool) {
  Recipe r;
  add_maxima(r, region, geometry(region, layout(region, 0), layout(region, 2)), operand(1), operand(2), "T",
             "args.other[at]");
  return r;
}

Recipe max_pool2d_backward_recipe(const Region& region, bool) {
  const Geometry g = geometry(region, layout(region, 2), layout(region, 1));
  Recipe r;
  if (!g.outputs()) return zeros(region, 2);
  const Pointer maxima = r.room(g.outputs() * (g.wide() ? 8 : 4));
  add_maxima(r, region, g, operand(0), maxima, "Index", "at");
  std::string text = common_text(region, g) + fmt::format("constexpr bool ONCE = {};\n", g.tiles());
  add_windows(r.steps.emplace_back(text + std::string(route_text), std::vector{maxima, operand(1), operand(2)}), g,
              g.inputs());
  return r;
}

Recipe avg_pool2d_recipe(const Region& region, bool) {
  const Geometry g = geometry(region, layout(region, 0), layout(region, 1));
  Recipe r;
  add_windows(
      r.steps.emplace_back(common_text(region, g) + std::string(mean_text), std::vector{operand(0), operand(1)}), g,
      g.outputs());
  return r;
}

Recipe avg_pool2d_backward_recipe(const Region& region, bool) {
  const Geometry g = geometry(region, layout(region, 1), layout(region, 0));
  if (!g.outputs()) return zeros(region, 1);
  Recipe r;
  add_windows(
      r.steps.emplace_back(common_text(region, g) + std::string(spread_text), std::vector{operand(0), operand(1)}), g,
      g.inputs());
  return r;
}

}  // namespace rp::cuda
