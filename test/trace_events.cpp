// The trace that REPRISE_TRACE asks for, of a small model that a process of its own trains.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using rp::Tensor;

namespace {

// ---- the model ----

constexpr int scope_line = __LINE__ + 7, loss_line = scope_line + 19;

struct Head : rp::Module {
  Tensor W = param("W", {4, 3});
  Tensor operator()(const Tensor& x) const {
    const Scope scope(*this);
    return rp::tanh(rp::matmul(x, W));
  }
};

struct Net : rp::Module {
  rp::Sequential body = child("body", rp::Sequential(rp::Dense(6), [](const Tensor& x) { return rp::relu(x); }));
  rp::Stacked<rp::GRU> rnn = child("rnn", rp::Stacked(2, [] { return rp::GRU(4); }));
  Head head = child("head", Head());

  Tensor operator()(const Tensor& x) const { return head(rnn(body(x)).outputs.select(0, 1)); }
};

// Three steps; the losses.
std::vector<float> train() {
  const Net net;
  const Tensor x = rp::normal({2, 5, 3}), y = rp::normal({5, 3});
  auto step = rp::capture(
      [&] {
        Tensor loss = rp::mean(rp::square(net(x) - y));
        loss.backward();
        rp::no_grad([&] {
          for (const auto& [name, p] : net.parameters()) {
            p -= p.grad() * 0.1;
            p.set_grad({});
          }
        });
        return loss;
      },
      {.name = "training"});
  std::vector<float> losses;
  for (int i = 0; i < 4; ++i) losses.push_back(step().item<float>());
  return losses;
}

// ---- running it ----

std::filesystem::path scratch(const std::string& name) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("reprise_{}_{}", ::getpid(), name);
  std::filesystem::remove(path);
  return path;
}

std::string read(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// What this program prints when it runs one of its cases with these variables, and its exit status.
std::pair<std::string, int> run(const std::string& variables, const std::string& test) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::filesystem::path printed = scratch("printed");
  const int status =
      std::system(fmt::format("env {} '{}' '{}' >'{}' 2>&1", variables, self, test, printed.string()).c_str());
  const std::string text = read(printed);
  std::filesystem::remove(printed);
  return {text, WIFEXITED(status) ? WEXITSTATUS(status) : -1};
}

struct Event {
  std::string name, category, line, module;
  std::vector<std::string> ops;
  int64_t begin, end;  // nanoseconds
  int64_t thread;
};
using Events = std::vector<Event>;

Events events_of(const nlohmann::json& all) {
  Events events;
  for (const auto& e : all) {
    if (e.at("ph") == "M") continue;
    CHECK(e.at("ph") == "X");
    CHECK(e.at("pid") == all.at(0).at("pid"));
    const auto& args = e.at("args");
    const auto ns = [&](const char* key) { return std::llround(e.at(key).get<double>() * 1000); };
    events.push_back({e.at("name"), e.at("cat"), args.value("line", ""), args.value("module", ""),
                      args.value("ops", std::vector<std::string>{}), ns("ts"), ns("ts") + ns("dur"), e.at("tid")});
  }
  return events;
}

Events traced(const std::string& variables) {
  const std::filesystem::path file = scratch("trace.json");
  const auto [text, status] = run(variables + " REPRISE_TRACE=" + file.string(), "the traced model");
  INFO(text);
  REQUIRE(status == 0);
  Events events = events_of(nlohmann::json::parse(read(file)));
  std::filesystem::remove(file);
  return events;
}

std::string line(int number) { return fmt::format("trace_events.cpp:{}", number); }

int count(const Events& events, const std::string& category, const std::string& name = "") {
  return static_cast<int>(std::count_if(events.begin(), events.end(), [&](const Event& e) {
    return e.category == category && (name.empty() || e.name == name);
  }));
}

// The ops that ran by themselves, and those in kernels, as "op line module".
std::set<std::string> ops_in(const Events& events, const std::string& category) {
  std::set<std::string> all;
  for (const Event& e : events) {
    if (e.category != category) continue;
    if (category == "op") all.insert(e.name + ' ' + e.line + (e.module.empty() ? "" : ' ' + e.module));
    all.insert(e.ops.begin(), e.ops.end());
  }
  return all;
}

// Whether the spans of each thread lie within each other or apart.
bool nested(Events events) {
  std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return std::tuple(a.thread, a.begin, -a.end) < std::tuple(b.thread, b.begin, -b.end);
  });
  Events open;
  for (const Event& e : events) {
    while (!open.empty() && (open.back().thread != e.thread || open.back().end <= e.begin)) open.pop_back();
    if (!open.empty() && open.back().end < e.end) return false;
    open.push_back(e);
  }
  return true;
}

// Whether each span of one kind lies within one of the other.
bool inside(const Events& events, const std::string& category, const std::string& around) {
  return std::all_of(events.begin(), events.end(), [&](const Event& e) {
    return e.category != category || std::any_of(events.begin(), events.end(), [&](const Event& o) {
             return o.category == around && o.thread == e.thread && o.begin <= e.begin && e.end <= o.end;
           });
  });
}

}  // namespace

TEST_CASE("the traced model") {
  const std::vector<float> losses = train();
  CHECK(losses.back() < losses.front());
}

TEST_CASE("dump") {
  for (const char* mode : {"eager", "graph"}) {
    const Events events = traced(fmt::format("REPRISE_MODE={}", mode));
    for (const Event& e : events) {
      fmt::print("{} {:8} {:8} {:30} {} {} {}\n", mode, e.begin / 1000, (e.end - e.begin) / 1000, e.category + ":" + e.name, e.line, e.module, e.ops.size());
      for (auto& o : e.ops) fmt::print("        {}\n", o);
    }
  }
}
