// Random regions on the device: the same bits as the CPU's.
#include "reprise/backends/cpu/backend.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda/device.h"
#include "reprise/test/cuda_twin.h"
#include "reprise/test/random_region.h"

using namespace rp;
using namespace rp::test;

namespace {

struct Extents {
  Dims outer;
  int64_t rows, columns;
};

void compare(RandomRegion& r) {
  const auto kernel = cpu_backend().compile(r.region);
  std::vector<std::byte> scratch(kernel->scratch_bytes() + 64);
  const std::vector<Storage*> storages(r.pointers.size());
  kernel->run({r.pointers.data(), r.scalars.data(), storages.data(), scratch.data()});
}

template <class Make>
void compare_random(Make&& make, std::initializer_list<Extents> all, uint64_t seed) {
  fake::Device gpu;
  for (const Extents& e : all) {
    Twins twins(seed % 5 == 4);
    Dice dice(seed);
    INFO("seed " << seed << ", " << to_string(e.outer) << " x " << e.rows << " x " << e.columns);
    RandomRegion r = make(dice, e.outer, e.rows, e.columns, seed % 2 == 1);
    compare(r);
    CHECK(twins.runs() == 1);
    ++seed;
  }
}

const auto maps = {Extents{{}, 1, 1}, {{}, 1, 1029}, {{}, 1, 5000},     {{}, 7, 64},   {{}, 65, 33}, {{2}, 3, 16},
                   {{3, 2}, 5, 100},  {{}, 300, 1},  {{2, 3, 2}, 2, 3}, {{}, 1, 4096}, {{4}, 1, 36}, {{}, 40, 130}};
const auto rows = {Extents{{}, 1, 1}, {{}, 5, 0},     {{}, 33, 7},     {{2}, 3, 16},   {{}, 20, 100},
                   {{3}, 5, 250},     {{}, 2, 1000},  {{}, 3, 1027},   {{2}, 1, 4096}, {{}, 1, 9000},
                   {{}, 3, 5000},     {{}, 1, 40000}, {{}, 1100, 260}, {{}, 2, 33001}};
const auto columns = {Extents{{}, 1, 1}, {{}, 0, 7},    {{}, 33, 16},    {{2}, 5, 17},  {{}, 100, 3},
                      {{3}, 70, 40},     {{}, 4096, 5}, {{2}, 4100, 33}, {{}, 20000, 2}};

}  // namespace

TEST_CASE("random maps", "[cuda]") { compare_random(random_map, maps, 1); }
TEST_CASE("random rows", "[cuda]") { compare_random(random_rows, rows, 1); }
TEST_CASE("random columns", "[cuda]") { compare_random(random_columns, columns, 1); }

TEST_CASE("many random regions", "[cuda][.full]") {
  for (uint64_t seed = 1000; seed < 2000; seed += 100) {
    compare_random(random_map, maps, seed);
    compare_random(random_rows, rows, seed);
    compare_random(random_columns, columns, seed);
  }
}
