// What captured functions tell about themselves: text, JSON, DOT and the page.
#include "reprise/graph/report.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "reprise/core/graph.h"
#include "reprise/graph/executable.h"
#include "reprise/reprise.h"
#include "reprise/test/capture_cases.h"

using cases::leaf;
using cases::values;
using nlohmann::json;
using rp::Tensor;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

// A training step with a product, an epilogue, a softmax, reductions, updates in place and a library kernel.
auto training_step(rp::CaptureOptions options = {}) {
  const Tensor w = leaf({8, 3}), b = leaf({3}, 1);
  return rp::capture(
      [w, b](const Tensor& x, const Tensor& y) {
        Tensor loss = rp::cross_entropy(rp::relu(rp::matmul(x, w) + b), y);
        const rp::Tensors g = rp::grad({loss}, {w, b});
        rp::no_grad([&] {
          w -= 0.1f * g[0];
          b -= 0.1f * g[1];
        });
        return loss;
      },
      std::move(options));
}

template <class F>
void call_training(F& f, int times = 4) {
  const Tensor y = rp::tensor(std::vector<int64_t>{0, 1, 2, 0, 1}, {5});
  for (int i = 0; i < times; ++i) f(values({5, 8}, i), y);
}

// The plan of the path that was taken most often.
json main_plan(const json& report) {
  const json* best = nullptr;
  for (const json& p : report["paths"])
    if (!p["plan"].is_null() && (!best || p["hits"] > (*best)["hits"])) best = &p;
  REQUIRE(best);
  return (*best)["plan"];
}

// The kernels that compute what a node reads, seen through views.
void sources(const json& plan, int64_t node, std::set<int64_t>& kernels) {
  const json& n = plan["nodes"][static_cast<size_t>(node)];
  if (!n["kernel"].is_null()) {
    kernels.insert(n["kernel"].get<int64_t>());
    return;
  }
  for (int64_t in : n["inputs"]) sources(plan, in, kernels);
}

json page_json(const std::string& page) {
  const std::string mark = "id=\"data\">";
  const size_t from = page.find(mark) + mark.size(), to = page.find("</script>", from);
  REQUIRE(from < to);
  return json::parse(page.substr(from, to - from));
}

// A file that no other process writes.
std::filesystem::path scratch_file(const std::string& ending) {
  static int count = 0;
  const std::string name = "reprise_reports_" + std::to_string(getpid()) + "_" + std::to_string(++count) + ending;
  return std::filesystem::temp_directory_path() / name;
}

template <class F>
std::string page_of(const F& captured) {
  const auto path = scratch_file(".html");
  captured.report(path.string());
  std::stringstream page;
  page << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  return page.str();
}

// Nothing that a browser would fetch.
void check_offline(const std::string& page) {
  for (const char* part : {"http:", "https:", "//cdn", "src=", "@import", "url(", "<link", "<iframe", "fetch("})
    CHECK_FALSE(contains(page, part));
  CHECK(count(page, "href=\"") == count(page, "href=\"#"));
  CHECK(page.size() < 1'000'000);
}

// Braces, brackets and quotes of DOT, and what Graphviz says if it is installed.
void check_dot(const std::string& dot) {
  int braces = 0;
  bool in_text = false, broken = false;
  for (size_t i = 0; i < dot.size(); ++i) {
    if (in_text && dot[i] == '\\')
      ++i;
    else if (dot[i] == '"')
      in_text = !in_text;
    else if (!in_text)
      braces += (dot[i] == '{') - (dot[i] == '}');
    broken |= in_text && dot[i] == '\n';
    if (braces < 0) break;
  }
  CHECK_FALSE(broken);
  CHECK(braces == 0);
  CHECK_FALSE(in_text);
  if (std::system("command -v dot >/dev/null 2>&1")) return;
  const auto path = scratch_file(".dot");
  std::ofstream(path) << dot;
  CHECK(std::system(("dot -Tcanon " + path.string() + " >/dev/null 2>" + path.string() + ".err").c_str()) == 0);
  CHECK(std::filesystem::file_size(path.string() + ".err") == 0);
  std::filesystem::remove(path);
  std::filesystem::remove(path.string() + ".err");
}

