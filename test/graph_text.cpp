// Graphs as text: print, parse, print; and texts that are no graphs.
#include "reprise/core/graph.h"

#include <algorithm>

#include "reprise/core/error.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/graph/capture.h"
#include "reprise/test/catch.h"
#include "reprise/test/op_cases.h"

using namespace rp;
using namespace rp::test;

namespace {

constexpr std::string_view written_by_hand =
    "graph parameters 2\n"
    "  %0 = input() alias 0 : f32[4,3]\n"
    "  %1 = input() alias 1 : f32[3,2]\n"
    "  %2 = matmul(%0, %1) : f32[4,2]  ; net.cpp:12\n"
    "  %3 = add(%2) mask 2 $0 : f32[4,2]\n"
    "  %4 = permute(%3) axes=[1,0,0,0,0,0,0,0] rank=2 : f32[2,4]/[1,2]\n"
    "  %5 = sum(%4) axes=2 keepdim=0 : f32[2]\n"
    "  %6 = full() spec=f32[2] mask 1 #3f800000 own : f32[2]\n"
    "  %7 = slice(%6) length=1 step=1 axis=0 $1 : f32[1]\n"
    "  %8 = slice(%5) length=1 step=1 axis=0 #0 : f32[1]\n"
    "  %9 = write(%7, %8) : f32[1]\n"
    "  return (%5, %9) writes ()\n";

std::string again(std::string_view text) { return to_string(parse_graph(text)); }

// Without the notes of source lines, which the parser skips.
std::string bare(std::string text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (const size_t note = line.find("  ;"); note != std::string::npos) line.resize(note);
    result += line + "\n";
    at = end + 1;
  }
  return result;
}

std::string failure(std::string_view text) {
  try {
    parse_graph(text);
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  const size_t at = text.find(what);
  REQUIRE(at != std::string::npos);
  return text.replace(at, what.size(), by);
}

// A graph of the case alone.
Graph graph_of(const OpCase& c, Draw& draw) {
  GraphBuilder b;
  Node node{.op = c.op, .attrs = c.attrs, .scalar_mask = c.scalar_mask};
  Tensors inputs;
  for (const Input& in : c.inputs) {
    inputs.push_back(contiguous(draw.array(in)));
    node.inputs.push_back(b.input(inputs.back().impl()->layout, -1));
  }
  for (uint64_t bits : c.scalars.bits()) node.scalars.push_back({-1, bits});
  node.layout = run(c, inputs).impl()->layout;
  const int32_t y = b.add(node);
  Graph g = b.take();
  g.outputs = {y};
  return g;
}

std::vector<std::string> graphs_in(const std::string& dump) {
  std::vector<std::string> graphs;
  for (size_t at = dump.find("graph parameters"); at != std::string::npos;) {
    const size_t end = dump.find('\n', dump.find("  return", at));
    graphs.push_back(dump.substr(at, end - at + 1));
    at = dump.find("graph parameters", end);
  }
  return graphs;
}

}  // namespace

TEST_CASE("a graph written by hand reads back", "[graph]") {
  const Graph g = parse_graph(written_by_hand);
  CHECK(g.size() == 10);
  CHECK(g.parameters == 2);
  CHECK(g.outputs == std::vector<int32_t>{5, 9});
  CHECK(g[3].scalars[0].parameter == 0);
  CHECK(g[6].scalars[0].bits == 0x3f800000);
  CHECK(g[6].own);
  CHECK(base_of(g, 9) == 6);
  CHECK(to_string(g) == bare(std::string(written_by_hand)));
  CHECK(again(to_string(g)) == to_string(g));
}

TEST_CASE("every op of the table prints and reads back", "[graph]") {
  for (const Op* op : op_table())
    for (DType d : {DType::boolean, DType::i32, DType::i64, DType::f32, DType::f64}) {
      Draw draw(1);
      for (const OpCase& c : cases_of(*op, d)) {
        INFO(to_string(c));
        const std::string text = to_string(graph_of(c, draw));
        CHECK(text.find(" = " + std::string(op->name) + "(") != std::string::npos);
        CHECK(again(text) == bare(text));
      }
    }
}

TEST_CASE("captured graphs read back", "[graph]") {
  const Tensor w = ones({3, 3});
  const Tensor state = zeros({3});
  auto f = capture([&](const Tensor& x) {
    const Tensor y = softmax(tanh(matmul(x, w)) * 0.5 + 1);
    state += sum(y, {0});
    state.slice(0, 1, 2).fill_(4);
    return layer_norm(y) + state + dropout(y, 0.5);
  });
  for (int call = 0; call < 3; ++call) f(ones({4, 3}));
  for (int call = 0; call < 2; ++call) f(ones({2, 3}));
  const auto graphs = graphs_in(f.dump());
  CHECK(graphs.size() >= 2);
  for (const std::string& text : graphs) CHECK(again(text) == bare(text));
}

