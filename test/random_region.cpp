#include "reprise/test/random_region.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace rp::test {
namespace {

using SlotKind = StageSlot::Kind;

constexpr Type slot_types[] = {Type::f32, Type::i32, Type::mask, Type::f64, Type::i64};  // of the scalars

bool is_float(Type t) { return t == Type::f32 || t == Type::f64; }

/// One stage: values by type, to which random instructions add.
class StageMaker {
 public:
  StageMaker(Dice& dice, bool full, bool wide) : dice_(dice), wide_(wide) { stage_.full = full; }

  void read(SlotKind kind, int index, DType dtype, Access access) {
    stage_.slots.push_back({kind, index});
    values_.push_back(b_.load(b_.operand(dtype, access)));
  }

  void write(SlotKind kind, int index, DType dtype, Access access = Access::contiguous) {
    stage_.slots.push_back({kind, index});
    const int operand = b_.operand(dtype, access, true);
    b_.store(dice_.chance(80) ? pick(type_of(dtype)) : pick(any()), operand);
  }

  void reduce(Combine combine, Type type, int row_temp) {
    b_.accumulate(dice_.chance(30) ? values_[static_cast<size_t>(first_of(type))] : pick(type), combine);
    stage_.reductions.push_back({combine, type, row_temp});
  }

  void steps(int n) {
    for (int k = 0; k < n; ++k) values_.push_back(step());
  }

  Stage take(bool columns) {
    if (columns) b_.set_column_form();
    stage_.program = b_.take();
    stage_.program.scalars = static_cast<uint16_t>(std::size(slot_types));
    return std::move(stage_);
  }

  Type any() {
    return wide_ ? dice_.among({Type::f32, Type::f64, Type::i32, Type::i64, Type::mask})
                 : dice_.among({Type::f32, Type::f32, Type::i32, Type::mask});
  }

 private:
  int first_of(Type type) {
    for (size_t i = 0; i < values_.size(); ++i)
      if (values_[i].type == type) return static_cast<int>(i);
    values_.push_back(b_.bits(dice_.number(type), type));
    return static_cast<int>(values_.size()) - 1;
  }

  Value pick(Type type) {
    for (int tries = 0; tries < 30; ++tries) {
      const Value v = values_[static_cast<size_t>(dice_.below(static_cast<int64_t>(values_.size())))];
      if (v.type == type) return v;
    }
    return b_.bits(dice_.number(type), type);
  }

  // The bits of a NaN are nobody's business.
  Value without_nan(Value v) { return is_float(v.type) ? select(v == v, v, b_.constant(1, v.type)) : v; }

  Value step() {
    const Type type = any();
    if (dice_.chance(8)) return source(type);
    if (dice_.chance(20)) return convert(type);
    if (dice_.chance(12)) return select(pick(Type::mask), pick(type), pick(type));
    if (type == Type::mask) return dice_.chance(40) ? bits(type) : compare();
    if (dice_.chance(8)) return bits(type);
    return is_float(type) ? of_floats(type) : of_integers(type);
  }

  Value source(Type type) {
    if (dice_.chance(25)) return b_.index();
    if (dice_.chance(50)) return b_.bits(dice_.number(type), type);
    const auto slot = std::find(std::begin(slot_types), std::end(slot_types), type) - std::begin(slot_types);
    return b_.scalar(static_cast<int>(slot), type);
  }

  Value convert(Type to) {
    const Value from = pick(any());
    const auto width = [](Type t) { return t == Type::f64 || t == Type::i64 ? 8 : t == Type::mask ? 0 : 4; };
    if (width(from.type) && width(from.type) == width(to) && dice_.chance(40)) return b_.bitcast(without_nan(from), to);
    return b_.convert(from, to);
  }

  Value compare() {
    const Type type = dice_.among({Type::f32, wide_ ? Type::f64 : Type::i32, wide_ ? Type::i64 : Type::f32});
    const Ir op = dice_.among({Ir::eq, Ir::ne, Ir::lt, Ir::le, Ir::gt, Ir::ge});
    return b_.emit(op, type, pick(type), pick(type));
  }

  Value bits(Type type) {
    const Ir op = dice_.among({Ir::band, Ir::bor, Ir::bxor, Ir::andnot});
    return b_.emit(op, type, without_nan(pick(type)), without_nan(pick(type)));
  }

