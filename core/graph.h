#pragma once
// The Graph: a recorded program as data. Nodes stand in program order, each naming earlier ones, so a graph is SSA by
// construction. Memory that is written appears functionally: `write(place, value, before)` is the next version of the
// storage that `place` lies in, and `after(place, write)` is that place's value in that version. Views name their base.
#include <string>
#include <string_view>
#include <vector>

#include "reprise/core/op.h"

namespace rp {

/// Where a node's run-time scalar comes from: parameter `parameter` of the graph, or, if that is negative, fixed bits
/// (only for numbers that are part of a composite's body).
struct ScalarSource {
  int32_t parameter = -1;
  uint64_t bits = 0;
  bool operator==(const ScalarSource&) const = default;
};

struct Node {
  const Op* op = nullptr;
  std::vector<int32_t> inputs{};
  Attrs attrs{};
  std::vector<ScalarSource> scalars{};
  uint8_t scalar_mask = 0;
  bool own = false;                // its elements are written later: never shared with an equal node
  const Layout* layout = nullptr;  // of a view: over the elements of its base
  Where loc{};
};

struct Graph {
  std::vector<Node> nodes;
  std::vector<int32_t> inputs;   // nodes of op `input`, in the order of the graph's parameters
  std::vector<int32_t> aliases;  // per input: the first input that shares its storage
  std::vector<int32_t> outputs;  // values the caller wants
  std::vector<int32_t> writes;   // the last write of every input storage that is written
  int32_t parameters = 0;        // run-time scalars

  std::vector<std::string> notes{};  // what passes have done, for reports

  const Node& operator[](int32_t i) const { return nodes[static_cast<size_t>(i)]; }
  int32_t size() const { return static_cast<int32_t>(nodes.size()); }
};

/// after(place, write): the elements of `place` once `write` is done.
extern const Op after_op;

/// The base whose elements a node's value lies in: itself unless it is a view, an `after` or a write.
int32_t base_of(const Graph& graph, int32_t node);

/// Where its values lie; a graph never spans devices.
Device device_of(const Graph& graph);

/// The one graph of that content, for the life of the process: what structural arguments point to.
const Graph* intern(Graph graph);

/// The parameters that are a random position's low word; its high word is the next parameter. Those of the bodies of
/// control ops included.
std::vector<int32_t> random_positions(const Graph& graph);
/// The storage that a node's value lies in: its base, or, of parameters that share one, the first of them.
int32_t storage_of(const Graph& graph, int32_t node);

/// " file.cpp:41", or nothing.
std::string source_line(const Loc& loc);
/// "f32[2,3]", followed by strides where they are not the packed ones.
std::string layout_text(const Layout* layout);
/// The value of one member of an attrs struct.
std::string field_text(const Field& field, const std::byte* attrs);

/// Text that `parse_graph` reads back; each line ends with the op's source line.
std::string to_string(const Graph& graph);
/// Throws Error with the line number if the text is not a graph.
Graph parse_graph(std::string_view text);

/// Checks what shape rules and printing rely on: numbers of operands, attrs and scalars of every node. For text from
/// outside.
void check_nodes(const Graph& graph);
/// Checks what those that run bodies rely on beyond shape rules: results and scalars of control ops, what their bodies
/// give. For text from outside, after `verify`.
void check_control(const Graph& graph);

/// Checks the invariants: operands stand before their users, layouts follow the shape rules, outputs exist. Throws
/// Error naming `stage` and the node otherwise.
void verify(const Graph& graph, std::string_view stage);

/// Appends nodes, sharing equal ones (same op, inputs, attrs, no scalars) as it goes.
class GraphBuilder {
 public:
  GraphBuilder();
  int32_t input(const Layout* layout, int32_t alias_of, const Where& loc = {});
  int32_t add(Node node);
  Graph& graph() { return graph_; }
  Graph take() { return std::move(graph_); }
  /// Takes the graph as a new form of `original`, whose node i has become `map[i]`.
  Graph take(const Graph& original, const std::vector<int32_t>& map);

 private:
  Graph graph_;
  std::vector<int32_t> shared_;  // open-addressed table of shareable nodes
  size_t count_ = 0;
  bool share_;
  void grow();
};

}  // namespace rp
