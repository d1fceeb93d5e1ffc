#include "reprise/backends/cuda/epilogue.h"

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

std::string epilogue_text(const Region& region) {
  Text text;
  const Stage* const stage = region.stages.empty() ? nullptr : &region.stages[0];
  if (stage) write_stage(text, *stage, "stage");
  text.open("struct Finished");
  for (size_t k = 0; stage && k < stage->slots.size(); ++k)
    if (stage->program.operands[k].written)
      text.line("{} {};", c_type(stage->program.operands[k].dtype), slot_name(*stage, k));
  text.close(";");
  text.open("__device__ __forceinline__ Finished finish(const Args& args, const Spot& spot, T product)");
  text.line("Finished done;");
  if (stage)
    text.line("{}", stage_call(*stage, "stage", "spot.index",
                               [&](const std::string& name) { return operand_value(region, *stage, name); }));
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