// ---- facts made by hand ---------------------------------------------------------------------------------------------

rp::PlanFacts small_plan(const std::string& op) {
  rp::PlanFacts p;
  p.nodes = {{"input", "", "f32[2]", "a.cpp:1", {}, -1}, {op, "k=\"<&>\"", "f32[2]", "a.cpp:2", {0}, 0}};
  p.inputs = {0};
  p.outputs = {1};
  p.kernels.push_back({.kind = "map",
                       .form = "form",
                       .nodes = {1},
                       .bytes_read = 8,
                       .bytes_written = 8,
                       .flops = 2,
                       .predicted_ns = 50,
                       .measured_ns = 0,
                       .runs = 0,
                       .body = {}});
  return p;
}

rp::CaptureFacts small_facts(rp::PlanFacts plan) {
  rp::CaptureFacts f;
  f.name = "a \"name\" </script><b>&\\";
  f.paths.push_back({.ops = 1, .hits = 3, .refusal = {}, .plan = std::move(plan)});
  f.stretches.push_back({-1, 1, "<i>first", "last\"", 0});
  f.events.push_back({"<u>event & 'more'", 2});
  return f;
}

}  // namespace

TEST_CASE("explain names every kernel's ops, lines, bytes, FLOPs and times") {
  auto f = training_step({.name = "step", .profile = true});
  call_training(f);
  const std::string text = f.explain();
  INFO(text);
  CHECK(contains(text, "capture 'step': 4 calls"));
  CHECK(contains(text, "segments ended by the end of the captured function: 4"));
  for (const char* op : {"matmul", "relu", "scatter_add", "write"})
    CHECK(contains(text, std::string(" ") + op + " reports.cpp:"));
  const json plan = main_plan(json::parse(f.json()));
  CHECK(count(text, "predicted") == plan["kernels"].size() + 1);
  CHECK(count(text, "measured") == plan["kernels"].size() + 1);
  CHECK(count(text, "not fused:") == plan["refusals"].size());
  for (size_t k = 0; k < plan["kernels"].size(); ++k)
    CHECK(contains(text, "\n  [" + std::to_string(k) + "] " + plan["kernels"][k]["kind"].get<std::string>() + " ("));
}

TEST_CASE("the parts of the JSON agree with each other and with the graph") {
  auto f = training_step({.profile = true});
  call_training(f, 6);
  const json report = json::parse(f.json()), plan = main_plan(report);
  CHECK(report["stats"]["calls"] == 6);
  const rp::Graph graph = rp::parse_graph(f.dump());
  REQUIRE(plan["nodes"].size() == graph.nodes.size());
  std::set<int64_t> computed;
  json sum{{"bytes_read", 0}, {"bytes_written", 0}, {"flops", 0}};
  for (size_t k = 0; k < plan["kernels"].size(); ++k) {
    const json& kernel = plan["kernels"][k];
    for (auto& [name, value] : sum.items()) value = value.get<int64_t>() + kernel[name].get<int64_t>();
    CHECK(kernel["runs"].get<int64_t>() >= 3);
    CHECK(kernel["measured_ns"].get<double>() > 0);
    CHECK(kernel["predicted_ns"].get<double>() > 0);
    for (int64_t n : kernel["nodes"]) {
      CHECK(computed.insert(n).second);
      CHECK(plan["nodes"][static_cast<size_t>(n)]["kernel"] == k);
    }
  }
  for (const auto& [name, value] : sum.items()) CHECK(plan["total"][name] == value);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const json& n = plan["nodes"][i];
    CHECK(n["op"] == std::string(graph.nodes[i].op->name));
    CHECK(n["inputs"].get<std::vector<int32_t>>() == graph.nodes[i].inputs);
    const rp::Kind kind = graph.nodes[i].op->kind;
    CHECK(n["kernel"].is_null() == (kind == rp::Kind::view || kind == rp::Kind::input));
    if (!n["kernel"].is_null()) CHECK(contains(n["line"], "reports.cpp:"));
  }
}

