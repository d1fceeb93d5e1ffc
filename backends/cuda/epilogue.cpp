#include "reprise/backends/cuda/epilogue.h"

#include <algorithm>

#include "reprise/backends/cuda/element_text.h"
#include "reprise/backends/cuda/kernel_text.h"

namespace rp::cuda {
namespace {

std::string place(const Region& region, size_t operand) {
  return fmt::format("(({}*)args.pointers[{}])[offset(args, spot, {})]",
                     c_type(region.operands[operand].layout->dtype()), operand, operand);
}

// What stands for an operand of the stage: the product is at hand, results are kept until all is read.
std::string operand_value(const Region& region, const Stage& stage, const std::string& name) {
  for (size_t k = 0; k < stage.slots.size(); ++k) {
    if (slot_name(stage, k) != name) continue;
    if (stage.program.operands[k].written) return "done." + name;
    const auto operand = static_cast<size_t>(stage.slots[k].index);
    return operand == product_operand ? "product" : place(region, operand);
  }
  return {};
}

}  // namespace

Region map_behind(const Region& region) {
  Region map;
  map.kind = RegionKind::map;
  map.operands = region.operands;
  map.stages = region.stages;
  map.scalars = region.scalars;
  const Nest& nest = region.members[0];
  Shape shape = nest.outer;
  shape.push_back(nest.rows);
  shape.push_back(nest.columns);
  std::vector<Strides> strides;
  for (const Nest::Steps& s : nest.operands) {
    strides.push_back(s.outer);
    strides.back().push_back(s.row);
    strides.back().push_back(s.column);
  }
  const std::optional<Nest> joined = make_nest(RegionKind::map, shape, 0, strides);
  map.members.push_back(joined ? *joined : nest);
  return map;
}

namespace {

// How a plain stage's value is computed, followed back from where it is stored.
class Follower {
 public:
  explicit Follower(const Region& region) : region_(region), stage_(region.stages[0]), code_(stage_.program.insts) {}

  std::optional<PlainStage> follow() {
    const auto is_store = [](const Inst& i) { return i.op == Ir::store; };
    const auto store = std::ranges::find_if(code_, is_store);
    if (std::ranges::count_if(code_, is_store) != 1) return {};
    PlainStage plain{operand(*store), 0, false};
    dtype_ = dtype_of(plain.result);
    const Inst* value = &computed(store->a);
    if (value->op == Ir::max) {
      const bool left = is_zero(value->a);
      if (!left && !is_zero(value->b)) return {};
      plain.relu = true;
      value = &computed(left ? value->b : value->a);
    }
    if (value->op == Ir::add) {
      const Inst *a = &computed(value->a), *b = &computed(value->b);
      if (!is_product(*a)) std::swap(a, b);
      if (!is_product(*a) || b->op != Ir::load) return {};
      plain.bias = operand(*b);
      value = a;
    }
    const bool fits = is_product(*value) && stands_with_product(plain.result) && (!plain.bias || is_bias(plain.bias));
    return fits ? std::optional(plain) : std::nullopt;
  }

 private:
  // What a value is before it is rounded as the result will be.
  const Inst& computed(uint16_t id) const {
    while (code_[id].op == Ir::round16 && code_[id].imm == static_cast<uint64_t>(dtype_)) id = code_[id].a;
    return code_[id];
  }
  bool is_zero(uint16_t id) const { return code_[id].op == Ir::constant && !code_[id].imm; }
  size_t operand(const Inst& i) const { return static_cast<size_t>(stage_.slots[i.imm].index); }
  bool is_product(const Inst& i) const { return i.op == Ir::load && operand(i) == product_operand; }
  DType dtype_of(size_t k) const { return region_.operands[k].layout->dtype(); }
  const Nest::Steps& steps(size_t k) const { return region_.members[0].operands[k]; }

  bool stands_with_product(size_t k) const {
    const Nest::Steps &a = steps(k), &b = steps(product_operand);
    return a.outer == b.outer && a.row == b.row && a.column == b.column;
  }
  bool is_bias(size_t k) const {
    return k > product_operand && dtype_of(k) == dtype_ && steps(k).column == 1 && !steps(k).row &&
           std::ranges::all_of(steps(k).outer, [](int64_t step) { return !step; });
  }

  const Region& region_;
  const Stage& stage_;
  const std::vector<Inst>& code_;
  DType dtype_ = DType::f32;
};

}  // namespace

std::optional<PlainStage> plain_stage(const Region& region) {
  if (region.stages.empty()) return {};
  return Follower(region).follow();
}

std::string epilogue_text(const Region& region) {
  Text text;
  const Stage* const stage = region.stages.empty() ? nullptr : &region.stages[0];
  if (stage) write_stage(text, *stage, "stage");
  text.open("struct Finished");
  for (size_t k = 0; stage && k < stage->slots.size(); ++k)
    if (stage->program.operands[k].written)
      text.line("{} {};", c_type(stage->program.operands[k].dtype), slot_name(*stage, k));
  text.close(";");
  // In shared memory they take no registers from the sums.
  text.line("constexpr int SHARED_PLACE = SHARED_TILES + {};", shared_scalar_bytes(region));
  text.open("__device__ __forceinline__ void keep_scalars(const Args& args)");
  if (region.scalars) text.line("if (!threadIdx.x) args.scalars.get((u64*)(shared_memory() + SHARED_TILES));");
  text.close();
  text.open("__device__ __forceinline__ Finished finish(const Args& args, const Spot& spot, T product)");
  text.line("Finished done;");
  if (stage) {
    if (region.scalars) text.line("const u64* const scalars = (const u64*)(shared_memory() + SHARED_TILES);");
    text.line("{}", stage_call(*stage, "stage", "spot.index",
                               [&](const std::string& name) { return operand_value(region, *stage, name); }));
  }
  text.line("return done;");
  text.close();
  text.open("__device__ __forceinline__ void put(const Args& args, const Spot& spot, T product, const Finished& done)");
  text.line("if (args.stores_product) {} = product;", place(region, product_operand));
  for (size_t k = 0; stage && k < stage->slots.size(); ++k)
    if (stage->program.operands[k].written)
      text.line("{} = done.{};", place(region, static_cast<size_t>(stage->slots[k].index)), slot_name(*stage, k));
  text.close();
  return text.take();
}

}  // namespace rp::cuda
