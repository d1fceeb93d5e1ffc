// Argmax, indexing and concat on the CPU, against plain loops.
#include <cmath>
#include <limits>

#include "reprise/backends/cpu/kernels.h"
#include "reprise/core/error.h"
#include "reprise/core/ops/entries.h"
#include "reprise/test/kernel_call.h"

using namespace rp;
using namespace rp::test;

TEST_CASE("argmax and argmin agree with plain loops") {
  for (const DType dtype : {DType::boolean, DType::i32, DType::i64, DType::f32, DType::f64})
    for (int axis = 0; axis < 3; ++axis) {
      Array x = random(dtype, {70, 11, 67});
      if (is_floating(dtype))
        for (int64_t i = 0; i < x.size(); i += 97) x.set(i, std::numeric_limits<double>::quiet_NaN());
      Shape shape = x.layout->shape();
      const int64_t extent = shape[axis], inner = axis == 0 ? 11 * 67 : axis == 1 ? 67 : 1;
      shape.erase(axis);
      for (const int sign : {1, -1}) {
        Array got = run(sign > 0 ? cpu::argmax : cpu::argmin, {&x}, DType::i64, shape, ArgAttrs{axis, 0});
        bool right = true;
        for (int64_t o = 0; o < got.size(); ++o) {
          const int64_t base = o / inner * extent * inner + o % inner;
          int64_t best = 0;
          for (int64_t e = 1; e < extent; ++e) {
            const double v = sign * x.at(base + e * inner), b = sign * x.at(base + best * inner);
            if (v > b || (std::isnan(v) && !std::isnan(b))) best = e;
          }
          right = right && got.as<int64_t>()[o] == best;
        }
        CHECK(right);
      }
    }
  Array none(DType::f32, {0, 3});
  CHECK_THROWS_AS(run(cpu::argmax, {&none}, DType::i64, {3}, ArgAttrs{0, 0}), Error);
}

TEST_CASE("index_select and its adjoint agree with plain loops") {
  for (const DType dtype : {DType::boolean, DType::i32, DType::i64, DType::f32, DType::f64})
    for (const DType index : {DType::i32, DType::i64})
      for (int axis = 0; axis < 3; ++axis)
        for (const int count : {0, 1, 6}) {
          const Shape shape{9, 13, 130};
          Array x = random(dtype, shape), at = indices(index, {count, 2}, static_cast<int>(shape[axis]));
          const int64_t inner = axis == 0 ? 13 * 130 : axis == 1 ? 130 : 1;
          Shape result = shape;
          result[axis] = count;
          result.insert(axis + 1, 2);
          Array y = run(cpu::index_select, {&x, &at}, dtype, result, AxisAttrs{axis});
          std::vector<double> wanted(y.size()), sums(x.size());
          for (int64_t i = 0; i < y.size(); ++i) {
            const auto j = static_cast<int64_t>(at.at(i / inner % (2 * count)));
            const int64_t from = (i / inner / (2 * count) * shape[axis] + j) * inner + i % inner;
            wanted[i] = x.at(from);
            sums[from] += y.at(i);
          }
          check_close(y, wanted, -4);
          if (dtype == DType::boolean) continue;
          const ScatterAttrs attrs{x.layout, axis};
          check_close(run(cpu::index_add, {&y, &at}, dtype, shape, attrs), sums, 20);
        }
}

TEST_CASE("gather and its adjoint agree with plain loops") {
  for (const DType dtype : {DType::boolean, DType::i32, DType::i64, DType::f32, DType::f64})
    for (const DType index : {DType::i32, DType::i64})
      for (int axis = 0; axis < 3; ++axis)
        for (const int count : {0, 1, 5}) {
          const Shape shape{9, 13, 130};
          Shape result = shape;
          result[axis] = count;
          Array x = random(dtype, shape), at = indices(index, result, static_cast<int>(shape[axis]));
          const int64_t inner = axis == 0 ? 13 * 130 : axis == 1 ? 130 : 1;
          Array y = run(cpu::gather, {&x, &at}, dtype, result, AxisAttrs{axis});
          std::vector<double> wanted(y.size()), sums(x.size());
          for (int64_t i = 0; i < y.size(); ++i) {
            const int64_t from = (i / inner / count * shape[axis] + static_cast<int64_t>(at.at(i))) * inner + i % inner;
            wanted[i] = x.at(from);
            sums[from] += y.at(i);
          }
          check_close(y, wanted, -4);
          if (dtype == DType::boolean) continue;
          check_close(run(cpu::scatter_add, {&y, &at}, dtype, shape, ScatterAttrs{x.layout, axis}), sums, 20);
        }
}

TEST_CASE("indices out of range throw") {
  Array x = random(DType::f32, {4, 3}), at(DType::i64, {1, 3}), row(DType::i32, {1}), src = random(DType::f32, {1, 3});
  for (const int bad : {-1, 4}) {
    at.set(1, bad);
    row.set(0, bad);
    std::string message;
    try {
      run(cpu::gather, {&x, &at}, DType::f32, {1, 3}, AxisAttrs{0});
    } catch (const Error& e) {
      message = e.what();
    }
    CHECK(message.find("index " + std::to_string(bad) + " out of range [0,4)") != std::string::npos);
    CHECK_THROWS_AS(run(cpu::scatter_add, {&src, &at}, DType::f32, {4, 3}, ScatterAttrs{x.layout, 0}), Error);
    CHECK_THROWS_AS(run(cpu::index_select, {&x, &row}, DType::f32, {1, 3}, AxisAttrs{0}), Error);
    CHECK_THROWS_AS(run(cpu::index_add, {&src, &row}, DType::f32, {4, 3}, ScatterAttrs{x.layout, 0}), Error);
  }
}

TEST_CASE("concat agrees with plain loops") {
  for (const DType dtype : {DType::boolean, DType::i32, DType::i64, DType::f32, DType::f64})
    for (int axis = 0; axis < 3; ++axis) {
      std::vector<Array> parts;
      Shape whole{30, 50, 31};
      whole[axis] = 0;
      for (const int extent : {3, 0, 1, 70}) {
        Shape shape{30, 50, 31};
        shape[axis] = extent;
        whole[axis] += extent;
        parts.push_back(random(dtype, shape));
      }
      Array y = run(cpu::concat, {&parts[0], &parts[1], &parts[2], &parts[3]}, dtype, whole, AxisAttrs{axis});
      const int64_t inner = axis == 0 ? 50 * 31 : axis == 1 ? 31 : 1;
      std::vector<double> wanted;
      for (int64_t o = 0; o < y.size() / (whole[axis] * inner); ++o)
        for (Array& part : parts)
          for (int64_t i = 0, row = part.layout->shape()[axis] * inner; i < row; ++i)
            wanted.push_back(part.at(o * row + i));
      check_close(y, wanted, -4);
    }
}

TEST_CASE("kernels are found by their entries") {
  std::string why;
  CHECK(find_kernel(conv2d_op, DType::f32, &why) == cpu::conv2d);
  CHECK(find_kernel(concat_op, DType::boolean, &why) == cpu::concat);
  CHECK(find_kernel(max_pool2d_op, DType::boolean, &why) == nullptr);
  CHECK(why == "max_pool2d: not defined for bool");
  CHECK(find_kernel(matmul_op, DType::f32, &why) == nullptr);
}
