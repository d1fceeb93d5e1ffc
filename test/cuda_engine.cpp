// The engine on a CUDA device: eager, captured, verified, replayed; the same bits as on the CPU.
#include <driver_types.h>

#include <cstring>

#include "reprise/core/device.h"
#include "reprise/core/random.h"
#include "reprise/core/switches.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"
#include "reprise/test/cuda_engine.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;
using Catch::Matchers::Contains;

TEST_CASE("tensors go to the device and come back", "[cuda]") {
  device();
  const Tensor x = arange(6).reshape({2, 3}) * 1.5f;
  const Tensor y = x.to(gpu);
  CHECK(y.device() == gpu);
  CHECK(to_string(y.spec()) == "f32[2,3]@cuda:0");
  CHECK(alike(y.to(Device::cpu()), x));
  CHECK(alike(x.transpose().to(gpu), x.transpose()));
  CHECK(y[1][2].item<float>() == 7.5f);
  CHECK(to_string(y) == to_string(x));
  CHECK_THROWS_WITH(y.data<float>(), Contains("expected a tensor on the CPU, got f32[2,3]@cuda:0"));
  CHECK_THROWS_WITH(x + y,
                    Contains("add: operands on different devices: f32[2,3] is on cpu, f32[2,3]@cuda:0 on cuda:0"));
  CHECK_THROWS_WITH(x.to(Device::cuda(1)), Contains("one CUDA device is used"));
  Tensor z = zeros({2, 3});
  z.copy_(y);
  CHECK(alike(z, x));
  y.slice(1, 0, 2).copy_from<float>(std::vector<float>{9, 8, 7, 6});
  CHECK(values<float>(y) == std::vector<float>{9, 8, 3, 7, 6, 7.5f});
}

TEST_CASE("a scope says where tensors are made, and random numbers are the same everywhere", "[cuda]") {
  device();
  const auto draw = [] {
    manual_seed(7);
    return Tensors{uniform({300}), normal({300}), randint({300}, -5, 90), bernoulli({300}, 0.3),
                   arange(300),    ones({3}),     tensor({1, 2, 3})};
  };
  const Tensors here = draw();
  const DeviceScope on(gpu);
  const Tensors there = draw();
  for (size_t i = 0; i < here.size(); ++i) {
    CHECK(there[i].device() == gpu);
    CHECK(alike(here[i], there[i]));
  }
}

TEST_CASE("gradients flow back to where a tensor came from", "[cuda]") {
  device();
  const Tensor x = arange(4) * 1.0f;
  x.set_requires_grad();
  sum(square(x.to(gpu)) * 3).backward();
  CHECK(x.grad().device() == Device::cpu());
  CHECK(values<float>(x.grad()) == std::vector<float>{0, 6, 12, 18});
}

namespace {

struct Net : Module {
  Dense first = child("first", Dense(24)), second = child("second", Dense(5));
  LayerNorm norm = child("norm", LayerNorm());
  Tensor operator()(const Tensor& x) const { return second(dropout(norm(gelu(first(x))), 0.2, true)); }
};

struct Trained {
  std::vector<float> losses;
  Tensors parameters;
};

Trained train(Device where, bool captured, int steps, const CaptureOptions& options = {}) {
  manual_seed(3);
  const DeviceScope on(where);
  Net net;
  Adam opt(net, {.lr = 1e-2f});
  auto body = [&](const Tensor& x, const Tensor& y) {
    opt.zero_grad();
    const Tensor loss = cross_entropy(net(x), y);
    loss.backward();
    opt.step();
    return loss;
  };
  auto step = capture(body, options);
  Trained t;
  for (int i = 0; i < steps; ++i) {
    const Tensor x = normal({16, 12}), y = randint({16}, 0, 5);
    t.losses.push_back((captured ? step(x, y) : body(x, y)).item<float>());
  }
  for (const auto& [name, p] : net.parameters()) t.parameters.push_back(p);
  return t;
}

void check_same(const Trained& a, const Trained& b) {
  CHECK(a.losses == b.losses);
  for (size_t i = 0; i < a.parameters.size(); ++i) CHECK(alike(a.parameters[i], b.parameters[i]));
}

}  // namespace

