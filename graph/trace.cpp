#include "reprise/graph/trace.h"

#include <algorithm>
#include <cstdio>

#include "reprise/core/switches.h"
#include "reprise/graph/recorder.h"

namespace rp {

constexpr size_t max_events = 200;

// Paths may be long: the trie is taken down by a loop, not by recursion.
TraceOp::~TraceOp() {
  std::vector<std::unique_ptr<TraceOp>> list = std::move(children);
  while (!list.empty()) {
    const std::unique_ptr<TraceOp> t = std::move(list.back());
    list.pop_back();
    for (auto& child : t->children) list.push_back(std::move(child));
    t->children.clear();
  }
}

Trie::Trie() = default;
Trie::~Trie() = default;

void Trie::note(std::string event) {
  static const bool log = switch_value("REPRISE_LOG") == "1";
  if (log) std::fprintf(stderr, "reprise: capture '%s': %s\n", options.name.c_str(), event.c_str());
  for (EventFacts& e : events)
    if (e.text == event) return void(++e.times);
  if (events.size() == max_events) events.erase(events.begin());
  events.push_back({std::move(event)});
}

void Trie::count_end(std::string_view reason) {
  const auto it = std::find_if(ends.begin(), ends.end(), [&](const auto& e) { return e.first == reason; });
  if (it == ends.end())
    ends.emplace_back(reason, 1);
  else
    ++it->second;
}

}  // namespace rp
