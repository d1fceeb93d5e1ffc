// A recurrent network with a cell of the user's own learns to write licences, character by character.
#include <cstdio>

#include "reprise/samples/common.h"
#include "reprise/samples/models.h"

using rp::Tensor;

namespace {

constexpr int64_t characters = 256, steps_in_time = 32;

/// Continues a text as the network predicts it.
std::string write(const samples::CharRnn& net, const std::string& text, int count) {
  Tensor h = rp::zeros({1, net.units});
  return samples::write(text, count, [&](const Tensor& character) {
    h = net.cell(net.embed(character), h);
    return net.head(h);
  });
}

void train(const samples::Options& options) {
  samples::CharRnn net(characters);
  rp::Adam opt(net, {.lr = 2e-3});
  auto step = rp::capture([&](const Tensor& text, const Tensor& next) {
    opt.zero_grad();
    Tensor loss = net(text, next);
    loss.backward();
    opt.step();
    return loss;
  });

  samples::train_on_text(options, steps_in_time, step);
  if (!options.report.empty()) step.report(options.report);
  std::printf("%s", net.summary().c_str());
  std::printf("---\n%s\n---\n", write(net, "The ", 200).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  return samples::run(argc, argv, "A hand-written recurrent cell on the text of licences.",
                      {.steps = 500, .batch = 32, .data = "/usr/share/common-licenses"}, train);
}
