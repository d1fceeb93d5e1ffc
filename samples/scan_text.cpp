// A recurrent cell of the user's own, run over time by scan, learns to write licences, character by character.
#include <cstdio>
#include <numbers>

#include "reprise/samples/common.h"
#include "reprise/samples/data.h"
#include "reprise/samples/models.h"

using rp::Tensor;

namespace {

constexpr int64_t characters = 256, steps_in_time = 48;

/// Continues a text as the network predicts it, taking the likelier characters more often.
std::string write(const samples::TextModel& net, const std::string& text, int count) {
  auto state = net.cell.initial_state(1);
  return samples::write(text, count, [&](const Tensor& character) {
    state = net.cell(net.embed(character), state);
    return net.head(rp::concat({state.fast, state.slow}, 1)) * 1.5;
  });
}

void train(const samples::Options& options) {
  auto data = samples::text_pieces(options.data, steps_in_time);
  auto loader = data.shuffle(options.seed).batch(options.batch, true);

  samples::TextModel net(characters);
  rp::Adam opt(net, {.lr = 4e-3});
  auto step = rp::capture([&](const Tensor& text, const Tensor& next) {
    opt.zero_grad();
    Tensor loss = net(text, next);
    loss.backward();
    opt.step();
    return loss;
  });

  samples::LossLog log(options.losses);
  int done = 0;
  for (int epoch = 1; epoch <= options.epochs && done < options.steps; ++epoch) {
    rp::Progress progress("epoch " + std::to_string(epoch), data.samples() / options.batch);
    double sum = 0;
    int count = 0;
    for (auto [text, next] : loader) {
      const Tensor loss = step(text, next);
      log.add(loss);
      sum += loss.item<float>() / std::numbers::ln2;
      ++count;
      progress.step();
      if (++done == options.steps) break;
    }
    progress.clear();
    std::printf("epoch %d: %.3f bits per character over %d steps\n", epoch, sum / count, count);
  }
  if (!options.report.empty()) step.report(options.report);
  std::printf("%s", net.summary().c_str());
  std::printf("---\n%s\n---\n", write(net, "The ", 300).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  return samples::run(argc, argv, "A recurrent cell of the user's own under scan, on the text of licences.",
                      {.epochs = 2, .steps = 100000, .batch = 32, .data = "/usr/share/common-licenses"}, train);
}
