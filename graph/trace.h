#pragma once
// Recorded ops. A segment of a program is a path through a trie of TraceOps, from its root to where the segment ended.
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "reprise/graph/executable.h"

namespace rp {

/// An operand by what it is within the segment.
struct OperandRef {
  int32_t ref;      // >= 0: the slot of an earlier op; < 0: ~index of an external tensor, in order of first use
  int32_t storage;  // of an external: index of its storage, in order of first use; -1 for slots
  const Layout* layout;
  bool operator==(const OperandRef&) const = default;
};

/// A compiled plan for one set of values that outlive the segment.
struct LeafPlan {
  std::unique_ptr<Executable> code;
  std::vector<int32_t> live;          // root slots it keeps, ascending: its outputs
  Level level = Level::exact;         // what it may change
  std::vector<std::string> notes{};   // what that changes
  std::unique_ptr<RunTimes> times{};  // where profiling is on
};

/// A plan that another thread is making.
struct ComingPlan {
  std::unique_ptr<LeafPlan> plan;
  std::future<std::unique_ptr<Executable>> code;
};

/// The least times of a plan and of its ops one by one, taken in turn.
struct Contest {
  static constexpr int enough = 8;
  int runs = 0;
  double plan_ns = 0, ops_ns = 0;
};

/// The end of a path.
struct Leaf {
  int64_t hits = 0;
  std::unique_ptr<LeafPlan> plan;
  std::optional<ComingPlan> coming;
  Contest contest;
  std::string refusal;  // why there is no plan
  /// Of a traced body: its graph for given inputs and outputs.
  struct Body {
    std::vector<const Layout*> inputs;
    std::vector<int32_t> outputs;
    const Graph* graph;
  };
  std::vector<Body> bodies;
};

struct TraceOp {
  TraceOp() = default;
  TraceOp(const TraceOp&) = delete;
  ~TraceOp();

  const Op* op = nullptr;
  Attrs attrs{};
  uint8_t scalar_mask = 0;
  int scalar_count = 0;
  std::vector<OperandRef> inputs;
  const Layout* out = nullptr;
  int32_t slot = -1;  // of the result; -1 for writes
  Where loc{};
  TraceOp* parent = nullptr;
  int depth = 0;
  std::vector<std::unique_ptr<TraceOp>> children;
  std::unique_ptr<Leaf> leaf;
};

/// The externals of a segment as a graph needs them.
struct ExternalSpec {
  const Layout* layout;
  int32_t storage;
};

/// A path as a functional graph. Its inputs are the externals, its outputs the values of the root slots in `live`, its
/// parameters the scalars of all ops in order; if `fixed` is given, scalars are constants with these bits instead.
Graph build_graph(const std::vector<const TraceOp*>& path, const std::vector<ExternalSpec>& externals,
                  const std::vector<int32_t>& live, const std::vector<uint64_t>* fixed = nullptr);

/// The graph of a composite's body on inputs of the given layouts, its one output last.
const Graph& body_graph(const Op& op, const Attrs& attrs, const std::vector<const Layout*>& inputs);

/// Appends a composite's body to a graph under construction; returns the node of its value.
int32_t inline_body(GraphBuilder& builder, const Node& composite);

}  // namespace rp
