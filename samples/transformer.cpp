// A small decoder learns to write licences, character by character.
#include <algorithm>
#include <cstdio>
#include <string>

#include "reprise/samples/common.h"
#include "reprise/samples/transformer.h"

using rp::Tensor;

namespace {

constexpr samples::DecoderOptions decoder{};

/// Draws each character from the distribution that the network predicts for it, the likelier ones more often.
std::string write(const samples::Decoder& net, std::string text, int count) {
  rp::NoGrad no_grad;
  auto predict = rp::capture([&](const Tensor& seen) { return net(seen)[0][seen.size(1) - 1]; });
  for (; count > 0; --count) {
    std::vector<int32_t> seen;
    const size_t length = std::min<size_t>(text.size(), decoder.steps);
    for (size_t i = text.size() - length; i < text.size(); ++i) seen.push_back(static_cast<unsigned char>(text[i]));
    const Tensor logits = predict(rp::tensor(seen, {1, static_cast<int64_t>(length)}));
    const Tensor gumbel = -rp::log(-rp::log(rp::uniform({decoder.tokens}, 1e-6, 1)));
    text += static_cast<char>(rp::argmax(logits * 1.5 + gumbel).item<int64_t>());
  }
  return text;
}

void train(const samples::Options& options) {
  samples::Decoder net(decoder);
  rp::AdamW opt(net, {.lr = 1e-3});
  auto step = rp::capture([&](const Tensor& text, const Tensor& next) {
    opt.zero_grad();
    Tensor loss = net.loss(text, next);
    loss.backward();
    opt.step();
    return loss;
  });

  samples::train_on_text(options, decoder.steps, step);
  if (!options.report.empty()) step.report(options.report);
  std::printf("%s", net.summary().c_str());
  std::printf("---\n%s\n---\n", write(net, "This licence ", 200).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  return samples::run(argc, argv, "A decoder with causal attention on the text of licences.",
                      {.steps = 500, .batch = 16, .data = "/usr/share/common-licenses"}, train);
}
