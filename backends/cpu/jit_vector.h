#pragma once
// Instruction selection: writes the nodes of a sequence for vectors of 8 or 4 columns with AVX2, or of 16 with AVX-512.
// In both a mask is a vector register, all ones or all zeros in a lane; of AVX-512's mask registers one takes what a
// comparison finds on its way there, and one has the lanes of the tail.
#include <variant>

#include "reprise/backends/cpu/jit_access.h"
#include "reprise/backends/cpu/jit_alloc.h"

namespace rp::jit {

class VectorCode : public AccessCode {
 protected:
  VectorCode(const Program& program, const Plan& plan, int lanes, std::byte* buffer, size_t bytes)
      : AccessCode(program, plan, lanes, buffer, bytes), allocation_(plan) {}

  /// Writes a sequence within `registers`, a bit each.
  void write(const Sequence& sequence, int copies, uint32_t registers, Part part);
  /// The register of lanes part * lanes_ and following of an accumulator, where those are held in registers.
  Vec held(int accumulator, int part) const { return vec(held_first_ + accumulator * (rp::lanes / lanes_) + part); }

  Allocation allocation_;
  bool single_ = false;  // one vector at a time
  int held_first_ = 0;

 private:
  using Operand = Xbyak::Operand;
  /// A value where an instruction can read it: in a register or in memory.
  class Source {
   public:
    Source(const Vec& reg) : at_(reg) {}
    Source(const Address& address) : at_(address) {}
    operator const Operand&() const {
      return std::visit([](const auto& at) -> const Operand& { return at; }, at_);
    }

   private:
    std::variant<Vec, Address> at_;
  };

  void write_node();
  void write_unary();
  void write_binary();
  void write_convert();
  void write_compare();
  void write_fma();
  void write_select();
  void write_mulhi();
  void write_divide();
  void write_load();
  void write_store();
  void write_accumulate();

  void three(Ir op, rp::Type type, const Vec& d, const Vec& a, const Operand& b);
  void compare_f32(const Vec& d, const Vec& a, const Operand& b, uint8_t predicate);
  void blend(const Vec& d, const Vec& mask, const Operand& chosen, const Vec& otherwise);
  void combine(const Accumulator& accumulator, const Vec& into, const Vec& value);
  void round(const Vec& d, const Operand& a, uint8_t direction);
  void upper_half(const Vec& to, const Vec& from);
  void divide_half(const Vec& quotient, const Vec& a, const Vec& b, const Vec& spare);

  bool in_register(uint16_t value) const { return allocation_.find(value) >= 0; }
  bool foldable(uint16_t value) const;
  Address home(uint16_t value);
  Vec use(uint16_t value);
  Source source(uint16_t value);
  Vec take();
  Vec dest();
  void define(const Vec& reg);
  void publish();
  void materialize(uint16_t value, const Vec& reg);
  Address slot(int index) const { return ptr[rsp + Frame::slots + index * vector_bytes_]; }

  const Sequence* sequence_ = nullptr;
  size_t position_ = 0;
  uint16_t id_ = 0;
  const Node* node_ = nullptr;
};

}  // namespace rp::jit
