#pragma once
// The networks that are only measured, and the parts of a workload that a network's parameters are.
#include "reprise/bench/compare.h"
#include "reprise/reprise.h"

namespace bench {

/// LeNet-5 (LeCun et al., 1998) for grey images of 28 x 28 pixels. x: [n, 28, 28] -> [n, 10]
struct LeNet : rp::Module {
  rp::Tensor operator()(const rp::Tensor& images) const {
    rp::Tensor x = pool(rp::tanh(conv1(images.unsqueeze(1))));
    x = pool(rp::tanh(conv2(x)));
    return out(rp::tanh(dense2(rp::tanh(dense1(x.flatten(1))))));
  }

  rp::Conv2D conv1 = child("conv1", rp::Conv2D(6, 5, {.padding = rp::Padding::same}));
  rp::Conv2D conv2 = child("conv2", rp::Conv2D(16, 5));
  rp::AvgPool pool = child("pool", rp::AvgPool(2));
  rp::Dense dense1 = child("dense1", rp::Dense(120)), dense2 = child("dense2", rp::Dense(84));
  rp::Dense out = child("out", rp::Dense(10));
};

/// A block of an encoder, normalised before each part (Vaswani et al., 2017). x: [n, steps, width] -> the same
struct EncoderBlock : rp::Module {
  EncoderBlock(int64_t width, int64_t heads) : width(width), heads(heads) {}

  rp::Tensor operator()(const rp::Tensor& x) const {
    const rp::Tensor y = x + output(attention(inputs(norm1(x))));
    return y + narrow(rp::gelu(wide(norm2(y))));
  }

  int64_t width, heads;
  rp::LayerNorm norm1 = child("norm1", rp::LayerNorm()), norm2 = child("norm2", rp::LayerNorm());
  rp::Dense inputs = child("inputs", rp::Dense(3 * width)), output = child("output", rp::Dense(width));
  rp::Dense wide = child("wide", rp::Dense(4 * width)), narrow = child("narrow", rp::Dense(width));

 private:
  rp::Tensor attention(const rp::Tensor& qkv) const {
    const int64_t n = qkv.size(0), steps = qkv.size(1), depth = width / heads;
    const auto by_head = [&](const rp::Tensor& t) { return t.reshape({n, steps, heads, depth}).permute({0, 2, 1, 3}); };
    const rp::Tensors parts = rp::split(qkv, 3, 2);
    const rp::Tensor y = rp::scaled_dot_product_attention(by_head(parts[0]), by_head(parts[1]), by_head(parts[2]));
    return y.permute({0, 2, 1, 3}).reshape({n, steps, width});
  }
};

/// Adds the parameters, which must exist, with values that keep the size of what passes through.
void add_parameters(const rp::Module& net, Spec& spec);
/// Gives the parameters the values of the parts from `first` on.
void set_parameters(const rp::Module& net, const Spec& spec, size_t first);
/// What calls changed: the parameters without the parts' values.
rp::Tensors changes(const rp::Module& net, const Spec& spec, size_t first);

}  // namespace bench
