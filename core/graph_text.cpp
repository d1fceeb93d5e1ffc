// Printing and parsing of graphs.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "reprise/core/fail.h"
#include "reprise/core/graph.h"
#include "reprise/core/ops/entries.h"

namespace rp {
namespace {

template <class T>
T read_at(const std::byte* p, int i) {
  T v;
  std::memcpy(&v, p + i * static_cast<int>(sizeof(T)), sizeof v);
  return v;
}

}  // namespace

std::string layout_text(const Layout* layout) {
  if (!layout) return "-";
  std::string text = to_string(layout->spec);
  return layout->contiguous ? text : text + "/" + to_string(layout->strides);
}

// The graphs that a text names by number: bodies stand before what uses them.
using Bodies = std::vector<const Graph*>;

std::string body_text(const Graph* body, const Bodies& bodies) {
  if (!body) return "-";
  return fmt::format("@{}", std::find(bodies.begin(), bodies.end(), body) - bodies.begin());
}

std::string field_text(const Field& f, const std::byte* data, const Bodies& bodies) {
  std::string text;
  for (int i = 0; i < f.count; ++i) {
    if (i) text += ",";
    const std::byte* p = data + f.offset;
    switch (f.type) {
      case FieldType::i32:
      case FieldType::boolean:
        text += std::to_string(read_at<int32_t>(p, i));
        break;
      case FieldType::i64:
        text += std::to_string(read_at<int64_t>(p, i));
        break;
      case FieldType::dtype:
        text += name_of(static_cast<DType>(read_at<int32_t>(p, i)));
        break;
      case FieldType::spec:
        text += layout_text(read_at<const Layout*>(p, i));
        break;
      case FieldType::graph:
        text += body_text(read_at<const Graph*>(p, i), bodies);
        break;
    }
  }
  return f.count > 1 ? "[" + text + "]" : text;
}

namespace {

std::string list_text(const std::vector<int32_t>& list) {
  std::string text;
  for (int32_t i : list) text += fmt::format("{}%{}", text.empty() ? "" : ", ", i);
  return text;
}

}  // namespace

std::string field_text(const Field& field, const std::byte* attrs) {
  if (field.type != FieldType::graph) return field_text(field, attrs, {});
  const Graph* body = read_at<const Graph*>(attrs + field.offset, 0);
  return body ? fmt::format("graph of {} nodes", body->size()) : "-";
}

namespace {

void collect(const Graph& g, Bodies& bodies) {
  for (const Node& n : g.nodes)
    for (const Field& f : n.op->fields) {
      if (f.type != FieldType::graph) continue;
      const Graph* body = read_at<const Graph*>(n.attrs.data() + f.offset, 0);
      if (!body || std::find(bodies.begin(), bodies.end(), body) != bodies.end()) continue;
      collect(*body, bodies);
      bodies.push_back(body);
    }
}

std::string graph_text(const Graph& g, const Bodies& bodies) {
  std::string text = fmt::format("graph parameters {}\n", g.parameters);
  size_t input = 0;
  for (int32_t i = 0; i < g.size(); ++i) {
    const Node& n = g[i];
    text += fmt::format("  %{} = {}({})", i, n.op->name, list_text(n.inputs));
    if (n.op->kind == Kind::input) text += fmt::format(" alias {}", g.aliases[input++]);
    for (const Field& f : n.op->fields) text += fmt::format(" {}={}", f.name, field_text(f, n.attrs.data(), bodies));
    if (n.scalar_mask) text += fmt::format(" mask {}", n.scalar_mask);
    for (const ScalarSource& s : n.scalars)
      text += s.parameter >= 0 ? fmt::format(" ${}", s.parameter) : fmt::format(" #{:x}", s.bits);
    if (n.own) text += " own";
    text += " : " + layout_text(n.layout);
    if (n.loc.line()) text += "  ; " + line_text(n.loc);
    text += '\n';
  }
  return text + fmt::format("  return ({}) writes ({})\n", list_text(g.outputs), list_text(g.writes));
}

}  // namespace

std::string to_string(const Graph& g) {
  Bodies bodies;
  collect(g, bodies);
  std::string text;
  for (size_t i = 0; i < bodies.size(); ++i) text += fmt::format("body @{}\n", i) + graph_text(*bodies[i], bodies);
  return text + graph_text(g, bodies);
}

namespace {

// A cursor over one line of the text.
class Reader {
 public:
  Reader(std::string_view line, int number) : rest_(line), number_(number) {}

