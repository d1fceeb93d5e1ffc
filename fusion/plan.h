#pragma once
// A Plan is a graph made executable: an immutable array of kernels with operands as base + offset. A run takes a Frame:
// the caller's base pointers and scalars; everything else lies in an arena of the calling thread.
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "reprise/fusion/lower.h"
#include "reprise/fusion/memory.h"
#include "reprise/graph/executable.h"

namespace rp {

class PrivateInputs;

class Plan final : public Executable {
 public:
  /// `fuse` false makes every op a kernel of its own.
  explicit Plan(Graph graph, bool fuse = true);

  /// What one run's kernels are bound to.
  struct Bindings {
    std::vector<std::byte*> pointers;
    std::vector<Storage*> storages;
    std::vector<uint64_t> scalars;
  };

  void run(const Frame& frame) const override;
  /// The same in an arena of the caller's, `arena_bytes()` long.
  void run(const Frame& frame, std::byte* arena, Bindings& bindings) const;
  const Graph& graph() const override { return graph_; }
  const Layout* output_layout(size_t j) const override { return graph_[base_of(graph_, graph_.outputs[j])].layout; }
  int kernels() const override { return static_cast<int>(steps_.size()); }
  int reorders() const override;
  size_t arena_bytes() const override { return arena_; }
  PlanFacts facts() const override;
  std::optional<Difference> first_difference(const Frame& frame) const override;

 private:
  enum class Base : uint8_t { input, output, arena };
  struct Operand {
    Base base;
    bool original;   // an input's elements as they were before the plan's writes
    int32_t index;   // of the input or output
    int64_t offset;  // bytes
    int32_t moving;  // which of moving_ is added; -1: none
  };
  struct Moving {  // an offset that depends on run-time scalars
    std::vector<Place::Term> terms;
    int64_t element;
  };
  struct Label {  // in traces
    std::string name, members;
  };
  struct Step {
    std::unique_ptr<RegionKernel> kernel;
    int first_operand, first_scalar;
    int64_t scratch;           // where in the arena
    std::vector<int> members;  // indices into lowered_: several for a grouped step
    Where loc;
    Label label;
    int64_t groups = 0;  // not 0: a product and the map that runs on columns of its parts
  };
  struct Twin {
    int32_t from, to;
    size_t bytes;
  };  // outputs that are the same value

  void resolve(const Frame& frame, std::byte* arena, Bindings& out) const;
  void run_step(const Step& step, const Bindings& bindings, std::byte* arena) const;
  void run_steps(std::byte* arena, const Bindings& bindings) const;
  void run_watched(const Bindings& bindings, std::byte* arena, const Frame& frame) const;
  std::byte* address_of(const Place& place, const Frame& frame, std::byte* arena) const;
  int32_t first_wrong_op(int member, const Frame& frame, std::byte* arena, const std::vector<Tensor>& expected) const;
  bool operands_right(int member, const Frame& frame, std::byte* arena, const std::vector<Tensor>& expected,
                      const PrivateInputs& untouched) const;
  std::optional<Difference> inside_control(const Step& step, const Frame& frame, std::byte* arena) const;
  std::vector<int32_t> nodes_of(const Step& step) const;
  std::string describe(const Step& step) const;
  Label label_of(const Step& step) const;
  KernelFacts kernel_facts(const Step& step) const;
  std::vector<RefusalFacts> refusal_facts(const std::vector<int>& step_of) const;
  std::vector<BufferFacts> buffer_facts() const;

  void find_stored();
  void lower_drafts();
  void compile_steps();
  std::unique_ptr<RegionKernel> compile_kernel(const Region& region) const;
  bool lower_all(const std::vector<Draft>& drafts, std::vector<bool>& whole);
  void lower_apart(const Draft& draft);
  bool overlap(const Place& a, const Place& b) const;
  void group_updates();
  void join_cells();
  int64_t groups_of(const Lowered& product, const Lowered& map) const;
  void lay_out();
  void bind();
  void bind_scalars(Step& step);
  Operand operand_of(const Place& place);

  Graph graph_;
  bool fuse_;
  Partition partition_;
  std::vector<bool> stored_;
  std::vector<int> draft_of_;
  Homes homes_;
  std::vector<Lowered> lowered_;
  std::vector<Step> steps_;
  std::vector<Operand> operands_;
  std::vector<ScalarSource> scalars_;  // those of steps that run bodies first
  size_t seen_scalars_ = 0;            // how many these are
  std::vector<Moving> moving_;
  std::vector<Twin> twins_;
  std::vector<int32_t> written_;  // one input for each storage that is written
  std::vector<int64_t> home_;     // per node: arena offset, or -1 - output
  size_t arena_ = 0, live_ = 0;
  Backend* backend_;
  std::unique_ptr<Replay> replay_;
};

}  // namespace rp
