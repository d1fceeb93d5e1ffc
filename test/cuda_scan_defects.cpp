// Barriers left out of a scan's kernel, and buffers taken too early: the device that runs on the processor must show
// each of them.
#include "reprise/core/random.h"
#include "reprise/graph/capture.h"
#include "reprise/graph/executable.h"
#include "reprise/nn/recurrent.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda_scans.h"

using namespace rp;
using namespace rp::test;
using cuda::ScanMeeting;

namespace {

/// One change of a text.
struct Edit {
  size_t at, length;
  std::string to;
};

// Every barrier of the kernel gone, every place for the next step that of this one.
std::vector<Edit> edits_of(const std::string& text) {
  std::vector<Edit> edits;
  const size_t body = text.find("kernel_entry(");
  for (const std::string barrier :
       {"cluster_barrier();", "__syncthreads();", "grid_barrier(args.meetings + slice * 16, BLOCKS);"})
    for (size_t at = body; (at = text.find(barrier, at + 1)) != std::string::npos;)
      // That others have begun before their memory is written is the hardware's rule.
      if (text.compare(at + barrier.size(), 4, "  //")) edits.push_back({at, barrier.size(), ";"});
  const std::string next = "((s + 1) & 1)";
  for (size_t at = body; (at = text.find(next, at + 1)) != std::string::npos;)
    edits.push_back({at, next.size(), "(s & 1)"});
  return edits;
}

/// Whether a training step gives other results than eager, or the device finds fault with a kernel.
bool shows(const std::function<Tensors(const Tensor&)>& step, const Tensor& x, const Tensors& expected,
           fake::Device& gpu) {
  bool wrong = false;
  try {
    auto captured = capture(step);
    for (int i = 0; i < 2; ++i) {
      const Tensors got = captured(x);
      for (size_t k = 0; k < got.size(); ++k) wrong |= first_differing(got[k], expected[k]) >= 0;
    }
  } catch (const Error&) {
    wrong = true;
  }
  return !gpu.take_findings().empty() || wrong;
}

template <class Layer>
void find_all(const std::string& name, const Layer& layer, int64_t units, ScanMeeting meeting, size_t number) {
  fake::Device gpu;
  manual_seed(11);
  const Tensor x = uniform({5, 4, units}, -1, 1).set_requires_grad();
  layer(x);
  const auto step = [&](const Tensor& in) {
    for (const auto& [n, p] : layer.parameters()) p.set_grad({});
    in.set_grad({});
    const Tensor y = layer(in).outputs;
    sum(y * y).backward();
    return Tensors{y, in.grad()};
  };
  const Tensors expected = [&] {
    ModeGuard eager(Mode::eager);
    return step(x);
  }();
  ScansOnDevice scans(pick(meeting, number));
  REQUIRE_FALSE(shows(step, x, expected, gpu));
  const std::vector<std::string> texts = scans.texts;
  REQUIRE(texts.size() == 2);
  for (const std::string& text : texts)
    for (const Edit& edit : edits_of(text)) {
      scans.change = [&](const std::string& given) {
        return given == text ? std::string(given).replace(edit.at, edit.length, edit.to) : given;
      };
      bool found = false;
      for (const fake::Schedule& schedule : fake::schedules) {
        gpu.use(schedule);
        found = found || shows(step, x, expected, gpu);
      }
      INFO(name << ", " << text.substr(edit.at, edit.length) << " at " << edit.at << "\n" << text);
      CHECK(found);
    }
}

}  // namespace

TEST_CASE("a barrier that is missing shows", "[cuda]") {
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  find_all("rnn", RNN(6), 6, meeting, 1);
  find_all("lstm", LSTM(6), 6, meeting, 2);
  find_all("gru, reset before", GRU(6, {.reset_after = false}), 6, meeting, 1);
  find_all("lstm with norms", LSTM(6, {.layer_norm = true}), 6, meeting, 1);
}
