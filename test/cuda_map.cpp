// Maps and copies on the device: the same bits as the CPU's.
#include <bit>
#include <cstring>
#include <memory>

#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_twin.h"
#include "reprise/test/op_cases.h"
#include "reprise/test/random_region.h"

using namespace rp;
using namespace rp::test;

namespace {

// Numbers of all magnitudes, and those that are none.
Tensor numbers(DType dtype, const Shape& shape, uint64_t seed) {
  test::Dice dice(seed);
  const auto n = static_cast<size_t>(element_count(shape));
  return visit_dtype(dtype, [&]<class T>(T) {
    const auto values = std::make_unique<T[]>(n + 1);
    for (size_t i = 0; i < n; ++i) {
      uint64_t bits = dice.number(type_of(dtype));
      if constexpr (is_float16<T>) bits = T(std::bit_cast<float>(static_cast<uint32_t>(bits))).bits;
      std::memcpy(static_cast<void*>(&values[i]), &bits, sizeof(T));
    }
    return tensor(std::span<const T>(values.get(), n), shape);
  });
}

// For each pointwise op that means something for a dtype, and each dtype that it can cast to: a call with tensors only.
std::vector<OpCase> pointwise_calls(DType dtype) {
  std::vector<OpCase> calls;
  for (const Op* op : op_table()) {
    if (op->kind != Kind::pointwise) continue;
    const std::vector<OpCase> all = cases_of(*op, dtype);
    for (const OpCase& c : all)
      if (!c.inputs.empty() && !c.scalar_mask && c.out == all[0].out) calls.push_back(c);
  }
  return calls;
}

}  // namespace

TEST_CASE("every pointwise op", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  size_t checked = 0;
  for (DType d : {DType::boolean, DType::i32, DType::i64, DType::bf16, DType::f16, DType::f32, DType::f64}) {
    const std::vector<OpCase> calls = pointwise_calls(d);
    const Shape shape{1111};
    const Tensors in{numbers(d, shape, 1), numbers(d, shape, 2), numbers(d, shape, 3),
                     numbers(DType::boolean, shape, 4)};
    constexpr size_t together = 12;  // ops in one kernel
    for (size_t first = 0; first < calls.size(); first += together) {
      const size_t last = std::min(calls.size(), first + together);
      std::string names;
      for (size_t k = first; k < last; ++k) names += std::string(calls[k].op->name) + " ";
      INFO(name_of(d) << ": " << names);
      replay(in, [&](const Tensors& given) {
        Tensors fed;  // made in the kernel, so that one kernel has all of the ops
        for (const Tensor& t : given) fed.push_back(where(given[3], t, t));
        Tensors results;
        for (size_t k = first; k < last; ++k) {
          Tensors operands;
          for (size_t i = 0; i < calls[k].inputs.size(); ++i)
            operands.push_back(calls[k].inputs[i].dtype == d ? fed[i] : fed[3]);
          results.push_back(run(calls[k], operands));
        }
        return results;
      });
      checked += last - first;
    }
  }
  CHECK(checked > 180);
  CHECK(twins.runs() >= 40);
}

TEST_CASE("maps of every length, aligned and not, one and two rows", "[cuda]") {
  fake::Device gpu;
  for (bool wide : {false, true}) {
    Twins twins(wide);
    for (int64_t n : {0, 1, 3, 4, 5, 255, 1023, 1024, 1027, 1028, 1029, 2047, 2048, 2049, 5000}) {
      INFO(n << " elements");
      const Tensor x = normal({2, n + 1});
      const auto f = [](const Tensors& in) { return Tensors{in[0] * 2 + 1}; };
      replay({x.select(0, 0).slice(0, 0, n)}, f);
      replay({x.select(0, 0).slice(0, 1, n + 1)}, f);
      replay({x.slice(1, 0, n)}, f);
      replay({x}, f);
    }
    CHECK(twins.compared().at("cuda x4") > 50);
    CHECK(twins.compared().at("cuda") > 10);
  }
}