TEST_CASE("training is the same on both devices, eager and captured, bit for bit", "[cuda]") {
  device();
  const Trained cpu = train(Device::cpu(), false, 6);
  check_same(train(gpu, false, 6), cpu);
  check_same(train(gpu, true, 6), cpu);
  const ModeGuard verify(Mode::verify);
  check_same(train(gpu, true, 4), train(Device::cpu(), false, 4));
}

TEST_CASE("a plan is replayed as one CUDA graph, takes no memory from the driver and overwrites nothing", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  const Tensor w = normal({8, 8});
  auto f = capture([&](const Tensor& x) {
    Tensor h = x;
    for (int i = 0; i < 4; ++i) h = softmax(tanh(matmul(h, w)), 1);
    return h;
  });
  const Tensor x = normal({4, 8});
  for (int i = 0; i < 4; ++i) f(x);
  device().clear_log();
  Tensors held;
  for (int i = 0; i < 5; ++i) held.push_back(f(x + static_cast<float>(i)));
  CHECK(device().count("cudaGraphLaunch") == 5);
  CHECK(device().count("cudaGraphInstantiate") == 0);
  CHECK(device().count("cudaGraphExecKernelNodeSetParams") > 0);
  for (int i = 0; i < 5; ++i) {
    const ModeGuard eager(Mode::eager);
    CHECK(alike(held[static_cast<size_t>(i)], f(x + static_cast<float>(i))));
  }
  CHECK_THAT(f.explain(), Contains("replayed as a CUDA graph of"));
}

TEST_CASE("a graph is not launched again on scratch memory that was given back", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  const Tensor x = normal({8, 100'000}), larger = normal({24, 100'000});
  Tensor want;
  for (int i = 0; i < 3; ++i) want = softmax(x, 1).to(Device::cpu());
  device().clear_log();
  CHECK(alike(softmax(x, 1), want));
  CHECK(device().count("cudaGraphLaunch") == 1);
  softmax(larger, 1);
  larger[0][0].item<float>();                                      // until which the device frees nothing
  const Tensors others{zeros({8, 100'000}), zeros({8, 100'000})};  // the second where the scratch memory was
  CHECK(alike(softmax(x, 1), want));
  for (const Tensor& t : others) CHECK(max(abs(t)).item<float>() == 0);
}

TEST_CASE("a graph of which not all nodes could be told what is new is not launched again", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  auto f = capture([&](const Tensor& x, const Tensor& to) {
    Tensor h = x;
    for (int i = 0; i < 3; ++i) h = softmax(h, 1) + x;
    to.copy_(h);
  });
  const Tensor x = normal({4, 8}), other = normal({4, 8}), to = zeros({4, 8}), want = zeros({4, 8});
  {
    const ModeGuard eager(Mode::eager);
    f(x, want);
  }
  for (int i = 0; i < 4; ++i) f(x, to);
  device().fail("cudaGraphExecKernelNodeSetParams", 2, cudaErrorUnknown);
  CHECK_THROWS_WITH(f(other, to), Contains("cudaGraphExecKernelNodeSetParams"));
  CHECK(device().failed());
  f(x, to);
  CHECK(alike(to, want));
}

TEST_CASE("a scan whose steps run op by op is launched piece by piece", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  const Without bodies({"body"});
  const Tensor w = normal({4, 4});
  auto f = capture([&](const Tensor& x) {
    const auto [last, all] = scan(
        [&](const Tensor& h, const Tensor& e) {
          const Tensor next = tanh(matmul(h, w) + softmax(e, 1));
          return std::pair(next, next);
        },
        zeros({2, 4}), exp(x));
    return softmax(all, 2) + last;
  });
  const Tensor x = normal({3, 2, 4});
  Tensor want;
  {
    const ModeGuard eager(Mode::eager);
    want = f(x);
  }
  for (int i = 0; i < 5; ++i) CHECK(alike(f(x), want));
  CHECK_THAT(f.explain(), Contains("launched one by one: the host waits"));
}

