// Argmax, indexing, concat and pooling on the device against the CPU, bit for bit.
#include <limits>

#include "reprise/backends/cpu/kernels.h"
#include "reprise/backends/cuda/cuda.h"
#include "reprise/backends/cuda/recipe.h"
#include "reprise/core/error.h"
#include "reprise/core/ops.h"
#include "reprise/test/cuda_regions.h"

using namespace rp;
using namespace rp::test;

namespace {

constexpr DType dtypes[] = {DType::boolean, DType::i32, DType::i64, DType::f32, DType::f64};
// Those that kernels which only move elements serve as well.
constexpr DType moved[] = {DType::boolean, DType::i32, DType::i64, DType::bf16, DType::f16, DType::f32, DType::f64};
constexpr DType numbers[] = {DType::i32, DType::i64, DType::f32, DType::f64};

Setup setup(const Op& op, const Attrs& attrs, const std::vector<const Layout*>& layouts, size_t shift = 0) {
  Setup s;
  s.region.kind = RegionKind::kernel;
  s.region.op = &op;
  s.region.attrs = attrs;
  for (const Layout* l : layouts) {
    s.region.operands.push_back({l, s.memory.size() + 1 == layouts.size()});
    s.memory.emplace_back(l, shift).fill_random();
  }
  return s;
}

/// Infinities, NaNs, zeros of both signs and repetitions among the elements.
void add_special(Memory& m) {
  if (!is_floating(m.layout->dtype())) return;
  const double special[] = {HUGE_VAL, -HUGE_VAL, NAN, 0.0, -0.0, 0.5};
  visit_dtype(m.layout->dtype(), [&]<class T>(T) {
    auto* const x = reinterpret_cast<T*>(m.bytes.data());
    for (int64_t i = 0; i < m.count(); ++i)
      if (random_bits()() % 4 == 0) x[i] = static_cast<T>(special[random_bits()() % 6]);
  });
}

/// What the device reports when it is waited for.
std::string report_of(const Setup& s) {
  try {
    run_on_device(s, *compile_on_device(s.region));
    cuda::synchronize();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("argmax and argmin on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : dtypes)
    for (const Op* op : {&argmax_op, &argmin_op})
      for (const Shape& shape : {Shape{70, 11, 6}, Shape{5, 300}, Shape{3, 40, 2}, Shape{2, 5000}, Shape{1, 1}})
        for (int axis = 0; axis < shape.rank(); ++axis) {
          Shape result = shape;
          result.erase(axis);
          Setup s = setup(*op, ArgAttrs{axis, 0}, {layout(dtype, shape), layout(DType::i64, result)});
          INFO(op->name << " " << name_of(dtype) << to_string(shape) << " axis " << axis);
          CHECK(distance(s) == 0);
          add_special(s.memory[0]);
          CHECK(distance(s) == 0);
        }
  CHECK_THROWS_AS(cuda::compile_call(
                      setup(argmax_op, ArgAttrs{0, 0}, {layout(DType::f32, {0, 3}), layout(DType::i64, {3})}).region),
                  Error);
}

TEST_CASE("index_select and gather on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : moved)
    for (DType index : {DType::i32, DType::i64})
      for (const Shape& shape : {Shape{9, 5, 16}, Shape{7, 13, 3}})
        for (int axis = 0; axis < 3; ++axis)
          for (const size_t shift : {0, 1})
            for (const int64_t count : {0, 1, 6}) {
              if (index == DType::i32 && (count != 6 || dtype != DType::f32)) continue;
              INFO(name_of(dtype) << to_string(shape) << " axis " << axis << " count " << count << " shift " << shift);
              Shape result = shape;
              result[axis] = count;
              result.insert(axis + 1, 2);
              Setup s = setup(index_select_op, AxisAttrs{axis},
                              {layout(dtype, shape), layout(index, {count, 2}), layout(dtype, result)}, shift);
              s.memory[1].fill_indices(shape[axis]);
              CHECK(distance(s) == 0);
              result = shape;
              result[axis] = count;
              s = setup(gather_op, AxisAttrs{axis},
                        {layout(dtype, shape), layout(index, result), layout(dtype, result)}, shift);
              s.memory[1].fill_indices(shape[axis]);
              CHECK(distance(s) == 0);
            }
}

TEST_CASE("sums at indices on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : numbers)
    for (DType index : {DType::i32, DType::i64})
      for (const int64_t extent : {4, 300})
        for (const int64_t count : {0, 5, 100, 5000})
          for (int axis = 0; axis < 2; ++axis) {
            if ((count == 5000 || index == DType::i32) && dtype != DType::f32) continue;
            INFO(name_of(dtype) << " extent " << extent << " count " << count << " axis " << axis);
            Shape shape{3, 3}, source{3, 3};
            shape[axis] = extent;
            source[axis] = count;
            const ScatterAttrs attrs{layout(dtype, shape), axis};
            Setup s = setup(index_add_op, attrs, {layout(dtype, source), layout(index, {count}), layout(dtype, shape)});
            s.memory[1].fill_indices(extent);
            CHECK(distance(s) == 0);
            s = setup(scatter_add_op, attrs, {layout(dtype, source), layout(index, source), layout(dtype, shape)});
            s.memory[1].fill_indices(extent);
            CHECK(distance(s) == 0);
          }
}

TEST_CASE("sums at indices in many columns, and at more places than one digit counts", "[cuda]") {
  rp::fake::Device gpu;
  const Layout* const wide = layout(DType::f32, {5, 40000});
  Setup s =
      setup(index_add_op, ScatterAttrs{wide, 0}, {layout(DType::f32, {70, 40000}), layout(DType::i64, {70}), wide});
  s.memory[1].fill_indices(5);
  CHECK(distance(s) == 0);
  const Layout* const high = layout(DType::f32, {70000, 2});
  s = setup(index_add_op, ScatterAttrs{high, 0}, {layout(DType::f32, {9000, 2}), layout(DType::i32, {9000}), high});
  s.memory[1].fill_indices(70000);
  CHECK(distance(s) == 0);
}

TEST_CASE("indices out of range are reported", "[cuda]") {
  rp::fake::Device gpu;
  const Layout *x = layout(DType::f32, {4, 3}), *few = layout(DType::f32, {2, 3}), *many = layout(DType::f32, {100, 3});
  for (const int64_t bad : {-1, 4}) {
    const auto with = [&](Setup s) {
      s.memory[1].fill_indices(4);
      reinterpret_cast<int64_t*>(s.memory[1].bytes.data())[1] = bad;
      return s;
    };
    const auto row = [](int64_t n) { return layout(DType::i64, {n}); };
    const auto each = [](int64_t n) { return layout(DType::i64, {n, 3}); };
    CHECK(report_of(with(setup(index_select_op, AxisAttrs{0}, {x, row(2), few})))
              .find("index_select: an index is out of range [0,4)") == 0);
    CHECK(report_of(with(setup(gather_op, AxisAttrs{0}, {x, each(2), few}))).find("gather: ") == 0);
    for (const auto& [source, n] : {std::pair{few, 2}, {many, 100}}) {
      CHECK(report_of(with(setup(index_add_op, ScatterAttrs{x, 0}, {source, row(n), x}))).find("index_add: ") == 0);
      CHECK(report_of(with(setup(scatter_add_op, ScatterAttrs{x, 0}, {source, each(n), x}))).find("scatter_add: ") ==
            0);
    }
  }
}

TEST_CASE("concat on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : moved)
    for (int axis = 0; axis < 3; ++axis)
      for (const size_t shift : {0, 1})
        for (const std::vector<int64_t>& extents :
             {std::vector<int64_t>{3, 0, 1, 7}, {0, 4}, {16}, std::vector<int64_t>(19, 2)}) {
          std::vector<const Layout*> layouts;
          Shape whole{3, 5, 16};
          whole[axis] = 0;
          for (int64_t extent : extents) {
            Shape part{3, 5, 16};
            part[axis] = extent;
            whole[axis] += extent;
            layouts.push_back(layout(dtype, part));
          }
          layouts.push_back(layout(dtype, whole));
          INFO(name_of(dtype) << " axis " << axis << " parts " << extents.size() << " shift " << shift);
          CHECK(distance(setup(concat_op, AxisAttrs{axis}, layouts, shift)) == 0);
        }
}

namespace {

struct Pool {
  int64_t n, c, h, w;
  int window_h, window_w, stride_h, stride_w, top = 0, left = 0, bottom = 0, right = 0;
};

void check_pool(const Pool& p, bool nhwc, DType dtype) {
  INFO(name_of(dtype) << " nhwc " << nhwc << " " << p.h << "x" << p.w << " window " << p.window_h << "x" << p.window_w
                      << " stride " << p.stride_h << " padding " << p.top);
  const auto image = [&](int64_t h, int64_t w) { return nhwc ? Shape{p.n, h, w, p.c} : Shape{p.n, p.c, h, w}; };
  const Layout* const x = layout(dtype, image(p.h, p.w));
  const Layout* const y = layout(dtype, image((p.h + p.top + p.bottom - p.window_h) / p.stride_h + 1,
                                              (p.w + p.left + p.right - p.window_w) / p.stride_w + 1));
  PoolAttrs attrs{p.window_h, p.window_w, p.stride_h, p.stride_w, p.top, p.left, p.bottom, p.right, nhwc, 0, nullptr};
  const auto check = [&](const Op& op, const std::vector<const Layout*>& layouts) {
    Setup s = setup(op, attrs, layouts);
    INFO(op.name);
    CHECK(distance(s) == 0);
    for (Memory& m : s.memory) add_special(m);
    CHECK(distance(s) == 0);
  };
  check(max_pool2d_op, {x, y});
  check(max_pool2d_backward_op, {x, y, x});
  check(max_pool2d_pick_op, {x, x, y});
  check(avg_pool2d_op, {x, y});
  attrs.spec = x;
  check(avg_pool2d_backward_op, {y, x});
}

}  // namespace

TEST_CASE("pooling on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : numbers)
    for (bool nhwc : {false, true})
      for (const Pool& p : {Pool{2, 3, 8, 6, 2, 2, 2, 2}, Pool{2, 4, 9, 7, 3, 3, 2, 2, 1, 1, 1, 1},
                            Pool{1, 5, 7, 7, 7, 7, 1, 1}, Pool{1, 2, 10, 9, 3, 2, 1, 3, 0, 1, 2, 0},
                            Pool{1, 1, 12, 12, 2, 2, 4, 5}, Pool{3, 2, 5, 5, 5, 5, 1, 1, 2, 2, 2, 2}})
        check_pool(p, nhwc, dtype);
}

TEST_CASE("pools refuse windows outside of the image", "[cuda]") {
  rp::fake::Device gpu;
  const PoolAttrs attrs{2, 2, 1, 1, 2, 0, 0, 0, 0, 0, nullptr};
  const Setup s = setup(max_pool2d_op, attrs, {layout(DType::f32, {1, 1, 4, 4}), layout(DType::f32, {1, 1, 5, 3})});
  CHECK_THROWS_AS(cuda::compile_call(s.region), Error);
}

TEST_CASE("the device has the kernels that the CPU has", "[cuda]") {
  int served = 0;
  for (const Op* op : op_table())
    for (DType dtype : moved) {
      if (op->kind != Kind::kernel) continue;
      std::string why;
      INFO(op->name << " " << name_of(dtype));
      CHECK(cuda::has_kernel(*op, dtype, &why) == (find_kernel(*op, dtype, nullptr) != nullptr));
      served += why.empty();
    }
  CHECK(served > 60);
}
