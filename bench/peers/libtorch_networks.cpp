// Networks as functions of x and named parameters. Weights of dense layers are [out, in] here.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "reprise/bench/peers/libtorch_work.h"

namespace bench {
namespace {

namespace F = torch::nn::functional;

at::Tensor dense(Named& p, const std::string& name, const at::Tensor& x) {
  return at::linear(x, p.at(name + ".weight"), p.at(name + ".bias"));
}

at::Tensor conv(Named& p, const std::string& name, const at::Tensor& x, int64_t stride = 1, int64_t padding = 0) {
  const auto bias = p.find(name + ".bias");
  return at::conv2d(x, p.at(name + ".weight"), bias == p.end() ? at::Tensor() : bias->second, {stride, stride},
                    {padding, padding});
}

at::Tensor tiny(Named& p, at::Tensor x, const Setting&) { return dense(p, "2", at::relu(dense(p, "0", x))); }

at::Tensor mlp(Named& p, at::Tensor x, const Setting&) {
  for (const char* name : {"0", "2"}) x = at::relu(dense(p, name, x));
  return dense(p, "4", x);
}

at::Tensor fashion(Named& p, at::Tensor x, const Setting& how) {
  x = x.unsqueeze(1);
  for (const char* name : {"conv1", "conv2"}) x = at::max_pool2d(at::relu(conv(p, name, x)), {2, 2});
  x = at::relu(dense(p, "hidden", x.flatten(1)));
  return dense(p, "out", how.exact ? x : at::dropout(x, 0.5, true));
}

at::Tensor lenet(Named& p, at::Tensor x, const Setting&) {
  x = at::avg_pool2d(at::tanh(conv(p, "conv1", x.unsqueeze(1), 1, 2)), {2, 2});
  x = at::avg_pool2d(at::tanh(conv(p, "conv2", x)), {2, 2});
  x = at::tanh(dense(p, "dense1", x.flatten(1)));
  return dense(p, "out", at::tanh(dense(p, "dense2", x)));
}

/// Padding where it is checked: the odd element at the end; where it is timed: as much on both sides.
class ResNet {
 public:
  ResNet(Named& p, const Setting& how) : p_(p), how_(how) {}

  at::Tensor operator()(at::Tensor x) {
    constexpr int blocks[] = {3, 4, 6, 3};
    x = at::relu(conv_norm(x, "stem", 2));
    const int64_t left = pad(x, 3, 2, -std::numeric_limits<double>::infinity());
    x = at::max_pool2d(x, {3, 3}, {2, 2}, {left, left});
    for (int stage = 0; stage < 4; ++stage)
      for (int i = 0; i < blocks[stage]; ++i)
        x = block(x, "stage" + std::to_string(stage + 1) + "." + std::to_string(i), stage && i == 0 ? 2 : 1);
    return dense(p_, "head", x.mean({2, 3}));
  }

 private:
  /// Pads x, and returns what is left to the next op.
  int64_t pad(at::Tensor& x, int64_t window, int64_t stride, double value = 0) const {
    const int64_t extent = x.size(2), rest = extent % stride;
    const int64_t total = std::max<int64_t>(window - (rest ? rest : stride), 0);
    if (total % 2 == 0) return total / 2;
    if (!how_.exact) return (total + 1) / 2;
    const int64_t a = total / 2, b = total - a;
    x = F::pad(x, F::PadFuncOptions({a, b, a, b}).value(value));
    return 0;
  }

  at::Tensor conv_norm(at::Tensor x, const std::string& name, int64_t stride = 1) {
    const int64_t left = pad(x, p_.at(name + ".conv.weight").size(2), stride);
    x = conv(p_, name + ".conv", x, stride, left);
    if (p_.count(name + ".conv.bias")) return x;  // the norm is part of the weights already
    const auto norm = [&](const char* what) { return p_.at(name + ".norm." + what); };
    return at::batch_norm(x, norm("scale"), norm("shift"), norm("mean"), norm("variance"), how_.training, 0.1, 1e-5,
                          false);
  }

  at::Tensor block(const at::Tensor& x, const std::string& name, int64_t stride) {
    at::Tensor y = at::relu(conv_norm(x, name + ".narrow"));
    y = conv_norm(at::relu(conv_norm(y, name + ".middle", stride)), name + ".wide");
    return at::relu(y + (p_.count(name + ".skip.conv.weight") ? conv_norm(x, name + ".skip", stride) : x));
  }

  Named& p_;
  const Setting& how_;
};

at::Tensor resnet50(Named& p, at::Tensor x, const Setting& how) { return ResNet(p, how)(x); }

at::Tensor normalised(Named& p, const std::string& name, const at::Tensor& x) {
  return at::layer_norm(x, {x.size(2)}, p.at(name + ".scale"), p.at(name + ".shift"));
}

/// A block of an encoder, normalised before each part.
at::Tensor transformer(Named& p, at::Tensor x, const Setting& how) {
  const int64_t n = x.size(0), steps = x.size(1), width = x.size(2), depth = width / how.heads;
  Tensors parts = dense(p, "inputs", normalised(p, "norm1", x)).chunk(3, 2);
  for (at::Tensor& t : parts) t = t.reshape({n, steps, how.heads, depth}).transpose(1, 2);
  const at::Tensor scores =
      at::matmul(parts[0] * (1 / std::sqrt(static_cast<double>(depth))), parts[1].transpose(2, 3));
  const at::Tensor seen = at::matmul(at::softmax(scores, -1), parts[2]);
  x = x + dense(p, "output", seen.transpose(1, 2).reshape({n, steps, width}));
  return x + dense(p, "narrow", at::gelu(dense(p, "wide", normalised(p, "norm2", x))));
}

}  // namespace

Network find_network(const std::string& name) {
  static const std::map<std::string, Network> all = {{"tiny", tiny},         {"mlp", mlp},
                                                     {"fashion", fashion},   {"lenet", lenet},
                                                     {"resnet50", resnet50}, {"transformer", transformer}};
  const auto it = all.find(name);
  if (it == all.end()) throw std::runtime_error("there is no network " + name);
  return it->second;
}

}  // namespace bench
