#pragma once
// A residual network with 50 layers (He et al., 2015), built from nested modules.
#include <functional>
#include <string>
#include <vector>

#include "reprise/reprise.h"

namespace samples {

/// A convolution and the normalisation of its result, without activation.
struct ConvNorm : rp::Module {
  ConvNorm(int64_t filters, int window, int stride, rp::DataFormat format)
      : conv(child("conv",
                   rp::Conv2D(filters, window,
                              {.stride_h = stride, .stride_w = stride, .padding = rp::Padding::same, .format = format},
                              false))),
        norm(child("norm", rp::BatchNorm({.axis = format == rp::DataFormat::nchw ? 1 : -1}))) {}
  rp::Tensor operator()(const rp::Tensor& x) const { return norm(conv(x)); }

  rp::Conv2D conv;
  rp::BatchNorm norm;
};

/// Three convolutions, the middle one narrow, beside a connection that skips them. The first block of a stage changes
/// the number of channels, and so projects what it skips.
struct Bottleneck : rp::Module {
  Bottleneck(int64_t width, int stride, bool projects, rp::DataFormat format)
      : narrow(child("narrow", ConvNorm(width, 1, 1, format))),
        middle(child("middle", ConvNorm(width, 3, stride, format))),
        wide(child("wide", ConvNorm(4 * width, 1, 1, format))) {
    if (projects) skip.push_back(child("skip", ConvNorm(4 * width, 1, stride, format)));
  }

  rp::Tensor operator()(const rp::Tensor& x) const {
    const rp::Tensor y = wide(rp::relu(middle(rp::relu(narrow(x)))));
    return rp::relu(y + (skip.empty() ? x : skip[0](x)));
  }

  ConvNorm narrow, middle, wide;
  std::vector<ConvNorm> skip;
};

/// Blocks of one width. Each can be exchanged for a captured one: `blocks[2] = rp::capture(blocks[2])`.
struct Stage : rp::Module {
  Stage(int64_t width, int count, int stride, rp::DataFormat format) {
    for (int i = 0; i < count; ++i)
      blocks.push_back(child(std::to_string(i), Bottleneck(width, i ? 1 : stride, i == 0, format)));
  }
  rp::Tensor operator()(rp::Tensor x) const {
    for (const auto& block : blocks) x = block(x);
    return x;
  }

  std::vector<std::function<rp::Tensor(const rp::Tensor&)>> blocks;
};

/// 25,557,032 parameters with 1000 classes. x: [n, 3, h, w] or, nhwc, [n, h, w, 3] -> [n, classes]
struct ResNet50 : rp::Module {
  explicit ResNet50(rp::DataFormat format = rp::DataFormat::nchw, int64_t classes = 1000)
      : format(format),
        stem(child("stem", ConvNorm(64, 7, 2, format))),
        pool(child("pool",
                   rp::MaxPool(3, {.stride_h = 2, .stride_w = 2, .padding = rp::Padding::same, .format = format}))),
        head(child("head", rp::Dense(classes))) {
    constexpr int counts[] = {3, 4, 6, 3};
    for (int i = 0; i < 4; ++i)
      stages.push_back(child("stage" + std::to_string(i + 1), Stage(64 << i, counts[i], i ? 2 : 1, format)));
  }

  rp::Tensor operator()(rp::Tensor x) const {
    x = pool(rp::relu(stem(x)));
    for (const Stage& stage : stages) x = stage(x);
    return head(rp::mean(x, format == rp::DataFormat::nchw ? rp::Dims{2, 3} : rp::Dims{1, 2}));
  }

  rp::DataFormat format;
  ConvNorm stem;
  rp::MaxPool pool;
  rp::Dense head;
  std::vector<Stage> stages;
};

}  // namespace samples
