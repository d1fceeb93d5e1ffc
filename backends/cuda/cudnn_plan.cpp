#include "reprise/backends/cuda/cudnn_plan.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "reprise/backends/cuda/cache.h"
#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/sha256.h"
#include "reprise/backends/cuda/stream.h"

namespace rp::cuda {
namespace {

constexpr size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

DnnPlan::DnnPlan(const DnnGraph& graph, DnnChoice choice, const DnnTarget& target)
    : target_(target), choice_(std::move(choice)), plan_(empty_dnn_plan(target)), alignment_(graph.alignment) {
  plan_.set<CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION>(choice_.plan);
  plan_.finalize();
  const auto number_tensors = [&](DnnTensor::Kind kind, auto&& each) {
    for (size_t i = 0; i < graph.tensors.size(); ++i) {
      if (graph.tensors[i].kind != kind) continue;
      numbers_.push_back(dnn_number(i));
      each(graph.tensors[i]);
    }
  };
  const auto bytes = [](const DnnTensor& t) { return static_cast<size_t>(element_count(t.shape)) * size_of(t.type); };
  number_tensors(DnnTensor::Kind::operand, [&](const DnnTensor& t) {
    const bool written = std::ranges::any_of(graph.operations, [&](const auto& o) { return &graph[o.output] == &t; });
    const bool moves = size_of(t.type) < alignment_;
    operands_.push_back({bytes(t), size_of(t.type), moves ? reserve(bytes(t)) : 0, written});
  });
  number_tensors(DnnTensor::Kind::scratch, [&](const DnnTensor& t) { offsets_.push_back(reserve(bytes(t))); });
  number_tensors(DnnTensor::Kind::constant, [&](const DnnTensor& t) { values_.push_back(t.value); });
}

size_t DnnPlan::reserve(size_t bytes) {
  const size_t place = own_bytes_;
  own_bytes_ += round_up(bytes);
  return place;
}

std::vector<std::byte*> DnnPlan::aligned(std::span<std::byte* const> operands, std::byte* workspace) const {
  std::vector<std::byte*> at(operands.begin(), operands.end());
  for (size_t i = 0; i < at.size(); ++i) {
    const auto address = reinterpret_cast<uintptr_t>(at[i]);
    const Operand& o = operands_[i];
    if (address % o.element) fail("cudnn: expected operands aligned to {} bytes", o.element);
    if (address % alignment_) at[i] = workspace + o.place;
  }
  return at;
}

void DnnPlan::run(std::span<std::byte* const> operands, std::byte* workspace) const {
  if (!target_.handle()) fail("cudnn: expected a plan for a device that is here");
  if (operands.size() != operands_.size())
    fail("cudnn: expected {} operands, got {}", operands_.size(), operands.size());
  std::vector<std::byte*> args = aligned(operands, workspace);
  const auto move = [&](bool written) {
    for (size_t i = 0; i < operands.size(); ++i) {
      if (operands_[i].written != written || args[i] == operands[i]) continue;
      copy(written ? operands[i] : args[i], written ? args[i] : operands[i], operands_[i].bytes, Direction::on_device);
    }
  };
  move(false);
  args.push_back(workspace);
  launch(*this, std::as_bytes(std::span(args)));
  move(true);
}

void DnnPlan::queue(std::span<const std::byte> args, cudaStream_t stream) const {
  std::vector<void*> pointers(operands_.size() + 1);
  std::memcpy(pointers.data(), args.data(), args.size());
  auto* const workspace = static_cast<std::byte*>(pointers.back());
  pointers.pop_back();
  for (const size_t offset : offsets_) pointers.push_back(workspace + offset);
  for (const float& value : values_) pointers.push_back(const_cast<float*>(&value));
  Descriptor pack = Descriptor::make<CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR>();
  pack.set<CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS>(numbers_);
  pack.set<CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS>(pointers);
  pack.set<CUDNN_ATTR_VARIANT_PACK_WORKSPACE>(static_cast<void*>(workspace + own_bytes_));
  pack.finalize();
  target_.handle()->execute(plan_, pack, stream);
}

namespace {

/// All plans of the process.
class Plans {
 public:
  Plans() : disk_(DiskCache::user_folder()) {}

  const DnnPlan& get(const DnnGraph& graph) {
    Slot& slot = slot_of(to_string(graph));
    const std::lock_guard lock(slot.mutex);
    if (!slot.plan) slot.plan = make(graph);  // a refusal may be for want of memory, so it is not kept
    return *slot.plan;
  }

 private:
  /// Of one graph: whoever asks while its plan is made waits for that.
  struct Slot {
    std::mutex mutex;
    std::unique_ptr<const DnnPlan> plan;
  };

  Slot& slot_of(const std::string& text) {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<Slot>& slot = slots_[text];
    if (!slot) slot = std::make_unique<Slot>();
    return *slot;
  }

  std::unique_ptr<const DnnPlan> make(const DnnGraph& graph) {
    const DnnTarget& target = DnnTarget::here();
    // Of a device's properties these say which engines there are and how work is divided; clocks and drivers do not.
    const std::string key =
        hex(sha256(fmt::format("cudnn {}, sm_{}, {} multiprocessors\n{}", cudnn().cudnnGetVersion(),
                               device().architecture(), device().properties.multiProcessorCount, to_string(graph))));
    if (const std::optional<std::string> stored = disk_.read(key)) try {
        return std::make_unique<DnnPlan>(graph, choice_of(*stored), target);
      } catch (const Error&) {  // what another library wrote is not understood: it is made anew
      }
    auto plan = std::make_unique<DnnPlan>(graph, choose_engine(graph, target), target);
    disk_.write(key, text_of(plan->choice()));
    return plan;
  }

  static std::string text_of(const DnnChoice& c) { return fmt::format("{} {}\n{}", c.engine, c.workspace, c.plan); }
  static DnnChoice choice_of(const std::string& text) {
    DnnChoice c;
    int start = 0;
    if (std::sscanf(text.c_str(), "%ld %ld\n%n", &c.engine, &c.workspace, &start) < 2 || start == 0)
      fail("cudnn: expected a stored plan");
    c.plan = text.substr(static_cast<size_t>(start));
    return c;
  }

  DiskCache disk_;
  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<Slot>> slots_;
};

Lazy<Plans> plans;

}  // namespace

const DnnPlan& dnn_plan(const DnnGraph& graph) { return plans.get().get(graph); }

}  // namespace rp::cuda
