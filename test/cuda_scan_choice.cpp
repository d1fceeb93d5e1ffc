// How scans are spread over a device: from sizes alone.
#include "reprise/backends/cuda/scan_choice.h"
#include "reprise/test/catch.h"

using namespace rp;
using namespace rp::cuda;
using Catch::Matchers::Contains;

namespace {

/// A state of [batch, units] that is multiplied by [units, gates * units] at every step.
ScanBody cell(int64_t batch, int64_t units, int64_t gates) {
  static Graph none;
  ScanBody body;
  body.attrs.body = &none;
  body.batch = batch;
  body.spaces = {{units}};
  ScanValue state, product;
  state.kind = ScanValue::Kind::carry;
  state.rows = product.rows = batch;
  state.columns = units;
  state.space = product.space = 0;
  state.held = product.held = true;
  state.exchange = 0;
  product.kind = ScanValue::Kind::product;
  product.columns = gates * units;
  product.inner = units;
  product.reads = {{0, 0, false, {}}};
  state.reads = {{1, 0, false, {}}};
  body.values = {state, product};
  body.exchanges = {{0, 0}};
  return body;
}

/// The gradient of such a step: what is multiplied is [batch, gates * units], by [gates * units, units].
ScanBody gradient(int64_t batch, int64_t units, int64_t gates) {
  ScanBody body = cell(batch, units, gates);
  ScanValue z;
  z.rows = batch;
  z.columns = gates * units;
  z.space = 0;
  z.exchange = 0;
  z.reads = {{0, 0, false, {}}};
  body.values[0].exchange = -1;
  body.values[0].reads[0].value = 2;
  body.values[1].inner = gates * units;
  body.values[1].columns = units;
  body.values[1].level = body.levels = 1;
  body.values.insert(body.values.begin() + 1, z);
  body.values[2].reads[0].value = 1;
  body.exchanges = {{1, 1}};
  return body;
}

ScanChoice choice(const ScanBody& body) {
  std::string why;
  const auto c = choose_scan(body, {}, &why);
  INFO(why);
  REQUIRE(c);
  return *c;
}

std::string refusal(const ScanBody& body, const ScanDevice& device = {}) {
  std::string why;
  REQUIRE_FALSE(choose_scan(body, device, &why));
  return why;
}

}  // namespace

TEST_CASE("small states need one block, larger ones a cluster, the largest the grid", "[cuda]") {
  CHECK(choice(cell(16, 64, 4)).meeting == ScanMeeting::block);
  CHECK(choice(cell(16, 256, 4)).meeting == ScanMeeting::cluster);
  CHECK(choice(cell(16, 512, 4)).meeting == ScanMeeting::grid);
  CHECK(choice(cell(16, 1024, 4)).meeting == ScanMeeting::grid);
  CHECK(choice(gradient(16, 256, 4)).meeting == ScanMeeting::cluster);
  CHECK(choice(gradient(16, 1024, 4)).meeting == ScanMeeting::grid);
}

TEST_CASE("every choice fits its device", "[cuda]") {
  for (const int64_t batch : {1, 3, 16, 33, 64})
    for (const int64_t units : {1, 8, 100, 256, 512})
      for (const bool back : {false, true}) {
        const ScanBody body = back ? gradient(batch, units, 4) : cell(batch, units, 4);
        std::string why;
        for (const ScanChoice& c : scan_choices(body, {}, &why)) {
          INFO(batch << " x " << units << ": " << c.blocks << " blocks, " << c.rows << " rows");
          CHECK(scan_memory(body, c).shared <= size_t{227} << 10);
          CHECK((c.threads % 32 == 0 && c.threads <= 512));
          CHECK(c.blocks * units_of_block(body.spaces[0], c) >= units);
          CHECK(c.slices * c.rows >= batch);
          CHECK(c.width * (c.rows / c.each) <= c.threads);
          if (c.meeting == ScanMeeting::grid) CHECK(c.blocks * c.slices <= 132);
          if (c.meeting == ScanMeeting::cluster) CHECK((c.blocks <= 8 && units > 1));
        }
      }
}

TEST_CASE("what does not fit, or does not pay, is refused with a reason", "[cuda]") {
  CHECK_THAT(refusal(cell(16, 4096, 4)), Contains("the weights and what is exchanged take") && Contains("227 KiB"));
  CHECK_THAT(refusal(gradient(512, 512, 4)), Contains("in launches of its own"));
  CHECK_THAT(refusal(cell(4, 300, 4), {.multiprocessors = 4, .shared_bytes = 64 << 10, .cluster = 1}),
             Contains("a block's 64 KiB at least"));
}

TEST_CASE("a place is taken twice where a step may write what others still read", "[cuda]") {
  const ScanBody forward = cell(4, 64, 4), backward = gradient(4, 64, 4);
  ScanChoice c = choice(forward);
  CHECK(scan_memory(forward, c).exchanges[0].twice);
  CHECK(scan_memory(backward, c).exchanges[0].twice);
  c.meeting = ScanMeeting::grid;
  CHECK(scan_memory(forward, c).exchanges[0].handed_twice);
  CHECK(scan_memory(forward, c).exchanges[0].streamed);
  // With a second level, a carry is written when all have read it.
  ScanBody two = forward;
  two.levels = 1;
  c.meeting = ScanMeeting::block;
  CHECK_FALSE(scan_memory(two, c).exchanges[0].twice);
}

TEST_CASE("tensor cores take every cell of up to 1024 units, and pay", "[cuda]") {
  for (const int64_t batch : {1, 7, 16, 64})
    for (const int64_t units : {64, 256, 512, 768, 1024}) {
      ScanBody body = cell(batch, units, 4);
      std::string why;
      const auto exact = choose_scan(body, {}, &why);
      body.tensor = true;
      body.values[0].dtype = body.values[1].numbers = DType::bf16;
      const ScanChoice c = choice(body);
      INFO(units << " units, batch " << batch << ": " << c.blocks << " blocks, " << c.split << " warps for a sum");
      CHECK((!exact || c.step_ns < exact->step_ns || batch < 16));
      CHECK(c.threads == 32 * c.split * c.across);
      CHECK(c.slices * c.rows >= batch);
      CHECK(c.width * (c.rows / c.each) <= c.threads);
      CHECK(scan_memory(body, c).shared <= size_t{227} << 10);
      const ScanTiles t = tiles_of(body, body.values[1], c);
      CHECK(t.each * c.across >= t.octets);
      CHECK(t.turns * c.split >= t.pieces);
      CHECK_THAT(refusal(body, {.tensor = false}), Contains("no tensor cores"));
    }
}
