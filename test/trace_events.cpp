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

#include "reprise/core/trace_events.h"
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using rp::Tensor;

namespace {

// ---- the model ----

constexpr int head_line = __LINE__ + 5;
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

  static constexpr int line = __LINE__ + 1;
  Tensor operator()(const Tensor& x) const { return head(rnn(body(x)).outputs.select(0, 1)); }
};

constexpr int loss_line = __LINE__ + 7, update_line = loss_line + 4;
// The losses of four steps: a capture records the first two and runs the others as a plan.
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

// As `ops_in` puts it.
std::string text(const std::string& op, int line, const std::string& module = "") {
  return fmt::format("{} trace_events.cpp:{}{}{}", op, line, module.empty() ? "" : " ", module);
}

bool has(const Events& events, const std::string& category, const std::string& name, const std::string& module) {
  return std::any_of(events.begin(), events.end(),
                     [&](const Event& e) { return e.category == category && e.name == name && e.module == module; });
}

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
  if (std::getenv("TRACED_MODEL_ENDS")) std::_Exit(3);  // without a chance to tidy up, as a crash does
  CHECK(losses.back() < losses.front());
}

TEST_CASE("a trace names the line and the module of every op that runs by itself") {
  const Events events = traced("REPRISE_MODE=eager");
  const std::set<std::string> ops = ops_in(events, "op");
  for (const char* op : {"matmul", "tanh", "square", "sub", "mul"})  // the last three: of the gradient
    CHECK(ops.count(text(op, head_line, "head")));
  for (const char* op : {"matmul", "add", "sum"}) CHECK(ops.count(text(op, Net::line, "body.0")));
  for (const char* op : {"relu", "where", "greater"}) CHECK(ops.count(text(op, Net::line, "body")));
  for (const char* op : {"sub", "square", "sum", "div", "mul"}) CHECK(ops.count(text(op, loss_line)));
  for (const char* layer : {"rnn.0", "rnn.1"}) {
    CHECK(ops.count(text("scan", Net::line, layer)));
    CHECK(has(events, "op", "sigmoid", std::string(layer) + ".cell"));
    CHECK(has(events, "module", layer, layer));
  }
  CHECK(ops.count(text("sub", update_line)));
  CHECK(count(events, "op", "tanh") ==
        4 * (1 + 2 * 2) + 2);  // in the head, the steps of the layers, and their first use
  CHECK(count(events, "step", "step 1") == 4 * 2 * 2);
  CHECK(count(events, "backward", "backward") == 4);
  CHECK(count(events, "module", "body.0") == 4);
  for (const char* none : {"capture", "record", "flush", "kernel", "op by op"}) CHECK(!count(events, none));
  for (const Event& e : events) {
    INFO(e.category << ' ' << e.name);
    CHECK((!e.line.empty() || e.category == "module"));
  }
  CHECK(nested(events));
  CHECK(inside(events, "step", "op"));
}

TEST_CASE("a trace names the ops of captured kernels with their lines and modules") {
  const Events eager = traced("REPRISE_MODE=eager"), graph = traced("REPRISE_MODE=graph");
  CHECK(count(graph, "capture", "training") == 4);
  CHECK(count(graph, "backward", "backward") == 4);
  CHECK(count(graph, "flush", "the end of the captured function") == 4);
  CHECK(count(graph, "record") > 100);
  CHECK(count(graph, "compile") > 0);
  CHECK(count(graph, "step", "step 0") >= 4 * 2);
  const std::set<std::string> alone = ops_in(eager, "op"), fused = ops_in(graph, "kernel");
  for (const std::string& op : fused) {  // nothing stands elsewhere than in eager mode
    INFO(op);
    const std::string name = op.substr(0, op.find(' '));
    if (name != "write" && name != "result" && name != "copy") CHECK(alone.count(op));
  }
  for (const char* op : {"matmul", "tanh", "square", "sub", "mul"}) CHECK(fused.count(text(op, head_line, "head")));
  for (const char* op : {"matmul", "add", "sum"}) CHECK(fused.count(text(op, Net::line, "body.0")));
  for (const char* op : {"relu", "where", "greater"}) CHECK(fused.count(text(op, Net::line, "body")));
  for (const char* op : {"sub", "square", "sum", "div", "mul"}) CHECK(fused.count(text(op, loss_line)));
  for (const char* layer : {"rnn.0", "rnn.1"}) CHECK(fused.count(text("scan", Net::line, layer)));
  for (const Event& e : graph) {
    if (e.category != "kernel") continue;
    INFO(e.name);
    CHECK(!e.line.empty());
    CHECK(!e.ops.empty());
    for (const std::string& op : e.ops) CHECK(e.name.find(op.substr(0, op.find(' '))) != std::string::npos);
  }
  CHECK(nested(graph));
  CHECK(inside(graph, "flush", "capture"));
  CHECK(inside(graph, "record", "capture"));
  CHECK(inside(graph, "kernel", "flush"));
}

TEST_CASE("the trace of a process that crashed can be opened") {
  const std::filesystem::path file = scratch("crash.json");
  CHECK(run("TRACED_MODEL_ENDS=1 REPRISE_TRACE=" + file.string(), "the traced model").second == 3);
  std::string all = read(file);
  REQUIRE(!all.empty());
  all.resize(all.rfind('\n'));  // viewers leave out what is cut off
  CHECK(events_of(nlohmann::json::parse(all.substr(0, all.find_last_not_of(",\n") + 1) + "]")).size() > 50);
  std::filesystem::remove(file);
}

TEST_CASE("a trace that cannot be written is an error, and one that is taken is left alone") {
  const auto [text, status] = run("REPRISE_TRACE=/nowhere/trace.json", "the traced model");
  CHECK(status != 0);
  CHECK(text.find("REPRISE_TRACE: cannot write \"/nowhere/trace.json\"") != std::string::npos);

  const std::filesystem::path file = scratch("taken.json");
  std::ofstream(file) << "mine";
  const int held = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(::flock(held, LOCK_EX) == 0);
  const auto [said, fine] = run("REPRISE_TRACE=" + file.string(), "the traced model");
  CHECK(fine == 0);
  CHECK(said.find("another process writes") != std::string::npos);
  CHECK(read(file) == "mine");
  ::close(held);
  std::filesystem::remove(file);
}

TEST_CASE("nothing is traced without the switch") {
  if (std::getenv("REPRISE_TRACE")) return;
  CHECK(!rp::traced());
  CHECK(rp::begin_span() == 0);
  CHECK(!rp::span("test", "nothing"));
}

TEST_CASE("a module's path follows its place among other modules") {
  struct Inner : rp::Module {
    const char* path() const {
      const Scope scope(*this);
      return rp::At::where().module;
    }
  };
  struct Outer : rp::Module {
    void add(const std::string& name, const rp::Module& m) const { child(name, m); }
  };
  const Inner inner;
  CHECK(inner.path() == nullptr);
  const rp::AtModule around("around");
  CHECK(inner.path() == std::string("around"));  // it has no path of its own
  const Outer top, second;
  {
    const Outer middle;
    middle.add("inner", inner);
    CHECK(inner.path() == std::string("inner"));
    top.add("middle", middle);
    CHECK(inner.path() == std::string("middle.inner"));
  }
  second.add("other", inner);
  CHECK(inner.path() == std::string("middle.inner"));  // the first that lives
  CHECK(Inner(inner).path() == inner.path());          // one text for all copies
  CHECK(rp::At::where().module == std::string("around"));
}
