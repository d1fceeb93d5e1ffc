// The demonstration: three samples train from one seed, eager and captured, and a table shows what capture costs, what
// it gains and that not one bit differs.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "reprise/bench/contest.h"
#include "reprise/samples/data.h"
#include "reprise/samples/models.h"

namespace {

using bench::Row;
using bench::Workload;
using rp::Tensor;

struct Options {
  std::string json;
  std::string images = "/usr/share/datasets/fashion-mnist", text = "/usr/share/common-licenses";
  uint64_t seed = 1;
  int steps = 0;
};

const auto classify = [](const auto& net, const Tensor& x, const Tensor& y) { return rp::cross_entropy(net(x), y); };

Workload fashion_mnist(const Options& o) {
  const auto loader = samples::fashion_mnist(o.images, true).shuffle(o.seed).batch(128, true);
  return {"fashion_mnist", 200, [loader] {
            samples::FashionNet net;
            auto optimizer = std::make_shared<rp::Adam>(net, rp::AdamOptions{.lr = 1e-3});
            bench::Trainee trainee = bench::make_trainee(net, optimizer, classify);
            trainee.next = bench::endless(loader);
            return trainee;
          }};
}

Workload custom_rnn(const Options& o) {
  const auto loader = samples::text_pieces(o.text, 32).shuffle(o.seed).batch(32, true);
  return {"custom_rnn", 500, [loader] {
            samples::CharRnn net(256);
            auto optimizer = std::make_shared<rp::Adam>(net, rp::AdamOptions{.lr = 2e-3});
            bench::Trainee trainee = bench::make_trainee(
                net, optimizer, [](const auto& rnn, const Tensor& x, const Tensor& y) { return rnn(x, y); });
            trainee.next = bench::endless(loader);
            return trainee;
          }};
}

Workload mlp(const Options& o) {
  return {"mlp", 5000, [seed = o.seed] {
            const auto data = samples::spirals(3000);
            samples::Mlp net(3);
            auto optimizer = std::make_shared<rp::Sgd>(net, rp::SgdOptions{.lr = 0.1, .momentum = 0.9});
            bench::Trainee trainee = bench::make_trainee(net, optimizer, classify);
            trainee.next = bench::endless(data.shuffle(seed).batch(100, true));
            return trainee;
          }};
}

void print_table(const std::vector<Row>& rows) {
  fmt::print("\n{:13} {:>17}  {:>6}  {:>13}  {:>17}  {:>7}  {:>6}  {:>17}  {:>6}\n", "", "ms a step", "speed-",
             "kernels", "KiB allocated", "capture", "breaks", "final loss", "differ");
  fmt::print("{:13} {:>8} {:>8}  {:>6}  {:>6} {:>6}  {:>8} {:>8}  {:>7}  {:>6}  {:>8} {:>8}  {:>6}\n", "", "eager",
             "captured", "up", "eager", "capt.", "eager", "captured", "ms", "even", "eager", "captured", "bits");
  for (const Row& r : rows) {
    const std::string even = r.break_even ? std::to_string(*r.break_even) : "never";
    fmt::print("{:13} {:8.3f} {:8.3f}  {:6.2f}  {:6} {:6}  {:8.1f} {:8.1f}  {:7.1f}  {:>6}  {:8.5f} {:8.5f}  {:6}\n",
               r.name, r.eager_ms, r.graph_ms, r.speedup(), r.kernels_eager, r.kernels_graph,
               static_cast<double>(r.bytes_eager) / 1024, static_cast<double>(r.bytes_graph) / 1024, r.capture_ms, even,
               r.loss_eager, r.loss_graph, r.differing_bits);
  }
}

/// One sentence on whether capture pays.
std::string verdict(const Row& r) {
  const double percent = 100 * (r.speedup() - 1);
  if (percent < 0 && r.gain_high_ms < 0)
    return fmt::format("capture does not pay: a captured step is {:.1f}% slower.", 100 * (r.graph_ms / r.eager_ms - 1));
  if (r.gain_low_ms <= 0) {
    return fmt::format("capture does not pay: {:+.3f} ms a step, which {} steps cannot tell from nothing.",
                       r.graph_ms - r.eager_ms, r.steps);
  }
  if (!r.break_even || *r.break_even > r.steps) {
    return fmt::format(
        "capture does not pay in {} steps: each is {:.1f}% faster, which earns the {:.1f} ms of capture "
        "by step {}.",
        r.steps, percent, r.capture_ms, r.break_even.value_or(-1));
  }
  return fmt::format("capture pays from step {}: each later one is {:.1f}% faster.", *r.break_even, percent);
}

void print_text(const std::vector<Row>& rows) {
  fmt::print("\n");
  int64_t bits = 0, system_calls = 0;
  for (const Row& r : rows) {
    fmt::print("{}: {}\n", r.name, verdict(r));
    bits += r.differing_bits;
    system_calls += r.system_calls;
  }
  fmt::print(
      "\nTimes, kernels and bytes are medians over the steady steps, in which nothing is recorded or compiled; the\n"
      "modes took turns step by step. \"capture\" is what the other steps took beyond eager's; it \"breaks even\" "
      "with\n"
      "the step from which on the captured run is ahead in total. In steady steps the system was asked for memory\n"
      "{} time{}.\n",
      system_calls, system_calls == 1 ? "" : "s");
  if (bits)
    fmt::print("{} bits differ over all losses and final parameters: capture changed the numbers.\n", bits);
  else
    fmt::print("Over all losses and final parameters, not one bit differs.\n");
}

void write_json(const std::string& path, const std::vector<Row>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const Row& r : rows) {
    list.push_back({{"name", r.name},
                    {"eager_ms", r.eager_ms},
                    {"graph_ms", r.graph_ms},
                    {"speedup", r.speedup()},
                    {"kernels_eager", r.kernels_eager},
                    {"kernels_graph", r.kernels_graph},
                    {"bytes_per_step_eager", r.bytes_eager},
                    {"bytes_per_step_graph", r.bytes_graph},
                    {"capture_ms", r.capture_ms},
                    {"break_even_steps", r.break_even ? nlohmann::json(*r.break_even) : nlohmann::json()},
                    {"loss_eager", r.loss_eager},
                    {"loss_graph", r.loss_graph},
                    {"differing_bits", r.differing_bits}});
  }
  std::ofstream file(path);
  file << nlohmann::json{{"rows", list}}.dump(2) << '\n';
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

/// Returns whether both modes agree in every bit.
bool demonstrate(const Options& options) {
  std::vector<Row> rows;
  for (auto make : {fashion_mnist, custom_rnn, mlp}) {
    Workload workload = make(options);
    if (options.steps) workload.steps = options.steps;
    rows.push_back(bench::compete(workload, options.seed));
  }
  print_table(rows);
  print_text(rows);
  if (!options.json.empty()) write_json(options.json, rows);
  return std::ranges::all_of(rows, [](const Row& r) { return r.differing_bits == 0; });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Trains three samples eagerly and captured, and compares.");
  Options o;
  app.add_option("--json", o.json, "a file for the rows of the table");
  app.add_option("--steps", o.steps, "steps of each training; default: 200, 500 and 5000")
      ->check(CLI::Range(2, 1000000));
  app.add_option("--seed", o.seed, "of the weights and of the order of the data")->capture_default_str();
  app.add_option("--images", o.images, "where Fashion-MNIST lies")->capture_default_str();
  app.add_option("--text", o.text, "where the text for the recurrent network lies")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return demonstrate(o) ? 0 : 1;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
