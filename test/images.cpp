// Images with their channels last under any shape, and convolutions that take the ops behind them into their kernel.
#include <cstring>
#include <functional>

#include "reprise/core/layout.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

using Body = std::function<Tensor(const Tensor&)>;

bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.spec() != b.spec()) return false;
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  return !std::memcmp(x.data(), y.data(), x.size() * sizeof(double));
}

Tensor eager(const Body& body, const Tensor& x) {
  const ModeGuard guard(Mode::eager);
  return body(x);
}

/// Compares a captured function with the eager one, recorded and planned, and returns what the plan was like.
CaptureStats check(const Body& body, const Tensor& x) {
  auto captured = capture(body);
  for (int i = 0; i < 3; ++i) CHECK(same_bits(captured(x), eager(body, x)));
  return captured.stats();
}

bool is_channels_last(const Tensor& x) { return !x.is_contiguous() && x.permute({0, 2, 3, 1}).is_contiguous(); }

struct Geometry {
  int64_t channels, side, filters;
  int window, stride;
  Padding padding;
};
constexpr Geometry geometries[] = {{1, 9, 6, 5, 1, Padding::valid},  {1, 9, 5, 3, 2, Padding::same},
                                   {3, 11, 16, 7, 2, Padding::same}, {5, 8, 24, 1, 1, Padding::same},
                                   {24, 9, 40, 3, 1, Padding::same}, {40, 7, 33, 3, 2, Padding::same},
                                   {64, 6, 70, 3, 1, Padding::same}, {16, 10, 48, 1, 2, Padding::same}};

}  // namespace

TEST_CASE("the order of a layout in memory") {
  const Spec spec{DType::f32, {2, 3, 4, 5}, {}};
  CHECK(!memory_order(*intern(spec)));
  CHECK(memory_order(*intern(spec, {60, 1, 15, 3})) == Dims{0, 2, 3, 1});
  CHECK(memory_order(*intern(spec, {1, 2, 6, 24})) == Dims{3, 2, 1, 0});
  CHECK(!memory_order(*intern(spec, {60, 1, 16, 3})));  // a gap
  CHECK(!memory_order(*intern(spec, {0, 1, 15, 3})));   // repeated
  CHECK(!memory_order(*intern({DType::f32, {2, 3, 0, 5}, {}}, {60, 1, 15, 3})));
  CHECK(memory_order(*intern({DType::f32, {2, 3, 1, 5}, {}}, {15, 1, 15, 3})).has_value());
}

TEST_CASE("pointwise ops, pools and reductions leave channels where they lie") {
  manual_seed(2);
  const Tensor x = normal({2, 5, 6, 8}), w = normal({9, 5, 3, 3}), b = normal({9, 1, 1});
  const Tensor y = conv2d(x, w);
  CHECK(y.shape() == Shape{2, 9, 4, 6});
  CHECK(is_channels_last(y));
  const Tensor z = relu(y * 2 + b) - y;
  CHECK(is_channels_last(z));
  CHECK(is_channels_last(max_pool2d(z)));
  CHECK(is_channels_last(avg_pool2d(z)));
  CHECK(is_channels_last(ones({2, 9, 4, 6}) + z));
  // The same bits as of an image that lies as its shape says.
  const Tensor c = y.contiguous();
  CHECK(same_bits(relu(c * 2 + b) - c, z));
  CHECK(same_bits(max_pool2d(z.contiguous()), max_pool2d(z)));
  CHECK(same_bits(avg_pool2d(z.contiguous()), avg_pool2d(z)));
  for (const Dims& axes : {Dims{0, 2, 3}, Dims{2, 3}, Dims{1}, Dims{0, 1}, Dims{0, 1, 2, 3}}) {
    INFO(to_string(axes));
    CHECK(same_bits(sum(c, axes), sum(y, axes)));
    CHECK(same_bits(max(c, axes, true), max(y, axes, true)));
  }
}

