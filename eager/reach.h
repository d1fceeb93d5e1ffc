#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "reprise/eager/tape.h"

namespace rp {

/// The part of the tape that some tensors depend on. Its noted ops and leaves ("stops") are numbered as they are found,
/// so that a walk looks up none of them.
class Reach {
 public:
  static constexpr int32_t nowhere = -1;

  struct Stop {
    const Edge* way;  // the first edge found that leads here
    size_t edges;     // of a noted op: which of all edges is its first
    int32_t results;  // how many of its results, from the first, are depended on
    size_t result;    // which of all stops' results is its first
    const TapeNode* node() const { return way->node.get(); }
  };

  /// `roots` are the histories of those tensors.
  explicit Reach(std::vector<Edge> roots);

  const std::vector<Edge>& roots() const { return roots_; }
  size_t size() const { return stops_.size(); }
  const Stop& operator[](int32_t stop) const { return stops_[static_cast<size_t>(stop)]; }
  /// Noted ops in the order of the program.
  const std::vector<int32_t>& nodes() const { return nodes_; }
  /// Where the gradient of a noted op's input goes.
  int32_t behind(const Stop& stop, size_t edge) const { return ends_[stop.edges + edge]; }
  int32_t find(const void* owner) const { return table_[place(owner)]; }
  size_t results() const { return results_; }

 private:
  int32_t number(const Edge& edge);
  size_t place(const void* owner) const;
  void grow();

  std::vector<Edge> roots_;
  std::vector<Stop> stops_;
  std::vector<int32_t> ends_, nodes_;
  std::vector<int32_t> table_;  // by an owner's hash, then the next free place; a power of two
  size_t results_ = 0;
};

}  // namespace rp
