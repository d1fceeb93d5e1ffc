#pragma once
// Linear scan over straight-line code: as the instructions are written, keeps track of which register or stack slot
// each value is in, and gives up the value needed last when registers run out.
#include "reprise/backends/cpu/jit_plan.h"

namespace rp::jit {

class Allocation {
 public:
  /// A register handed out, and the slot its former value has to be saved to first (or -1).
  struct Taken {
    int reg;
    int spill = -1;
  };

  explicit Allocation(const Plan& plan);

  /// Starts writing a sequence with `copies` of each node at the level of columns, within `registers` (a bit each).
  void begin(const Sequence& sequence, int copies, uint32_t registers);
  /// The next node to be written, at `position`, for the columns of `copy`.
  void start(size_t position, int copy);
  /// Ends that node: its temporaries and the slots of values that died are free again.
  void finish();

  /// The register a value is in, or -1.
  int find(uint16_t value) const;
  /// The stack slot a value is in, or -1.
  int slot(uint16_t value) const;
  /// Whether the current node is the last one to use a value whose register may be overwritten.
  bool dies(uint16_t value) const;
  /// Whether no later node uses the value.
  bool last_use(uint16_t value) const;
  bool is_pinned(uint16_t value) const { return pin_[value] >= 0; }

  /// Any register but those taken for this node.
  Taken take();
  /// Makes `reg` that of a value, and keeps it from being taken during this node.
  void settle(int reg, uint16_t value);
  void keep(int reg) { kept_ |= 1u << reg; }
  /// Gives back the registers of the current node's arguments that die here.
  void release();

  void pin(uint16_t value, int reg) { pin_[value] = static_cast<int8_t>(reg); }
  /// Once all are pinned: gives the other values that leave their sequence a slot for good.
  void reserve_slots();
  int slots() const { return slots_; }

 private:
  size_t key(uint16_t value) const { return value * size_t{max_copies} + (shared(value) ? 0 : copy_); }
  bool shared(uint16_t value) const { return plan_.nodes[value].level != Level::column; }
  bool has_home(uint16_t value, size_t key) const;
  size_t next_use(uint16_t value);
  int victim();
  int new_slot();

  static constexpr int max_copies = 4;
  struct Owner {
    uint16_t value = 0;
    size_t key = 0;
    bool used = false;
  };

  const Plan& plan_;
  const Sequence* sequence_ = nullptr;
  size_t position_ = 0;
  int copies_ = 1, copy_ = 0;
  uint32_t available_ = 0, occupied_ = 0, kept_ = 0;
  Owner owners_[32];
  std::vector<int8_t> reg_, pin_;
  std::vector<int16_t> slot_, permanent_;
  std::vector<uint32_t> cursor_;
  std::vector<int16_t> free_slots_;
  int slots_ = 0, permanent_slots_ = 0;
};

}  // namespace rp::jit
