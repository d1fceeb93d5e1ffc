// Graphs as text: print, parse, print; and texts that are no graphs.
#include "reprise/core/graph.h"

#include <algorithm>

#include "reprise/core/error.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/reprise.h"
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

constexpr std::string_view scan_by_hand =
    "body @0\n"
    "graph parameters 1\n"
    "  %0 = input() alias 0 : f32[2]\n"
    "  %1 = input() alias 1 : f32[2]\n"
    "  %2 = mul(%0) mask 2 $0 : f32[2]\n"
    "  %3 = add(%2, %1) : f32[2]\n"
    "  %4 = sum(%1) axes=1 keepdim=0 : f32[]\n"
    "  return (%3, %4) writes ()\n"
    "graph parameters 1\n"
    "  %0 = input() alias 0 : f32[2]\n"
    "  %1 = input() alias 1 : f32[3,2]\n"
    "  %2 = scan(%0, %1) body=@0 other=@0 length=3 draws=0 wanted=0 carries=1 inputs=1 results=2 saved=0 reverse=0 "
    "closed=0 $0 : f32[0]\n"
    "  %3 = result(%2) spec=f32[2] index=0 : f32[2]\n"
    "  %4 = result(%2) spec=f32[3] index=1 : f32[3]\n"
    "  return (%3, %4) writes ()\n";

constexpr std::string_view cond_by_hand =
    "body @0\n"
    "graph parameters 1\n"
    "  %0 = input() alias 0 : f32[2]\n"
    "  %1 = add(%0) mask 2 $0 : f32[2]\n"
    "  return (%1) writes ()\n"
    "body @1\n"
    "graph parameters 0\n"
    "  %0 = input() alias 0 : f32[2]\n"
    "  %1 = mul(%0, %0) : f32[2]\n"
    "  return (%1) writes ()\n"
    "graph parameters 1\n"
    "  %0 = input() alias 0 : bool[]\n"
    "  %1 = input() alias 1 : f32[2]\n"
    "  %2 = cond(%0, %1) body=@0 other=@1 length=0 draws=0 wanted=0 carries=0 inputs=0 results=1 saved=0 reverse=0 "
    "closed=0 $0 : f32[0]\n"
    "  %3 = result(%2) spec=f32[2] index=0 : f32[2]\n"
    "  return (%3) writes ()\n";

constexpr std::string_view while_by_hand =
    "body @0\n"
    "graph parameters 1\n"
    "  %0 = input() alias 0 : f32[2]\n"
    "  %1 = input() alias 1 : f32[2]\n"
    "  %2 = mul(%0) mask 2 $0 : f32[2]\n"
    "  %3 = add(%2, %1) : f32[2]\n"
    "  return (%3) writes ()\n"
    "body @1\n"
    "graph parameters 0\n"
    "  %0 = input() alias 0 : f32[2]\n"
    "  %1 = input() alias 1 : f32[]\n"
    "  %2 = sum(%0) axes=1 keepdim=0 : f32[]\n"
    "  %3 = less(%2, %1) : bool[]\n"
    "  return (%3) writes ()\n"
    "graph parameters 1\n"
    "  %0 = input() alias 0 : f32[2]\n"
    "  %1 = input() alias 1 : f32[]\n"
    "  %2 = input() alias 2 : f32[2]\n"
    "  %3 = while_loop(%0, %1, %2) body=@0 other=@1 length=-1 draws=0 wanted=0 carries=1 inputs=0 results=1 saved=0 "
    "reverse=0 closed=1 $0 : f32[0]\n"
    "  %4 = result(%3) spec=f32[2] index=0 : f32[2]\n"
    "  return (%4) writes ()\n";

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
    for (DType d : {DType::boolean, DType::i32, DType::i64, DType::bf16, DType::f16, DType::f32, DType::f64}) {
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
  CHECK(text("axis=0 #0", "axis=0 #2") != "nothing was thrown");
  CHECK(text("length=1 step=1 axis=0 $1", "length=3 step=1 axis=0 $1") != "nothing was thrown");
  CHECK(text("spec=f32[2]", "spec=-") != "nothing was thrown");
  CHECK(text("slice(%5)", "slice()") != "nothing was thrown");
  CHECK(text("write(%7, %8)", "write(%7)") != "nothing was thrown");
  CHECK(text("alias 1", "alias 9") != "nothing was thrown");
  CHECK(text("mask 2 $0", "mask 2") != "nothing was thrown");
  CHECK(text("mask 2 $0", "mask 3 $0") != "nothing was thrown");
}

TEST_CASE("graphs with bodies read back", "[graph][control]") {
  for (std::string_view text : {scan_by_hand, cond_by_hand, while_by_hand}) CHECK(again(text) == text);
  const Tensor w = uniform({2, 2}, -1, 1).set_requires_grad();
  const auto reads_back = [&](const std::function<Tensor(const Tensor&)>& body) {
    auto f = capture(body);
    for (int i = 0; i < 3; ++i) f(zeros({1, 2}));
    const std::string text = f.dump();
    CHECK(text.find("body @0") == 0);
    CHECK(bare(again(text)) == bare(text));
  };
  const auto chosen = [](const Tensor& h, const Tensor& v) {
    return cond(sum(v) > 0, [&] { return h + v; }, [&] { return h; });
  };
  const auto cell = [&](const Tensor& h, const Tensor& v) {
    const Tensor y = tanh(matmul(h, w) + v);
    return std::pair(y, dropout(y * 2, 0.5));
  };
  reads_back([&](const Tensor& x) { return scan(chosen, x, ones({3, 1, 2})); });
  reads_back([&](const Tensor& x) { return scan(cell, x, ones({3, 1, 2}), {.reverse = true}).second; });
  reads_back([&](const Tensor& x) { return grad({sum(scan(cell, x, ones({3, 1, 2})).second)}, {w})[0]; });
  const auto doubled = [&](int64_t trips) {
    return [&, trips](const Tensor& x) {
      const Tensor limit = x + 9;
      return sum(while_loop([&](const Tensor& h) { return sum(h) < sum(limit); },
                            [&](const Tensor& h) { return h * 2 + matmul(x, w) + 1; }, x, {.max_trips = trips}));
    };
  };
  reads_back([&](const Tensor& x) { return no_grad([&] { return doubled(-1)(x); }); });
  reads_back([&](const Tensor& x) { return grad({doubled(4)(x)}, {w})[0]; });
}

