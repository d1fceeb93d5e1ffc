#if defined(__x86_64__)

#include "reprise/backends/cpu/jit_access.h"

#include <cstddef>
#include <cstring>

namespace rp::jit {
namespace {

constexpr uint32_t special_bits[] = {0, 0xffffffffu, 0x80000000u, 0x7fffffffu, 0x3f800000u, 1};

uint32_t constant_bits(const Node& node) {
  return node.type == Type::mask ? (node.imm ? 0xffffffffu : 0u) : static_cast<uint32_t>(node.imm);
}

}  // namespace

AccessCode::AccessCode(const Program& program, const Plan& plan, int lanes, std::byte* buffer, size_t bytes)
    : CodeGenerator(bytes, buffer),
      lanes_(lanes),
      vector_bytes_(4 * lanes),
      avx512_(lanes == 16),
      mask_(vector_registers(lanes) - 1),
      program_(program),
      plan_(plan),
      buffer_(buffer) {
  auto fill = [&](int place, auto bits) {
    for (int lane = 0; lane < lanes; ++lane) {
      uint32_t value = bits(lane);
      std::memcpy(buffer + place * vector_bytes_ + lane * 4, &value, 4);
    }
  };
  for (int k = zero; k <= one_i32; ++k) fill(k, [&](int) { return special_bits[k]; });
  fill(iota, [](int lane) { return static_cast<uint32_t>(lane); });
  fill(high_halves, [](int lane) { return lane % 2 ? 0xffffffffu : 0u; });
  fill(tail_mask, [](int) { return 0xffffffffu; });
  fill(tail_mask_end, [](int) { return 0u; });
  int count = special_count;
  constant_.assign(plan.nodes.size(), -1);
  for (size_t i = 0; i < plan.nodes.size(); ++i) {
    if (plan.nodes[i].level != Level::constant) continue;
    fill(count, [&](int) { return constant_bits(plan.nodes[i]); });
    constant_[i] = count++;
  }
  code_start_ = (static_cast<size_t>(count) * vector_bytes_ + 63) / 64 * 64;
  setSize(code_start_);
}

Xbyak::Reg64 AccessCode::pointer(int which) {
  if (pointer_register_[which] >= 0) return Xbyak::Reg64(pointer_register_[which]);
  mov(pointer_scratch_, ptr[rsp + Frame::pointers + 8 * which]);
  return pointer_scratch_;
}

Xbyak::Address AccessCode::element(int operand) {
  int size = static_cast<int>(size_of(program_.operands[operand].dtype));
  return ptr[pointer(operand) + column_ * size + copy_ * lanes_ * size];
}

void AccessCode::load_lanes(const Vec& reg, const Address& from) {
  if (part_ != Part::tail)
    vmovups(reg, from);
  else if (avx512_)
    vmovups(reg | tail_ | T_z, from);
  else
    vmaskmovps(reg, vec(mask_), from);
}

void AccessCode::store_lanes(const Address& to, const Vec& value) {
  if (part_ != Part::tail)
    vmovups(to, value);
  else if (avx512_)
    vmovups(to | tail_, value);
  else
    vmaskmovps(to, vec(mask_), value);
}

void AccessCode::load_contiguous(int operand, const Vec& reg) {
  if (is_lane(operand)) return load_lanes(reg, element(operand));
  if (!is_bool(operand)) return load_short(operand, reg);
  if (part_ != Part::tail)
    vpmovzxbd(reg, element(operand));
  else if (avx512_)
    vpmovzxbd(reg | tail_ | T_z, element(operand));
  else
    load_bytes(operand, reg);
  mask_of_bytes(reg);
}

void AccessCode::mask_of_bytes(const Vec& reg) {
  if (avx512_) return mask_of_nonzero(reg, reg);
  vpcmpgtd(reg, reg, special(zero));
}

void AccessCode::mask_of_nonzero(const Vec& mask, const Vec& value) {
  if (avx512_) return vptestmd(found_, value, value), vpmovm2d(mask, found_);
  vpcmpeqd(mask, value, special(zero));
  vpxor(mask, mask, special(all_ones));
}

/// Gathers the bytes that are left in a general register, the last one first.
void AccessCode::load_bytes(int operand, const Vec& reg) {
  Xbyak::Reg64 base = pointer(operand);
  Xbyak::Label next;
  xor_(data_scratch_.cvt32(), data_scratch_.cvt32());
  mov(scratch_, ptr[args_ + offsetof(KernelArgs, columns)]);
  L(next);
  shl(data_scratch_, 8);
  mov(data_scratch_.cvt8(), ptr[base + scratch_ - 1]);
  dec(scratch_);
  cmp(scratch_, column_);
  jg(next);
  vmovq(low(reg), data_scratch_);
  vpmovzxbd(reg, low(reg));
}

/// 16-bit floats as f32.
void AccessCode::load_short(int operand, const Vec& reg) {
  const bool f16 = is_f16(operand);
  const auto widen = [&](const Vec& to, const Xbyak::Operand& from) {
    f16 ? vcvtph2ps(to, from) : vpmovzxwd(to, from);
  };
  if (part_ != Part::tail)
    widen(reg, element(operand));
  else if (avx512_)
    widen(reg | tail_ | T_z, element(operand));
  else
    load_words(operand, reg), widen(reg, low(reg));
  if (!f16) vpslld(reg, reg, 16);
}

/// Gathers the words that are left, the last one first.
void AccessCode::load_words(int operand, const Vec& reg) {
  Xbyak::Reg64 base = pointer(operand);
  Xbyak::Label next;
  vpxor(low(reg), low(reg), low(reg));
  mov(scratch_, ptr[args_ + offsetof(KernelArgs, columns)]);
  L(next);
  vpslldq(low(reg), low(reg), 2);
  vpinsrw(low(reg), low(reg), ptr[base + scratch_ * 2 - 2], 0);
  dec(scratch_);
  cmp(scratch_, column_);
  jg(next);
}

void AccessCode::load_broadcast(int operand, const Vec& reg) {
  Address at = ptr[pointer(operand)];
  if (is_lane(operand)) return vbroadcastss(reg, at);
  if (!is_bool(operand)) {
    movzx(data_scratch_.cvt32(), word[pointer(operand)]);
    if (!is_f16(operand)) shl(data_scratch_.cvt32(), 16);
    vmovd(low(reg), data_scratch_.cvt32());
    if (is_f16(operand)) vcvtph2ps(low(reg), low(reg));
    return vbroadcastss(reg, low(reg));
  }
  movzx(data_scratch_.cvt32(), at);
  vmovd(low(reg), data_scratch_.cvt32());
  vpbroadcastd(reg, low(reg));
  mask_of_bytes(reg);
}

void AccessCode::load_scalar(const Node& node, const Vec& reg) {
  mov(scratch_, ptr[args_ + offsetof(KernelArgs, scalars)]);
  vbroadcastss(reg, ptr[scratch_ + 8 * static_cast<int>(node.imm)]);
  if (node.type == rp::Type::mask) mask_of_nonzero(reg, reg);
}

void AccessCode::load_index(const Vec& reg) {
  lea(scratch_.cvt32(), ptr[column_ + copy_ * lanes_]);
  add(scratch_.cvt32(), ptr[rsp + Frame::index]);
  vmovd(low(reg), scratch_.cvt32());
  vpbroadcastd(reg, low(reg));
  vpaddd(reg, reg, special(iota));
}

/// A mask as bytes 0 and 1.
void AccessCode::pack(const Xbyak::Xmm& to, const Vec& value) {
  if (lanes_ == 8) {
    vextracti128(to, ymm(value), 1);
    vpackssdw(to, low(value), to);
  } else {
    vpackssdw(to, value, value);
  }
  vpacksswb(to, to, to);
  vpabsb(to, to);
}

void AccessCode::store_contiguous(int operand, const Vec& value, const Vec& spare) {
  if (part_ == Part::main && program_.operands[operand].streamed) return vmovntps(element(operand), value);
  if (is_lane(operand)) return store_lanes(element(operand), value);
  if (!is_bool(operand)) return store_short(operand, value, spare);
  if (avx512_) {
    Address to = element(operand);
    vpsrld(spare, value, 31);
    return vpmovdb(part_ == Part::tail ? to | tail_ : to, spare);
  }
  pack(low(spare), value);
  if (part_ == Part::tail)
    store_bytes(operand, low(spare));
  else if (lanes_ == 8)
    vmovq(element(operand), low(spare));
  else
    vmovd(element(operand), low(spare));
}

/// f32 that need no rounding, as 16-bit floats.
void AccessCode::store_short(int operand, const Vec& value, const Vec& spare) {
  const bool f16 = is_f16(operand);
  if (!f16) vpsrld(spare, value, 16);
  if (avx512_) {
    const Address to = part_ == Part::tail ? element(operand) | tail_ : element(operand);
    return f16 ? vcvtps2ph(to, value, nearest_even) : vpmovdw(to, spare);
  }
  if (f16)
    vcvtps2ph(low(spare), value, nearest_even);
  else
    vpackusdw(spare, spare, spare);
  constexpr uint8_t even_quarters = 0x08;
  if (!f16 && lanes_ == 8) vpermq(ymm(spare), ymm(spare), even_quarters);
  if (part_ == Part::tail)
    store_words(operand, low(spare));
  else if (lanes_ == 8)
    vmovdqu(element(operand), low(spare));
  else
    vmovq(element(operand), low(spare));
}

void AccessCode::store_words(int operand, const Xbyak::Xmm& packed) {
  Xbyak::Reg64 base = pointer(operand);
  Xbyak::Label next;
  mov(scratch_, column_);
  L(next);
  vpextrw(ptr[base + scratch_ * 2], packed, 0);
  vpsrldq(packed, packed, 2);
  inc(scratch_);
  cmp(scratch_, ptr[args_ + offsetof(KernelArgs, columns)]);
  jl(next);
}

void AccessCode::store_bytes(int operand, const Xbyak::Xmm& packed) {
  Xbyak::Reg64 base = pointer(operand);
  Xbyak::Label next;
  vmovq(data_scratch_, packed);
  mov(scratch_, column_);
  L(next);
  mov(ptr[base + scratch_], data_scratch_.cvt8());
  shr(data_scratch_, 8);
  inc(scratch_);
  cmp(scratch_, ptr[args_ + offsetof(KernelArgs, columns)]);
  jl(next);
}

void AccessCode::store_broadcast(int operand, const Vec& value, const Vec& spare) {
  Xbyak::Reg32 element = data_scratch_.cvt32();
  if (part_ == Part::outside) {
    vmovd(element, low(value));
  } else {
    // The last column is in lane (columns - 1 - first column) of the tail, and in the last lane elsewhere.
    mov(scratch_.cvt32(), lanes_ - 1);
    if (part_ == Part::tail) {
      mov(scratch_, ptr[args_ + offsetof(KernelArgs, columns)]);
      sub(scratch_, column_);
      dec(scratch_);
    }
    vmovd(low(spare), scratch_.cvt32());
    if (avx512_)
      vpermd(zmm(spare), zmm(spare), value);
    else if (lanes_ == 8)
      vpermd(ymm(spare), ymm(spare), value);
    else
      vpermilps(spare, value, spare);
    vmovd(element, low(spare));
  }
  if (is_f16(operand)) {
    vmovd(low(spare), element);
    vcvtps2ph(low(spare), low(spare), nearest_even);
    vmovd(element, low(spare));
  }
  Xbyak::Reg64 base = pointer(operand);
  if (is_lane(operand)) return mov(ptr[base], element);
  if (!is_bool(operand)) {
    if (!is_f16(operand)) shr(element, 16);
    return mov(ptr[base], element.cvt16());
  }
  and_(element, 1);
  mov(ptr[base], element.cvt8());
}

}  // namespace rp::jit

#endif
