#include "reprise/backends/cuda/launches.h"

#include "reprise/backends/cuda/launch_list.h"

namespace rp::cuda {

const Function& LazyFunction::get() const {
  const Function* f = function_.load(std::memory_order_acquire);
  if (!f) {
    f = &function_of(text_());
    function_.store(f, std::memory_order_release);
  }
  return *f;
}

void set_scalars(ArgsBytes& args, size_t at, std::span<const uint64_t> scalars) {
  if (scalars.empty()) return;
  LaunchList* const list = LaunchList::active();
  const uint64_t* const there = list ? list->place(scalars) : nullptr;
  args.set(at, there);
  if (!there) args.set(at + sizeof there, scalars.data(), scalars.size_bytes());
}

void PlannedLaunch::run(const RegionCall& call) const {
  static thread_local ArgsBytes filled;
  filled = args;
  for (const auto& [at, operand] : operands) filled.set(at, call.pointers[operand]);
  for (const auto& [at, offset] : scratch) filled.set(at, call.scratch + offset);
  set_scalars(filled, scalars_at, {call.scalars, scalars});
  launch(function->get(), how, filled.bytes());
}

std::vector<std::string> texts_of(const std::vector<PlannedLaunch>& launches) {
  std::vector<std::string> texts;
  for (const PlannedLaunch& p : launches) texts.push_back(p.function->text());
  return texts;
}

}  // namespace rp::cuda
