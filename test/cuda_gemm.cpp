// Matrix products on the device against the CPU, bit for bit.
#include "reprise/test/cuda_products.h"

using namespace rp;
using namespace rp::test;

namespace {

std::string describe(const Setup& s) {
  std::string text;
  for (const Memory& m : s.memory)
    text += to_string(m.layout->spec) + to_string(m.layout->strides) + "+" + std::to_string(m.shift) + " ";
  return text;
}

constexpr DType numbers[] = {DType::f32, DType::f64, DType::i32, DType::i64};

}  // namespace

TEST_CASE("products on the device have the CPU's bits, whatever the tile", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : numbers)
    for (const cuda::Tile& tile : cuda::tiles_of(dtype))
      for (bool turned : {false, true})
        for (const auto& [m, n, k] : {std::array<int64_t, 3>{70, 150, 37}, {130, 33, 130}, {3, 200, 64}}) {
          const Setup s = product(dtype, {}, m, n, k);
          INFO(describe(s) << "tile " << tile.rows << "x" << tile.columns << " turned " << turned);
          CHECK(distance(run_on_cpu(s), run_on_device(s, CutKernel(s.region, {&tile, turned}))) == 0);
        }
}

TEST_CASE("factors of any strides, with gaps, and at any address", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : {DType::f32, DType::i64})
    for (bool left : {false, true})
      for (bool right : {false, true})
        for (const Lie& lie : {Lie{left, right}, Lie{left, right, 4}, Lie{left, right, 3}, Lie{left, right, 0, 2},
                               Lie{left, right, 0, 1, 1}, Lie{left, right, 4, 1, 2}})
          for (const auto& [m, n, k] : {std::array<int64_t, 3>{40, 36, 20}, {65, 67, 33}, {1, 50, 70}, {50, 1, 70}}) {
            const Setup s = product(dtype, {}, m, n, k, lie);
            INFO(describe(s));
            CHECK(distance(s) == 0);
          }
}

TEST_CASE("every extent up to 20 beside fixed others on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (int64_t e = 0; e <= 20; ++e)
    for (const auto& [m, n, k] :
         {std::array<int64_t, 3>{e, 33, 17}, {13, e, 17}, {13, 33, e}, {1, 3 * e, e}, {3 * e, 1, e}}) {
      const Setup s = product(DType::f32, {}, m, n, k);
      INFO(describe(s));
      CHECK(distance(s) == 0);
    }
}

TEST_CASE("batches of products, some of whose factors repeat", "[cuda]") {
  rp::fake::Device gpu;
  for (const Shape& batch : {Shape{3}, Shape{2, 3}, Shape{2, 1, 3, 2}}) {
    Setup s = product(DType::f32, batch, 9, 40, 21);
    CHECK(distance(s) == 0);
    for (size_t factor : {0, 1})
      for (int axis = 0; axis < batch.rank(); ++axis) {
        Setup repeated = s;
        const Layout& l = *s.memory[factor].layout;
        Strides strides = l.strides;
        strides[axis] = 0;
        repeated.region.operands[factor].layout = layout(l.dtype(), l.shape(), strides);
        INFO(describe(s) << " factor " << factor << " axis " << axis);
        CHECK(distance(repeated) == 0);
      }
  }
}

TEST_CASE("segmented products on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (DType dtype : numbers)
    for (const auto& [m, n, segment, count] : {std::array<int64_t, 4>{70, 90, 7, 5},
                                               {33, 40, 40, 2},
                                               {1, 60, 64, 3},
                                               {50, 1, 3, 9},
                                               {20, 20, 1, 6},
                                               {20, 20, 6, 0},
                                               {200, 300, 8, 3}}) {
      const Setup s = product(dtype, {}, m, n, segment * count, {}, segment);
      INFO(describe(s) << " segment " << segment);
      CHECK(distance(s) == 0);
    }
}

TEST_CASE("a stage behind a product on the device", "[cuda]") {
  rp::fake::Device gpu;
  const auto some = [](ProgramBuilder&, Value x, Value b, Value y, Value s) { return max(x + b, y) * s - x; };
  for (DType dtype : numbers)
    for (bool in_place : {false, true})
      for (const auto& [m, n, k] : {std::array<int64_t, 3>{70, 90, 12}, {2, 70, 40}, {300, 3, 5}, {8, 8, 0}})
        for (const Shape& batch : {Shape{}, Shape{2, 2}}) {
          const Setup s = with_stage(product(dtype, batch, m, n, k), dtype, in_place, some);
          INFO(describe(s) << " in place " << in_place);
          CHECK(distance(s) == 0);
        }
  // Of another type, with the element's number.
  const auto other = [](ProgramBuilder& b, Value x, Value y, Value, Value) {
    return x + y > b.convert(b.index(), Type::f32) * 0.001;
  };
  for (const auto& [m, n] : {std::pair{70, 90}, {90, 3}}) {
    const Setup s = with_stage(product(DType::f32, {3}, m, n, 12), DType::boolean, false, other);
    CHECK(distance(s) == 0);
  }
}