TEST_CASE("few channels lie in planes") {
  manual_seed(8);
  const Tensor x = normal({2, 3, 6, 8}), w = normal({7, 3, 3, 3}), b = normal({7});
  const Tensor y = conv2d(x, w, b);
  CHECK(y.is_contiguous());
  const Conv2dOptions nhwc{.format = DataFormat::nhwc};
  CHECK(same_bits(y, conv2d(x.permute({0, 2, 3, 1}), w, b, nhwc).permute({0, 3, 1, 2})));
}

TEST_CASE("statistics of a batch norm need no copy where channels stand last") {
  manual_seed(3);
  const Tensor image = normal({4, 6, 9, 9}), w = normal({16, 6, 3, 3});
  const Body moments = [&](const Tensor& x) {
    const Tensor y = conv2d(x, w);
    return concat({mean(y, {0, 2, 3}), var(y, {0, 2, 3})});
  };
  CHECK(check(moments, image.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2})).reorders == 0);
  CHECK(check(moments, image).reorders == 1);  // the image itself
}

TEST_CASE("casts keep the order in which an image lies") {
  manual_seed(5);
  const Tensor image = normal({4, 9, 9, 8}).permute({0, 3, 1, 2}), w = normal({16, 8, 3, 3});
  const Tensor half = image.to(DType::bf16);
  CHECK(half.permute({0, 2, 3, 1}).is_contiguous());
  CHECK(same_bits(half, image.contiguous().to(DType::bf16)));
  const Body layer = [&](const Tensor& x) { return tanh(conv2d(relu(x), cast(w, DType::bf16)) * 2); };
  CHECK(check(layer, half).reorders == 0);
}

TEST_CASE("images whose channels stand last are changed in place as they lie") {
  manual_seed(7);
  const Tensor x = normal({2, 6, 6, 8}).permute({0, 3, 1, 2}), w = normal({8, 8, 3, 3}), b = normal({8, 1, 1});
  const Conv2dOptions same{.padding = Padding::same};
  const Body body = [&](const Tensor& in) {
    const Tensor y = conv2d(in, w, {}, same);
    y += b;
    y += in;
    relu_(y);
    y *= 2;
    return y;
  };
  CHECK(check(body, x).reorders == 0);
  CHECK(same_bits(body(x), relu(conv2d(x, w, {}, same) + b + x) * 2));
  // With gradients, and onto an image that lies otherwise.
  Tensor v = w.clone();
  v.set_requires_grad();
  const Body step = [&](const Tensor& in) {
    const Tensor y = conv2d(in, v, {}, same) * 1;
    y += in;
    relu_(y);
    const Tensor z = in.contiguous() * 1;
    z += y;
    return grad({sum(square(z))}, {v})[0];
  };
  check(step, x);
  const Tensor other = grad({sum(square(x + relu(conv2d(x, v, {}, same) * 1 + x)))}, {v})[0];
  CHECK(same_bits(step(x), other));
}

TEST_CASE("the ops behind a convolution run in its kernel, with the bits of eager") {
  manual_seed(4);
  for (const Geometry& g : geometries)
    for (const DType dtype : {DType::f32, DType::f64})
      for (const bool nchw : {false, true}) {
        INFO(g.channels << " channels, side " << g.side << ", " << g.filters << " filters of " << g.window
                        << ", stride " << g.stride << ", " << name_of(dtype) << (nchw ? " nchw" : " nhwc"));
        const Conv2dOptions options{.stride_h = g.stride,
                                    .stride_w = g.stride,
                                    .padding = g.padding,
                                    .format = nchw ? DataFormat::nchw : DataFormat::nhwc};
        const int axis = nchw ? 1 : 3;
        Tensor x = normal({3, g.side, g.side, g.channels}, 0, 1, dtype);
        if (nchw) x = x.permute({0, 3, 1, 2});
        const Tensor w = normal({g.filters, g.channels, g.window, g.window}, 0, 1, dtype);
        const auto vector = [&] { return uniform({g.filters}, 0.5, 2, dtype); };
        const Tensor b = vector(), mean = vector(), factor = vector(), shift = vector();
        Shape channels{g.filters, 1, 1};
        if (!nchw) channels = {g.filters};
        const Tensor other = relu(conv2d(x, w * 0.5f, {}, options));
        const Body block = [&](const Tensor& in) {
          const Tensor y = (conv2d(in, w, b, options) - mean.reshape(channels)) * factor.reshape(channels);
          return relu(y + shift.reshape(channels) + other);
        };
        const CaptureStats stats = check(block, x);
        const bool planes = nchw && g.filters < 8;  // fewer channels than lanes do not stay last
        CHECK(stats.kernels == (planes ? 3 : 1));
        CHECK(stats.reorders == (planes ? 1 : 0));
        CHECK(block(x).size(axis) == g.filters);
      }
}

