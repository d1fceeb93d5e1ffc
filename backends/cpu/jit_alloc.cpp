#include "reprise/backends/cpu/jit_alloc.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace rp::jit {

Allocation::Allocation(const Plan& plan)
    : plan_(plan), pin_(plan.nodes.size(), -1), permanent_(plan.nodes.size(), -1) {}

void Allocation::begin(const Sequence& sequence, int copies, uint32_t registers) {
  sequence_ = &sequence;
  copies_ = copies;
  available_ = registers;
  occupied_ = kept_ = 0;
  reg_.assign(plan_.nodes.size() * max_copies, -1);
  slot_.assign(plan_.nodes.size() * max_copies, -1);
  cursor_.assign(sequence.offsets.begin(), sequence.offsets.end());
  free_slots_.clear();
  for (int s = slots_; s-- > permanent_slots_;) free_slots_.push_back(static_cast<int16_t>(s));
  for (Owner& owner : owners_) owner = {};
}

void Allocation::start(size_t position, int copy) {
  position_ = position;
  copy_ = copy;
  kept_ = 0;
}

void Allocation::finish() {
  release();
  const Node& node = plan_.nodes[sequence_->order[position_]];
  for (int k = 0; k < node.arguments; ++k) {
    int16_t& slot = slot_[key(node.in[k])];
    if (slot < 0 || !last_use(node.in[k])) continue;
    free_slots_.push_back(slot);
    slot = -1;
  }
  for (uint32_t regs = occupied_; regs; regs &= regs - 1) {
    int reg = std::countr_zero(regs);
    if (!owners_[reg].used) occupied_ &= ~(1u << reg);
  }
  kept_ = 0;
}

int Allocation::find(uint16_t value) const { return pin_[value] >= 0 ? pin_[value] : reg_[key(value)]; }

int Allocation::slot(uint16_t value) const { return permanent_[value] >= 0 ? permanent_[value] : slot_[key(value)]; }

bool Allocation::last_use(uint16_t value) const {
  return sequence_->uses_of(value).back() == position_ && (!shared(value) || copy_ == copies_ - 1);
}

bool Allocation::dies(uint16_t value) const { return pin_[value] < 0 && reg_[key(value)] >= 0 && last_use(value); }

Allocation::Taken Allocation::take() {
  Taken taken{-1};
  if (uint32_t free = available_ & ~occupied_) {
    taken.reg = std::countr_zero(free);
  } else {
    taken.reg = victim();
    Owner& owner = owners_[taken.reg];
    reg_[owner.key] = -1;
    if (!has_home(owner.value, owner.key)) taken.spill = slot_[owner.key] = static_cast<int16_t>(new_slot());
  }
  occupied_ |= 1u << taken.reg;
  owners_[taken.reg] = {};
  keep(taken.reg);
  return taken;
}

void Allocation::settle(int reg, uint16_t value) {
  reg_[key(value)] = static_cast<int8_t>(reg);
  owners_[reg] = {value, key(value), true};
  occupied_ |= 1u << reg;
  keep(reg);
}

void Allocation::release() {
  const Node& node = plan_.nodes[sequence_->order[position_]];
  for (int k = 0; k < node.arguments; ++k) {
    if (!dies(node.in[k])) continue;
    int8_t& reg = reg_[key(node.in[k])];
    occupied_ &= ~(1u << reg);
    kept_ &= ~(1u << reg);
    owners_[reg] = {};
    reg = -1;
  }
}

void Allocation::reserve_slots() {
  for (size_t i = 0; i < plan_.nodes.size(); ++i) {
    const Node& node = plan_.nodes[i];
    if (node.level == Level::constant || !node.leaves || pin_[i] >= 0) continue;
    permanent_[i] = static_cast<int16_t>(permanent_slots_++);
  }
  slots_ = permanent_slots_;
}

bool Allocation::has_home(uint16_t value, size_t key) const {
  const Node& node = plan_.nodes[value];
  return node.level == Level::constant || node.lazy || pin_[value] >= 0 || permanent_[value] >= 0 || slot_[key] >= 0;
}

size_t Allocation::next_use(uint16_t value) {
  uint32_t& at = cursor_[value];
  while (at < sequence_->offsets[value + 1] && sequence_->uses[at] < position_) ++at;
  return at < sequence_->offsets[value + 1] ? sequence_->uses[at] : std::numeric_limits<size_t>::max();
}

int Allocation::victim() {
  int best = -1;
  size_t best_rank = 0;
  for (uint32_t regs = occupied_ & available_ & ~kept_; regs; regs &= regs - 1) {
    int reg = std::countr_zero(regs);
    const Owner& owner = owners_[reg];
    // What can be had again for the price of a load goes first when it is needed equally late.
    size_t next = std::min<size_t>(next_use(owner.value), size_t{1} << 30);
    size_t rank = next * 2 + has_home(owner.value, owner.key) + 1;
    if (rank > best_rank) best = reg, best_rank = rank;
  }
  return best;
}

int Allocation::new_slot() {
  if (free_slots_.empty()) return slots_++;
  int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

}  // namespace rp::jit
