// Whole networks: their use and their training, by Reprise and by the peers.
#include "reprise/bench/networks.h"

#include <fmt/core.h>

#include "reprise/samples/models.h"
#include "reprise/samples/resnet.h"

namespace bench {

using rp::Tensor;
using rp::Tensors;

void add_parameters(const rp::Module& net, Spec& spec) {
  for (const auto& [name, t] : net.parameters()) {
    const std::vector<int64_t> shape(t.shape().begin(), t.shape().end());
    if (t.rank() == 1) {
      spec.add(name, shape, 0.05, name.ends_with("scale") ? 1 : 0);
      continue;
    }
    const bool is_dense = t.rank() == 2;
    const int64_t fan_in = is_dense ? shape[0] : t.numel() / shape[0];
    spec.add(name, shape, std::sqrt(3 / static_cast<double>(fan_in))).linear = is_dense;
  }
}

void set_parameters(const rp::Module& net, const Spec& spec, size_t first) {
  const rp::NoGrad no_grad;
  for (const auto& [name, t] : net.parameters()) t.copy_(tensor_of(spec.parts[first++]));
}

Tensors changes(const rp::Module& net, const Spec& spec, size_t first) {
  const rp::NoGrad no_grad;
  Tensors all;
  for (const auto& [name, t] : net.parameters()) all.push_back(t - tensor_of(spec.parts[first++]));
  return all;
}

namespace {

/// A network with what the limit needs to know of it.
struct Network {
  const char* name;
  std::vector<int64_t> sample;  // its shape
  int64_t classes;
  double macs, first_macs;  // products and sums for a sample; those of the first layer, whose input needs no gradient
};

const Network tiny{"tiny", {8}, 4, 8 * 16 + 16 * 4, 8 * 16};
const Network mlp{"mlp", {784}, 10, 784 * 512 + 512 * 256 + 256 * 10, 784 * 512};
const Network fashion{
    "fashion", {28, 28}, 10, 24. * 24 * 32 * 25 + 8. * 8 * 64 * 800 + 1024 * 1024 + 1024 * 10, 24. * 24 * 32 * 25};
const Network lenet{
    "lenet", {28, 28}, 10, 28. * 28 * 6 * 25 + 10. * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10, 28. * 28 * 6 * 25};
const Network resnet50{"resnet50", {3, 224, 224}, 1000, 4.089e9, 112. * 112 * 64 * 147};

using Net = std::function<Tensor(const Tensor&)>;

/// What differs from network to network: as a module, as a function, and what is left out while results are checked.
struct Model {
  rp::Module module;
  Net run;
  std::function<void(bool checked)> exact = {};
};

template <class T>
Model model_of(T net) {
  return {net, net};
}

Model make_model(const std::string& name) {
  if (name == "tiny") return model_of(rp::Sequential(rp::Dense(16), rp::relu, rp::Dense(4)));
  if (name == "mlp") return model_of(rp::Sequential(rp::Dense(512), rp::relu, rp::Dense(256), rp::relu, rp::Dense(10)));
  if (name == "lenet") return model_of(LeNet());
  if (name == "resnet50") return model_of(samples::ResNet50());
  const samples::FashionNet net;
  Model model = model_of(net);
  model.exact = [net](bool checked) { net.dropout.train(!checked); };
  return model;
}

enum class Update : uint8_t { sgd, adam };

/// One workload of a network.
struct Job {
  const Network* network;
  int64_t batch;
  bool training;
  Update update = Update::sgd;
  std::vector<Entry> entries = all_peers();
  int compared_calls = 3;            // of a training step
  double tolerance = 1e-2;           // and of what it changes: the difference of two near numbers
  rp::DType dtype = rp::DType::f32;  // of x, and so of what layers compute; parameters and the loss are f32

