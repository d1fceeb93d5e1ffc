#pragma once
// The recorder: compares the ops of a captured function with a trie of earlier recordings and defers them.
//
// While a segment matches, nothing is computed: a matched op is put on the pending list and its result is a tensor
// whose storage is pending. A flush runs the pending path by its plan, or op by op where there is none. When an op does
// not match, the pending ops run op by op and the rest of the segment is recorded as a new branch, running as eager
// does.
#include <functional>

#include "reprise/core/engine.h"
#include "reprise/graph/bisect.h"
#include "reprise/graph/capture.h"
#include "reprise/graph/first_use.h"
#include "reprise/graph/trace.h"

namespace rp {

/// What one captured function has recorded on one thread.
struct Trie {
  CaptureOptions options;
  TraceOp root;
  int leaves = 0;
  int tracing = 0;  // bodies being traced: one within the other where a function scans and calls itself
  std::vector<std::pair<std::string_view, int64_t>> ends;  // why segments ended, and how often
  int64_t unrecorded = 0;                                  // segments that ran without being recorded, for lack of room
  CaptureStats stats;
  std::vector<EventFacts> events;      // misses, cuts and refusals with their reasons; the latest are kept
  std::unique_ptr<Recorder> recorder;  // kept between calls
  Culprit culprit;                     // of the first difference that verify has found
  struct Watch {
    std::function<void(const Tensor&)> uses;                   // a tensor from outside, before the program uses it
    std::function<void(const TraceOp&, const Tensor&)> makes;  // a value that is computed op by op
    // A segment that was recorded, without rewrites, with its tensors from outside and its numbers.
    std::function<void(Graph, const Tensors&, const std::vector<uint64_t>&)> records;
    bool plans = true;  // false: matched ops run op by op
  };
  std::unique_ptr<Watch> watch;  // of rp::verify

  Trie();
  ~Trie();
  void note(std::string event);
  void count_end(std::string_view reason);
};

/// A body of a control op: tensors in, tensors out.
using BodyFunction = std::function<Tensors(const Tensors&)>;

/// A body as a graph, with what it closes over.
struct TracedBody {
  const Graph* graph;  // inputs: those of the body, then what it closes over
  Tensors closed;
  Scalars scalars;  // the graph's parameters
};

class Recorder {
 public:
  explicit Recorder(Trie& trie);
  ~Recorder();
  Recorder(const Recorder&) = delete;

  Tensor record(const Call& call);
  /// Runs what is pending and starts a new segment. The reason is a literal: reports count it.
  void flush(std::string_view reason);
  /// Runs what is pending op by op: the way out after an exception.
  void abandon();

  /// Whether a read of `t` by the host ends the segment: it made the value, or has used it.
  bool concerns(const Tensor& t) const;

  /// Records on values that do not exist, for bodies: `body` gets placeholders of the given layouts and its ops are
  /// compared with those recorded in `trie` before. Calls of one site share a trie.
  static TracedBody trace(Trie& trie, const std::vector<const Layout*>& inputs, const BodyFunction& body);
  /// The same for the body of a composite op: closes over nothing, and numbers in it are constants.
  static Graph trace_composite(const std::vector<const Layout*>& inputs, const BodyFunction& body);

  bool tracing() const { return state_ == State::tracing; }
  /// Tells who watches the trie that the program uses a tensor from outside.
  void watch(const Tensor& t) const {
    if (trie_.watch && trie_.watch->uses) trie_.watch->uses(t);
  }

 private:
  enum class State : uint8_t { matching, recording, tracing, off };

  struct External {
    Tensor tensor;    // a handle of the recorder's own
    Tensor snapshot;  // the elements when it was bound, if a raw pointer to them has escaped
    int32_t storage;
  };
  struct PlaceKey {
    const Storage* storage;
    const Layout* layout;
    int64_t offset;
    const void* history = nullptr;  // tracing: tensors with different gradients are different operands
    bool operator==(const PlaceKey&) const = default;
  };
  struct PlaceHash {
    size_t operator()(const PlaceKey& k) const;
  };
  struct StorageHash {
    size_t operator()(const Storage* s) const;
  };

