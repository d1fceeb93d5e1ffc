// Convolutions of f32 images with their channels last, as products of a matrix of patches and the weights. The patches
// are formed block by block as the product needs them, so that they never leave the cache.
#include <algorithm>
#include <cstring>

#include "reprise/backends/cpu/conv.h"
#include "reprise/backends/cpu/kernel_call.h"
#include "reprise/backends/cpu/threads.h"

namespace rp::cpu {

namespace {

int64_t depth(const ConvShape& s) { return s.kh * s.kw * s.c; }
int64_t positions(const ConvShape& s) { return s.n * s.oh * s.ow; }

bool is_matrix(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && !s.top && !s.left && !s.bottom && !s.right;
}

struct Image {
  const ConvShape& shape;
  const float* x;
};

/// A stretch of a patch that lies together in the image: a row of the window, or a pixel where it is dilated.
struct Stretch {
  int64_t pixels, per_row;
  explicit Stretch(const ConvShape& s) : pixels(s.dilation_w == 1 ? s.kw : 1), per_row(s.kw / pixels) {}
};

/// Copies elements [begin, end) of the stretch that begins at pixel (h, w), which may lie outside of the image: zeros.
void copy_stretch(const ConvShape& s, const float* image, int64_t h, int64_t w, int64_t begin, int64_t end, float* to) {
  if (h < 0 || h >= s.h) {
    std::fill_n(to, end - begin, 0.0f);
    return;
  }
  const int64_t first = std::clamp(-w * s.c, begin, end), last = std::clamp((s.w - w) * s.c, first, end);
  std::fill_n(to, first - begin, 0.0f);
  std::memcpy(to + (first - begin), image + (h * s.w + w) * s.c + first,
              static_cast<size_t>(last - first) * sizeof(float));
  std::fill_n(to + (last - begin), end - last, 0.0f);
}

/// An output and the pixel where its window begins. Steps rather than divisions: the loops below are short.
struct Position {
  Position(const ConvShape& s, int64_t row)
      : shape(s), image(row / (s.oh * s.ow)), oh(row / s.ow % s.oh), ow(row % s.ow) {}
  int64_t h() const { return oh * shape.stride_h - shape.top; }
  int64_t w() const { return ow * shape.stride_w - shape.left; }
  void next() {
    if (++ow < shape.ow) return;
    ow = 0;
    if (++oh < shape.oh) return;
    oh = 0;
    ++image;
  }
  const ConvShape& shape;
  int64_t image, oh, ow;
};

/// Elements [k, k + count) of the patches of `rows` outputs from `row` on.
void form_rows(const void* context, int64_t row, int64_t rows, int64_t k, int64_t count, float* to) {
  const auto& [s, x] = *static_cast<const Image*>(context);
  const Stretch stretch(s);
  const int64_t length = stretch.pixels * s.c, first = k / length;
  for (Position at(s, row); rows > 0; --rows, at.next()) {
    const float* const image = x + at.image * s.x_image();
    int64_t kh = first / stretch.per_row, part = first % stretch.per_row, begin = k % length;
    for (int64_t left = count; left > 0; begin = 0) {
      const int64_t n = std::min(length - begin, left);
      copy_stretch(s, image, at.h() + kh * s.dilation_h, at.w() + part * s.dilation_w, begin, begin + n, to);
      to += n;
      left -= n;
      if (++part == stretch.per_row) part = 0, ++kh;
    }
  }
}

void form_columns(const void* context, int64_t row, int64_t rows, int64_t k, int64_t count, float* to) {
  form_rows(context, k, count, row, rows, to);
}

/// Rows of outputs are summed up in segments of about this many.
int64_t segment_of(const ConvShape& s) {
  constexpr int64_t wanted = 400;
  int64_t rows = std::clamp<int64_t>(wanted / s.ow, 1, s.oh);
  while (s.oh % rows) --rows;
  return rows * s.ow;
}

}  // namespace

void patches_forward(const ConvShape& s, const float* x, const PackedB<float>& w, float* y, const Epilogue* epilogue) {
  const GemmShape product{positions(s), s.out, depth(s), s.c, 1, 0, 0, s.out};
  if (is_matrix(s)) return gemm(product, x, w, y, epilogue);
  const Image image{s, x};
  gemm(product, FormedA<float>{form_rows, &image}, w, y, epilogue);
}

namespace {

/// Adds the patches of `count` outputs, from `at` on, to their places in an image.
void add_patches(const ConvShape& s, Position at, int64_t count, const float* patches, float* image) {
  const Stretch stretch(s);
  const int64_t length = stretch.pixels * s.c;
  for (; count > 0; --count, at.next())
    for (int64_t kh = 0; kh < s.kh; ++kh)
      for (int64_t part = 0; part < stretch.per_row; ++part, patches += length) {
        const int64_t h = at.h() + kh * s.dilation_h, w = at.w() + part * s.dilation_w;
        if (h < 0 || h >= s.h) continue;
        const int64_t first = std::clamp<int64_t>(-w * s.c, 0, length);
        const int64_t last = std::clamp<int64_t>((s.w - w) * s.c, first, length);
        float* const to = image + (h * s.w + w) * s.c;
        for (int64_t j = first; j < last; ++j) to[j] += patches[j];
      }
}

}  // namespace

void patches_backward_data(const ConvShape& s, float* x, const PackedB<float>& w, const float* y,
                           const Epilogue* epilogue) {
  constexpr int64_t most = 1 << 16;  // elements of patches that stay in the second-level cache
  const int64_t k = depth(s), chunk = std::clamp<int64_t>(most / (s.ow * k), 1, s.oh);
  parallel_for(s.n, 1, [&](int64_t begin, int64_t end) {
    const Buffer<float> patches(chunk * s.ow * k);
    for (int64_t i = begin; i < end; ++i) {
      float* const image = x + i * s.x_image();
      std::fill_n(image, s.x_image(), 0.0f);
      for (int64_t oh = 0; oh < s.oh; oh += chunk) {
        const int64_t rows = std::min(chunk, s.oh - oh);
        gemm({rows * s.ow, k, s.out, s.out, 1, 0, 0, k}, y + i * s.y_image() + oh * s.ow * s.out, w, patches.data());
        add_patches(s, Position(s, oh * s.ow), rows * s.ow, patches.data(), image);
      }
      if (epilogue) epilogue->run(epilogue->context, i * s.h * s.w, s.h * s.w, 0, s.c);
    }
  });
}

void patches_weights(const ConvShape& s, const float* x, float* w, const float* y) {
  const int64_t rows = positions(s), segment = segment_of(s);
  if (is_matrix(s)) return gemm<float>({s.out, s.c, rows, 1, s.out, s.c, 1, s.c, segment}, y, x, w);
  const Buffer<float> sums(depth(s) * s.out);
  const Image image{s, x};
  gemm({depth(s), s.out, rows, 0, 0, s.out, 1, s.out, segment}, FormedA<float>{form_columns, &image, true}, y,
       sums.data());
  weights_to_front(s, sums.data(), w);
}

void weights_to_front(const ConvShape& s, const float* from, float* to) {
  constexpr int64_t strip = 16;  // filters: whole cache lines are read
  const int64_t taps = s.kh * s.kw;
  parallel_for((s.out + strip - 1) / strip, grain(strip * depth(s)), [&](int64_t begin, int64_t end) {
    const Buffer<float> window(taps * strip);
    for (int64_t o = begin * strip; o < std::min(end * strip, s.out); o += strip) {
      const int64_t filters = std::min(strip, s.out - o);
      for (int64_t c = 0; c < s.c; ++c) {
        for (int64_t t = 0; t < taps; ++t)
          std::copy_n(from + (t * s.c + c) * s.out + o, filters, window.data() + t * strip);
        for (int64_t i = 0; i < filters; ++i)
          for (int64_t t = 0; t < taps; ++t) to[((o + i) * s.c + c) * taps + t] = window.data()[t * strip + i];
      }
    }
  });
}

}  // namespace rp::cpu
