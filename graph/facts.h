#pragma once
// What plans and captured functions know about themselves, as plain data. Every report is printed from these.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "reprise/graph/capture.h"

namespace rp {

struct PlanFacts;

/// One node of a graph.
struct NodeFacts {
  std::string op, attrs, layout;
  std::string line;  // "file.cpp:41", empty if unknown
  std::vector<int32_t> inputs;
  int32_t kernel = -1;  // that computes it; -1: an input or a view
};

/// One launch of a plan.
struct KernelFacts {
  std::string kind, form;
  std::vector<int32_t> nodes;
  int64_t bytes_read = 0, bytes_written = 0;
  int64_t flops = 0;
  double predicted_ns = 0;
  double measured_ns = 0;  // the median of the latest `runs` that were timed
  int64_t runs = 0;
  std::vector<PlanFacts> body;  // plans that it runs
};

/// A buffer of the arena.
struct BufferFacts {
  int32_t node;
  size_t bytes, offset;
  int first, last;  // kernels between which it is alive, both included
};

/// Two kernels, one reading what the other makes, that are not one: an edge between them and the rule that forbade it.
struct RefusalFacts {
  int32_t producer, consumer;  // nodes
  std::string rule;
};

struct PlanFacts {
  std::string role;                // of a plan that a kernel runs
  int64_t times = 1;               // how often one run of that kernel runs it
  std::vector<std::string> notes;  // what rewrites have done
  std::vector<NodeFacts> nodes;
  std::vector<int32_t> inputs, outputs, writes;
  std::vector<KernelFacts> kernels;
  std::vector<BufferFacts> buffers;
  std::vector<RefusalFacts> refusals;
  size_t arena_bytes = 0, live_bytes = 0;  // live: the most that is alive at one step
  int reorders = 0;                        // tensors that are only put into another order
};

/// Ops of a trie of recordings that follow each other without a branch.
struct StretchFacts {
  int parent = -1;
  int ops = 0;
  std::string first, last;  // "op at file.cpp:41"
  int path = -1;            // that ends here
};

/// A recorded path from the start of a segment to one of its ends.
struct PathFacts {
  int ops = 0;
  int64_t hits = 0;
  std::string refusal;  // why it has no plan, where compiling failed
  std::optional<PlanFacts> plan;
};

/// A divergence, cut, rebuilt plan or refusal, and how often it happened.
struct EventFacts {
  std::string text;
  int64_t times = 1;
};

struct CaptureFacts {
  std::string name;
  CaptureStats stats;
  std::vector<std::pair<std::string, int64_t>> ends;  // why segments ended, and how often
  std::vector<StretchFacts> stretches;                // parents stand before their children
  std::vector<PathFacts> paths;
  std::vector<EventFacts> events;  // the latest ones
};

/// Bytes, operations and times of all kernels of a plan.
struct Totals {
  int64_t bytes_read = 0, bytes_written = 0, flops = 0;
  double predicted_ns = 0, measured_ns = 0;
  int64_t runs = 0;  // the least of any kernel
};
Totals totals(const PlanFacts& plan);

struct Graph;
struct TraceOp;
/// "op at file.cpp:41".
std::string op_text(const TraceOp& op);
/// The nodes of a graph as they are printed; which kernel computes them is left open.
std::vector<NodeFacts> node_facts(const Graph& graph);

struct Trie;
CaptureFacts facts(const Trie& trie);

}  // namespace rp
