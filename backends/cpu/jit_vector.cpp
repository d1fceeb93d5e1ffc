#if defined(__x86_64__)

#include "reprise/backends/cpu/jit_vector.h"

#include <utility>

#include "reprise/core/planted.h"

namespace rp::jit {
namespace {

// Predicates of vcmpps that raise nothing for quiet NaNs, in the order of Ir::eq to Ir::ge.
constexpr uint8_t predicates[] = {0x00, 0x04, 0x11, 0x12, 0x1e, 0x1d};
// Those of vpcmpd.
constexpr uint8_t integer_predicates[] = {0, 4, 1, 2, 6, 5};

bool commutes(Ir op) {
  switch (op) {
    case Ir::add:
    case Ir::mul:
    case Ir::band:
    case Ir::bor:
    case Ir::bxor:
    case Ir::mulhi:
      return true;
    default:
      return false;
  }
}

}  // namespace

void VectorCode::write(const Sequence& sequence, int copies, uint32_t registers, Part part) {
  part_ = part;
  single_ = copies == 1;
  sequence_ = &sequence;
  allocation_.begin(sequence, copies, registers);
  for (position_ = 0; position_ < sequence.order.size(); ++position_) {
    id_ = sequence.order[position_];
    node_ = &plan_.nodes[id_];
    if (node_->lazy) continue;
    for (copy_ = 0; copy_ < copies; ++copy_) {
      allocation_.start(position_, copy_);
      write_node();
      if (node_->leaves) publish();
      allocation_.finish();
    }
  }
}

void VectorCode::publish() {
  if (allocation_.is_pinned(id_)) return;
  vmovaps(slot(allocation_.slot(id_)), vec(allocation_.find(id_)));
}

/// Whether an instruction can read the value from memory in place of a register.
bool VectorCode::foldable(uint16_t value) const {
  const Node& node = plan_.nodes[value];
  if (node.level == Level::constant || allocation_.slot(value) >= 0) return true;
  return node.lazy && node.op == Ir::load && is_lane(static_cast<int>(node.imm)) && part_ != Part::tail &&
         sequence_->uses_of(value).back() == position_;
}

Xbyak::Address VectorCode::home(uint16_t value) {
  if (plan_.nodes[value].level == Level::constant) return constant(value);
  if (int s = allocation_.slot(value); s >= 0) return slot(s);
  return element(static_cast<int>(plan_.nodes[value].imm));
}

VectorCode::Vec VectorCode::use(uint16_t value) {
  if (int reg = allocation_.find(value); reg >= 0) {
    allocation_.keep(reg);
    return vec(reg);
  }
  Vec reg = take();
  materialize(value, reg);
  allocation_.settle(reg.getIdx(), value);
  return reg;
}

VectorCode::Source VectorCode::source(uint16_t value) {
  if (!in_register(value) && foldable(value)) return home(value);
  return use(value);
}

VectorCode::Vec VectorCode::take() {
  Allocation::Taken taken = allocation_.take();
  if (taken.spill >= 0) vmovaps(slot(taken.spill), vec(taken.reg));
  return vec(taken.reg);
}

/// The register for the result, once the arguments are in place. Arguments that end here make room for it.
VectorCode::Vec VectorCode::dest() {
  allocation_.release();
  if (allocation_.is_pinned(id_)) return vec(allocation_.find(id_));
  Vec reg = take();
  allocation_.settle(reg.getIdx(), id_);
  return reg;
}

/// Makes the register of an argument that ends here, already overwritten, that of the result.
void VectorCode::define(const Vec& reg) {
  allocation_.release();
  if (allocation_.is_pinned(id_))
    vmovaps(vec(allocation_.find(id_)), reg);
  else
    allocation_.settle(reg.getIdx(), id_);
}

void VectorCode::materialize(uint16_t value, const Vec& reg) {
  const Node& node = plan_.nodes[value];
  if (node.level == Level::constant || allocation_.slot(value) >= 0)
    vmovaps(reg, home(value));
  else if (node.op == Ir::index)
    load_index(reg);
  else
    load_contiguous(static_cast<int>(node.imm), reg);
}

void VectorCode::write_node() {
  switch (node_->op) {
    case Ir::constant:
    case Ir::index:
      return;
    case Ir::load:
      return write_load();
    case Ir::scalar:
      return load_scalar(*node_, dest());
    case Ir::store:
      return write_store();
    case Ir::accumulate:
      return write_accumulate();
    case Ir::fma:
      return write_fma();
    case Ir::select:
      return write_select();
    case Ir::mulhi:
      return write_mulhi();
    case Ir::convert:
      return write_convert();
    case Ir::eq:
    case Ir::ne:
    case Ir::lt:
    case Ir::le:
    case Ir::gt:
    case Ir::ge:
      return write_compare();
    case Ir::div:
    case Ir::rem:
      if (node_->type == rp::Type::i32) return write_divide();
      return write_binary();
    default:
      return node_->arguments == 1 ? write_unary() : write_binary();
  }
}

void VectorCode::write_unary() {
  bool floating = node_->type == rp::Type::f32;
  if (node_->op == Ir::neg || (node_->op == Ir::abs && floating)) {
    Vec a = use(node_->in[0]), d = dest();
    if (!floating && avx512_)
      vxorps(d, a, special(all_ones)), vpsubd(d, d, special(all_ones));
    else if (!floating)
      vpsignd(d, a, special(all_ones));
    else if (node_->op == Ir::neg)
      vxorps(d, a, special(sign_bit));
    else
      vandps(d, a, special(magnitude));
    return;
  }
  if (node_->op == Ir::round16) {
    Vec a = use(node_->in[0]), d = dest();
    return vcvtps2ph(half(d), a, nearest_even), vcvtph2ps(d, half(d));
  }
  if (node_->op >= Ir::shl && node_->op <= Ir::sar) {
    auto by = static_cast<uint8_t>(node_->imm);
    Vec a = use(node_->in[0]), d = dest();
    if (node_->op == Ir::shl) return vpslld(d, a, by);
    if (node_->op == Ir::shr) return vpsrld(d, a, by);
    return vpsrad(d, a, by);
  }
  Source a = source(node_->in[0]);
  Vec d = dest();
  switch (node_->op) {
    case Ir::sqrt:
      return vsqrtps(d, a);
    case Ir::nearest:
      return round(d, a, 0);
    case Ir::floor:
      return round(d, a, 1);
    case Ir::ceil:
      return round(d, a, 2);
    case Ir::trunc:
      return round(d, a, 3);
    default:
      return vpabsd(d, a);
  }
}

void VectorCode::round(const Vec& d, const Operand& a, uint8_t direction) {
  constexpr uint8_t quietly = 8;
  if (avx512_) return vrndscaleps(d, a, quietly | direction);
  vroundps(d, a, quietly | direction);
}

void VectorCode::write_binary() {
  uint16_t first = node_->in[0], second = node_->in[1];
  if (commutes(node_->op) && !in_register(first) && in_register(second)) std::swap(first, second);
  Vec a = use(first);
  Source b = source(second);
  Vec d = dest();
  three(node_->op, node_->type, d, a, b);
}

void VectorCode::three(Ir op, rp::Type type, const Vec& d, const Vec& a, const Operand& b) {
  bool integer = type == rp::Type::i32;
  bool packed = integer && !avx512_;  // the bits of integers; AVX-512 has those of floats for all
  switch (op) {
    case Ir::add:
      return integer ? vpaddd(d, a, b) : vaddps(d, a, b);
    case Ir::sub:
      if (planted(Defect::swapped_operands) && single_ && !integer && !b.isMEM()) return vsubps(d, vec(b.getIdx()), a);
      return integer ? vpsubd(d, a, b) : vsubps(d, a, b);
    case Ir::mul:
      if (planted(Defect::jit_tail) && part_ == Part::tail && plan_.nodes.size() > 12) return vaddps(d, a, b);
      return integer ? vpmulld(d, a, b) : vmulps(d, a, b);
    case Ir::min:
      return integer ? vpminsd(d, a, b) : vminps(d, a, b);
    case Ir::max:
      return integer ? vpmaxsd(d, a, b) : vmaxps(d, a, b);
    case Ir::band:
      return packed ? vpand(d, a, b) : vandps(d, a, b);
    case Ir::bor:
      return packed ? vpor(d, a, b) : vorps(d, a, b);
    case Ir::bxor:
      return packed ? vpxor(d, a, b) : vxorps(d, a, b);
    case Ir::andnot:
      return packed ? vpandn(d, a, b) : vandnps(d, a, b);
    default:
      return vdivps(d, a, b);
  }
}

void VectorCode::write_convert() {
  rp::Type from = node_->from, to = node_->type;
  if (from != rp::Type::mask && to != rp::Type::mask) {
    Source a = source(node_->in[0]);
    Vec d = dest();
    return to == rp::Type::i32 ? vcvttps2dq(d, a) : vcvtdq2ps(d, a);
  }
  Vec a = use(node_->in[0]), d = dest();
  if (from == rp::Type::mask) return vandps(d, a, special(to == rp::Type::f32 ? one_f32 : one_i32));
  if (from == rp::Type::f32) return compare_f32(d, a, special(zero), predicates[1]);
  mask_of_nonzero(d, a);
}

void VectorCode::write_compare() {
  uint16_t first = node_->in[0], second = node_->in[1];
  Ir op = node_->op;
  bool mirrored = !in_register(first) && in_register(second);
  if (node_->type == rp::Type::i32 && !avx512_) mirrored = op == Ir::lt || op == Ir::ge;
  if (mirrored) {
    std::swap(first, second);
    constexpr Ir mirror[] = {Ir::eq, Ir::ne, Ir::gt, Ir::ge, Ir::lt, Ir::le};
    op = mirror[static_cast<int>(op) - static_cast<int>(Ir::eq)];
  }
  Vec a = use(first);
  Source b = source(second);
  Vec d = dest();
  int which = static_cast<int>(op) - static_cast<int>(Ir::eq);
  if (node_->type == rp::Type::f32) return compare_f32(d, a, b, predicates[which]);
  if (avx512_) return vpcmpd(found_, a, b, integer_predicates[which]), vpmovm2d(d, found_);
  if (op == Ir::eq || op == Ir::ne)
    vpcmpeqd(d, a, b);
  else
    vpcmpgtd(d, a, b);
  if (op == Ir::ne || op == Ir::le) vpxor(d, d, special(all_ones));
}

void VectorCode::compare_f32(const Vec& d, const Vec& a, const Operand& b, uint8_t predicate) {
  if (avx512_) return vcmpps(found_, a, b, predicate), vpmovm2d(d, found_);
  vcmpps(d, a, b, predicate);
}

/// One factor is in a register; of the other and the addend one may stay in memory, and one that ends here is
/// overwritten.
void VectorCode::write_fma() {
  uint16_t a = node_->in[0], b = node_->in[1], c = node_->in[2];
  if (!in_register(a) && in_register(b)) std::swap(a, b);
  Vec x = use(a);
  auto in_memory = [&](uint16_t value) { return !in_register(value) && foldable(value); };
  if (in_memory(c)) {
    Vec y = use(b);
    if (allocation_.dies(a)) return vfmadd213ps(x, y, home(c)), define(x);
    if (allocation_.dies(b)) return vfmadd213ps(y, x, home(c)), define(y);
    Vec d = dest();
    return vmovups(d, home(c)), vfmadd231ps(d, x, y);
  }
  Vec z = use(c);
  if (in_memory(b)) {
    if (allocation_.dies(c)) return vfmadd231ps(z, x, home(b)), define(z);
    if (allocation_.dies(a)) return vfmadd132ps(x, z, home(b)), define(x);
    Vec d = dest();
    return vmovups(d, home(b)), vfmadd213ps(d, x, z);
  }
  Vec y = use(b);
  if (allocation_.dies(c)) return vfmadd231ps(z, x, y), define(z);
  if (allocation_.dies(a)) return vfmadd213ps(x, y, z), define(x);
  if (allocation_.dies(b)) return vfmadd213ps(y, x, z), define(y);
  Vec d = dest();
  vmovaps(d, z);
  vfmadd231ps(d, x, y);
}

void VectorCode::write_select() {
  Vec mask = use(node_->in[0]), otherwise = use(node_->in[2]);
  Source chosen = source(node_->in[1]);
  Vec d = dest();
  blend(d, mask, chosen, otherwise);
}

/// The register of the result may be that of an argument.
void VectorCode::blend(const Vec& d, const Vec& mask, const Operand& chosen, const Vec& otherwise) {
  if (!avx512_) return vblendvps(d, otherwise, chosen, mask);
  // Truth tables of the choice, by the order in which the three are given.
  constexpr uint8_t otherwise_mask_chosen = 0xb8, chosen_mask_otherwise = 0xe2, mask_otherwise_chosen = 0xac;
  if (d.getIdx() == otherwise.getIdx()) return vpternlogd(d, mask, chosen, otherwise_mask_chosen);
  if (!chosen.isMEM() && d.getIdx() == chosen.getIdx()) return vpternlogd(d, mask, otherwise, chosen_mask_otherwise);
  if (d.getIdx() != mask.getIdx()) vmovaps(d, mask);
  vpternlogd(d, otherwise, chosen, mask_otherwise_chosen);
}

void VectorCode::write_mulhi() {
  uint16_t first = node_->in[0], second = node_->in[1];
  if (plan_.nodes[first].level < plan_.nodes[second].level) std::swap(first, second);
  Vec a = use(first), b = use(second), odd = take();
  vmovshdup(odd, a);
  if (plan_.nodes[second].level == Level::column) {
    Vec odd_b = take();
    vmovshdup(odd_b, b);
    vpmuludq(odd, odd, odd_b);
  } else {
    vpmuludq(odd, odd, b);
  }
  Vec d = dest();
  vpmuludq(d, a, b);
  if (avx512_) {
    constexpr uint8_t first_or_second_and_third = 0xf8;
    return vpsrlq(d, d, 32), vpternlogd(d, odd, special(high_halves), first_or_second_and_third);
  }
  vmovshdup(d, d);
  vpblendd(d, d, odd, 0xaa);
}

/// The quotient in f64 is off by less than its distance to the next integer, so truncating it is exact.
void VectorCode::write_divide() {
  Vec a = use(node_->in[0]), b = use(node_->in[1]), quotient = take(), spare = take();
  divide_half(quotient, a, b, spare);
  if (lanes_ > 4) {
    Vec high = take(), spare_high = take();
    upper_half(high, a);
    upper_half(spare_high, b);
    divide_half(high, high, spare_high, spare);
    if (avx512_)
      vinserti64x4(zmm(quotient), zmm(quotient), ymm(high), 1);
    else
      vinserti128(ymm(quotient), ymm(quotient), low(high), 1);
  }
  if (node_->op == Ir::rem) {
    vpmulld(quotient, quotient, b);
    vpsubd(quotient, a, quotient);
  }
  if (avx512_) return vptestmd(found_, b, b), vmovaps(dest() | found_ | T_z, quotient);
  vpcmpeqd(spare, b, special(zero));
  Vec d = dest();
  vpandn(d, spare, quotient);
}

void VectorCode::upper_half(const Vec& to, const Vec& from) {
  if (avx512_)
    vextracti64x4(ymm(to), zmm(from), 1);
  else
    vextracti128(low(to), ymm(from), 1);
}

/// The quotients of the lower halves of `a` and `b`, or of the whole vectors where they have four elements.
void VectorCode::divide_half(const Vec& quotient, const Vec& a, const Vec& b, const Vec& spare) {
  auto half = [&](const Vec& v) { return avx512_ ? Vec(ymm(v)) : low(v); };
  auto doubles = [&](const Vec& v) { return avx512_ ? Vec(zmm(v)) : Vec(ymm(v)); };
  Vec q = doubles(quotient), s = doubles(spare);
  vcvtdq2pd(q, half(a));
  vcvtdq2pd(s, half(b));
  vdivpd(q, q, s);
  vcvttpd2dq(half(quotient), q);
}

void VectorCode::write_load() {
  auto operand = static_cast<int>(node_->imm);
  Vec d = dest();
  if (node_->level == Level::row)
    load_broadcast(operand, d);
  else
    load_contiguous(operand, d);
}

void VectorCode::write_store() {
  auto operand = static_cast<int>(node_->imm);
  bool moves = program_.operands[operand].access == Access::contiguous;
  Vec value = use(node_->in[0]);
  Vec spare = moves && is_lane(operand) ? value : take();
  if (moves)
    store_contiguous(operand, value, spare);
  else
    store_broadcast(operand, value, spare);
}

void VectorCode::write_accumulate() {
  auto k = static_cast<int>(node_->imm);
  Vec value = use(node_->in[0]);
  const Accumulator& accumulator = program_.accumulators[k];
  if (plan_.held_accumulators && part_ == Part::main)
    return combine(accumulator, held(k, copy_ % (rp::lanes / lanes_)), value);
  Vec sum = take();
  Xbyak::Reg64 base = pointer(max_operands + k);
  int offset = copy_ * vector_bytes_;
  if (!program_.column_form) lea(scratch_, ptr[column_ * 4 + offset]), and_(scratch_, 4 * rp::lanes - 1);
  Address at = program_.column_form ? ptr[base + column_ * 4 + offset] : ptr[base + scratch_];
  load_lanes(sum, at);
  combine(accumulator, sum, value);
  store_lanes(at, sum);
}

void VectorCode::combine(const Accumulator& accumulator, const Vec& into, const Vec& value) {
  constexpr Ir ops[] = {Ir::add, Ir::max, Ir::min, Ir::mul};
  Ir op = ops[static_cast<int>(accumulator.combine)];
  if (accumulator.type == rp::Type::i32 || op == Ir::add || op == Ir::mul)
    return three(op, accumulator.type, into, into, value);
  constexpr uint8_t unordered = 3;
  const Vec is_nan = avx512_ ? into : take();  // or the mask found_
  avx512_ ? vcmpps(found_, value, value, unordered) : vcmpps(is_nan, value, value, unordered);
  three(op, accumulator.type, into, value, into);
  avx512_ ? vmovaps(into | found_, value) : vblendvps(into, into, value, is_nan);
}

}  // namespace rp::jit

#endif
