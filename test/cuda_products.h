#pragma once
// Regions of products and convolutions.
#include "reprise/backends/cuda/matrix_kernel.h"
#include "reprise/test/cuda_regions.h"

namespace rp::test {

/// How a product's operands lie.
struct Lie {
  bool left_turned = false, right_turned = false;
  int64_t gap = 0;   // elements between rows
  int64_t step = 1;  // between elements of a row
  size_t shift = 0;
};

inline Strides strides_of(const Shape& shape, bool turned, int64_t gap, int64_t step) {
  const int r = shape.rank();
  const int64_t inner = (turned ? shape[r - 2] : shape[r - 1]) * step + gap;
  Strides s = packed_strides(shape);
  s[r - 1] = turned ? inner : step;
  s[r - 2] = turned ? step : inner;
  int64_t all = inner * (turned ? shape[r - 1] : shape[r - 2]);
  for (int i = r - 3; i >= 0; all *= shape[i--]) s[i] = all;
  return s;
}

inline Shape with(Shape batch, int64_t rows, int64_t columns) {
  batch.push_back(rows);
  batch.push_back(columns);
  return batch;
}

/// A product of which nothing else is wanted.
inline Setup product(DType dtype, const Shape& batch, int64_t m, int64_t n, int64_t k, const Lie& lie = {},
                     int64_t segment = 0) {
  Setup s;
  Region& r = s.region;
  r.kind = RegionKind::gemm;
  r.op = segment ? &segmented_matmul_op : &matmul_op;
  if (segment) r.attrs = SegmentAttrs{segment};
  const Shape a = with(batch, m, k), b = with(batch, k, n), c = with(batch, m, n);
  const Layout* const layouts[] = {layout(dtype, a, strides_of(a, lie.left_turned, lie.gap, lie.step)),
                                   layout(dtype, b, strides_of(b, lie.right_turned, lie.gap, lie.step)),
                                   layout(dtype, c, strides_of(c, false, lie.gap, 1))};
  for (const Layout* l : layouts) {
    r.operands.push_back({l, l == layouts[2]});
    s.memory.emplace_back(l, lie.shift).fill_random();
  }
  r.members.push_back(matrix_nest(c, {layouts[2]->strides, layouts[2]->strides, layouts[2]->strides}));
  return s;
}

/// A product cut up as a test wants it.
class CutKernel final : public RegionKernel {
 public:
  CutKernel(const Region& region, cuda::Cut cut) : kernel_(region, cuda::matrix_product(region), cut) {}
  void run(const RegionCall& call) const override { kernel_.run(call); }
  std::string form() const override { return kernel_.form(); }

 private:
  cuda::MatrixKernel kernel_;
};

struct ConvCase {
  int64_t n, c, h, w, out, kh, kw;
  int stride = 1, dilation = 1, before = 0, after = 0;
  bool nhwc = true;
};

inline Shape image(const ConvCase& t, int64_t channels, int64_t h, int64_t w) {
  return t.nhwc ? Shape{t.n, h, w, channels} : Shape{t.n, channels, h, w};
}
inline int64_t extent_after(const ConvCase& t, int64_t extent, int64_t window) {
  return (extent + t.before + t.after - (window - 1) * t.dilation - 1) / t.stride + 1;
}

/// The region of an op.
inline Region conv_region(const Op& op, const ConvCase& t, DType dtype) {
  const int64_t oh = extent_after(t, t.h, t.kh), ow = extent_after(t, t.w, t.kw);
  const Layout *x = layout(dtype, image(t, t.c, t.h, t.w)), *w = layout(dtype, {t.out, t.c, t.kh, t.kw}),
               *y = layout(dtype, image(t, t.out, oh, ow));
  Region r;
  r.kind = RegionKind::kernel;
  r.op = &op;
  r.attrs =
      ConvAttrs{t.stride, t.stride, t.before, t.before, t.after, t.after, t.dilation, t.dilation, t.nhwc, 1, nullptr};
  const bool forward = &op == &conv2d_op, data = &op == &conv2d_backward_data_op;
  r.operands = {{data ? y : x}, {forward || data ? w : y}, {forward ? y : data ? x : w, true}};
  return r;
}

/// Operands stand `shift` elements behind aligned addresses.
inline Setup conv_setup(const Op& op, const ConvCase& t, DType dtype, size_t shift = 0) {
  Setup s{.region = conv_region(op, t, dtype)};
  for (const RegionOperand& o : s.region.operands) s.memory.emplace_back(o.layout, shift).fill_random();
  return s;
}

}  // namespace rp::test
