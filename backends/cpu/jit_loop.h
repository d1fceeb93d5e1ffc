#pragma once
// The loops over rows and columns around a program's nodes.
#include "reprise/backends/cpu/jit_vector.h"

namespace rp::jit {

class LoopCode : public VectorCode {
 public:
  LoopCode(const Program& program, const Plan& plan, int lanes, std::byte* buffer, size_t bytes);

  /// Writes the whole function; constants come before `entry()`.
  void write_function();
  size_t entry() const { return code_start_; }

 private:
  void place_pointers();
  void place_pinned();
  uint32_t free_registers(Part part) const;

  void enter();
  void leave();
  void load_pointers();
  void point_at_row();
  void write_row();
  void write_main_loop();
  void write_single(Xbyak::Label& tail);
  void write_tail();
  void move_held(bool in);
  void next_row();
  void advance(int which, const Xbyak::Address& by);
  bool reads_index() const;
  bool in_frame(int which) const { return pointer_register_[which] < 0; }
  Xbyak::Address frame_pointer(int which) const { return ptr[rsp + Frame::pointers + 8 * which]; }
  Xbyak::Address argument(size_t offset) const { return ptr[args_ + static_cast<int>(offset)]; }
  int step() const { return plan_.copies * lanes_; }

  std::vector<int> used_;   // operands and accumulators that are touched
  std::vector<int> saved_;  // general registers to be restored
  uint32_t pinned_ = 0, held_ = 0;
  std::byte* buffer_;
  size_t frame_size_at_ = 0;
  const Xbyak::Reg64 last_start_ = rcx;  // the last column where the main loop may start
};

}  // namespace rp::jit
