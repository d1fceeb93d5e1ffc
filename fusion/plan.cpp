#include "reprise/fusion/plan.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/stats.h"
#include "reprise/core/switches.h"
#include "reprise/core/trace_events.h"
#include "reprise/fusion/control.h"
#include "reprise/fusion/legalize.h"
#include "reprise/fusion/short_factors.h"

namespace rp {
namespace {

bool computes(const Node& n) { return n.op->kind != Kind::view && n.op->kind != Kind::input; }

int32_t input_index(const Graph& g, int32_t node) {
  return static_cast<int32_t>(std::find(g.inputs.begin(), g.inputs.end(), node) - g.inputs.begin());
}

// Scratch memory of the calling thread. One arena serves all plans: those of bodies lie in their caller's.
class Arena {
 public:
  std::byte* at_least(size_t bytes, Backend& backend) {
    if (bytes > size_ || backend_ != &backend) {
      release();
      data_ = backend.allocate(bytes);
      size_ = bytes;
      backend_ = &backend;
    }
    return data_;
  }
  ~Arena() { release(); }

 private:
  void release() {
    if (data_) backend_->release(data_, size_);
    data_ = nullptr;
    size_ = 0;
  }
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  Backend* backend_ = nullptr;
};

}  // namespace

Plan::Plan(Graph graph, bool fuse)
    : graph_(with_copies_for_concats(legalize(graph))), fuse_(fuse), backend_(&engine.backend(device_of(graph_))) {
#ifndef NDEBUG
  verify(graph_, "legalize");
#endif
  if (!disabled("library")) graph_ = with_short_factors(graph_, *backend_);
  partition_ = rp::partition(graph_, fuse);
  find_stored();
  lower_drafts();
  group_updates();
  join_cells();
  compile_steps();
  lay_out();
  bind();
  replay_ = backend_->replay();
}

// A node's elements need a buffer if another region, the caller or a later write wants them.
void Plan::find_stored() {
  stored_.assign(graph_.nodes.size(), false);
  draft_of_.assign(graph_.nodes.size(), -1);
  for (size_t d = 0; d < partition_.drafts.size(); ++d)
    for (int32_t i : partition_.drafts[d].nodes) draft_of_[static_cast<size_t>(i)] = static_cast<int>(d);
  const auto want = [&](int32_t i) { stored_[static_cast<size_t>(i)] = graph_[i].op->kind != Kind::input; };
  for (int32_t i = 0; i < graph_.size(); ++i) {
    if (!computes(graph_[i])) continue;
    for (size_t k = 0; k < graph_[i].inputs.size(); ++k) {
      const int32_t base = base_of(graph_, graph_[i].inputs[k]);
      const bool target = graph_[i].op->kind == Kind::write && k == 0;
      if (target || draft_of_[static_cast<size_t>(base)] != draft_of_[static_cast<size_t>(i)]) want(base);
    }
  }
  for (int32_t i : graph_.outputs) want(base_of(graph_, i));
}

void Plan::lower_drafts() {
  const std::vector<Draft> drafts = std::move(partition_.drafts);
  const std::vector<bool> stored = stored_;
  std::vector<bool> whole(graph_.nodes.size());  // concats that must run as kernels
  do {
    stored_ = stored;
    lowered_.clear();
    partition_.drafts.clear();
    homes_ = find_homes(graph_, drafts, whole);
  } while (!lower_all(drafts, whole));
  for (size_t d = 0; d < partition_.drafts.size(); ++d)
    for (int32_t i : partition_.drafts[d].nodes) draft_of_[static_cast<size_t>(i)] = static_cast<int>(d);
}

// False, with more concats in `whole`, if a draft's loops cannot step through the places that concats gave its values.
bool Plan::lower_all(const std::vector<Draft>& drafts, std::vector<bool>& whole) {
  for (const Draft& d : drafts) {
    if (homes_.filled[static_cast<size_t>(d.nodes[0])]) continue;
    if (std::optional<Lowered> one = lower(graph_, d, stored_, homes_)) {
      lowered_.push_back(std::move(*one));
      partition_.drafts.push_back(d);
      continue;
    }
    bool placed = false;
    for (int32_t i : d.nodes)
      if (const int32_t concat = strided_home(graph_, homes_, i); concat >= 0) {
        whole[static_cast<size_t>(concat)] = true;
        placed = true;
      }
    if (placed) return false;
    lower_apart(d);
  }
  return true;
}

// More operands than a program takes: every node becomes a region of its own.
void Plan::lower_apart(const Draft& draft) {
  if (draft.nodes.size() == 1) fail("fusion: {} has too many operands", graph_[draft.nodes[0]].op->name);
  for (int32_t i : draft.nodes) stored_[static_cast<size_t>(i)] = graph_[i].op->kind != Kind::write;
  for (Draft& single : separate(graph_, draft)) {
    lowered_.push_back(*lower(graph_, single, stored_, homes_));
    partition_.drafts.push_back(std::move(single));
  }
}

// Whether two places may have elements in common.
bool Plan::overlap(const Place& a, const Place& b) const {
  if (a.base != b.base || !a.terms.empty() || !b.terms.empty())
    return storage_of(graph_, a.base) == storage_of(graph_, b.base);
  return a.offset < b.offset + extent_of(*b.layout) && b.offset < a.offset + extent_of(*a.layout);
}

// Independent neighbours that run the same program over different tensors (optimiser updates) become one step.
void Plan::group_updates() {
  const auto same_program = [](const Region& a, const Region& b) {
    return a.kind == RegionKind::map && b.kind == RegionKind::map && a.stages.size() == 1 && b.stages.size() == 1 &&
           a.stages[0].program == b.stages[0].program && a.operands.size() == b.operands.size();
  };
  const auto touches = [&](const Lowered& a, const Lowered& b) {
    for (size_t x = 0; x < a.operands.size(); ++x)
      for (size_t y = 0; y < b.operands.size(); ++y)
        if ((a.region.operands[x].written || b.region.operands[y].written) && overlap(a.operands[x], b.operands[y]))
          return true;
    return false;
  };
  const bool groups = !disabled("group");
  for (size_t i = 0; i < lowered_.size(); ++i) {
    const bool joins =
        !steps_.empty() && groups &&
        same_program(lowered_[static_cast<size_t>(steps_.back().members[0])].region, lowered_[i].region) &&
        (lowered_[static_cast<size_t>(steps_.back().members[0])].scalars == lowered_[i].scalars ||
         planted(Defect::group_scalars)) &&
        std::none_of(steps_.back().members.begin(), steps_.back().members.end(),
                     [&](int m) { return touches(lowered_[static_cast<size_t>(m)], lowered_[i]); });
    if (joins)
      steps_.back().members.push_back(static_cast<int>(i));
    else
      steps_.push_back({nullptr, 0, 0, 0, {static_cast<int>(i)}, {}, {}});
  }
}

// How many equal parts of the product's columns a map reads side by side, its own columns standing where those of every
// part stand: the gates of a recurrent cell, say. 0 if the map cannot run on columns of the product as they are
// finished.
int64_t Plan::groups_of(const Lowered& product, const Lowered& map) const {
  const Region &g = product.region, &m = map.region;
  if (g.kind != RegionKind::gemm || g.op != &matmul_op || m.kind != RegionKind::map || m.stages.size() != 1) return 0;
  if (g.members[0].outer_count() != 1 || m.members[0].outer_count() != 1) return 0;
  const Nest &big = g.members[0], &small = m.members[0];
  if (!small.columns || big.rows != small.rows || big.columns % small.columns || big.columns == small.columns) return 0;
  for (size_t x = 0; x < product.operands.size(); ++x) {
    const Place& p = product.operands[x];
    for (size_t y = 0; y < map.operands.size(); ++y) {
      const Place& q = map.operands[y];
      if (!(g.operands[x].written || m.operands[y].written) || !overlap(p, q)) continue;
      const int64_t shift = q.offset - p.offset;
      const bool part = g.operands[x].written && !m.operands[y].written && p.base == q.base && p.terms.empty() &&
                        q.terms.empty() && shift >= 0 && shift % small.columns == 0 &&
                        shift + small.columns <= big.columns && big.operands[x].column == 1 &&
                        small.operands[y].column == 1 &&
                        (big.rows == 1 || big.operands[x].row == small.operands[y].row);
      if (!part) return 0;
    }
  }
  return big.columns / small.columns;
}

// A product and the map behind it become one step where the map reads equal parts of the product.
void Plan::join_cells() {
  if (!fuse_ || disabled("cell")) return;
  constexpr int64_t most_rows = 256;  // of a product that is worth finishing column by column
  std::vector<Step> joined;
  for (Step& step : steps_) {
    Step* before = joined.empty() ? nullptr : &joined.back();
    if (before && before->members.size() == 1 && step.members.size() == 1) {
      const Lowered &product = lowered_[static_cast<size_t>(before->members[0])],
                    &map = lowered_[static_cast<size_t>(step.members[0])];
      if (const int64_t groups = groups_of(product, map); groups && product.region.members[0].rows <= most_rows) {
        before->members.push_back(step.members[0]);
        before->groups = groups;
        continue;
      }
    }
    joined.push_back(std::move(step));
  }
  steps_ = std::move(joined);
}

std::unique_ptr<RegionKernel> Plan::compile_kernel(const Region& region) const {
  if (region.kind == RegionKind::control) return compile_control(region, fuse_);
  return backend_->compile(region);
}

void Plan::compile_steps() {
  for (Step& step : steps_) {
    const auto lowered = [&](size_t m) -> const Lowered& { return lowered_[static_cast<size_t>(step.members[m])]; };
    Region region = lowered(0).region;
    if (step.groups) {
      region.after = std::make_shared<const Region>(lowered(1).region);
      region.groups = step.groups;
    }
    for (size_t m = 1; m < step.members.size() && !step.groups; ++m)
      region.members.insert(region.members.end(), lowered(m).region.members.begin(), lowered(m).region.members.end());
    step.loc = graph_[partition_.drafts[static_cast<size_t>(step.members[0])].nodes[0]].loc;
    step.kernel = compile_kernel(region);
    if (traced()) step.label = label_of(step);
  }
}

// Gives every stored node a buffer: the caller's for outputs, a place in the arena otherwise.
void Plan::lay_out() {
  home_.assign(graph_.nodes.size(), INT64_MIN);
  for (size_t j = 0; j < graph_.outputs.size(); ++j) {
    const int32_t base = base_of(graph_, graph_.outputs[j]);
    int64_t& home = home_[static_cast<size_t>(base)];
    if (home != INT64_MIN)
      twins_.push_back({static_cast<int32_t>(-1 - home), static_cast<int32_t>(j), graph_[base].layout->bytes()});
    else
      home = -1 - static_cast<int64_t>(j);
  }
  std::map<int32_t, size_t> buffer_of;
  std::vector<Lifetime> buffers;
  for (size_t s = 0; s < steps_.size(); ++s)
    for (int m : steps_[s].members)
      for (const Place& place : lowered_[static_cast<size_t>(m)].operands) {
        if (graph_[place.base].op->kind == Kind::input || home_[static_cast<size_t>(place.base)] != INT64_MIN) continue;
        const auto [it, fresh] = buffer_of.try_emplace(place.base, buffers.size());
        if (fresh) buffers.push_back({graph_[place.base].layout->bytes(), static_cast<int>(s), static_cast<int>(s), 0});
        buffers[it->second].last = static_cast<int>(s);
      }
  const size_t scratch = buffers.size();
  for (size_t s = 0; s < steps_.size(); ++s)
    buffers.push_back({steps_[s].kernel->scratch_bytes(), static_cast<int>(s), static_cast<int>(s), 0});
  if (disabled("memory"))
    for (Lifetime& b : buffers) b = {b.bytes, 0, static_cast<int>(steps_.size()), 0};
  arena_ = plan_memory(buffers);
  for (size_t s = 0; s < steps_.size(); ++s) steps_[s].scratch = static_cast<int64_t>(buffers[scratch + s].offset);
  live_ = buffers.empty() ? 0 : live_lower_bound(buffers);
  for (const auto& [node, b] : buffer_of) home_[static_cast<size_t>(node)] = static_cast<int64_t>(buffers[b].offset);
}

Plan::Operand Plan::operand_of(const Place& place) {
  const auto element = static_cast<int64_t>(size_of(place.layout->dtype()));
  Operand o{Base::arena, false, 0, place.offset * element, -1};
  if (graph_[place.base].op->kind == Kind::input) {
    o.base = Base::input;
    o.index = input_index(graph_, place.base);
    o.original = place.version < 0;
  } else if (const int64_t home = home_[static_cast<size_t>(place.base)]; home < 0) {
    o.base = Base::output;
    o.index = static_cast<int32_t>(-1 - home);
  } else {
    o.offset += home;
  }
  if (!place.terms.empty()) {
    o.moving = static_cast<int32_t>(moving_.size());
    moving_.push_back({place.terms, element});
  }
  return o;
}

void Plan::bind() {
  for (int32_t w : graph_.writes) written_.push_back(input_index(graph_, base_of(graph_, w)));
  for (Step& step : steps_) {
    step.first_operand = static_cast<int>(operands_.size());
    for (int m : step.members)
      for (const Place& place : lowered_[static_cast<size_t>(m)].operands) operands_.push_back(operand_of(place));
  }
  const auto runs_bodies = [](const Step& step) { return !step.kernel->bodies().empty(); };
  for (Step& step : steps_)
    if (runs_bodies(step)) bind_scalars(step);
  seen_scalars_ = scalars_.size();
  for (Step& step : steps_)
    if (!runs_bodies(step)) bind_scalars(step);
}

void Plan::bind_scalars(Step& step) {
  step.first_scalar = static_cast<int>(scalars_.size());
  for (size_t m = 0; m < (step.groups ? step.members.size() : 1); ++m) {
    const Lowered& l = lowered_[static_cast<size_t>(step.members[m])];
    scalars_.insert(scalars_.end(), l.scalars.begin(), l.scalars.end());
  }
}

// The addresses of all operands and the values of all scalars for one run.
void Plan::resolve(const Frame& frame, std::byte* arena, Bindings& out) const {
  out.scalars.resize(scalars_.size());
  for (size_t k = 0; k < scalars_.size(); ++k)
    out.scalars[k] = scalars_[k].parameter >= 0 ? frame.scalars[scalars_[k].parameter] : scalars_[k].bits;
  out.pointers.resize(operands_.size() + 1);
  out.pointers.back() = arena;  // kernels take their scratch memory from there
  out.storages.resize(operands_.size());
  for (size_t k = 0; k < operands_.size(); ++k) {
    const Operand& o = operands_[k];
    std::byte* base = o.base == Base::arena   ? arena
                      : o.base == Base::input ? frame.inputs[o.index]
                                              : frame.outputs[o.index];
    int64_t offset = o.offset;
    if (o.moving >= 0) {
      const Moving& moving = moving_[static_cast<size_t>(o.moving)];
      for (const Place::Term& t : moving.terms)
        offset += static_cast<int64_t>(frame.scalars[t.parameter]) * t.stride * moving.element;
    }
    out.pointers[k] = base + offset;
    out.storages[k] = o.base == Base::input && o.original ? frame.storages[o.index] : nullptr;
  }
}

void Plan::run_step(const Step& step, const Bindings& b, std::byte* arena) const {
  step.kernel->run({b.pointers.data() + step.first_operand, b.scalars.data() + step.first_scalar,
                    b.storages.data() + step.first_operand, arena + step.scratch});
}

void Plan::run(const Frame& frame) const {
  struct Memory {
    Arena arenas[2];  // by kind of device
    Bindings bindings;
    bool busy = false;
  };
  static thread_local Memory shared;
  Memory own;  // for ops of a body that runs op by op, inside another plan
  Memory& memory = shared.busy ? own : shared;
  std::byte* arena =
      arena_ ? memory.arenas[static_cast<int>(device_of(graph_).kind)].at_least(arena_, *backend_) : nullptr;
  if (frame.poison && arena) backend_->fill(arena, std::byte{0xa5}, arena_);
  memory.busy = true;
  struct Free {
    bool& busy;
    ~Free() { busy = false; }
  } free{memory.busy};
  run(frame, arena, memory.bindings);
}

void Plan::run_steps(std::byte* arena, const Bindings& bindings) const {
  for (const Step& step : steps_) {
    AtForward at(step.loc);  // an error inside names the op's line
    run_step(step, bindings, arena);
  }
}

void Plan::run(const Frame& frame, std::byte* arena, Bindings& bindings) const {
  resolve(frame, arena, bindings);
  if (frame.times || (!frame.quiet && traced())) [[unlikely]]
    run_watched(bindings, arena, frame);
  else if (replay_)
    replay_->run(bindings.pointers, bindings.scalars, seen_scalars_, [&] { run_steps(arena, bindings); });
  else
    run_steps(arena, bindings);
  for (const Twin& t : twins_)
    if (!planted(Defect::lost_twin)) backend_->copy(frame.outputs[t.to], frame.outputs[t.from], t.bytes);
  for (int32_t k : written_) ++frame.storages[k]->content;
  launch_stats().kernels += static_cast<int64_t>(steps_.size());
}

std::vector<int32_t> Plan::nodes_of(const Step& step) const {
  std::vector<int32_t> nodes;
  for (int m : step.members) {
    const auto& list = partition_.drafts[static_cast<size_t>(m)].nodes;
    nodes.insert(nodes.end(), list.begin(), list.end());
  }
  return nodes;
}

std::string Plan::describe(const Step& step) const {
  const RegionKind kind = lowered_[static_cast<size_t>(step.members[0])].region.kind;
  std::string text(name_of(kind));
  if (step.members.size() > 1) text += fmt::format(" x{}", step.members.size());
  text += fmt::format(" ({}):", step.kernel->form());
  for (int32_t i : nodes_of(step)) text += fmt::format(" %{} {}{};", i, graph_[i].op->name, source_line(graph_[i].loc));
  return text;
}

}  // namespace rp