  void skip() {
    while (!rest_.empty() && rest_.front() == ' ') rest_.remove_prefix(1);
  }
  bool take(std::string_view token) {
    skip();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  void expect(std::string_view token) {
    if (!take(token)) fail("parse_graph: line {}: expected '{}', got '{}'", number_, token, rest_.substr(0, 20));
  }
  std::string_view word() {
    skip();
    size_t n = 0;
    while (n < rest_.size() && (std::isalnum(static_cast<unsigned char>(rest_[n])) || rest_[n] == '_')) ++n;
    const std::string_view w = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return w;
  }
  int64_t number(int base = 10) {
    skip();
    uint64_t magnitude = 0;
    const bool negative = base == 10 && take("-");
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), magnitude, base);
    if (error != std::errc()) fail("parse_graph: line {}: expected a number, got '{}'", number_, rest_.substr(0, 20));
    rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    return static_cast<int64_t>(negative ? 0 - magnitude : magnitude);
  }
  Dims dims() {
    Dims d;
    expect("[");
    if (take("]")) return d;
    do d.push_back(number());
    while (take(","));
    expect("]");
    return d;
  }
  DType dtype() {
    const std::string_view w = word();
    for (int d = 0; d < dtype_count; ++d)
      if (name_of(static_cast<DType>(d)) == w) return static_cast<DType>(d);
    fail("parse_graph: line {}: unknown dtype '{}'", number_, w);
  }
  const Layout* layout() {
    if (take("-")) return nullptr;
    const DType type = dtype();
    Spec spec{type, dims(), {}};
    if (take("@")) spec.device = device();
    return take("/") ? intern(spec, dims()) : intern(spec);
  }
  Device device() {
    std::string name(word());
    if (take(":")) name += ":" + std::to_string(number());
    return parse_device(name);
  }
  std::vector<int32_t> list() {
    std::vector<int32_t> nodes;
    expect("(");
    if (take(")")) return nodes;
    do {
      expect("%");
      nodes.push_back(static_cast<int32_t>(number()));
    } while (take(","));
    expect(")");
    return nodes;
  }

 private:
  std::string_view rest_;
  int number_;
};

template <class T>
void put(std::byte* p, int i, T v) {
  std::memcpy(p + i * static_cast<int>(sizeof v), &v, sizeof v);
}

const Graph* read_body(Reader& in, const Bodies& bodies) {
  if (in.take("-")) return nullptr;
  in.expect("@");
  const int64_t k = in.number();
  if (k < 0 || k >= static_cast<int64_t>(bodies.size())) fail("parse_graph: there is no body @{} before its use", k);
  return bodies[static_cast<size_t>(k)];
}

void read_field(Reader& in, const Field& f, const Bodies& bodies, Attrs& attrs) {
  constexpr int widths[] = {4, 8, 4, 4, 8, 8};
  std::byte* p = attrs.data() + f.offset;
  in.expect(f.name);
  in.expect("=");
  if (f.count > 1) in.expect("[");
  for (int i = 0; i < f.count; ++i) {
    if (i) in.expect(",");
    switch (f.type) {
      case FieldType::i32:
      case FieldType::boolean:
        put(p, i, static_cast<int32_t>(in.number()));
        break;
      case FieldType::i64:
        put(p, i, in.number());
        break;
      case FieldType::dtype:
        put(p, i, static_cast<int32_t>(in.dtype()));
        break;
      case FieldType::spec:
        put(p, i, in.layout());
        break;
      case FieldType::graph:
        put(p, i, read_body(in, bodies));
        break;
    }
  }
  if (f.count > 1) in.expect("]");
  attrs.resize(std::max(attrs.size(), f.offset + f.count * widths[static_cast<int>(f.type)]));
}

const Op* op_named(std::string_view name, int line) {
  if (name == after_op.name) return &after_op;
  const Op* op = find_op(name);
  if (!op) fail("parse_graph: line {}: unknown op '{}'", line, name);
  return op;
}

void read_node(Reader& in, int line, const Bodies& bodies, Graph& g) {
  in.expect("%");
  if (in.number() != g.size()) fail("parse_graph: line {}: expected %{}", line, g.size());
  in.expect("=");
  Node n{.op = op_named(in.word(), line)};
  n.inputs = in.list();
  if (n.op->kind == Kind::input) {
    in.expect("alias");
    g.aliases.push_back(static_cast<int32_t>(in.number()));
    g.inputs.push_back(g.size());
  }
  for (const Field& f : n.op->fields) read_field(in, f, bodies, n.attrs);
  if (in.take("mask")) n.scalar_mask = static_cast<uint8_t>(in.number());
  for (;;) {
    if (in.take("$"))
      n.scalars.push_back({static_cast<int32_t>(in.number()), 0});
    else if (in.take("#"))
      n.scalars.push_back({-1, static_cast<uint64_t>(in.number(16))});
    else
      break;
  }
  if (n.scalars.size() > max_scalars && n.op->kind != Kind::control)
    fail("parse_graph: line {}: too many scalars", line);
  n.own = in.take("own");
  in.expect(":");
  n.layout = in.layout();
  g.nodes.push_back(std::move(n));
}

}  // namespace

Graph parse_graph(std::string_view text) {
  Graph g;
  Bodies bodies;
  enum { before, inside, after } state = before;
  bool is_body = false;
  for (int line = 1; !text.empty() && state != after; ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    Reader in(text.substr(0, end), line);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (state == before && in.take("body @")) {
      if (in.number() != static_cast<int64_t>(bodies.size()))
        fail("parse_graph: line {}: expected body @{}", line, bodies.size());
      is_body = true;
    } else if (state == before) {
      in.expect("graph parameters");
      g.parameters = static_cast<int32_t>(in.number());
      state = inside;
    } else if (in.take("return")) {
      g.outputs = in.list();
      in.expect("writes");
      g.writes = in.list();
      check_nodes(g);
      verify(g, "parsing");
      check_control(g);
      state = is_body ? before : after;
      if (is_body) bodies.push_back(intern(std::exchange(g, {})));
      is_body = false;
    } else {
      read_node(in, line, bodies, g);
    }
  }
  if (state != after) fail("parse_graph: the text has no return line");
  return g;
}

}  // namespace rp