TEST_CASE("a fused convolution sees new weights, several uses of its result, and views of it") {
  manual_seed(5);
  const Tensor x = normal({2, 9, 9, 12});
  Tensor w = normal({20, 12, 3, 3});
  const Conv2dOptions nhwc{.padding = Padding::same, .format = DataFormat::nhwc};
  const Body body = [&](const Tensor& in) {
    const Tensor y = conv2d(in, w, {}, nhwc), z = relu(y);
    return concat({sum(y * z, {3}), z.slice(3, 2, 7).permute({3, 0, 1, 2}).reshape({10, 9, 9}), y.select(3, 4)});
  };
  auto captured = capture(body);
  for (int i = 0; i < 5; ++i) {
    const Tensor got = captured(x);
    CHECK(same_bits(got, eager(body, x)));
    if (i % 2) no_grad([&] { w *= 1.5f; });
  }
}

TEST_CASE("gradients of convolutions keep their bits when captured, and take their neighbours in") {
  manual_seed(6);
  for (const Geometry& g : geometries)
    for (const bool nchw : {false, true}) {
      INFO(g.channels << " channels, " << g.filters << " filters of " << g.window << ", stride " << g.stride);
      const Conv2dOptions options{.stride_h = g.stride,
                                  .stride_w = g.stride,
                                  .padding = g.padding,
                                  .format = nchw ? DataFormat::nchw : DataFormat::nhwc};
      const Tensor image = normal(nchw ? Shape{2, g.channels, g.side, g.side} : Shape{2, g.side, g.side, g.channels});
      Tensor w = normal({g.filters, g.channels, g.window, g.window}), v = normal({g.channels, g.channels, 1, 1});
      w.set_requires_grad();
      v.set_requires_grad();
      const Conv2dOptions plain{.format = options.format};
      const Body step = [&](const Tensor& x) {
        const Tensor loss = sum(square(conv2d(relu(conv2d(x, v, {}, plain)), w, {}, options)));
        const Tensors d = grad({loss}, {w, v});
        return concat({d[0].flatten(), d[1].flatten()});
      };
      check(step, image);
    }
}

TEST_CASE("one weight used with several strides has an order of its own for each", "[images]") {
  const Tensor w = normal({48, 40, 3, 3}), x = normal({2, 40, 10, 10});
  const auto image_gradient = [](const Tensor& image, const Tensor& weight, int stride) {
    const Tensor leaf = image.detach();
    leaf.set_requires_grad();
    const Conv2dOptions options{.stride_h = stride, .stride_w = stride, .padding = Padding::same};
    return grad({sum(conv2d(leaf, weight, {}, options))}, {leaf})[0];
  };
  for (int call = 0; call < 3; ++call)  // orders are kept once a weight has been seen before
    for (const int stride : {1, 2}) {
      const Tensor exact = image_gradient(x.to(DType::f64), w.to(DType::f64), stride);
      const Tensor got = image_gradient(x, w, stride);
      CHECK(max(abs(got.to(DType::f64) - exact)).item<double>() < 1e-3);
    }
}