TEST_CASE("every tile with a stage behind it", "[cuda]") {
  rp::fake::Device gpu;
  const auto some = [](ProgramBuilder&, Value x, Value b, Value y, Value s) { return tanh(x + b) * y + s; };
  for (const cuda::Tile& tile : cuda::tiles_of(DType::f32))
    for (bool turned : {false, true}) {
      const Setup s = with_stage(product(DType::f32, {2}, 131, 140, 9), DType::f32, false, some);
      INFO("tile " << tile.rows << "x" << tile.columns << " turned " << turned);
      CHECK(distance(run_on_cpu(s), run_on_device(s, CutKernel(s.region, {&tile, turned}))) == 0);
    }
}

TEST_CASE("a map on the parts of a product on the device", "[cuda]") {
  rp::fake::Device gpu;
  for (int64_t groups : {2, 4}) {
    const int64_t m = 6, units = 20;
    Setup s = product(DType::f32, {}, m, groups * units, 30);
    auto map = std::make_shared<Region>();
    const Layout* const result = layout(DType::f32, {m, units});
    const Layout* const part = layout(DType::f32, {m, units}, {groups * units, 1});
    s.memory.emplace_back(result);
    map->operands.push_back({result, true});
    ProgramBuilder b;
    Stage stage;
    Value sum = b.convert(b.index(), Type::f32);
    for (int64_t g = 0; g < groups; ++g) {
      map->operands.push_back({part});
      s.aliases.push_back({2, g * units});
      sum = sum * 0.5 + b.load(b.operand(DType::f32, Access::contiguous, false));
      stage.slots.push_back({StageSlot::Kind::operand, static_cast<int>(g) + 1});
    }
    b.store(sum, b.operand(DType::f32, Access::contiguous, true));
    stage.slots.push_back({StageSlot::Kind::operand, 0});
    stage.program = b.take();
    map->stages.push_back(std::move(stage));
    std::vector<Strides> strides;
    for (const RegionOperand& o : map->operands) strides.push_back(o.layout->strides);
    map->members.push_back(*make_nest(RegionKind::map, result->shape(), 0, strides));
    s.region.after = map;
    s.region.groups = groups;
    CHECK(distance(s) == 0);
  }
}

TEST_CASE("NaN, infinity and signed zeros in products on the device", "[cuda]") {
  rp::fake::Device gpu;
  const double special[] = {HUGE_VAL, -HUGE_VAL, NAN, 0.0, -0.0, 3e38, 1e-45, -1e-30};
  for (int round = 0; round < 40; ++round) {
    const auto extent = [] { return static_cast<int64_t>(1 + random_bits()() % 40); };
    Setup s = product(DType::f32, {}, extent(), extent(), extent());
    for (size_t factor : {0, 1}) {
      auto* const x = reinterpret_cast<float*>(s.memory[factor].bytes.data());
      const size_t count = s.memory[factor].bytes.size() / 4;
      for (size_t i = 0; i < count / 3; ++i)
        x[random_bits()() % count] = static_cast<float>(special[random_bits()() % 8]);
    }
    INFO(describe(s));
    CHECK(distance(s) == 0);
  }
}

TEST_CASE("tiles follow from the extents alone", "[cuda]") {
  const auto tile = [](int64_t m, int64_t n) { return cuda::choose_tile(DType::f32, {m, n, 1}, {}).tile; };
  CHECK(tile(8192, 8192)->rows == 128);
  CHECK(tile(8192, 64)->columns <= 64);
  CHECK(tile(1, 4096)->rows == 8);
  CHECK(tile(16, 4096)->rows == 16);
  for (DType dtype : numbers)
    for (const cuda::Tile& t : cuda::tiles_of(dtype)) {
      const int v = static_cast<int>(16 / size_of(dtype)), lanes_y = 32 / t.lanes_x;
      CHECK(t.columns / (t.lanes_x * t.c) * (t.rows / (lanes_y * t.r)) == cuda::tile_threads / 32);
      CHECK(t.rows * t.depth % (cuda::tile_threads * v) == 0);
      CHECK(t.columns * t.depth % (cuda::tile_threads * v) == 0);
      CHECK(t.r % t.parts == 0);
      CHECK(cuda::tile_bytes(t, dtype) + 8 * max_operands <= 48 << 10);
    }
}
