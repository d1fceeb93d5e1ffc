#pragma once
// Reads and writes of operands by generated code, for vectors of 16, 8 or 4 columns or the part of one that is left.
#include <xbyak/xbyak.h>

#include "reprise/backends/cpu/jit_plan.h"

namespace rp::jit {

inline constexpr int max_pointers = max_operands + max_accumulators;

/// The stack frame, in bytes from its start.
struct Frame {
  static constexpr int saved_stack = 0, rows_left = 8, index = 16, row = 24, pointers = 32;
  static constexpr int slots = (pointers + 8 * max_pointers + 63) / 64 * 64;
};

/// Where code is being written.
enum class Part : uint8_t { outside, main, single, tail };

class AccessCode : public Xbyak::CodeGenerator {
 public:
  using Vec = Xbyak::Xmm;  // of the width chosen

 protected:
  using Address = Xbyak::Address;

  /// Constants that instructions themselves need.
  enum Special {
    zero,
    all_ones,
    sign_bit,
    magnitude,
    one_f32,
    one_i32,
    iota,
    high_halves,
    tail_mask,
    tail_mask_end,
    special_count
  };

  /// Constants come first in `buffer`, which is 64-byte aligned; code follows at `code_start_`.
  AccessCode(const Program& program, const Plan& plan, int lanes, std::byte* buffer, size_t bytes);

  Address special(Special which) const { return pooled(which); }
  Address constant(uint16_t node) const { return pooled(constant_[node]); }
  const void* pooled_at(int place) const { return buffer_ + place * vector_bytes_; }

  /// The register with the pointer of an operand, or of an accumulator after `max_operands`.
  Xbyak::Reg64 pointer(int which);
  /// The operand's elements in the columns of the copy being written.
  Address element(int operand);

  void load_contiguous(int operand, const Vec& reg);
  void load_broadcast(int operand, const Vec& reg);
  void load_scalar(const Node& node, const Vec& reg);
  void load_index(const Vec& reg);
  void store_contiguous(int operand, const Vec& value, const Vec& spare);
  /// To an operand that does not move with the column: what its last column holds.
  void store_broadcast(int operand, const Vec& value, const Vec& spare);
  /// A load or store of 32-bit elements, of those lanes only that have a column.
  void load_lanes(const Vec& reg, const Address& from);
  void store_lanes(const Address& to, const Vec& value);

  /// Makes a mask of bytes 0 and 1 that stand in lanes of 32 bits, and of any numbers.
  void mask_of_bytes(const Vec& reg);
  void mask_of_nonzero(const Vec& mask, const Vec& value);

  Vec vec(int index) const {
    return avx512_ ? Vec(Xbyak::Zmm(index)) : lanes_ == 8 ? Vec(Xbyak::Ymm(index)) : Vec(index);
  }
  /// As many elements of 16 bits.
  Vec half(const Vec& v) const { return avx512_ ? Vec(ymm(v)) : low(v); }
  static Xbyak::Xmm low(const Vec& v) { return Xbyak::Xmm(v.getIdx()); }
  static Xbyak::Ymm ymm(const Vec& v) { return Xbyak::Ymm(v.getIdx()); }
  static Xbyak::Zmm zmm(const Vec& v) { return Xbyak::Zmm(v.getIdx()); }

  /// Whether the operand's elements are lanes as they are.
  bool is_lane(int operand) const { return size_of(program_.operands[operand].dtype) == 4; }
  static constexpr uint8_t nearest_even = 0;  // of vcvtps2ph

  const int lanes_, vector_bytes_;
  const bool avx512_;
  const int mask_;  // the vector register of the mask in the tail: the last one
  const Program& program_;
  const Plan& plan_;
  size_t code_start_ = 0;
  int8_t pointer_register_[max_pointers];  // -1: in the frame
  Part part_ = Part::outside;
  int copy_ = 0;
  // AVX-512: the tail's mask, and what a comparison has found on its way to a vector register.
  const Xbyak::Opmask tail_ = k7, found_ = k1;

  // The column, the arguments, and what any one instruction may overwrite.
  const Xbyak::Reg64 column_ = rax, args_ = rdi, pointer_scratch_ = r11, scratch_ = r10, data_scratch_ = r9;

 private:
  Address pooled(int place) const { return ptr[rip + pooled_at(place)]; }
  bool is_bool(int operand) const { return program_.operands[operand].dtype == DType::boolean; }
  bool is_f16(int operand) const { return program_.operands[operand].dtype == DType::f16; }
  void load_bytes(int operand, const Vec& reg);
  void load_words(int operand, const Vec& reg);
  void load_short(int operand, const Vec& reg);
  void store_short(int operand, const Vec& value, const Vec& spare);
  void store_words(int operand, const Xbyak::Xmm& packed);
  void store_bytes(int operand, const Xbyak::Xmm& packed);
  void pack(const Xbyak::Xmm& to, const Vec& value);

  std::byte* buffer_;
  std::vector<int> constant_;  // of each node, its place among the constants
};

}  // namespace rp::jit
