#include <algorithm>

#include "reprise/backends/cpu/conv.h"
#include "reprise/backends/cpu/gemm.h"
#include "reprise/backends/cpu/kernel_call.h"

namespace rp::cpu {

namespace {

/// Calls f(row of patches, first output, number of outputs, first pixel) for each output row of each row of the patch
/// matrix [c * kh * kw, oh * ow]: those outputs whose pixel lies inside the image. Pixels are `step(s)` apart.
template <class F>
void for_runs(const ConvShape& s, F&& f) {
  const int64_t pixel = s.nhwc ? s.c : 1, plane = s.nhwc ? 1 : s.h * s.w;
  for (int64_t k = 0; k < s.c * s.kh * s.kw; ++k) {
    const int64_t kw = k % s.kw, kh = k / s.kw % s.kh, c = k / s.kw / s.kh;
    const int64_t shift = kw * s.dilation_w - s.left;
    const int64_t begin = shift >= 0 ? 0 : std::min<int64_t>(s.ow, (-shift + s.stride_w - 1) / s.stride_w);
    const int64_t room = s.w - 1 - shift;
    const int64_t end = room < 0 ? begin : std::max(begin, std::min<int64_t>(s.ow, room / s.stride_w + 1));
    for (int64_t oh = 0; oh < s.oh; ++oh) {
      const int64_t h = oh * s.stride_h - s.top + kh * s.dilation_h;
      const bool inside = h >= 0 && h < s.h;
      f(k, oh, inside ? begin : 0, inside ? end : 0, c * plane + (h * s.w + begin * s.stride_w + shift) * pixel);
    }
  }
}

bool is_pointwise(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.oh == s.h && s.ow == s.w && !s.top &&
         !s.left;
}

int64_t step(const ConvShape& s) { return s.stride_w * (s.nhwc ? s.c : 1); }
int64_t depth(const ConvShape& s) { return s.c * s.kh * s.kw; }
int64_t positions(const ConvShape& s) { return s.oh * s.ow; }

template <class T>
void im2col(const ConvShape& s, const T* x, T* patches) {
  const int64_t by = step(s);
  for_runs(s, [&](int64_t k, int64_t oh, int64_t begin, int64_t end, int64_t pixel) {
    T* row = patches + (k * s.oh + oh) * s.ow;
    std::fill(row, row + begin, T{});
    if (by == 1)
      std::copy_n(x + pixel, end - begin, row + begin);
    else
      for (int64_t i = begin; i < end; ++i) row[i] = x[pixel + (i - begin) * by];
    std::fill(row + end, row + s.ow, T{});
  });
}

/// The adjoint of im2col, added to x.
template <class T>
void col2im(const ConvShape& s, const T* patches, T* x) {
  const int64_t by = step(s);
  for_runs(s, [&](int64_t k, int64_t oh, int64_t begin, int64_t end, int64_t pixel) {
    const T* row = patches + (k * s.oh + oh) * s.ow;
    for (int64_t i = begin; i < end; ++i) add_to(x[pixel + (i - begin) * by], row[i]);
  });
}

/// The patch matrix [c * kh * kw, oh * ow] of one image, or the image itself where that is the same.
template <class T>
class Patches {
 public:
  explicit Patches(const ConvShape& s)
      : s_(s),
        copy_(is_pointwise(s) ? 0 : depth(s) * positions(s)),
        row_(is_pointwise(s) && s.nhwc ? 1 : positions(s)),
        column_(is_pointwise(s) && s.nhwc ? s.c : 1) {}
  const T* of(const T* x) const {
    if (is_pointwise(s_)) return x;
    im2col(s_, x, copy_.data());
    return copy_.data();
  }
  int64_t row() const { return row_; }
  int64_t column() const { return column_; }

 private:
  const ConvShape& s_;
  Buffer<T> copy_;
  int64_t row_, column_;
};

}  // namespace

template <class T>
void im2col_forward(const ConvShape& s, int64_t images, const T* x, const T* w, T* y) {
  const int64_t k = depth(s), p = positions(s);
  const Patches<T> patches(s);
  for (int64_t i = 0; i < images; ++i, x += s.x_image(), y += s.y_image()) {
    const T* const rows = patches.of(x);
    if (s.nhwc)
      gemm<T>({p, s.out, k, patches.column(), patches.row(), 1, k, s.out}, rows, w, y);
    else
      gemm<T>({s.out, p, k, k, 1, patches.row(), patches.column(), p}, w, rows, y);
  }
}

template <class T>
void im2col_backward_data(const ConvShape& s, int64_t images, T* x, const T* w, const T* y) {
  const int64_t k = depth(s), p = positions(s), y_row = s.nhwc ? 1 : p, y_column = s.nhwc ? s.out : 1;
  const Buffer<T> patches(is_pointwise(s) ? 0 : k * p);
  for (int64_t i = 0; i < images; ++i, x += s.x_image(), y += s.y_image()) {
    if (is_pointwise(s) && s.nhwc) {
      gemm<T>({p, k, s.out, y_column, y_row, k, 1, k}, y, w, x);
    } else if (is_pointwise(s)) {
      gemm<T>({k, p, s.out, 1, k, y_row, y_column, p}, w, y, x);
    } else {
      gemm<T>({k, p, s.out, 1, k, y_row, y_column, p}, w, y, patches.data());
      std::fill_n(x, s.x_image(), T{});
      col2im(s, patches.data(), x);
    }
  }
}

template <class T>
void im2col_backward_weights(const ConvShape& s, int64_t images, const T* x, T* w, const T* y) {
  const int64_t k = depth(s), p = positions(s), y_row = s.nhwc ? 1 : p, y_column = s.nhwc ? s.out : 1;
  const Patches<T> patches(s);
  const Buffer<T> part(images > 1 ? s.weights() : 0);
  for (int64_t i = 0; i < images; ++i, x += s.x_image(), y += s.y_image()) {
    gemm<T>({s.out, k, p, y_row, y_column, patches.column(), patches.row(), k}, y, patches.of(x), i ? part.data() : w);
    for (int64_t j = 0; i && j < s.weights(); ++j) add_to(w[j], part.data()[j]);
  }
}

template void im2col_forward(const ConvShape&, int64_t, const float*, const float*, float*);
template void im2col_forward(const ConvShape&, int64_t, const double*, const double*, double*);
template void im2col_forward(const ConvShape&, int64_t, const int32_t*, const int32_t*, int32_t*);
template void im2col_forward(const ConvShape&, int64_t, const int64_t*, const int64_t*, int64_t*);
template void im2col_backward_data(const ConvShape&, int64_t, float*, const float*, const float*);
template void im2col_backward_data(const ConvShape&, int64_t, double*, const double*, const double*);
template void im2col_backward_data(const ConvShape&, int64_t, int32_t*, const int32_t*, const int32_t*);
template void im2col_backward_data(const ConvShape&, int64_t, int64_t*, const int64_t*, const int64_t*);
template void im2col_backward_weights(const ConvShape&, int64_t, const float*, float*, const float*);
template void im2col_backward_weights(const ConvShape&, int64_t, const double*, double*, const double*);
template void im2col_backward_weights(const ConvShape&, int64_t, const int32_t*, int32_t*, const int32_t*);
template void im2col_backward_weights(const ConvShape&, int64_t, const int64_t*, int64_t*, const int64_t*);

}  // namespace rp::cpu