TEST_CASE("operands that lie in every way", "[cuda]") {
  fake::Device gpu;
  for (bool wide : {false, true}) {
    Twins twins(wide);
    Draw draw(7);
    for (const Shape& shape : {Shape{6, 8, 12}, Shape{3, 5, 7}, Shape{2, 1, 3, 1, 2, 1, 2, 4}, Shape{33}, Shape{}})
      for (Lie a : all_lies)
        for (Lie b : all_lies) {
          INFO(test::name_of(a) << " and " << test::name_of(b));
          const Tensor x = placed(draw.array({shape}, a), a), y = placed(draw.array({shape}, b), b);
          const Tensor z = placed(draw.array({shape, DType::boolean, 0, 1}, b), b);
          replay({x, y, z}, [](const Tensors& in) { return Tensors{where(in[2], in[0] * in[1], in[1] - in[0])}; });
        }
    CHECK(twins.runs() > 150);
  }
}

TEST_CASE("maps that count their elements", "[cuda]") {
  fake::Device gpu;
  for (bool wide : {false, true}) {
    Twins twins(wide);
    replay({normal({40, 31})}, [](const Tensors& in) {
      return Tensors{uniform({1001}), randint({3, 5}, 0, 9), normal({40, 31}) + in[0].slice(1, 0, 1),
                     dropout(in[0], 0.5), arange(77)};
    });
    CHECK(twins.runs() >= 5);
  }
}

TEST_CASE("updates of many tensors in one launch", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  Tensors in;
  for (int i = 0; i < 300; ++i)
    for (int k = 0; k < 2; ++k) in.push_back(normal({i % 7 == 3 ? 0 : i * i % 977 + 1}));
  auto update = capture([](const Tensors& all) {
    for (size_t i = 0; i < all.size(); i += 2) all[i] += all[i + 1] * all[i + 1];
  });
  ModeGuard guard(Mode::graph);
  for (int64_t offset : {0, 1}) {  // aligned, and not
    for (Tensor& t : in)
      if (t.numel() > 1) t = t.slice(0, offset, t.numel());
    update(in);
    gpu.clear_log();
    update(in);
    CHECK(gpu.launches().size() > 1);  // arguments have a limit
    CHECK(gpu.launches().size() < 10);
  }
}

TEST_CASE("writes in place", "[cuda]") {
  fake::Device gpu;
  Twins twins;
  const Tensor x = normal({12, 20}), y = normal({12, 20});
  replay({x, y}, [](const Tensors& in) {
    in[0] += exp(in[1]);
    in[0].slice(1, 2, 7) += in[1].slice(1, 1, 6);
    in[0].slice(0, 1, 12, 2).copy_(in[1].slice(0, 0, 11, 2) * 3);
    in[0].slice(1, 0, 20, 3).copy_(in[1].slice(1, 0, 7));
    return Tensors{};
  });
  CHECK(twins.runs() >= 4);
}

TEST_CASE("copies into another order", "[cuda]") {
  fake::Device gpu;
  for (bool wide : {false, true}) {
    Twins twins(wide);
    for (DType d : {DType::boolean, DType::f32, DType::i64}) {
      const auto packed = [](const Tensors& in) {
        return Tensors{in[0].permute({1, 0}).contiguous(), in[1].permute({0, 2, 3, 1}).contiguous(),
                       in[1].permute({3, 1, 0, 2}).contiguous(), in[0].slice(1, 0, in[0].size(1), 2).contiguous()};
      };
      replay({numbers(d, {100, 70}, 1), numbers(d, {2, 9, 11, 33}, 2)}, packed);
      replay({numbers(d, {1, 3}, 1), numbers(d, {3, 3, 40, 50}, 2)}, packed);
      replay({numbers(d, {0, 3}, 1), numbers(d, {2, 64, 1, 64}, 2)}, packed);
    }
    CHECK(twins.compared().at("cuda turned") > 5);
    CHECK(twins.compared().at("cuda copy") > 5);
  }
}
