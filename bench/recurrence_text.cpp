// A character model of a user's own cell under scan, trained on real text in both modes.
#include <fmt/core.h>

#include "reprise/bench/cases.h"
#include "reprise/bench/contest.h"
#include "reprise/samples/data.h"
#include "reprise/samples/models.h"

namespace bench {
namespace {

constexpr int epochs = 2;
constexpr int64_t steps_in_time = 48, batch = 32;
constexpr double speed_up = 1.5;

Result measure_text() {
  const auto data = samples::text_pieces("/usr/share/common-licenses", steps_in_time);
  const auto make = [&] {
    samples::TextModel net(256);
    auto optimizer = std::make_shared<rp::Adam>(net, rp::AdamOptions{.lr = 4e-3});
    Trainee trainee = make_trainee(net, optimizer, [](const auto& n, const auto& x, const auto& y) { return n(x, y); });
    trainee.next = endless(data.shuffle(1).batch(batch, true));
    return trainee;
  };
  const Row row = compete({"text", static_cast<int>(epochs * (data.samples() / batch)), make}, 1);
  Result result;
  result.eager_ns = row.eager_ms * 1e6;
  result.captured_ns = row.graph_ms * 1e6;
  // The interval of the gain: steps take the place of rounds.
  result.spread = (row.gain_high_ms - row.gain_low_ms) / row.graph_ms;
  result.system_calls = row.system_calls;
  result.met = row.speedup() >= speed_up && row.differing_bits == 0;
  result.more = {{"steps", row.steps},
                 {"loss", row.loss_graph},
                 {"differing_bits", row.differing_bits},
                 {"capture_ms", row.capture_ms}};
  result.note = fmt::format("{} steps, loss {:.3f}, {} bits differ", row.steps, row.loss_graph, row.differing_bits);
  return result;
}

}  // namespace

Case recurrence_text_case() {
  return {"recurrence/text/train", stated(fmt::format("{} x eager, same bits", speed_up)), measure_text};
}

}  // namespace bench