  Value of_floats(Type type) {
    if (type == Type::f64 && dice_.chance(10)) {
      const auto f = static_cast<Function>(dice_.below(static_cast<int64_t>(Function::pow) + 1));
      return f == Function::pow ? b_.call(f, pick(type), pick(type)) : b_.call(f, pick(type));
    }
    const Ir op = dice_.among({Ir::add, Ir::sub, Ir::mul, Ir::div, Ir::fma, Ir::fma, Ir::min, Ir::max, Ir::sqrt,
                               Ir::floor, Ir::ceil, Ir::trunc, Ir::nearest, Ir::neg, Ir::abs});
    return b_.emit(op, type, pick(type), pick(type), pick(type));
  }

  Value of_integers(Type type) {
    const Ir op = dice_.among({Ir::add, Ir::sub, Ir::mul, Ir::div, Ir::rem, Ir::min, Ir::max, Ir::neg, Ir::abs, Ir::shl,
                               Ir::shr, Ir::sar, type == Type::i32 ? Ir::mulhi : Ir::mul});
    const bool shifts = op >= Ir::shl && op <= Ir::sar;
    const int64_t by = dice_.below(type == Type::i32 ? 32 : 64);
    return b_.emit(op, type, pick(type), shifts ? Value{} : pick(type), {}, shifts ? static_cast<uint64_t>(by) : 0);
  }

  Dice& dice_;
  const bool wide_;
  ProgramBuilder b_;
  Stage stage_;
  std::vector<Value> values_;
};

class RegionMaker {
 public:
  RegionMaker(Dice& dice, RegionKind kind, const Dims& outer, int64_t rows, int64_t columns, bool wide)
      : dice_(dice), wide_(wide) {
    r_.region.kind = kind;
    Nest nest;
    nest.outer = outer;
    nest.rows = rows;
    nest.columns = columns;
    r_.region.members.push_back(nest);
    for (Type t : slot_types) r_.scalars.push_back(dice.number(t));
    r_.region.scalars = static_cast<int>(r_.scalars.size());
  }

  DType dtype() {
    return wide_ ? dice_.among({DType::f32, DType::f64, DType::i32, DType::i64, DType::boolean})
                 : dice_.among({DType::f32, DType::f32, DType::f32, DType::i32, DType::boolean});
  }

  /// An operand with an element for each of the region's; gives its number.
  int full(DType d, Access access, bool written) {
    Nest& nest = r_.region.members[0];
    Nest::Steps s;
    s.column = access == Access::contiguous && nest.columns > 1;
    int64_t step = s.column ? nest.columns + dice_.among({0, 0, 0, 1, 4}) : 1;
    const auto next = [&](int64_t extent) {
      const int64_t now = !written && dice_.chance(15) ? 0 : step;
      step = std::max<int64_t>(step, now * extent) + (now && dice_.chance(20) ? 4 : 0);
      return now;
    };
    s.row = next(nest.rows);
    Dims outer = nest.outer;
    for (int a = outer.rank() - 1; a >= 0; --a) outer[a] = next(outer[a]);
    s.outer = outer;
    nest.operands.push_back(s);
    // A third of what is written takes the place of something read that lies in the same way.
    if (written && r_.region.kind == RegionKind::map && dice_.chance(33))
      for (size_t k = 0; k < r_.region.operands.size(); ++k) {
        const RegionOperand& o = r_.region.operands[k];
        const Nest::Steps& t = nest.operands[k];
        if (o.written || taken(k) || o.layout->dtype() != d || t.row < nest.columns || !t.column) continue;
        if (std::any_of(t.outer.begin(), t.outer.end(), [](int64_t step) { return !step; })) continue;
        nest.operands.back() = t;
        r_.region.operands.push_back({layout(d, 1), true});
        r_.pointers.push_back(r_.pointers[k]);
        return static_cast<int>(r_.pointers.size()) - 1;
      }
    return add({layout(d, 1), written}, (step + nest.columns) * std::max<int64_t>(1, nest.outer_count()));
  }