TEST_CASE("every two kernels of which one reads the other have a rule that kept them apart") {
  auto f = training_step();
  call_training(f);
  const json plan = main_plan(json::parse(f.json()));
  std::set<std::pair<int64_t, int64_t>> told, found;
  for (const json& r : plan["refusals"]) {
    CHECK_FALSE(r["rule"].get<std::string>().empty());
    const auto kernel = [&](const char* end) { return plan["nodes"][r[end].get<size_t>()]["kernel"].get<int64_t>(); };
    CHECK(told.insert({kernel("producer"), kernel("consumer")}).second);
  }
  for (const json& n : plan["nodes"]) {
    if (n["kernel"].is_null() || n["op"] == "write") continue;
    std::set<int64_t> from;
    for (int64_t in : n["inputs"]) sources(plan, in, from);
    for (int64_t k : from)
      if (k != n["kernel"]) found.insert({k, n["kernel"].get<int64_t>()});
  }
  CHECK(!found.empty());
  for (const auto& pair : found) CHECK(told.count(pair));
}

TEST_CASE("bytes and FLOPs are those of the ops") {
  const Tensor w = values({16, 24});
  auto f = rp::capture([&](const Tensor& x) { return rp::matmul(x, w); });
  auto g = rp::capture([](const Tensor& x) { return x * x + 2; });
  auto h = rp::capture([](const Tensor& x) { return rp::conv2d(x, values({4, 3, 3, 3})); });
  for (int i = 0; i < 3; ++i) {
    f(values({32, 16}, i));
    g(values({100}, i));
    h(values({2, 3, 8, 8}, i));
  }
  const json product = main_plan(json::parse(f.json()))["kernels"][0],
             map = main_plan(json::parse(g.json()))["kernels"][0];
  CHECK(product["flops"] == 2 * 32 * 16 * 24);
  CHECK(product["bytes_read"] == 4 * (32 * 16 + 16 * 24));
  CHECK(product["bytes_written"] == 4 * 32 * 24);
  CHECK(map["flops"] == 2 * 100);
  CHECK(map["bytes_read"] == 4 * 100);
  CHECK(map["bytes_written"] == 4 * 100);
  bool convolution = false;
  const json convolving = main_plan(json::parse(h.json()));
  for (const json& k : convolving["kernels"]) convolution |= k["flops"] == 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3);
  CHECK(convolution);
}

TEST_CASE("a repeated operand is read once, and what is larger is predicted to take longer") {
  const auto kernel = [](int64_t rows) {
    auto f = rp::capture([](const Tensor& x, const Tensor& b) { return x + b; });
    for (int i = 0; i < 3; ++i) f(values({rows, 64}, i), values({64}, i));
    return main_plan(json::parse(f.json()))["kernels"][0];
  };
  const json small = kernel(4), large = kernel(40000);
  CHECK(small["bytes_read"] == 4 * (4 * 64 + 64));
  CHECK(large["predicted_ns"].get<double>() > 10 * small["predicted_ns"].get<double>());
}

TEST_CASE("buffers that are alive together lie apart, within the arena") {
  const Tensor a = values({40, 40}), b = values({40, 40}, 1);
  auto f = rp::capture([&](Tensor x) {
    for (int i = 0; i < 4; ++i) x = rp::softmax(rp::matmul(x, a), 1) + rp::matmul(x, b);
    return x;
  });
  for (int i = 0; i < 3; ++i) f(values({40, 40}, i));
  const json plan = main_plan(json::parse(f.json()));
  const json& buffers = plan["buffers"];
  REQUIRE(buffers.size() > 3);
  const auto get = [](const json& j, const char* name) { return j[name].get<int64_t>(); };
  for (const json& x : buffers) {
    CHECK(get(x, "offset") + get(x, "bytes") <= get(plan, "arena_bytes"));
    CHECK(get(x, "first") <= get(x, "last"));
    CHECK(get(x, "last") < static_cast<int64_t>(plan["kernels"].size()));
    for (const json& y : buffers) {
      if (&x == &y || get(x, "last") < get(y, "first") || get(y, "last") < get(x, "first")) continue;
      CHECK((get(x, "offset") + get(x, "bytes") <= get(y, "offset") ||
             get(y, "offset") + get(y, "bytes") <= get(x, "offset")));
    }
  }
}