  std::string id() const {
    const char* how = !training ? "forward" : update == Update::sgd ? "sgd" : "adam";
    return fmt::format("{}/{}/{}/{}", training ? "train" : "forward", network->name, how, batch);
  }
};

/// Adam's steps are as long as small a gradient may be: at first its rate is to be smaller.
double rate(const Job& job) { return job.update == Update::adam ? 1e-4 : 1e-3; }

Spec spec_of(const Job& job) {
  const Network& n = *job.network;
  Spec spec{job.training ? "train" : "forward", n.name};
  spec.options = {{"timed_otherwise", n.name == std::string("fashion") || n.name == std::string("resnet50")}};
  std::vector<int64_t> shape{job.batch};
  shape.insert(shape.end(), n.sample.begin(), n.sample.end());
  spec.add("x", shape).dtype = rp::name_of(job.dtype);
  if (job.training) {
    spec.options.update({{"optimizer", job.update == Update::adam ? "adam" : "sgd"}, {"lr", rate(job)}});
    spec.add("y", {job.batch}).classes = n.classes;
  }
  const Model model = make_model(n.name);
  model.module.train(false);
  shape[0] = 1;
  rp::no_grad([&] { return model.run(rp::zeros(rp::Shape(std::span(shape)))); });  // makes the parameters
  add_parameters(model.module, spec);
  return spec;
}

Model prepared_model(const Job& job, const Spec& spec, const Tensor& x) {
  Model model = make_model(job.network->name);
  model.module.train(false);
  rp::no_grad([&] { return model.run(x.slice(0, 0, 1)); });  // makes the parameters
  model.module.train(job.training);
  if (model.exact) model.exact(true);
  set_parameters(model.module, spec, job.training ? 2 : 1);
  return model;
}

/// A captured body with its report.
Copy copy_of(std::function<Tensors()> body) {
  auto step = rp::capture(std::move(body));
  return {.call = step, .report = [step] { return step.json(); }};
}

Copy forward_copy(const Job& job, const Spec& spec) {
  const Tensor x = tensor_of(spec.parts[0]);
  const Model model = prepared_model(job, spec, x);
  return copy_of([x, run = model.run]() -> Tensors {
    const rp::NoGrad no_grad;
    return {run(x)};
  });
}

std::shared_ptr<rp::Optimizer> optimizer_of(const Job& job, const rp::Module& net) {
  if (job.update == Update::adam) return std::make_shared<rp::Adam>(net, rp::AdamOptions{.lr = rate(job)});
  return std::make_shared<rp::Sgd>(net, rp::SgdOptions{.lr = rate(job), .momentum = 0.9});
}

Copy training_copy(const Job& job, const Spec& spec) {
  const Tensor x = tensor_of(spec.parts[0]), y = tensor_of(spec.parts[1]);
  const Model model = prepared_model(job, spec, x);
  const auto optimizer = optimizer_of(job, model.module);
  Copy copy = copy_of([=, run = model.run]() -> Tensors {
    optimizer->zero_grad();
    const Tensor loss = rp::cross_entropy(run(x).to(rp::DType::f32), y);
    loss.backward();
    optimizer->step();
    return {loss};
  });
  copy.state = [=, net = model.module] { return changes(net, spec, 2); };
  if (model.exact) copy.checked = [exact = model.exact] { exact(false); };
  return copy;
}

Comparison comparison(const Job& job) {
  const Network& n = *job.network;
  Comparison c{.spec = spec_of(job)};
  c.make = [job, spec = c.spec] { return job.training ? training_copy(job, spec) : forward_copy(job, spec); };
  const double forward = 2 * n.macs * static_cast<double>(job.batch);
  c.flops = job.training ? 3 * forward - 2 * n.first_macs * static_cast<double>(job.batch) : forward;
  // Read once; in training read and written, like what the optimiser keeps for each.
  const double visits = !job.training ? 1 : job.update == Update::adam ? 6 : 4;
  for (const Part& p : c.spec.parts) c.bytes += bytes_of(p) * (&p == c.spec.parts.data() ? 1 : visits);
  c.entries = job.entries;
  c.tensor_cores = rp::is_short(job.dtype);
  if (job.training) c.compared_calls = job.compared_calls;
  if (job.training) c.tolerance = job.tolerance;
  // Fifty layers of 16-bit floats leave little of what gradients have in common: only the loss has to agree.
  if (job.training && rp::is_short(job.dtype)) c.compared_results = 1;
  return c;
}

/// Channels last where that can be chosen: it is the faster format of those peers.
std::vector<Entry> learning_image_peers() {
  return {{"libtorch", "nhwc"}, {"torch", "nhwc"}, {"torch-graph", "nhwc"}, {"torch-compile", "nhwc"}, {"jax"}};
}

std::vector<Entry> image_peers() {
  std::vector<Entry> all = learning_image_peers();
  all.push_back({"onnxruntime"});
  return all;
}

Case job_case(const Surroundings& around, const Job& job, Goal goal) {
  return compared(around, job.id(), std::move(goal), [job] { return comparison(job); });
}

/// One step in time of a cell written by hand, without gradients.
Make cell(int64_t batch, int64_t inputs, int64_t units) {
  return [=]() -> std::function<void()> {
    auto step = rp::capture([cell = samples::Cell(inputs, units)](const Tensor& x, const Tensor& h) {
      const rp::NoGrad no_grad;
      return cell(x, h);
    });
    return [step, x = rp::normal({batch, inputs}), h = rp::normal({batch, units})]() mutable { step(x, h); };
  };
}

/// A plain loop over the steps of a text.
Make rnn_step(int64_t batch, int64_t steps, int64_t units) {
  return [=]() -> std::function<void()> {
    const Tensor x = rp::randint({batch, steps}, 0, 256, rp::DType::i32);
    const Tensor y = rp::randint({batch, steps}, 0, 256, rp::DType::i32);
    const samples::CharRnn net(256, units);
    auto optimizer = std::make_shared<rp::Adam>(net, rp::AdamOptions{.lr = 1e-4});
    return [x, y, step = rp::capture([=](const Tensor& text, const Tensor& next) {
                    optimizer->zero_grad();
                    net(text, next).backward();
                    optimizer->step();
                  })]() mutable { step(x, y); };
  };
}

/// Tensors that a plan only puts into another order; a report that does not count them decides nothing.
Goal without_reorders(Goal goal) {
  return {goal.text + ", no reorders", [met = std::move(goal.met)](const Result& r) {
            return r.more.value("reorders", 0) == 0 ? met(r) : std::optional(false);
          }};
}

std::vector<Case> cuda_network_cases(const Surroundings& around) {
  const std::vector<Entry> learners = learning_image_peers(), plain = learning_peers();
  const auto named = [&](std::string id, const Job& job, Goal goal) {
    return compared(around, std::move(id), std::move(goal), [job] { return comparison(job); });
  };
  const auto resnet = [&](rp::DType dtype, int64_t batch) {
    const double tolerance = rp::is_short(dtype) ? tolerance_of(dtype) : 5e-2;
    return named(goal_id("G13", "train.resnet50", dtype) + fmt::format(".{}", batch),
                 {&resnet50, batch, true, Update::sgd, learners, 1, tolerance, dtype},
                 ratios({{1, "compiled", is_compiled}}));
  };
  return {
      named("G12.train.mlp.f32.128", {&mlp, 128, true, Update::sgd, plain}, ratios({{1.3, "compiled", is_compiled}})),
      named("G12.train.lenet.f32.128", {&lenet, 128, true, Update::sgd, learners},
            ratios({{1.3, "compiled", is_compiled}})),
      resnet(rp::DType::bf16, 64),
      resnet(rp::DType::bf16, 256),
      resnet(rp::DType::f32, 64),
  };
}

}  // namespace

std::vector<Case> network_cases(const Surroundings& around) {
  if (around.on_cuda()) return cuda_network_cases(around);
  const auto best = [](double times) { return ratios({{times, "peer", is_any}}); };
  const std::vector<Entry> images = image_peers(), learners = learning_image_peers(), plain = learning_peers();
  const Goal tiny_goal = ratios({{25, "libtorch", is_libtorch}, {15, "libtorch", is_libtorch, true}}, 1);
  const Goal conv_goal = ratios({{2, "libtorch", is_libtorch}, {1.3, "compiled peer", is_compiled}});
  const Goal deep_goal = without_reorders(ratios({{1.2, "libtorch", is_libtorch}, {0.95, "peer", is_any}}));
  std::vector<Case> cases{job_case(around, {&tiny, 4, true, Update::sgd, plain}, tiny_goal)};
  for (const int64_t batch : {32, 128}) {
    cases.push_back(job_case(around, {&mlp, batch, false}, best(1.3)));
    for (const Update update : {Update::sgd, Update::adam})
      cases.push_back(job_case(around, {&mlp, batch, true, update, plain}, best(1.3)));
  }
  cases.push_back(job_case(around, {&fashion, 128, true, Update::adam, learners}, conv_goal));
  cases.push_back(job_case(around, {&lenet, 128, true, Update::sgd, learners}, conv_goal));
  cases.push_back(job_case(around, {&resnet50, 1, false, Update::sgd, images}, deep_goal));
  cases.push_back(job_case(around, {&resnet50, 32, false, Update::sgd, images}, deep_goal));
  // Fifty layers soon make much of what libraries round differently.
  cases.push_back(job_case(around, {&resnet50, 16, true, Update::sgd, learners, 1, 5e-2}, deep_goal));
  cases.push_back(paired("rnn/cell/1x32", faster_than_eager(), cell(1, 32, 32)));
  cases.push_back(paired("rnn/cell/32x256", faster_than_eager(), cell(32, 64, 256)));
  cases.push_back(paired("train/rnn/32x32x256", faster_than_eager(), rnn_step(32, 32, 256)));
  return cases;
}

}  // namespace bench