TEST_CASE("a plan that reads on the host is launched piece by piece, and says so", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  auto f = capture([&](const Tensor& x) {
    const Tensor start = x * 2;
    const Tensor halved =
        while_loop([](const Tensor& v) { return max(v) > 1; }, [](const Tensor& v) { return v / 2; }, start);
    return exp(halved) + halved;
  });
  const Tensor x = tensor({5.f, 0.5f, 11.f});
  Tensor want;
  {
    const ModeGuard eager(Mode::eager);
    want = f(x);
  }
  for (int i = 0; i < 5; ++i) CHECK(alike(f(x), want));
  CHECK_THAT(f.explain(), Contains("launched one by one: the host reads a value"));
}

TEST_CASE("scans and conds give the CPU's bits", "[cuda]") {
  device();
  const auto program = [](Device where) {
    manual_seed(5);
    const DeviceScope on(where);
    const Tensor xs = normal({7, 3, 6}), w = normal({6, 6}), h0 = zeros({3, 6});
    w.set_requires_grad();
    auto f = capture([&](const Tensor& x) {
      auto [last, all] = scan(
          [&](const Tensor& h, const Tensor& v) {
            const Tensor next = tanh(matmul(h, w) + v);
            return std::pair(next, next);
          },
          h0, x);
      const Tensor picked = cond(sum(last) > 0, [&] { return sum(all); }, [&] { return -sum(all); });
      return grad({picked}, {w})[0];
    });
    Tensor g;
    for (int i = 0; i < 4; ++i) g = f(xs);
    return g;
  };
  CHECK(alike(program(gpu), program(Device::cpu())));
}

TEST_CASE("a recurrent layer is one kernel forwards and one backwards, and a graph replays it", "[cuda]") {
  device();
  const auto train = [](Device where, Mode mode, std::string* report) {
    const ModeGuard guard(mode);
    const DeviceScope on(where);
    manual_seed(6);
    const LSTM layer(10);
    const Tensor x = normal({5, 4, 3}), y = normal({5, 4, 10});
    Sgd opt(layer, {.lr = 0.1f});
    auto step = capture([&](const Tensor& in) {
      opt.zero_grad();
      const Tensor loss = sum(square(layer(in).outputs - y));
      loss.backward();
      opt.step();
      return loss;
    });
    Tensors seen;
    for (int i = 0; i < 6; ++i) seen.push_back(step(x));
    if (report) *report = step.explain();
    for (const auto& [name, p] : layer.parameters()) seen.push_back(p);
    return seen;
  };
  std::string report;
  const Tensors want = train(Device::cpu(), Mode::eager, nullptr), got = train(gpu, Mode::graph, &report),
                checked = train(gpu, Mode::verify, nullptr);
  for (size_t i = 0; i < want.size(); ++i) CHECK((alike(got[i], want[i]) && alike(checked[i], want[i])));
  CHECK_THAT(report,
             Contains("all 5 steps, 4 blocks") && Contains("1 barrier in a block a step") && Contains("CUDA graph"));
}

TEST_CASE("at fast, scans of 16-bit floats use tensor cores, and reports say so, or why not", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  manual_seed(4);
  const auto report = [&](DType dtype, Level level, const Tensors& weights) {
    const Tensor x = uniform({3, 16, 192}, -1, 1, DType::f32).to(dtype);
    const auto step = [&](const Tensor& in) {
      return scan(
          [&](const Tensor& h, const Tensor& e) {
            Tensor z = e;
            for (const Tensor& u : weights) z = z + matmul(h, u);
            return std::pair(tanh(z), z);
          },
          zeros({16, 192}, dtype), in);
    };
    auto f = capture(step, {.level = level});
    for (int i = 0; i < 2; ++i) f(x);
    const auto [last, all] = f(x);
    const Tensor exact = step(x).first;
    CHECK(max(abs(last.to(DType::f32) - exact.to(DType::f32))).item<float>() <= (level == Level::fast ? 0.02f : 0.0f));
    return f.explain();
  };
  const Tensor u = uniform({192, 192}, -0.1, 0.1), v = u.to(DType::bf16);
  const std::string fast = report(DType::bf16, Level::fast, {v});
  CHECK_THAT(fast, Contains("products on tensor cores"));
  CHECK_THAT(fast, Contains("fast: tensor changes"));
  CHECK_THAT(report(DType::bf16, Level::exact, {v}), !Contains("tensor"));
  CHECK_THAT(report(DType::f32, Level::fast, {u}),
             Contains("not on tensor cores: a factor has not been 16-bit floats"));
  const Without without({"tensor"});
  CHECK_THAT(report(DType::bf16, Level::fast, {v}), !Contains("tensor cores"));
}

