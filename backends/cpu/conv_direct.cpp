// Convolutions of f32 images with few channels, their channels last. A row of a window lies together in the image, so
// the products read it there; only the padding has to be copied around the image.
#include <algorithm>
#include <cstring>

#include "reprise/backends/cpu/conv.h"
#include "reprise/backends/cpu/kernel_call.h"
#include "reprise/backends/cpu/threads.h"

namespace rp::cpu {

namespace {

/// An image with its padding.
struct Padded {
  explicit Padded(const ConvShape& s)
      : width(s.w + s.left + s.right),
        size((s.h + s.top + s.bottom) * width * s.c),
        copied(s.top || s.left || s.bottom || s.right) {}
  int64_t width, size;
  bool copied;
};

void pad_image(const ConvShape& s, const Padded& padded, const float* x, float* to) {
  const int64_t row = s.w * s.c, left = s.left * s.c, all = padded.width * s.c;
  std::fill_n(to, s.top * all, 0.0f);
  to += s.top * all;
  for (int64_t h = 0; h < s.h; ++h, to += all, x += row) {
    std::fill_n(to, left, 0.0f);
    std::memcpy(to + left, x, static_cast<size_t>(row) * sizeof(float));
    std::fill_n(to + left + row, all - left - row, 0.0f);
  }
  std::fill_n(to, s.bottom * all, 0.0f);
}

}  // namespace

namespace {

/// What the products of a forward pass have in common.
struct Forward {
  const ConvShape& shape;
  const PackedB<float>& w;
  int64_t k, line, step;  // of the padded image: a row, and from one output row to the next
  int64_t skip() const { return shape.dilation_h * line - shape.kw * shape.c; }
};

/// Some rows of outputs: positions by filters.
void forward_rows(const Forward& f, int64_t rows, const float* x, float* y) {
  const ConvShape& s = f.shape;
  gemm_runs<float>({rows, s.ow, s.out, f.k, s.kw * s.c, x, f.step, s.stride_w * s.c, 1, f.skip(), f.w.panel(0), 0,
                    f.w.width(), f.k * f.w.width(), 0, y, s.ow * s.out, s.out, false});
}

/// Few filters would leave lanes of a vector empty, so positions take them: filters by positions, turned afterwards.
bool by_planes(const ConvShape& s) { return s.c == 1 && s.stride_w == 1 && s.out <= 8; }

void forward_planes(const Forward& f, int64_t rows, const float* x, float* y) {
  const ConvShape& s = f.shape;
  const Buffer<float> planes(rows * s.ow * s.out);
  const int64_t width = f.w.width();
  gemm_runs<float>({rows, s.out, s.ow, f.k, s.kw, f.w.panel(0), 0, 1, width, 0, x, f.step, 1, gemm_width<float>(),
                    f.skip(), planes.data(), s.ow, rows * s.ow, false});
  transpose_images(1, s.out, rows * s.ow, planes.data(), y);
}

}  // namespace

void direct_forward(const ConvShape& s, const float* x, const PackedB<float>& w, float* y, const Epilogue* epilogue) {
  const Padded padded(s);
  const Buffer<float> copy(padded.copied ? s.n * padded.size : 0);
  if (padded.copied) {
    parallel_for(s.n, grain(padded.size), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pad_image(s, padded, x + i * s.x_image(), copy.data() + i * padded.size);
    });
    x = copy.data();
  }
  const Forward forward{s, w, s.kh * s.kw * s.c, padded.width * s.c, s.stride_h * padded.width * s.c};
  const int64_t chunk = std::clamp<int64_t>((1 << 13) / (s.ow * s.out), 1, s.oh);  // rows that stay in the cache
  const int64_t chunks = (s.oh + chunk - 1) / chunk;
  parallel_for(s.n * chunks, grain(chunk * s.ow * s.out * forward.k / 16), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / chunks, first = i % chunks * chunk, rows = std::min(chunk, s.oh - first);
      const int64_t row = (image * s.oh + first) * s.ow;
      const float* const from = x + image * padded.size + first * forward.step;
      by_planes(s) ? forward_planes(forward, rows, from, y + row * s.out)
                   : forward_rows(forward, rows, from, y + row * s.out);
      if (epilogue) epilogue->run(epilogue->context, row, rows * s.ow, 0, s.out);
    }
  });
}

void direct_weights(const ConvShape& s, int64_t images, const float* x, float* dw, const float* y) {
  const Padded padded(s);
  const Buffer<float> copy(padded.copied ? padded.size : 0);
  const int64_t line = padded.width * s.c, step = s.stride_w * s.c, window = s.kw * s.c;
  for (int64_t i = 0; i < images; ++i, x += s.x_image(), y += s.y_image()) {
    if (padded.copied) pad_image(s, padded, x, copy.data());
    gemm_runs<float>({s.kh, window, s.out, s.oh * s.ow, s.ow, padded.copied ? copy.data() : x, s.dilation_h * line, 1,
                      step, s.stride_h * line - s.ow * step, y, 0, s.out, gemm_width<float>(), 0, dw, window * s.out,
                      s.out, i > 0});
  }
}

}  // namespace rp::cpu
