#if defined(__x86_64__)

#include "reprise/backends/cpu/jit_loop.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace rp::jit {
namespace {

// What pointers may live in: first what a function may overwrite, then what it has to restore.
constexpr int pointer_registers[] = {2, 6, 8, 3, 5, 12, 13, 14, 15};
constexpr int free_pointer_registers = 3;

constexpr size_t pointer_offset(int which) {
  return which < max_operands ? offsetof(KernelArgs, pointers) + 8 * which
                              : offsetof(KernelArgs, accumulators) + 8 * (which - max_operands);
}

}  // namespace

LoopCode::LoopCode(const Program& program, const Plan& plan, int lanes, std::byte* buffer, size_t bytes)
    : VectorCode(program, plan, lanes, buffer, bytes), buffer_(buffer) {
  place_pointers();
  place_pinned();
}

/// Gives registers to the pointers that the columns need, then to the others.
void LoopCode::place_pointers() {
  std::fill(std::begin(pointer_register_), std::end(pointer_register_), int8_t{-1});
  auto collect = [&](const Sequence& sequence) {
    for (uint16_t id : sequence.order) {
      const Node& node = plan_.nodes[id];
      if (node.op != Ir::load && node.op != Ir::store && node.op != Ir::accumulate) continue;
      int which = static_cast<int>(node.imm) + (node.op == Ir::accumulate ? max_operands : 0);
      if (std::find(used_.begin(), used_.end(), which) == used_.end()) used_.push_back(which);
    }
  };
  collect(plan_.column);
  collect(plan_.row);
  for (size_t k = 0; k < std::min(used_.size(), std::size(pointer_registers)); ++k) {
    pointer_register_[used_[k]] = static_cast<int8_t>(pointer_registers[k]);
    if (k >= free_pointer_registers) saved_.push_back(pointer_registers[k]);
  }
}

/// Pinned values and held accumulators take registers from the upper end, below that of the mask.
void LoopCode::place_pinned() {
  int next = mask_;
  for (uint16_t id : plan_.pinned) {
    allocation_.pin(id, --next);
    pinned_ |= 1u << next;
  }
  allocation_.reserve_slots();
  if (!plan_.held_accumulators) return;
  int count = static_cast<int>(program_.accumulators.size()) * (rp::lanes / lanes_);
  held_first_ = next - count;
  held_ = ((1u << count) - 1) << held_first_;
}

uint32_t LoopCode::free_registers(Part part) const {
  uint32_t all = (avx512_ ? 0xffffffff : 0xffff) & ~pinned_;
  if (part == Part::main) all &= ~held_;
  if (part == Part::tail) all &= ~(1u << mask_);
  return all;
}

void LoopCode::write_function() {
  Xbyak::Label nothing, row;
  mov(rcx, argument(offsetof(KernelArgs, columns)));
  mov(rax, argument(offsetof(KernelArgs, rows)));
  test(rcx, rcx);
  jle(nothing, T_NEAR);
  test(rax, rax);
  jle(nothing, T_NEAR);
  enter();
  load_pointers();
  for (uint16_t id : plan_.pinned)
    if (plan_.nodes[id].level == Level::constant) vmovaps(vec(allocation_.find(id)), constant(id));
  write(plan_.call, 1, free_registers(Part::outside), Part::outside);
  L(row);
  write_row();
  dec(qword[rsp + Frame::rows_left]);
  Xbyak::Label done;
  jz(done, T_NEAR);
  next_row();
  jmp(row, T_NEAR);
  L(done);
  leave();
  L(nothing);
  ret();
}

void LoopCode::enter() {
  for (int reg : saved_) push(Xbyak::Reg64(reg));
  constexpr int placeholder = 1 << 24;
  mov(scratch_, rsp);
  sub(rsp, placeholder);
  frame_size_at_ = getSize() - 4;
  and_(rsp, -64);
  mov(ptr[rsp + Frame::saved_stack], scratch_);
  mov(ptr[rsp + Frame::rows_left], rax);
  sub(last_start_, step());
}

void LoopCode::leave() {
  // Only now is it known how many slots there are.
  uint32_t size = (Frame::slots + allocation_.slots() * vector_bytes_ + 63) / 64 * 64;
  std::memcpy(buffer_ + frame_size_at_, &size, 4);
  const auto& operands = program_.operands;
  if (std::any_of(operands.begin(), operands.end(), [](const ProgramOperand& o) { return o.streamed; })) sfence();
  vzeroupper();
  mov(rsp, ptr[rsp + Frame::saved_stack]);
  for (size_t k = saved_.size(); k-- > 0;) pop(Xbyak::Reg64(saved_[k]));
}