TEST_CASE("texts that are no graphs name their line", "[graph]") {
  const std::string good(written_by_hand);
  const auto line = [&](std::string_view what, std::string_view by) { return failure(replaced(good, what, by)); };
  CHECK(failure("").find("parse_graph:") == 0);
  CHECK(failure("graph parameters 0\n").find("parse_graph:") == 0);
  CHECK(failure("hello").find("parse_graph: line 1:") == 0);
  CHECK(line("graph parameters 2", "graph parameters x").find("parse_graph: line 1:") == 0);
  CHECK(line("matmul(", "matmull(").find("parse_graph: line 4: unknown op 'matmull'") == 0);
  CHECK(line("f32[3,2]", "f33[3,2]").find("parse_graph: line 3: unknown dtype 'f33'") == 0);
  CHECK(line("%3 =", "%4 =").find("parse_graph: line 5:") == 0);
  CHECK(line("axes=2", "axis=2").find("parse_graph: line 7:") == 0);
  CHECK(line("keepdim=0 ", "").find("parse_graph: line 7:") == 0);
  CHECK(line("f32[4,2]  ;", "f32[4,2  ;").find("parse_graph: line 4:") == 0);
  CHECK(line("#3f800000", "#zz").find("parse_graph: line 8:") == 0);
  CHECK(line("matmul(%0, %1)", "matmul(%0, %7)").find("%2 (matmul) names a later node") != std::string::npos);
  CHECK(line("matmul(%0, %1)", "matmul(%0, %-1)").find("%2") != std::string::npos);
  CHECK(line("f32[4,2]  ;", "f32[4,7]  ;").find("%2 (matmul) breaks its shape rule") != std::string::npos);
  CHECK(line("(%5, %9)", "(%5, %99)").find("%99 does not exist") != std::string::npos);
  CHECK(line("$0", "$5").find("%3 (add)") != std::string::npos);
}

TEST_CASE("texts with impossible operands throw", "[graph]") {
  const std::string good(written_by_hand);
  const auto text = [&](std::string_view what, std::string_view by) { return failure(replaced(good, what, by)); };
  CHECK(text("matmul(%0, %1)", "matmul(%0)") != "nothing was thrown");
  CHECK(text("matmul(%0, %1)", "matmul()") != "nothing was thrown");
  CHECK(text("matmul(%0, %1)", "matmul(%1, %0)") != "nothing was thrown");
  CHECK(text("f32[4,3]", "f32[]") != "nothing was thrown");
  CHECK(text("f32[4,3]", "f32[1,1,1,1,1,1,1,1,1]") != "nothing was thrown");
  CHECK(text("f32[4,3]", "f32[-4,3]") != "nothing was thrown");
  CHECK(text("f32[4,3]", "f32[99999999999999,99999999999999]") != "nothing was thrown");
  CHECK(text("rank=2", "rank=9") != "nothing was thrown");
  CHECK(text("rank=2", "rank=-1") != "nothing was thrown");
  CHECK(text("axes=[1,0,", "axes=[77,0,") != "nothing was thrown");
  CHECK(text("axis=0 $1", "axis=5 $1") != "nothing was thrown");
  CHECK(text("length=1 step=1 axis=0 $1", "length=-1 step=1 axis=0 $1") != "nothing was thrown");
  CHECK(text("spec=f32[2]", "spec=-") != "nothing was thrown");
  CHECK(text("slice(%5)", "slice()") != "nothing was thrown");
  CHECK(text("write(%7, %8)", "write(%7)") != "nothing was thrown");
  CHECK(text("alias 1", "alias 9") != "nothing was thrown");
  CHECK(text("mask 2 $0", "mask 2") != "nothing was thrown");
  CHECK(text("mask 2 $0", "mask 3 $0") != "nothing was thrown");
}

TEST_CASE("no text crashes the parser", "[graph]") {
  Draw draw(99);
  const auto below = [&](size_t n) { return static_cast<size_t>(draw.next() * static_cast<double>(n)); };
  std::vector<std::string> texts{std::string(written_by_hand)};
  for (const Op* op : op_table())
    if (const auto cases = cases_of(*op, DType::f32); !cases.empty())
      texts.push_back(to_string(graph_of(cases[0], draw)));
  const std::string_view alphabet = "%$#=()[]0123456789,-:; abcdefxyz\n";
  int refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string text = texts[below(texts.size())];
    for (size_t changes = 1 + below(3); changes > 0 && !text.empty(); --changes) {
      const size_t at = below(text.size());
      switch (below(4)) {
        case 0:
          text[at] = alphabet[below(alphabet.size())];
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        case 2:
          text.insert(at, 1, alphabet[below(alphabet.size())]);
          break;
        default:
          text.insert(at, text.substr(below(text.size()), below(20)));
      }
    }
    try {
      to_string(parse_graph(text));
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > 500);
}
