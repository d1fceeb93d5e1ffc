// The workloads by libtorch, op by op.
#include <stdexcept>

#include "reprise/bench/peers/libtorch_work.h"

namespace bench {

const Part& Task::part(const std::string& name) const {
  for (const Part& p : spec.parts)
    if (p.name == name) return p;
  throw std::runtime_error("the workload has no tensor " + name);
}

at::Tensor Task::tensor(const Part& part) const {
  if (part.classes) return torch::from_blob(integer_values(part).data(), part.shape, at::kLong).clone();
  if (part.dtype != "f32") throw std::runtime_error("it computes in f32 only");
  const at::Tensor t = torch::from_blob(float_values(part).data(), part.shape).clone();
  return part.linear ? t.t().contiguous() : t;
}

Tensors Task::tensors(size_t first) const {
  Tensors all;
  for (size_t i = first; i < spec.parts.size(); ++i) all.push_back(tensor(spec.parts[i]));
  return all;
}

namespace {

// ---- ops, chains, rows, products ----

Work op(const Task& task) {
  const Tensors in = task.tensors(0);
  const auto run = [in, count = task.spec.options.at("ops").get<int>() / 2]() -> Tensors {
    at::Tensor v = in[0];
    for (int i = 0; i < count; ++i) v = (v + in[1]) * in[0];
    return {v};
  };
  if (task.spec.kind == "plain") return {inference(run)};
  in[0].set_requires_grad(true);
  return {run};
}

Tensors lstm_gates(const Tensors& in) {
  const at::Tensor c = at::sigmoid(in[0]) * in[4] + at::sigmoid(in[1]) * at::tanh(in[2]);
  return {c, at::sigmoid(in[3]) * at::tanh(c)};
}

Tensors gelu12(const Tensors& in) {
  const at::Tensor x = in[0] + in[1];
  const at::Tensor t = at::tanh((x + x * x * x * 0.044715) * 0.7978846);
  return {(t + 1) * 0.5 * x * 1.5 + in[2]};
}

Tensors cheap5(const Tensors& in) { return {at::relu(in[0] * in[1] + in[2]) * 1.5 - in[0]}; }

Work chain(const Task& task) {
  const auto run = task.spec.kind == "lstm_gates" ? lstm_gates : task.spec.kind == "gelu12" ? gelu12 : cheap5;
  return {inference([run, in = task.tensors(0)] { return run(in); })};
}

Work rows(const Task& task) {
  const auto norm = [softmax = task.spec.kind == "softmax"](const at::Tensor& x) {
    return softmax ? at::softmax(x, -1) : at::layer_norm(x, {x.size(1)});
  };
  const Tensors in = task.tensors(0);
  if (in.size() == 1) return {inference([=]() -> Tensors { return {norm(in[0])}; })};
  in[0].set_requires_grad(true);
  return {[=]() -> Tensors {
    const at::Tensor y = norm(in[0]);
    return {y, torch::autograd::grad({y}, {in[0]}, {in[1]})[0]};
  }};
}

Work linear(const Task& task) {
  return {inference([in = task.tensors(0)]() -> Tensors { return {at::linear(in[0], in[1], in[2]).relu_()}; })};
}

// ---- networks ----

at::Tensor formatted(const Task& task, const at::Tensor& t) {
  return task.form == "nhwc" && t.dim() == 4 ? t.contiguous(at::MemoryFormat::ChannelsLast) : t;
}

Named parameters(const Task& task, size_t first) {
  Named p;
  for (size_t i = first; i < task.spec.parts.size(); ++i)
    p[task.spec.parts[i].name] = formatted(task, task.tensor(task.spec.parts[i]));
  return p;
}

std::vector<std::string> norms(const Named& p) {
  const std::string end = ".norm.scale";
  std::vector<std::string> names;
  for (const auto& [name, t] : p)
    if (name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0)
      names.push_back(name.substr(0, name.size() - end.size()));
  return names;
}

void add_running_statistics(Named& p) {
  for (const std::string& name : norms(p)) {
    p[name + ".norm.mean"] = at::zeros(p[name + ".norm.scale"].sizes());
    p[name + ".norm.variance"] = at::ones(p[name + ".norm.scale"].sizes());
  }
}

/// Running statistics, scale and shift of a batch norm go into the weights before it.
void fold_norms(Named& p) {
  for (const std::string& name : norms(p)) {
    const auto norm = [&](const char* what) { return p.at(name + ".norm." + what); };
    const at::Tensor factor = norm("scale") / at::sqrt(norm("variance") + 1e-5);
    at::Tensor& w = p[name + ".conv.weight"];
    w = w * factor.view({-1, 1, 1, 1});
    p[name + ".conv.bias"] = norm("shift") - norm("mean") * factor;
  }
}

Setting setting(const Task& task) {
  return {task.exact, task.spec.family == "train", task.spec.options.value("heads", int64_t{1})};
}

Work forward(const Task& task) {
  const Network net = find_network(task.spec.kind);
  Named p = parameters(task, 1);
  add_running_statistics(p);
  fold_norms(p);
  return {inference([=, x = formatted(task, task.tensor("x")), how = setting(task)]() mutable -> Tensors {
    return {net(p, x, how)};
  })};
}

std::shared_ptr<torch::optim::Optimizer> optimizer(const Task& task, const Tensors& leaves) {
  const double lr = task.spec.options.at("lr");
  if (task.spec.options.at("optimizer") == "adam")
    return std::make_shared<torch::optim::Adam>(leaves, torch::optim::AdamOptions(lr));
  return std::make_shared<torch::optim::SGD>(leaves, torch::optim::SGDOptions(lr).momentum(0.9));
}

/// The parameters of a task, from its part `first` on, as leaves.
Tensors leaves_of(const Task& task, size_t first, Named& p) {
  Tensors leaves;
  for (size_t i = first; i < task.spec.parts.size(); ++i)
    leaves.push_back(p.at(task.spec.parts[i].name).set_requires_grad(true));
  return leaves;
}

Work train(const Task& task) {
  const Network net = find_network(task.spec.kind);
  Named p = parameters(task, 2);
  const Tensors leaves = leaves_of(task, 2, p);
  Tensors before;
  for (const at::Tensor& t : leaves) before.push_back(t.detach().clone());
  add_running_statistics(p);
  const auto update = optimizer(task, leaves);
  const at::Tensor x = formatted(task, task.tensor("x")), y = task.tensor("y");
  const auto call = [=, how = setting(task)]() mutable -> Tensors {
    update->zero_grad();
    const at::Tensor loss = at::cross_entropy_loss(net(p, x, how), y);
    loss.backward();
    update->step();
    return {loss};
  };
  return {call, [=] {
            Tensors changes;
            for (size_t i = 0; i < leaves.size(); ++i)
              changes.push_back(as_told(task.spec.parts[i + 2], leaves[i].detach() - before[i]));
            return changes;
          }};
}

/// Forward and backward: the gradients of x and of all parameters.
Work transformer(const Task& task) {
  const Network net = find_network("transformer");
  Named p = parameters(task, 2);
  Tensors leaves = leaves_of(task, 2, p);
  leaves.insert(leaves.begin(), task.tensor("x").set_requires_grad(true));
  return {[=, dy = task.tensor("dy"), how = setting(task)]() mutable -> Tensors {
    const at::Tensor y = net(p, leaves[0], how);
    Tensors results = torch::autograd::grad({y}, leaves, {dy});
    for (size_t i = 1; i < results.size(); ++i) results[i] = as_told(task.spec.parts[i + 1], results[i]);
    results.insert(results.begin(), y);
    return results;
  }};
}

}  // namespace

Work make_work(const Task& task) {
  static const std::map<std::string, Work (*)(const Task&)> families = {{"op", op},
                                                                        {"chain", chain},
                                                                        {"rows", rows},
                                                                        {"linear", linear},
                                                                        {"forward", forward},
                                                                        {"train", train},
                                                                        {"transformer", transformer},
                                                                        {"recurrence", make_recurrence}};
  const auto it = families.find(task.spec.family);
  if (it == families.end()) throw std::runtime_error("there is no family " + task.spec.family);
  return it->second(task);
}

}  // namespace bench