  /// An operand with one element per result.
  int per_row(DType d, int64_t results, Access access, bool written) {
    Nest& nest = r_.region.members[0];
    Nest::Steps s;
    s.outer = Dims(std::vector<int64_t>(static_cast<size_t>(nest.outer.rank())));
    nest.operands.push_back(s);
    const Layout* l = access == Access::contiguous ? layout(d, results) : intern({d, {results}, {}}, {0});
    return add({l, written, true}, results);
  }

  RandomRegion take() { return std::move(r_); }
  Region& region() { return r_.region; }

 private:
  static const Layout* layout(DType d, int64_t n) { return intern({d, {n}, {}}); }

  bool taken(size_t k) const { return std::count(r_.pointers.begin(), r_.pointers.end(), r_.pointers[k]) > 1; }

  int add(const RegionOperand& o, int64_t elements) {
    const size_t size = rp::size_of(o.layout->dtype()), shift = dice_.chance(25) ? 8 : 0;
    std::vector<uint64_t> words(static_cast<size_t>(elements) * size / 8 + 16);
    auto* bytes = reinterpret_cast<std::byte*>(words.data());
    while ((reinterpret_cast<uintptr_t>(bytes) + shift) % 16) bytes += 8;
    for (int64_t i = 0; i < elements; ++i) {
      const Type type = type_of(o.layout->dtype());
      const uint64_t number = type == Type::mask ? dice_.chance(50) : dice_.number(type);
      std::memcpy(bytes + static_cast<size_t>(i) * size, &number, size);
    }
    r_.memory.push_back(std::move(words));  // keeps its address
    r_.pointers.push_back(bytes);
    r_.region.operands.push_back(o);
    return static_cast<int>(r_.pointers.size()) - 1;
  }

  Dice& dice_;
  const bool wide_;
  RandomRegion r_;
};

Access some_access(Dice& dice) { return dice.chance(75) ? Access::contiguous : Access::broadcast; }

void read_full(Dice& dice, RegionMaker& r, StageMaker& s, int count) {
  for (int k = 0; k < count; ++k) {
    const DType d = r.dtype();
    const Access access = some_access(dice);
    s.read(SlotKind::operand, r.full(d, access, false), d, access);
  }
}

void write_full(RegionMaker& r, StageMaker& s, int count) {
  for (int k = 0; k < count; ++k) {
    const DType d = r.dtype();
    s.write(SlotKind::operand, r.full(d, Access::contiguous, true), d);
  }
}

DType dtype_of(Type type) {
  constexpr DType types[] = {DType::f32, DType::f64, DType::i32, DType::i64, DType::boolean};
  return types[static_cast<size_t>(type)];
}

/// Reductions of random kinds; their row temporaries are appended to the region's.
void reduce(Dice& dice, RegionMaker& r, StageMaker& s, int count, bool wide) {
  for (int k = 0; k < count; ++k) {
    const Type type =
        wide ? dice.among({Type::f32, Type::f64, Type::i32, Type::i64}) : dice.among({Type::f32, Type::f32, Type::i32});
    s.reduce(dice.among({Combine::sum, Combine::sum, Combine::max, Combine::min, Combine::product}), type,
             static_cast<int>(r.region().row_temps.size()));
    r.region().row_temps.push_back(dtype_of(type));
  }
}

/// A stage on results: reads all row temporaries and an operand, writes one of each.
Stage row_stage(Dice& dice, RegionMaker& r, int64_t results, bool wide) {
  StageMaker s(dice, false, wide);
  for (size_t i = 0; i < r.region().row_temps.size(); ++i)
    s.read(SlotKind::row_temp, static_cast<int>(i), r.region().row_temps[i], Access::contiguous);
  DType d = r.dtype();
  const Access access = some_access(dice);
  s.read(SlotKind::operand, r.per_row(d, results, access, false), d, access);
  s.steps(6);
  d = r.dtype();
  s.write(SlotKind::operand, r.per_row(d, results, Access::contiguous, true), d);
  d = r.dtype();
  s.write(SlotKind::row_temp, static_cast<int>(r.region().row_temps.size()), d);
  r.region().row_temps.push_back(d);
  return s.take(false);
}

}  // namespace

