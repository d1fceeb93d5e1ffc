// Reductions on the device: the same bits as the CPU's, whichever way they go.
#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_twin.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

struct Extents {
  int64_t rows, columns;
};

}  // namespace

TEST_CASE("rows of every length", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (auto [rows, columns] : {Extents{1, 1}, {0, 5},       {7, 10},    {33, 16},   {5, 17},     {2, 100},  {40, 250},
                               {1200, 300},   {1100, 1000}, {3, 1000},  {5, 1024},  {4, 4096},   {3, 4097}, {2, 8191},
                               {2, 9000},     {1, 20000},   {3, 33000}, {1, 40000}, {2, 100000}, {3, 70001}}) {
    INFO(rows << " x " << columns);
    replay({normal({rows, columns}), normal({columns}), normal({columns})}, [](const Tensors& in) {
      return Tensors{sum(in[0], {1}), max(in[0], {1}), softmax(in[0], -1), log_softmax(in[0], -1),
                     layer_norm(in[0], in[1], in[2])};
    });
  }
  CHECK(twins.compared().at("cuda rows in registers") > 10);
  CHECK(twins.compared().at("cuda row per block") > 10);
  CHECK(twins.compared().at("cuda rows in leaves") > 10);
}

TEST_CASE("rows of nothing", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (DType d : {DType::f32, DType::i64})
    replay({zeros({3, 0}, d)}, [](const Tensors& in) { return Tensors{sum(in[0], {1}), sum(in[0], {0})}; });
  CHECK(twins.runs() > 0);
}

TEST_CASE("reductions of every kind and type, several at once", "[cuda]") {
  fake::Device gpu;
  for (bool wide : {false, true}) {
    Twins twins(wide);
    for (DType d : {DType::f32, DType::bf16, DType::f16, DType::i32, DType::i64, DType::f64}) {
      if (wide && d != DType::f32) break;
      for (auto [rows, columns] : {Extents{21, 90}, {2, 5000}, {1, 33000}, {5000, 6}}) {
        INFO(name_of(d) << ", " << rows << " x " << columns);
        const Tensor x = is_floating(d) ? normal({rows, columns}, 0, 1, d) : randint({rows, columns}, -9, 10, d);
        for (int axis : {0, 1})
          replay({x}, [&](const Tensors& in) {
            const Tensor y = in[0] * in[0] - 1;
            return Tensors{sum(y, {axis}), max(y, {axis}), min(y, {axis}), sum(y + 1, {axis})};
          });
      }
    }
    CHECK(twins.runs() >= 8);
  }
}

TEST_CASE("what contains no number", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (auto [rows, columns] : {Extents{3, 40}, {2, 5000}, {5000, 3}}) {
    const Tensor x = normal({rows, columns});
    const Tensor y = where(x > 1.0, log(x - 2.0), x);  // NaN in places
    for (int axis : {0, 1})
      replay({y}, [&](const Tensors& in) {
        return Tensors{max(in[0], {axis}), min(in[0], {axis}), max(neg(abs(in[0]) * 0.0), {axis})};
      });
  }
  CHECK(twins.runs() > 5);
}

TEST_CASE("rows and columns that lie in every way", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  Draw draw(3);
  for (const Shape& shape : {Shape{4, 6, 20}, Shape{3, 5, 7, 9}, Shape{2, 3, 300}, Shape{2, 3, 1028}})
    for (Lie a : all_lies) {
      INFO(to_string(shape) << ", " << test::name_of(a));
      const Tensor x = placed(draw.array({shape}, a), a), y = placed(draw.array({shape}), Lie::contiguous);
      replay({x, y}, [&](const Tensors& in) {
        return Tensors{softmax(in[0] * in[1], -1), sum(in[0] + in[1], {0, 1}), sum(in[0] * 3, {1}), mean(in[0], {0}),
                       in[1] - mean(in[1] * in[0], {-2, -1}, true)};
      });
    }
  CHECK(twins.runs() > 50);
}

TEST_CASE("columns of every length", "[cuda]") {
  fake::Device gpu;
  for (bool wide : {false, true}) {
    Twins twins(wide);
    for (auto [rows, columns] : {Extents{1, 1},
                                 {0, 5},
                                 {7, 10},
                                 {33, 16},
                                 {5, 1700},
                                 {100, 3},
                                 {4096, 33},
                                 {4097, 40},
                                 {9000, 3},
                                 {20000, 10},
                                 {1000, 70}}) {
      INFO(rows << " x " << columns);
      replay({normal({rows, columns}), normal({3, rows, columns})}, [](const Tensors& in) {
        return Tensors{sum(in[0], {0}), exp(mean(exp(in[0]), {0})), sum(in[1], {1}), sum(in[1] * 2, {0, 1})};
      });
    }
    CHECK(twins.compared().at("cuda columns") > 50);
  }
}

TEST_CASE("results of more parts than a block of threads combines at once", "[cuda][slow]") {
  fake::Device gpu;
  Twins twins;
  replay({uniform({1, 34 << 20})}, [](const Tensors& in) { return Tensors{sum(in[0])}; });
  replay({uniform({1100 << 10, 20})}, [](const Tensors& in) { return Tensors{sum(in[0], {0}) + 1}; });
  CHECK(twins.runs() >= 2);
}

TEST_CASE("the order in which threads run changes no bit", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  for (const fake::Schedule& schedule : fake::schedules) {
    gpu.use(schedule);
    for (auto [rows, columns] : {Extents{20, 70}, {3, 5000}, {1, 33000}, {5000, 7}})
      replay({normal({rows, columns})}, [](const Tensors& in) {
        return Tensors{softmax(in[0], -1), sum(in[0], {0}), sum(in[0], {1}), in[0].permute({1, 0}).contiguous()};
      });
  }
  CHECK(twins.runs() > 20);
}
