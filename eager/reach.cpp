#include "reprise/eager/reach.h"

#include <algorithm>

#include "reprise/core/hash.h"

namespace rp {

Reach::Reach(std::vector<Edge> roots) : roots_(std::move(roots)), table_(64, nowhere) {
  for (const Edge& root : roots_) number(root);
  for (size_t i = 0; i < stops_.size(); ++i) {
    const TapeNode* const node = stops_[i].node();
    if (!node) continue;
    nodes_.push_back(static_cast<int32_t>(i));
    stops_[i].edges = ends_.size();
    for (const Edge& e : node->edges) ends_.push_back(number(e));
  }
  for (Stop& stop : stops_) {
    stop.result = results_;
    results_ += static_cast<size_t>(stop.results);
  }
  std::sort(nodes_.begin(), nodes_.end(),
            [&](int32_t a, int32_t b) { return (*this)[a].node()->sequence < (*this)[b].node()->sequence; });
}

int32_t Reach::number(const Edge& edge) {
  const Target target = edge.target();
  if (!target) return nowhere;
  if (2 * stops_.size() >= table_.size()) grow();
  int32_t& found = table_[place(target.owner)];
  if (found == nowhere) {
    found = static_cast<int32_t>(stops_.size());
    stops_.push_back({&edge, 0, 0, 0});
  }
  Stop& stop = stops_[static_cast<size_t>(found)];
  stop.results = std::max(stop.results, target.result + 1);
  return found;
}

size_t Reach::place(const void* owner) const {
  size_t at = hash_mix(0, reinterpret_cast<size_t>(owner));
  for (;; ++at) {
    at &= table_.size() - 1;
    if (table_[at] == nowhere || (*this)[table_[at]].way->target().owner == owner) return at;
  }
}

void Reach::grow() {
  table_.assign(2 * table_.size(), nowhere);
  for (size_t i = 0; i < stops_.size(); ++i) table_[place(stops_[i].way->target().owner)] = static_cast<int32_t>(i);
}

}  // namespace rp