TEST_CASE("a report says why a scan is not one kernel", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  const Tensor u = normal({4, 4}), x = normal({3, 2, 4});
  auto step = capture([&](const Tensor& in) {
    return scan([&](const Tensor& h,
                    const Tensor& e) { return cond(sum(e) > 0, [&] { return matmul(h, u); }, [&] { return h + e; }); },
                zeros({2, 4}), in);
  });
  for (int i = 0; i < 3; ++i) step(x);
  CHECK_THAT(step.explain(), Contains("3 steps, launched one by one: sum is not along the units cuda_engine.cpp:"));
}

TEST_CASE("modules move, their handles and optimisers follow", "[cuda]") {
  device();
  Net net;
  Sgd opt(net, {.lr = 0.1f, .momentum = 0.9f});
  const Tensor x = normal({4, 12}), y = randint({4}, 0, 5);
  const auto step = [&](const Tensor& a, const Tensor& b) {
    opt.zero_grad();
    const Tensor loss = cross_entropy(net(a), b);
    loss.backward();
    opt.step();
  };
  step(x, y);
  const Tensor weight = net.parameters()[0].second;
  const std::vector<float> before = values<float>(weight);
  net.to(gpu);
  CHECK(weight.device() == gpu);
  CHECK(values<float>(weight) == before);
  CHECK(weight.grad().device() == gpu);
  step(x.to(gpu), y.to(gpu));
  CHECK(values<float>(weight) != before);
  const Tensor part = weight[0];
  CHECK_THROWS_WITH(net.to(Device::cpu()), Contains("somebody holds a view of \"first.weight\""));
  CHECK(weight.device() == gpu);
}

TEST_CASE("an index out of bounds is reported when the host next waits, and the engine goes on", "[cuda]") {
  device();
  const DeviceScope on(gpu);
  const Tensor table = normal({5, 3});
  const Tensor rows = index_select(table, tensor({1, 7}));
  CHECK_THROWS_AS(values<float>(rows), Error);
  CHECK(values<float>(index_select(table, tensor({1, 2}))).size() == 6);
}

namespace {

// The same call with the specs in its attrs on the device.
OpCase on_device(OpCase c) {
  for (const Field& f : c.op->fields) {
    if (f.type != FieldType::spec) continue;
    const Layout* layout;
    std::memcpy(&layout, c.attrs.data() + f.offset, sizeof layout);
    if (!layout) continue;
    Spec spec = layout->spec;
    spec.device = gpu;
    layout = intern(spec, layout->strides);
    std::memcpy(c.attrs.data() + f.offset, &layout, sizeof layout);
  }
  return c;
}

bool is_convolution(const Op& op) { return op.name.starts_with("conv2d"); }  // which add in another order

void check_on_both(const OpCase& c, Lie lie) {
  INFO(to_string(c) << ", " << test::name_of(lie));
  Draw draw(c.op->name.size());
  Tensors here, there;
  for (const Input& in : c.inputs) {
    const ref::Array a = draw.array(in, lie);
    here.push_back(placed(a, lie));
    const DeviceScope on(gpu);
    there.push_back(placed(a, lie));
  }
  const Tensor want = run(c, here), got = run(on_device(c), there);
  CHECK(got.device() == gpu);
  if (is_convolution(*c.op) && is_floating(got.dtype()) && got.numel())
    CHECK(max(abs(got.to(Device::cpu()) - want)).item<double>() < 1e-4);
  else
    CHECK(alike(got, want));
}

}  // namespace

TEST_CASE("every op gives the CPU's bits on the device; convolutions nearly so", "[cuda]") {
  device();
  for (const Op* op : op_table())
    for (const DType dtype : {DType::f32, DType::i64})
      for (const OpCase& c : cases_of(*op, dtype)) check_on_both(c, Lie::contiguous);
}

TEST_CASE("every op gives the CPU's bits on the device for other dtypes and layouts", "[cuda][slow]") {
  device();
  for (const Op* op : op_table())
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32, DType::f64, DType::i32, DType::boolean})
      for (const OpCase& c : cases_of(*op, dtype)) check_on_both(c, Lie::transposed);
}