TEST_CASE("texts whose control ops do not fit their bodies", "[graph][control]") {
  const auto check = [](std::string_view good, std::string_view what, std::string_view by, std::string_view message) {
    const std::string text = failure(replaced(std::string(good), what, by));
    INFO(what << " -> " << by << ": " << text);
    CHECK(text.find(message) != std::string::npos);
  };
  SECTION("operands of a while_loop") {
    check(while_by_hand, "%1 = input() alias 1 : f32[]\n  %2 = input", "%1 = input() alias 1 : f32[1]\n  %2 = input",
          "while_loop: input 1 of the body is f32[], its operand f32[1]");
    check(while_by_hand, "%2 = input() alias 2 : f32[2]", "%2 = input() alias 2 : f32[3]",
          "while_loop: input 1 of the body is f32[2], its operand f32[3]");
    check(while_by_hand, "(%0, %1, %2)", "(%2, %2, %2)",
          "while_loop: input 1 of the body is f32[], its operand f32[2]");
    check(while_by_hand, "(%0, %1, %2)", "(%0, %1)", "while_loop: expected a body of 1 inputs and 1 outputs");
  }
  SECTION("what a body gives") {
    check(while_by_hand, "return (%3)", "return (%0)", "output %0 of a body has no elements of its own");
    check(scan_by_hand, "return (%3, %4)", "return (%4, %3)", "(scan): carry 0 is f32[2] and f32[]");
    check(while_by_hand, "$0 : f32[2]\n  %3 = add(%2, %1) : f32[2]",
          "$0 : f32[2]\n  %3 = sum(%2) axes=1 keepdim=0 : f32[]", "(while_loop): carry 0 is f32[2] and f32[]");
    check(while_by_hand, "less(%2, %1) : bool[]", "sub(%2, %1) : f32[]", "expected one bool as condition, got f32[]");
    check(cond_by_hand, "mul(%0, %0) : f32[2]", "sum(%0) axes=1 keepdim=0 : f32[]",
          "(cond): result 0 is f32[2] and f32[]");
    check(scan_by_hand, "%3 = add(%2, %1) : f32[2]", "%3 = write(%0, %2) : f32[2]", "writes to the body's inputs");
  }
  SECTION("predicates") {
    check(cond_by_hand, "bool[]", "i32[]", "(cond): expected one bool as predicate, got i32[]");
    check(cond_by_hand, "bool[]", "bool[2]", "(cond): expected one bool as predicate, got bool[2]");
  }
  SECTION("numbers") {
    check(cond_by_hand, "closed=0 $0", "closed=0", "(cond): the bodies have another number of parameters");
    check(scan_by_hand, "closed=0 $0", "closed=0 $0 $0", "(scan): the bodies have another number of parameters");
    check(scan_by_hand, "saved=0", "saved=2", "2 results, 2 of them saved");
    check(scan_by_hand, "saved=0", "saved=1", "the step without saved results is another one");
    check(while_by_hand, "results=1", "results=2", "2 results, 0 of them saved, of a body with 1 outputs");
    check(cond_by_hand, "graph parameters 0", "graph parameters -1", "-1 parameters");
    check(scan_by_hand, "mul(%0) mask 2 $0", "uniform() spec=f32[2] mask 63 #1 #2 $0 #0 #0 #3f800000",
          "a position of the generator has no high word");
  }
  SECTION("results") {
    check(scan_by_hand, "index=1", "index=2", "%4 (result): scan has results 0 to 1, got 2");
    check(scan_by_hand, "index=1", "index=-1", "%4 (result): scan has results 0 to 1, got -1");
    check(scan_by_hand, "spec=f32[3] index=1 : f32[3]", "spec=f32[9] index=1 : f32[9]",
          "result 1 of scan is f32[3], got f32[9]");
    check(scan_by_hand, "spec=f32[2] index=0 : f32[2]", "spec=i32[2] index=0 : i32[2]",
          "result 0 of scan is f32[2], got i32[2]");
    check(cond_by_hand, "result(%2)", "result(%1)", "(result): %1 has no results");
    check(cond_by_hand, "return (%3)", "return (%2)", "node %2 (cond) has no elements");
    check(cond_by_hand, "result(%2) spec=f32[2] index=0 : f32[2]", "neg(%2) : f32[0]", "(neg): %2 has no elements");
  }
}

TEST_CASE("no text crashes the parser", "[graph]") {
  Draw draw(99);
  const auto below = [&](size_t n) { return static_cast<size_t>(draw.next() * static_cast<double>(n)); };
  std::vector<std::string> texts;
  for (std::string_view text : {written_by_hand, scan_by_hand, cond_by_hand, while_by_hand}) texts.emplace_back(text);
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