  void start_segment();
  bool held(int32_t slot) const;
  void drop_roots() noexcept;
  OperandRef ref_of(const Tensor& t);
  OperandRef bind_external(const Tensor& t);
  bool is_elsewhere(const Layout* layout) const;
  TraceOp* match(const Call& call);
  const Layout* infer_matched(const Call& call);
  TraceOp* find_child(const Call& call);
  TraceOp* find_known_child(const Call& call);
  bool stands_at(const OperandRef& where, const Tensor& t) const;
  Tensor defer(const Call& call, TraceOp& t);
  Tensor note_abstract(const Call& call);
  std::vector<int32_t> run_abstract(const std::vector<const Layout*>& inputs, const BodyFunction& body);
  std::vector<ExternalSpec> external_specs() const;
  Tensor record_now(const Call& call, const Layout* out);
  TraceOp* add_child(const Call& call, const Layout* out);
  void diverge(const Call& call);
  bool writes_exposed(const Call& call) const;
  bool reads_changed(const Call& call) const;

  // flushing
  void run_pending(std::string_view reason);
  void run_op_by_op();
  std::vector<const TraceOp*> last_readers() const;
  void fail_pending();
  void show_recording() const;
  void run_plan(const LeafPlan& plan);
  void count_run(const LeafPlan& plan);
  void verify_plan(const LeafPlan& plan);
  void tell(const std::string& difference);
  const LeafPlan* build_plan(Leaf& leaf, TraceOp& end, std::vector<int32_t> live);
  void bind();
  const LeafPlan* plan_for(TraceOp& end);
  const LeafPlan* install(Leaf& leaf, std::unique_ptr<LeafPlan> plan);
  const LeafPlan* await_plan(Leaf& leaf, double wait_ms);
  void try_plan(Leaf& leaf);
  void refuse(Leaf& leaf, std::string why);
  Level wanted_level() const;
  /// Compiles the pending segment with some of the rewrites that may change bits.
  using CompileWith = std::function<std::unique_ptr<Executable>(std::vector<std::string_view> allowed)>;
  std::vector<std::string> differences(const CompileWith& compile);
  bool keeps_all_held(const LeafPlan& plan) const;
  std::vector<const TraceOp*> path_to(const TraceOp* end) const;
  Tensor run_one(const TraceOp& t, size_t first_scalar, const std::vector<Tensor>& values);
  Leaf& leaf_of(TraceOp& t);

  Trie& trie_;
  State state_ = State::matching;
  uint64_t epoch_ = 0;
  TraceOp* current_;
  std::vector<TraceOp*> pending_;
  std::vector<uint64_t> scalars_;  // of the pending ops, in order
  std::vector<External> externals_;
  FirstUse<PlaceKey, PlaceHash> external_index_;
  FirstUse<const Storage*, StorageHash> storage_index_;
  std::vector<Storage*> roots_;  // per slot: the pending storage it made, retained; null for views
  int32_t slots_ = 0, snapshots_ = 0;
  std::vector<OperandRef> refs_;   // of the call being recorded
  std::vector<External> retired_;  // of the segment before, while they are dropped
  // What a plan is bound to; members only to keep their memory.
  std::vector<std::byte*> bound_inputs_, bound_outputs_;
  std::vector<Storage*> bound_storages_;
  bool running_ = false;
};

/// What the calling thread has recorded of a captured function.
const Trie& trie_of(const Recording& recording);
Trie& trie_of(Recording& recording);

// For the engine's table.
Tensor record(Recorder& recorder, const Call& call);
void before_read(const Tensor& t);
void before_write(const Tensor& t);

}  // namespace rp
