#include <map>
#include <nlohmann/json.hpp>

#include "reprise/graph/report.h"

namespace rp {
namespace {

using Json = nlohmann::ordered_json;

// Names and paths may be in any encoding.
std::string dumped(const Json& j, int indent) { return j.dump(indent, ' ', false, Json::error_handler_t::replace); }

Json stats_json(const CaptureStats& s) {
  return {{"calls", s.calls},
          {"ops", s.ops},
          {"matched", s.matched},
          {"planned", s.planned},
          {"flushes", s.flushes},
          {"plan_runs", s.plan_runs},
          {"plan_builds", s.plan_builds},
          {"divergences", s.divergences},
          {"recordings", s.recordings},
          {"verified", s.verified},
          {"compile_ms", s.compile_ms}};
}

template <class T>
Json cost_json(const T& t) {
  return {{"bytes_read", t.bytes_read},
          {"bytes_written", t.bytes_written},
          {"flops", t.flops},
          {"predicted_ns", t.predicted_ns},
          {"measured_ns", t.runs ? Json(t.measured_ns) : Json()},
          {"runs", t.runs}};
}

// All but the lists of what a plan consists of.
Json plan_summary(const PlanFacts& plan) {
  Json j{{"total", cost_json(totals(plan))}, {"arena_bytes", plan.arena_bytes}, {"live_bytes", plan.live_bytes}};
  if (!plan.role.empty()) {
    j["role"] = plan.role;
    j["times"] = plan.times;
  }
  j["notes"] = plan.notes;
  j["reorders"] = plan.reorders;
  j["inputs"] = plan.inputs;
  j["outputs"] = plan.outputs;
  j["writes"] = plan.writes;
  return j;
}

Json plan_json(const PlanFacts& plan) {
  Json j = plan_summary(plan);
  j["nodes"] = Json::array();
  for (const NodeFacts& n : plan.nodes)
    j["nodes"].push_back({{"op", n.op},
                          {"inputs", n.inputs},
                          {"attrs", n.attrs},
                          {"layout", n.layout},
                          {"line", n.line},
                          {"kernel", n.kernel < 0 ? Json() : Json(n.kernel)}});
  j["kernels"] = Json::array();
  for (const KernelFacts& k : plan.kernels) {
    Json one{{"kind", k.kind}, {"form", k.form}, {"nodes", k.nodes}};
    one.update(cost_json(k));
    for (const PlanFacts& body : k.body) one["body"].push_back(plan_json(body));
    j["kernels"].push_back(std::move(one));
  }
  j["buffers"] = Json::array();
  for (const BufferFacts& b : plan.buffers)
    j["buffers"].push_back(
        {{"node", b.node}, {"bytes", b.bytes}, {"offset", b.offset}, {"first", b.first}, {"last", b.last}});
  j["refusals"] = Json::array();
  for (const RefusalFacts& r : plan.refusals)
    j["refusals"].push_back({{"producer", r.producer}, {"consumer", r.consumer}, {"rule", r.rule}});
  return j;
}

// What is not about plans.
Json capture_json(const CaptureFacts& f) {
  Json j{{"name", f.name}, {"stats", stats_json(f.stats)}, {"ends", Json::array()}, {"events", Json::array()}};
  for (const auto& [reason, times] : f.ends) j["ends"].push_back({{"reason", reason}, {"times", times}});
  for (const EventFacts& e : f.events) j["events"].push_back({{"text", e.text}, {"times", e.times}});
  j["stretches"] = Json::array();
  for (const StretchFacts& s : f.stretches)
    j["stretches"].push_back({{"parent", s.parent < 0 ? Json() : Json(s.parent)},
                              {"ops", s.ops},
                              {"first", s.first},
                              {"last", s.last},
                              {"path", s.path < 0 ? Json() : Json(s.path)}});
  return j;
}

Json path_json(const PathFacts& p) { return {{"ops", p.ops}, {"hits", p.hits}, {"refusal", p.refusal}}; }

}  // namespace

std::string to_json(const CaptureFacts& f) {
  Json j = capture_json(f);
  j["paths"] = Json::array();
  for (const PathFacts& p : f.paths) {
    j["paths"].push_back(path_json(p));
    j["paths"].back()["plan"] = p.plan ? plan_json(*p.plan) : Json();
  }
  return dumped(j, 1);
}

// ---- the page -------------------------------------------------------------------------------------------------------

namespace {

// Texts that occur many times, by number.
class Texts {
 public:
  size_t number(const std::string& text) {
    const auto [it, fresh] = numbers_.try_emplace(text, list_.size());
    if (fresh) list_.push_back(text);
    return it->second;
  }
  Json list() const { return list_; }

 private:
  std::map<std::string, size_t> numbers_;
  std::vector<std::string> list_;
};

// Rows instead of objects: [op, line, layout, attrs, kernel, inputs...] for a node.
Json page_plan(const PlanFacts& plan, Texts& texts, bool with_nodes) {
  Json j = plan_summary(plan);
  j["nodes"] = Json::array();
  if (with_nodes)
    for (const NodeFacts& n : plan.nodes) {
      Json row{texts.number(n.op), texts.number(n.line), texts.number(n.layout), texts.number(n.attrs), n.kernel};
      for (int32_t in : n.inputs) row.push_back(in);
      j["nodes"].push_back(std::move(row));
    }
  j["kernels"] = Json::array();
  for (const KernelFacts& k : plan.kernels) {
    Json row{texts.number(k.kind),
             texts.number(k.form),
             k.bytes_read,
             k.bytes_written,
             k.flops,
             static_cast<int64_t>(k.predicted_ns + 0.5),
             static_cast<int64_t>(k.measured_ns + 0.5),
             k.runs,
             with_nodes ? Json(k.nodes) : Json::array(),
             Json::array()};
    for (const PlanFacts& body : k.body) row.back().push_back(page_plan(body, texts, with_nodes));
    j["kernels"].push_back(std::move(row));
  }
  j["buffers"] = Json::array();
  for (const BufferFacts& b : plan.buffers)
    if (with_nodes) j["buffers"].push_back({b.node, b.bytes, b.offset, b.first, b.last});
  j["refusals"] = Json::array();
  for (const RefusalFacts& r : plan.refusals)
    if (with_nodes) j["refusals"].push_back({r.producer, r.consumer, texts.number(r.rule)});
  return j;
}

}  // namespace

std::string page_data(const CaptureFacts& f, size_t budget) {
  Json j = capture_json(f);
  Texts texts;
  j["paths"] = Json::array();
  size_t used = 0;
  for (const PathFacts& p : f.paths) {
    Json path = path_json(p);
    path["plan"] = Json();
    for (bool with_nodes : {true, false}) {
      if (!p.plan) break;
      Texts all = texts;
      Json plan = page_plan(*p.plan, all, with_nodes);
      const size_t size = dumped(plan, -1).size();
      if (used + size + dumped(all.list(), -1).size() > budget) continue;
      path["plan"] = std::move(plan);
      texts = std::move(all);
      used += size;
      break;
    }
    j["paths"].push_back(std::move(path));
  }
  j["texts"] = texts.list();
  return dumped(j, -1);
}

}  // namespace rp
