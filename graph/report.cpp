#include "reprise/graph/report.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "reprise/core/fail.h"
#include "reprise/graph/recorder.h"

namespace rp {
namespace {

// A number of three digits with the unit that suits it.
std::string scaled(double v, double step, std::initializer_list<const char*> units) {
  auto unit = units.begin();
  for (; v >= step && unit + 1 != units.end(); v /= step) ++unit;
  if (v == static_cast<double>(static_cast<int64_t>(v)) && v < 1000) return fmt::format("{:.0f} {}", v, *unit);
  return fmt::format("{:.{}f} {}", v, v < 10 ? 2 : v < 100 ? 1 : 0, *unit);
}

}  // namespace

std::string bytes_text(double bytes) { return scaled(bytes, 1024, {"B", "KB", "MB", "GB"}); }
std::string flops_text(double flops) { return scaled(flops, 1000, {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"}); }
std::string time_text(double ns) { return scaled(ns, 1000, {"ns", "us", "ms", "s"}); }

// ---- text -----------------------------------------------------------------------------------------------------------

namespace {

std::string node_text(const PlanFacts& plan, int32_t i) {
  const NodeFacts& n = plan.nodes[static_cast<size_t>(i)];
  return fmt::format("%{} {}{}{}", i, n.op, n.line.empty() ? "" : " ", n.line);
}

// What a kernel or a plan costs.
template <class T>
std::string cost_text(const T& t) {
  std::string text = fmt::format("reads {}, writes {}, {}; predicted {}", bytes_text(static_cast<double>(t.bytes_read)),
                                 bytes_text(static_cast<double>(t.bytes_written)),
                                 flops_text(static_cast<double>(t.flops)), time_text(t.predicted_ns));
  if (t.runs) text += fmt::format(", measured {} in {} runs", time_text(t.measured_ns), t.runs);
  return text;
}

std::string plan_text(const PlanFacts& plan, const std::string& margin) {
  std::string text = fmt::format("{} kernels, {} reorders, arena {} bytes (at least {} alive at once)\n",
                                 plan.kernels.size(), plan.reorders, plan.arena_bytes, plan.live_bytes);
  text += fmt::format("{}all kernels: {}\n", margin, cost_text(totals(plan)));
  for (size_t s = 0; s < plan.kernels.size(); ++s) {
    const KernelFacts& k = plan.kernels[s];
    text += fmt::format("{}[{}] {} ({}):", margin, s, k.kind, k.form);
    for (int32_t i : k.nodes) text += " " + node_text(plan, i) + ";";
    text += fmt::format("\n{}    {}\n", margin, cost_text(k));
    for (const PlanFacts& body : k.body)
      text += fmt::format("{}    {}, {} times: ", margin, body.role, body.times) + plan_text(body, margin + "      ");
  }
  for (const std::string& note : plan.notes) text += margin + note + "\n";
  for (const RefusalFacts& r : plan.refusals)
    text += fmt::format("{}not fused: {} with {}: {}\n", margin, node_text(plan, r.producer),
                        node_text(plan, r.consumer), r.rule);
  return text;
}

}  // namespace

std::string to_text(const CaptureFacts& f) {
  const CaptureStats& s = f.stats;
  std::string text = fmt::format(
      "capture '{}': {} calls, {} ops, {} matched, {} run by plans; {} flushes, {} plan runs, {} plans built in "
      "{:.2f} ms, {} divergences\n",
      f.name, s.calls, s.ops, s.matched, s.planned, s.flushes, s.plan_runs, s.plan_builds, s.compile_ms, s.divergences);
  for (const auto& [reason, times] : f.ends) text += fmt::format("segments ended by {}: {}\n", reason, times);
  for (size_t i = 0; i < f.paths.size(); ++i) {
    const PathFacts& p = f.paths[i];
    text += fmt::format("path {} of {} ops, {} times: ", i, p.ops, p.hits);
    if (p.plan)
      text += plan_text(*p.plan, "  ");
    else
      text += p.refusal.empty() ? "not planned yet\n" : "no plan: " + p.refusal + "\n";
  }
  for (const EventFacts& e : f.events) text += e.text + (e.times > 1 ? fmt::format(" ({} times)", e.times) : "") + "\n";
  return text;
}

// ---- Graphviz -------------------------------------------------------------------------------------------------------

namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out + "\"";
}

// A plan's nodes, those of a kernel in a cluster; a kernel's own plan in a cluster inside that one.
void add_plan(std::string& out, const PlanFacts& plan, const std::string& prefix) {
  const auto node = [&](int32_t i) {
    const NodeFacts& n = plan.nodes[static_cast<size_t>(i)];
    const char* shape = n.kernel >= 0 ? "box" : n.inputs.empty() ? "ellipse" : "plain";
    out += fmt::format("    {}n{} [shape={} label={}];\n", prefix, i, shape,
                       quoted(fmt::format("%{} {}\n{}\n{}", i, n.op, n.layout, n.line)));
  };
  for (size_t k = 0; k < plan.kernels.size(); ++k) {
    const KernelFacts& kernel = plan.kernels[k];
    const double ns = kernel.runs ? kernel.measured_ns : kernel.predicted_ns;
    out += fmt::format("  subgraph cluster_{}k{} {{\n    label={};\n", prefix, k,
                       quoted(fmt::format("[{}] {} ({}) {}", k, kernel.kind, kernel.form, time_text(ns))));
    for (int32_t i : kernel.nodes) node(i);
    for (size_t b = 0; b < kernel.body.size(); ++b)
      add_plan(out, kernel.body[b], fmt::format("{}k{}b{}", prefix, k, b));
    out += "  }\n";
  }
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    if (plan.nodes[i].kernel < 0) node(static_cast<int32_t>(i));
    for (int32_t in : plan.nodes[i].inputs) out += fmt::format("    {}n{} -> {}n{};\n", prefix, in, prefix, i);
  }
}

}  // namespace

std::string to_dot(const CaptureFacts& f) {
  std::string out = "digraph capture {\n  label=" + quoted(f.name) +
                    ";\n  node [fontsize=10 fontname=\"sans-serif\"];\n  edge [arrowsize=0.6];\n";
  for (size_t i = 0; i < f.paths.size(); ++i) {
    if (!f.paths[i].plan) continue;
    out += fmt::format("subgraph cluster_p{} {{\n  label={};\n", i,
                       quoted(fmt::format("path {} of {} ops, {} times", i, f.paths[i].ops, f.paths[i].hits)));
    add_plan(out, *f.paths[i].plan, fmt::format("p{}", i));
    out += "}\n";
  }
  return out + "}\n";
}

// ---- of captured functions ------------------------------------------------------------------------------------------

namespace detail {

std::string explain(const Recording& recording) { return to_text(facts(trie_of(recording))); }
std::string json(const Recording& recording) { return to_json(facts(trie_of(recording))); }
std::string dot(const Recording& recording) { return to_dot(facts(trie_of(recording))); }

void report(const Recording& recording, const std::string& path) {
  const std::string page = to_html(facts(trie_of(recording)));
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file) fail("report: cannot write {}: {}", path, std::strerror(errno));
  const bool written = std::fwrite(page.data(), 1, page.size(), file) == page.size();
  if (std::fclose(file) || !written) fail("report: cannot write {}: {}", path, std::strerror(errno));
}

std::string dump(const Recording& recording) {
  std::string text;
  std::vector<const TraceOp*> open{&trie_of(recording).root};
  while (!open.empty()) {
    const TraceOp* t = open.back();
    open.pop_back();
    if (t->leaf && t->leaf->plan) text += to_string(t->leaf->plan->code->graph());
    for (auto it = t->children.rbegin(); it != t->children.rend(); ++it) open.push_back(it->get());
  }
  return text;
}

}  // namespace detail

}  // namespace rp
