// Convolutions and their gradients on the device against the CPU: integers exactly, floats within the bounds of sums in
// another order.
#include <fmt/core.h>

#include "reprise/test/cuda_products.h"

using namespace rp;
using namespace rp::test;

namespace {

std::string describe(const ConvCase& t, DType dtype, const Op& op) {
  return fmt::format("{} {} n {} c {} h {} w {} out {} window {}x{} stride {} dilation {} padding {},{} nhwc {}",
                     op.name, name_of(dtype), t.n, t.c, t.h, t.w, t.out, t.kh, t.kw, t.stride, t.dilation, t.before,
                     t.after, t.nhwc);
}

/// Of sums of so many products of numbers up to one.
double bound(DType dtype, const ConvCase& t, const Op& op) {
  if (!is_floating(dtype)) return 0;
  const int64_t taps = t.kh * t.kw;
  const int64_t positions = t.n * extent_after(t, t.h, t.kh) * extent_after(t, t.w, t.kw);
  const int64_t terms = &op == &conv2d_op ? t.c * taps : &op == &conv2d_backward_data_op ? t.out * taps : positions;
  return (dtype == DType::f32 ? 2e-7 : 1e-15) * static_cast<double>(4 + terms);
}

constexpr const Op* ops[] = {&conv2d_op, &conv2d_backward_data_op, &conv2d_backward_weights_op};

void check(const ConvCase& t, DType dtype, size_t shift = 0) {
  for (const Op* op : ops) {
    INFO(describe(t, dtype, *op));
    const double d = distance(conv_setup(*op, t, dtype, shift));
    CHECK(d <= bound(dtype, t, *op));
  }
}

const ConvCase cases[] = {
    {2, 3, 9, 8, 5, 3, 3, 1, 1, 1, 1},
    {2, 4, 12, 11, 8, 3, 3, 2, 1, 1, 1},
    {1, 8, 7, 7, 4, 1, 1, 2},
    {3, 5, 6, 6, 7, 1, 1},
    {1, 2, 16, 16, 3, 5, 3, 3, 2, 2, 1},
    {2, 36, 6, 5, 40, 3, 3, 1, 1, 1, 1},
    {1, 4, 20, 20, 4, 4, 4, 4},
    {2, 4, 9, 9, 6, 2, 3, 1, 3, 3, 2},
    {1, 1, 30, 30, 1, 7, 7, 2, 1, 3, 3},
    {2, 6, 5, 5, 3, 3, 3, 5, 1, 1, 1},
    {1, 3, 8, 8, 2, 2, 2, 3, 2},
};

}  // namespace

TEST_CASE("convolutions on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64})
    for (ConvCase t : cases)
      for (bool nhwc : {true, false}) {
        t.nhwc = nhwc;
        check(t, dtype);
      }
}

TEST_CASE("convolutions of many images and channels, at any address", "[cuda]") {
  rp::fake::Device gpu;
  check({4, 8, 32, 32, 512, 3, 3, 1, 1, 1, 1}, DType::f32);
  check({8, 16, 20, 20, 32, 3, 3, 2, 1, 0, 1}, DType::f32, 1);
  check({9, 64, 14, 14, 64, 1, 1}, DType::f32, 1);
  check({16, 48, 7, 7, 36, 3, 3, 1, 1, 1, 1}, DType::f32);
}

TEST_CASE("a stage behind a convolution on the device", "[cuda]") {
  rp::fake::Device gpu;
  const auto some = [](ProgramBuilder&, Value x, Value b, Value y, Value s) { return max(x + b, y) * s - x; };
  for (const Op* op : {&conv2d_op, &conv2d_backward_data_op})
    for (ConvCase t : {ConvCase{2, 3, 9, 8, 5, 3, 3, 1, 1, 1, 1}, ConvCase{2, 4, 12, 11, 8, 3, 3, 2, 1, 1, 1},
                       ConvCase{3, 5, 6, 6, 7, 1, 1}, ConvCase{1, 8, 7, 7, 4, 1, 1, 2}})
      for (bool nhwc : {true, false})
        for (bool in_place : {false, true}) {
          t.nhwc = nhwc;
          Setup s = conv_setup(*op, t, DType::i32);
          s.region.kind = RegionKind::gemm;
          s = with_stage(std::move(s), DType::i32, in_place, some);
          INFO(describe(t, DType::i32, *op) << " in place " << in_place);
          CHECK(distance(s) == 0);
        }
}

TEST_CASE("a stage behind a convolution whose operands are not evenly spaced", "[cuda]") {
  rp::fake::Device gpu;
  const auto some = [](ProgramBuilder& b, Value x, Value bias, Value y, Value) {
    return x * bias + y + b.convert(b.index(), Type::f32);
  };
  for (const ConvCase& t : {ConvCase{2, 4, 6, 5, 4, 1, 1}, ConvCase{2, 4, 6, 5, 4, 3, 3, 1, 1, 1, 1}}) {
    Setup s = conv_setup(conv2d_op, t, DType::f32);
    s.region.kind = RegionKind::gemm;
    s = with_stage(std::move(s), DType::f32, false, some);
    // Operand 4 repeats for every image and has gaps between its rows.
    Nest& nest = s.region.members[0];
    nest.operands[4] = {{0, 29}, 5, 1};
    s.memory[4] = Memory(layout(DType::f32, {1, 6, 5, 4}, {200, 29, 5, 1})).fill_random();
    INFO(describe(t, DType::f32, conv2d_op));
    CHECK(distance(s) == 0);
  }
}

TEST_CASE("convolutions of nothing", "[cuda]") {
  rp::fake::Device gpu;
  for (const ConvCase& t :
       {ConvCase{0, 3, 5, 5, 4, 3, 3}, ConvCase{2, 0, 5, 5, 4, 3, 3}, ConvCase{2, 3, 5, 5, 0, 3, 3}})
    check(t, DType::f32);
}

TEST_CASE("convolutions refuse what does not fit together", "[cuda]") {
  rp::fake::Device gpu;
  Setup s = conv_setup(conv2d_op, {2, 3, 5, 5, 4, 3, 3}, DType::f32);
  s.region.operands[1].layout = layout(DType::f32, {4, 2, 3, 3});
  CHECK_THROWS_AS(cuda::compile_conv(s.region), Error);
}