TEST_CASE("kernels are timed only if that is asked for") {
  auto plain = training_step();
  call_training(plain);
  const json kernel = main_plan(json::parse(plain.json()))["kernels"][0];
  CHECK(kernel["runs"] == 0);
  CHECK(kernel["measured_ns"].is_null());
  CHECK_FALSE(contains(plain.explain(), "measured"));
  setenv("REPRISE_PROFILE", "1", 1);
  auto timed = training_step();
  unsetenv("REPRISE_PROFILE");
  call_training(timed);
  CHECK(contains(timed.explain(), "measured"));
}

TEST_CASE("the median of the latest runs is told") {
  rp::KernelTimes times;
  CHECK(times.median_ns() == 0);
  for (double ns : {5.0, 1.0, 100.0}) times.add(ns);
  CHECK(times.median_ns() == 5);
  for (int i = 0; i < 63; ++i) times.add(7);
  CHECK(times.median_ns() == 7);
  CHECK(times.runs() == 66);
}

// ---- the other forms ------------------------------------------------------------------------------------------------

TEST_CASE("DOT holds every node and every edge, and Graphviz reads it") {
  auto f = training_step({.name = "a \"quoted\" \\ name"});
  call_training(f);
  const std::string dot = f.dot();
  const json plan = main_plan(json::parse(f.json()));
  size_t edges = 0;
  for (const json& n : plan["nodes"]) edges += n["inputs"].size();
  CHECK(count(dot, " [shape=") == plan["nodes"].size());
  CHECK(count(dot, " -> ") == edges);
  CHECK(count(dot, "subgraph cluster_p") == plan["kernels"].size() + 1);
  check_dot(dot);
}

TEST_CASE("the page holds every node and fetches nothing") {
  auto f = training_step({.profile = true});
  call_training(f);
  const std::string page = page_of(f);
  check_offline(page);
  CHECK_FALSE(contains(page, "{{"));
  const json data = page_json(page), plan = main_plan(json::parse(f.json()));
  const json shown = main_plan(data);
  const auto text = [&](const json& number) { return data["texts"][number.get<size_t>()]; };
  REQUIRE(shown["nodes"].size() == plan["nodes"].size());
  for (size_t i = 0; i < shown["nodes"].size(); ++i) {
    CHECK(text(shown["nodes"][i][0]) == plan["nodes"][i]["op"]);
    CHECK(text(shown["nodes"][i][1]) == plan["nodes"][i]["line"]);
    CHECK(text(shown["nodes"][i][2]) == plan["nodes"][i]["layout"]);
  }
  CHECK(shown["kernels"].size() == plan["kernels"].size());
  CHECK(shown["refusals"].size() == plan["refusals"].size());
  CHECK(shown["buffers"].size() == plan["buffers"].size());
}

TEST_CASE("a page of several thousand nodes stays below a megabyte, with all of them") {
  auto f = rp::capture([](Tensor x) {
    for (int i = 0; i < 1500; ++i) x = rp::tanh(rp::sum(x, {0}, true) * x - i);
    return x;
  });
  for (int i = 0; i < 3; ++i) f(values({4, 4}));
  const std::string page = page_of(f);
  check_offline(page);
  const json data = page_json(page);
  CHECK(main_plan(data)["nodes"].size() == main_plan(json::parse(f.json()))["nodes"].size());
  CHECK(main_plan(data)["nodes"].size() > 6000);
}

