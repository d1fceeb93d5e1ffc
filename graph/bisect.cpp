#include "reprise/graph/bisect.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "reprise/core/fail.h"
#include "reprise/core/switches.h"
#include "reprise/graph/interpret.h"
#include "reprise/graph/private_inputs.h"

namespace rp {
namespace {

Tensors values_of(const Graph& g, const Frame& frame) {
  const PrivateInputs inputs(g, frame);
  return values_of(g, inputs.tensors(), {frame.scalars, static_cast<size_t>(g.parameters)});
}

bool same_elements(const Tensor& a, const Tensor& b) { return first_differing(a, b) < 0; }

using Place = std::tuple<std::string, uint32_t, uint32_t>;
Place place_of(const Loc& loc) { return {loc.file_name(), loc.line(), loc.column()}; }

// The first op of `right` that `wrong`, another form of the same program, computes otherwise or not at all. Nodes
// belong together if they stand for the same call.
std::optional<Difference> rewritten_wrongly(const Graph& right, const Graph& wrong, const Frame& frame) {
  const Tensors expected = values_of(right, frame), found = values_of(wrong, frame);
  std::map<Place, std::vector<int32_t>> by_place;
  for (int32_t i = 0; i < wrong.size(); ++i) by_place[place_of(wrong[i].loc)].push_back(i);
  for (int32_t i = 0; i < right.size(); ++i) {
    const Tensor& want = expected[static_cast<size_t>(i)];
    const Kind kind = right[i].op->kind;
    if (kind == Kind::input || kind == Kind::view || !want.defined() || !right[i].loc.line()) continue;
    bool comparable = false, equal = false;
    for (int32_t j : by_place[place_of(right[i].loc)]) {
      const Tensor& got = found[static_cast<size_t>(j)];
      if (!got.defined() || got.spec() != want.spec()) continue;
      comparable = true;
      equal = equal || same_elements(want, got);
    }
    const bool lost = kind == Kind::write && by_place[place_of(right[i].loc)].empty();
    if (lost || (comparable && !equal)) return Difference{std::string(right[i].op->name), right[i].loc, {}, {}, true};
  }
  return {};
}

// Where no op differs alone: what made the wrong result.
Difference maker_of(const Graph& g, size_t wrong) {
  const size_t outputs = g.outputs.size();
  const int32_t value = wrong < outputs ? base_of(g, g.outputs[wrong]) : g.writes[wrong - outputs];
  return {std::string(g[value].op->name), g[value].loc, {}, "which no kernel computes wrongly alone", false};
}

std::string sentence(const Culprit& c, const Difference& d) {
  const std::string text = fmt::format("first differing op: {}{}{}{}{}", d.op, c.line, d.inside.empty() ? "" : ", ",
                                       d.inside, d.kernel.empty() ? "" : ", in kernel " + d.kernel);
  if (c.rewrite == "kernel") return text + "; its kernel is wrong with every rewrite switched off";
  if (c.rewrite == "plan") return text + "; it goes wrong with every rewrite switched off: copies, order or bindings";
  if (c.rewrite == "record") return text + "; a plan compiled afresh is right: this one was made for another recording";
  return text + "; goes wrong with the rewrite \"" + c.rewrite + "\"";
}

}  // namespace

Culprit bisect(const Trial& trial) {
  const Unarmed unarmed;
  std::vector<std::string_view> names;
  for (const Rewrite& r : rewrites()) names.push_back(r.name);
  Graph before;
  for (size_t on = 0; on <= names.size(); ++on) {
    const Without off({names.begin() + static_cast<std::ptrdiff_t>(on), names.end()});
    Graph g = trial.graph();
    const std::unique_ptr<Executable> code = engine.compile(g);
    const int wrong = trial.differs(*code);
    if (wrong < 0) {
      before = std::move(g);
      continue;
    }
    std::optional<Difference> d;
    trial.with_frame([&](const Frame& frame) {
      d = code->first_difference(frame);
      if (!d && on) d = rewritten_wrongly(before, g, frame);
    });
    Culprit c;
    c.rewrite = on ? std::string(names[on - 1]) : d && d->alone ? "kernel" : "plan";
    if (!d) d = maker_of(code->graph(), static_cast<size_t>(wrong));
    c.op = d->op;
    c.line = source_line(d->loc);
    c.text = sentence(c, *d);
    return c;
  }
  const Difference d = maker_of(trial.code->graph(), trial.wrong);
  Culprit c{"record", d.op, source_line(d.loc), {}};
  c.text = sentence(c, d);
  return c;
}

}  // namespace rp