void LoopCode::load_pointers() {
  for (int which : used_) {
    Xbyak::Reg64 reg = in_frame(which) ? scratch_ : Xbyak::Reg64(pointer_register_[which]);
    mov(reg, argument(pointer_offset(which)));
    if (in_frame(which)) mov(frame_pointer(which), reg);
  }
  if (reads_index()) {
    mov(eax, argument(offsetof(KernelArgs, index)));
    mov(ptr[rsp + Frame::index], eax);
  }
  if (program_.column_form) mov(qword[rsp + Frame::row], 0);
}

bool LoopCode::reads_index() const {
  auto is_index = [&](uint16_t id) { return plan_.nodes[id].op == Ir::index; };
  return std::any_of(plan_.column.order.begin(), plan_.column.order.end(), is_index);
}

/// Column form: points the accumulators at this row's lane of their tables.
void LoopCode::point_at_row() {
  mov(scratch_, ptr[rsp + Frame::row]);
  and_(scratch_, rp::lanes - 1);
  imul(scratch_, argument(offsetof(KernelArgs, columns)));
  for (int which : used_) {
    if (which < max_operands) continue;
    mov(pointer_scratch_, argument(pointer_offset(which)));
    lea(pointer_scratch_, ptr[pointer_scratch_ + scratch_ * 4]);
    if (in_frame(which))
      mov(frame_pointer(which), pointer_scratch_);
    else
      mov(Xbyak::Reg64(pointer_register_[which]), pointer_scratch_);
  }
}

void LoopCode::write_row() {
  if (program_.column_form && !program_.accumulators.empty()) point_at_row();
  write(plan_.row, 1, free_registers(Part::outside), Part::outside);
  if (plan_.column.order.empty()) return;
  Xbyak::Label tail;
  xor_(eax, eax);
  write_main_loop();
  if (plan_.copies > 1) write_single(tail);
  L(tail);
  write_tail();
}

void LoopCode::write_main_loop() {
  Xbyak::Label loop, skip;
  test(last_start_, last_start_);
  js(skip, T_NEAR);
  if (plan_.held_accumulators) move_held(true);
  align(16);
  L(loop);
  write(plan_.column, plan_.copies, free_registers(Part::main), Part::main);
  add(column_, step());
  cmp(column_, last_start_);
  jle(loop, T_NEAR);
  if (plan_.held_accumulators) move_held(false);
  L(skip);
}

/// What the main loop leaves, one vector at a time.
void LoopCode::write_single(Xbyak::Label& tail) {
  Xbyak::Label again;
  L(again);
  mov(scratch_, argument(offsetof(KernelArgs, columns)));
  sub(scratch_, column_);
  cmp(scratch_, lanes_);
  jl(tail, T_NEAR);
  write(plan_.column, 1, free_registers(Part::single), Part::single);
  add(column_, lanes_);
  if (plan_.copies > 2) jmp(again, T_NEAR);
}

/// The columns that do not fill a vector.
void LoopCode::write_tail() {
  Xbyak::Label done;
  mov(scratch_, argument(offsetof(KernelArgs, columns)));
  sub(scratch_, column_);
  jle(done, T_NEAR);
  lea(pointer_scratch_, ptr[rip + pooled_at(tail_mask_end)]);
  neg(scratch_);
  vmovups(vec(mask_), ptr[pointer_scratch_ + scratch_ * 4]);
  if (avx512_) vpmovd2m(tail_, vec(mask_));
  write(plan_.column, 1, free_registers(Part::tail), Part::tail);
  L(done);
}

void LoopCode::move_held(bool in) {
  for (size_t k = 0; k < program_.accumulators.size(); ++k) {
    int which = max_operands + static_cast<int>(k);
    if (std::find(used_.begin(), used_.end(), which) == used_.end()) continue;
    Xbyak::Reg64 base = pointer(which);
    for (int part = 0; part < rp::lanes / lanes_; ++part) {
      Xbyak::Address at = ptr[base + part * vector_bytes_];
      if (in)
        vmovups(held(static_cast<int>(k), part), at);
      else
        vmovups(at, held(static_cast<int>(k), part));
    }
  }
}

void LoopCode::next_row() {
  for (int which : used_) {
    if (which < max_operands)
      advance(which, argument(offsetof(KernelArgs, row_strides) + 8 * which));
    else if (!program_.column_form)
      advance(which, argument(offsetof(KernelArgs, accumulator_row_stride)));
  }
  if (program_.column_form) inc(qword[rsp + Frame::row]);
  if (!reads_index()) return;
  mov(eax, argument(offsetof(KernelArgs, index_row)));
  add(ptr[rsp + Frame::index], eax);
}

void LoopCode::advance(int which, const Xbyak::Address& by) {
  if (!in_frame(which)) return add(Xbyak::Reg64(pointer_register_[which]), by);
  mov(scratch_, by);
  add(frame_pointer(which), scratch_);
}

}  // namespace rp::jit

#endif