TEST_CASE("plans too large for a page are told without nodes, then not at all") {
  rp::CaptureFacts facts = small_facts(small_plan("exp"));
  for (int i = 0; i < 20000; ++i) facts.paths[0].plan->nodes.push_back(facts.paths[0].plan->nodes[1]);
  facts.paths.push_back(facts.paths[0]);
  facts.paths[1].plan = small_plan("tanh");
  const json data = json::parse(rp::page_data(facts, 100'000));
  CHECK(data["paths"][0]["plan"]["nodes"].empty());
  CHECK(data["paths"][0]["plan"]["kernels"].size() == 1);
  CHECK(data["paths"][1]["plan"]["nodes"].size() == 2);
  CHECK(json::parse(rp::page_data(facts, 10))["paths"][1]["plan"].is_null());
}

TEST_CASE("names that mean something to HTML, JSON or DOT are only names") {
  const rp::CaptureFacts facts = small_facts(small_plan("<script>alert(\"&\")</script>"));
  const std::string page = rp::to_html(facts);
  check_offline(page);
  CHECK_FALSE(contains(page, "<b>"));
  CHECK_FALSE(contains(page, "<i>first"));
  CHECK_FALSE(contains(page, "<script>alert"));
  CHECK(contains(page, "<title>Capture a &quot;name&quot; &lt;/script&gt;&lt;b&gt;&amp;\\</title>"));
  CHECK(page_json(page)["name"] == facts.name);
  const json whole = json::parse(rp::to_json(facts));
  CHECK(whole["name"] == facts.name);
  CHECK(whole["events"][0]["text"] == facts.events[0].text);
  CHECK(whole["paths"][0]["plan"]["nodes"][1]["op"] == facts.paths[0].plan->nodes[1].op);
  check_dot(rp::to_dot(facts));
}

TEST_CASE("text that is no UTF-8 does not break the JSON") {
  rp::CaptureFacts facts = small_facts(small_plan("exp"));
  facts.name = "\xff\xfe";
  CHECK(json::parse(rp::to_json(facts))["paths"].size() == 1);
  CHECK(page_json(rp::to_html(facts))["paths"].size() == 1);
}

TEST_CASE("a kernel that runs a plan of its own is told with that plan in every form") {
  rp::PlanFacts outer = small_plan("scan");
  outer.kernels[0].body.push_back(small_plan("tanh"));
  const rp::CaptureFacts facts = small_facts(outer);
  CHECK(contains(rp::to_text(facts), "times: 1 kernels"));
  CHECK(contains(rp::to_text(facts), "%1 tanh a.cpp:2"));
  const json body = json::parse(rp::to_json(facts))["paths"][0]["plan"]["kernels"][0]["body"][0];
  CHECK(body["nodes"][1]["op"] == "tanh");
  const std::string dot = rp::to_dot(facts);
  CHECK(contains(dot, "p0k0b0n1"));
  check_dot(dot);
  const json data = page_json(rp::to_html(facts));
  const json inner = data["paths"][0]["plan"]["kernels"][0].back()[0];
  CHECK(data["texts"][inner["nodes"][1][0].get<size_t>()] == "tanh");
}

TEST_CASE("a report that cannot be written is an error") {
  auto f = training_step();
  CHECK_THROWS_AS(f.report("/nowhere/at/all.html"), rp::Error);
}

TEST_CASE("reports of a function that was never called are empty, not wrong") {
  auto f = rp::capture([](const Tensor& x) { return x; });
  CHECK(json::parse(f.json())["paths"].empty());
  CHECK(contains(f.explain(), "0 calls"));
  CHECK(f.dump().empty());
  check_dot(f.dot());
}

TEST_CASE("a scan's concats that are filled in place are no kernel in any report") {
  const rp::Tensor xs = rp::uniform({5, 4, 16}), u = rp::uniform({16, 64}).set_requires_grad();
  auto step = rp::capture([&] {
    const auto cell = [&](const rp::Tensor& h, const rp::Tensor& x) {
      const rp::Tensors z = rp::split(rp::matmul(h, u), 4, 1);
      return rp::tanh(z[0] * z[1] + z[2] * rp::sigmoid(z[3]) + x);
    };
    return rp::grad({rp::sum(rp::scan(cell, rp::zeros({4, 16}), xs))}, {u});
  });
  for (int i = 0; i < 3; ++i) step();
  int bodies = 0;
  const json all = json::parse(step.json());
  for (const json& kernel : all["paths"][0]["plan"]["kernels"]) {
    const json list = kernel.value("body", json::array());
    for (const json& body : list) {
      ++bodies;
      CHECK(body["role"] == "step");
      CHECK(body["times"] == 5);
      for (const json& r : body["refusals"])
        for (const char* end : {"producer", "consumer"})
          CHECK(!body["nodes"][r[end].get<size_t>()]["kernel"].is_null());
    }
  }
  CHECK(bodies == 2);
}
