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

struct Training {
  std::function<Tensors(const Tensor&)> step;
  Tensor x;
  Tensors expected;
};

/// What a step leaves on a device of its own, an error being one that later calls would find, too.
std::string fault(const Training& t, ScansOnDevice& scans, const fake::Schedule& schedule) {
  fake::Device gpu;
  gpu.use(schedule);
  std::string text;
  const size_t made = scans.forms.size();
  try {
    auto captured = capture(t.step);
    for (int i = 0; i < 2; ++i) {
      const Tensors got = captured(t.x);
      for (size_t k = 0; k < got.size(); ++k)
        if (first_differing(got[k], t.expected[k]) >= 0) text = "other results";
    }
  } catch (const Error& e) {
    text = e.what();
  }
  for (const std::string& finding : gpu.take_findings()) text += finding;
  return scans.forms.size() == made + 2 ? text : "not on the device: " + text;
}

template <class Layer>
Training training(const Layer& layer, int64_t units, DType dtype) {
  manual_seed(11);
  Training t;
  t.x = uniform({5, 4, units}, -1, 1).to(dtype).set_requires_grad();
  layer(t.x);
  t.step = [=](const Tensor& in) {
    for (const auto& [n, p] : layer.parameters()) p.set_grad({});
    in.set_grad({});
    const Tensor y = layer(in).outputs;
    sum(y * y).backward();
    return Tensors{y, in.grad()};
  };
  ModeGuard eager(Mode::eager);
  t.expected = t.step(t.x);
  return t;
}

/// What the device leaves in the plainest order is what it must leave in any.
Tensors results_on_device(const Training& t) {
  fake::Device gpu;
  auto captured = capture(t.step);
  for (int i = 0; i < 2; ++i) captured(t.x);
  return captured(t.x);
}

template <class Layer>
void find_all(const std::string& name, const Layer& layer, int64_t units, const Pick& way, DType dtype = DType::f32) {
  Training t = training(layer, units, dtype);
  ScansOnDevice scans(way);
  if (dtype != DType::f32) {
    scans.tensor = true;
    t.expected = results_on_device(t);
    scans.texts.clear();
  }
  for (const fake::Schedule& schedule : fake::schedules) REQUIRE(fault(t, scans, schedule) == "");
  const std::vector<std::string> texts(scans.texts.begin(), scans.texts.begin() + 2);
  for (const std::string& text : texts)
    for (const Edit& edit : edits_of(text)) {
      scans.change = [&](const std::string& given) {
        return given == text ? std::string(given).replace(edit.at, edit.length, edit.to) : given;
      };
      std::string found;
      for (const fake::Schedule& schedule : fake::schedules)
        if (found.empty()) found = fault(t, scans, schedule);
      INFO(name << " without " << text.substr(edit.at - 30, edit.length + 90));
      INFO(found);
      CHECK(found != "");
      CHECK(found.find("not on the device") == std::string::npos);
    }
}

}  // namespace

TEST_CASE("a barrier that is missing shows", "[cuda]") {
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  find_all("rnn", RNN(6), 6, pick(meeting, 1));
  find_all("lstm", LSTM(6), 6, pick(meeting, 2));
  find_all("gru, reset before", GRU(6, {.reset_after = false}), 6, pick(meeting, 1));
  find_all("lstm with norms", LSTM(6, {.layer_norm = true}), 6, pick(meeting, 1));
}

namespace {

/// Few blocks of more than one warp, whose lanes meet at every product; sums are a warp's own, or shared.
Pick tiles(ScanMeeting meeting, bool shared) {
  return [=](const std::vector<cuda::ScanChoice>& choices) -> const cuda::ScanChoice* {
    for (const cuda::ScanChoice& c : choices)
      if (c.meeting == meeting && c.threads > 32 && c.blocks * c.slices <= 6 && (c.split > 1) == shared) return &c;
    return nullptr;
  };
}

}  // namespace

TEST_CASE("a barrier that is missing shows on tensor cores, too", "[cuda]") {
  const auto meeting = GENERATE(ScanMeeting::block, ScanMeeting::cluster, ScanMeeting::grid);
  for (const bool shared : {false, true}) {
    find_all("lstm", LSTM(48, {.weights = {.dtype = DType::bf16}}), 48, tiles(meeting, shared), DType::bf16);
    find_all("gru, reset before", GRU(48, {.reset_after = false, .weights = {.dtype = DType::f16}}), 48,
             tiles(meeting, shared), DType::f16);
  }
}