uint64_t Dice::number(Type type) {
  switch (type) {
    case Type::f32:
      if (chance(8))
        return among({0x7fc00000u, 0x7f800000u, 0xff800000u, 1u, 0x80000000u, 0u, 0x4f000000u, 0xcf000000u});
      return std::bit_cast<uint32_t>(static_cast<float>(below(200001) - 100000) * 1e-4f);
    case Type::f64:
      if (chance(8))
        return among({0x7ff8000000000000u, 0x7ff0000000000000u, 0xfff0000000000000u, 1ul, 0x8000000000000000u, 0ul,
                      0x41e0000000000000u, 0xc3e0000000000000u, 0x47f0000000000000u});
      return std::bit_cast<uint64_t>(static_cast<double>(below(200001) - 100000) * 1e-4);
    case Type::i32:
      return static_cast<uint32_t>(chance(15) ? among({0u, 1u, 0xffffffffu, 0x80000000u, 0x7fffffffu})
                                              : static_cast<uint32_t>(below(2001) - 1000));
    case Type::i64:
      return chance(15) ? among({0ul, 1ul, ~0ul, 1ul << 63, (1ul << 63) - 1, 1ul << 40})
                        : static_cast<uint64_t>(below(2001) - 1000);
    case Type::mask:
      break;
  }
  return chance(50);
}

RandomRegion random_map(Dice& dice, const Dims& outer, int64_t rows, int64_t columns, bool wide) {
  RegionMaker r(dice, RegionKind::map, outer, rows, columns, wide);
  StageMaker s(dice, true, wide);
  read_full(dice, r, s, 1 + static_cast<int>(dice.below(4)));
  s.steps(5 + static_cast<int>(dice.below(25)));
  write_full(r, s, 1 + static_cast<int>(dice.below(3)));
  r.region().stages.push_back(s.take(false));
  return r.take();
}

RandomRegion random_rows(Dice& dice, const Dims& outer, int64_t rows, int64_t columns, bool wide) {
  RegionMaker r(dice, RegionKind::rows, outer, rows, columns, wide);
  int64_t results = rows;
  for (int64_t n : outer) results *= n;
  Region& region = r.region();
  if (dice.chance(20)) region.stages.push_back(row_stage(dice, r, results, wide));
  DType kept[2] = {r.dtype(), r.dtype()};
  int shared = -1;  // an operand that all passes read
  const DType shared_dtype = r.dtype();
  for (int pass = 0; pass < 3; ++pass) {
    StageMaker s(dice, true, wide);
    if (shared < 0) shared = r.full(shared_dtype, Access::contiguous, false);
    s.read(SlotKind::operand, shared, shared_dtype, Access::contiguous);
    for (size_t i = 0; i < region.row_temps.size(); ++i)
      s.read(SlotKind::row_temp, static_cast<int>(i), region.row_temps[i], Access::broadcast);
    for (int k = 0; k < pass; ++k) s.read(SlotKind::full_temp, k, kept[k], Access::contiguous);
    read_full(dice, r, s, static_cast<int>(dice.below(2)));
    s.steps(4 + static_cast<int>(dice.below(10)));
    if (pass < 2) s.write(SlotKind::full_temp, pass, kept[pass]);
    if (pass == 2 || dice.chance(30)) write_full(r, s, 1);
    if (pass < 2) reduce(dice, r, s, 1 + static_cast<int>(dice.below(pass ? 2 : 4)), wide);
    region.stages.push_back(s.take(false));
    if (pass < 2) region.stages.push_back(row_stage(dice, r, results, wide));
  }
  region.full_temps.assign(kept, kept + 2);
  return r.take();
}

RandomRegion random_columns(Dice& dice, const Dims& outer, int64_t rows, int64_t columns, bool wide) {
  RegionMaker r(dice, RegionKind::columns, outer, rows, columns, wide);
  int64_t results = columns;
  for (int64_t n : outer) results *= n;
  StageMaker s(dice, true, wide);
  read_full(dice, r, s, 1 + static_cast<int>(dice.below(2)));
  s.steps(4 + static_cast<int>(dice.below(10)));
  if (dice.chance(40)) write_full(r, s, 1);
  reduce(dice, r, s, 1 + static_cast<int>(dice.below(4)), wide);
  r.region().stages.push_back(s.take(true));
  r.region().stages.push_back(row_stage(dice, r, results, wide));
  return r.take();
}

}  // namespace rp::test
