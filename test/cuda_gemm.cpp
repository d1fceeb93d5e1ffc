// Matrix products on the device against the CPU, bit for bit.
#include "reprise/backends/cuda/matrix_kernel.h"
#include "reprise/core/expr.h"
#include "reprise/test/cuda_regions.h"

using namespace rp;
using namespace rp::test;

namespace {

/// How a product's operands lie.
struct Lie {
  bool left_turned = false, right_turned = false;
  int64_t gap = 0;   // elements between rows
  int64_t step = 1;  // between elements of a row
  size_t shift = 0;
};

Strides strides_of(const Shape& shape, bool turned, int64_t gap, int64_t step) {
  const int r = shape.rank();
  const int64_t inner = (turned ? shape[r - 2] : shape[r - 1]) * step + gap;
  Strides s = packed_strides(shape);
  s[r - 1] = turned ? inner : step;
  s[r - 2] = turned ? step : inner;
  int64_t all = inner * (turned ? shape[r - 1] : shape[r - 2]);
  for (int i = r - 3; i >= 0; all *= shape[i--]) s[i] = all;
  return s;
}

Shape with(Shape batch, int64_t rows, int64_t columns) {
  batch.push_back(rows);
  batch.push_back(columns);
  return batch;
}

/// A product of which nothing else is wanted.
Setup product(DType dtype, const Shape& batch, int64_t m, int64_t n, int64_t k, const Lie& lie = {},
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

std::string describe(const Setup& s) {
  std::string text;
  for (const Memory& m : s.memory)
    text += to_string(m.layout->spec) + to_string(m.layout->strides) + "+" + std::to_string(m.shift) + " ";
  return text;
}

}  // namespace

TEST_CASE("products on the device have the CPU's bits, whatever the tile", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64})
    for (const cuda::Tile& tile : cuda::tiles_of(dtype))
      for (bool turned : {false, true})
        for (const auto& [m, n, k] : {std::array<int64_t, 3>{70, 150, 37}, {130, 33, 130}, {3, 200, 64}}) {
          const Setup s = product(dtype, {}, m, n, k);
          const cuda::MatrixProduct p = cuda::matrix_product(s.region);
          class Cut final : public RegionKernel {
           public:
            Cut(const Region& region, const cuda::MatrixProduct& p, cuda::Cut cut) : kernel_(region, p, cut) {}
            void run(const RegionCall& call) const override { kernel_.run(call); }
            std::string form() const override { return kernel_.form(); }

           private:
            cuda::MatrixKernel kernel_;
          };
          INFO(describe(s) << "tile " << tile.rows << "x" << tile.columns << " turned " << turned);
          CHECK(distance(run_on_cpu(s), run_on_device(s, Cut(s.region, p, {&tile, turned}))) == 0);
        }
}
