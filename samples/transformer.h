#pragma once
// A decoder: blocks of causal self-attention and perceptrons (Vaswani et al., 2017), normalised before each part.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "reprise/reprise.h"

namespace samples {

/// Each position looks at itself and at those before it, by several heads. x: [n, steps, width] -> the same
struct CausalAttention : rp::Module {
  CausalAttention(int64_t width, int64_t heads) : width(width), heads(heads) {}

  rp::Tensor operator()(const rp::Tensor& x) const {
    const int64_t n = x.size(0), steps = x.size(1);
    const auto by_head = [&](const rp::Tensor& t) {
      return t.reshape({n, steps, heads, width / heads}).permute({0, 2, 1, 3});
    };
    const rp::Tensors parts = rp::split(inputs(x), 3, 2);
    const rp::Tensor seen =
        rp::scaled_dot_product_attention(by_head(parts[0]), by_head(parts[1]), by_head(parts[2]), {}, {.causal = true});
    return output(seen.permute({0, 2, 1, 3}).reshape({n, steps, width}));
  }

  int64_t width, heads;
  rp::Dense inputs = child("inputs", rp::Dense(3 * width));  // queries, keys and values
  rp::Dense output = child("output", rp::Dense(width));
};

/// x: [n, steps, width] -> the same
struct DecoderBlock : rp::Module {
  DecoderBlock(int64_t width, int64_t heads)
      : width(width), attention(child("attention", CausalAttention(width, heads))) {}

  rp::Tensor operator()(const rp::Tensor& x) const {
    const rp::Tensor y = x + attention(before_attention(x));
    return y + narrow(rp::gelu(wide(before_perceptron(y))));
  }

  int64_t width;
  CausalAttention attention;
  rp::LayerNorm before_attention = child("before_attention", rp::LayerNorm());
  rp::LayerNorm before_perceptron = child("before_perceptron", rp::LayerNorm());
  rp::Dense wide = child("wide", rp::Dense(4 * width));
  rp::Dense narrow = child("narrow", rp::Dense(width));
};

struct DecoderOptions {
  int64_t tokens = 256, steps = 64;  // distinct tokens; the longest text that fits
  int64_t width = 128, heads = 4, blocks = 2;
  bool tied = true;  // the head's weights are those of the embedding
};

/// Predicts each next token of a text from those before it.
struct Decoder : rp::Module {
  explicit Decoder(DecoderOptions options) : options(options) {
    for (int64_t i = 0; i < options.blocks; ++i)
      blocks.push_back(child("block" + std::to_string(i), DecoderBlock(options.width, options.heads)));
    if (!options.tied) head = param("head", {options.width, options.tokens});
  }

  /// text: [n, steps] integers -> logits [n, steps, tokens]
  rp::Tensor operator()(const rp::Tensor& text) const {
    rp::Tensor x = rp::index_select(tokens, text) + positions.slice(0, 0, text.size(1));
    for (const auto& block : blocks) x = block(x);
    return rp::linear(norm(x), options.tied ? tokens.transpose() : head);
  }

  /// The mean cross entropy, in nats per token. text, next: [n, steps] integers
  rp::Tensor loss(const rp::Tensor& text, const rp::Tensor& next) const {
    return rp::cross_entropy((*this)(text).flatten(0, 1), next.flatten());
  }

  DecoderOptions options;
  rp::Tensor tokens = param("tokens", {options.tokens, options.width}, rp::init::normal(0, 0.05));
  rp::Tensor positions = param("positions", {options.steps, options.width}, rp::init::normal(0, 0.05));
  std::vector<std::function<rp::Tensor(const rp::Tensor&)>> blocks;
  rp::LayerNorm norm = child("norm", rp::LayerNorm());
  rp::Tensor head;
};

}  // namespace samples
