// Random numbers: element i of a random op is word 0 (and 1) of Philox block (i, position) under the seed. The seed and
// the position are run-time scalars, so a captured op advances like an eager one, and a dropped one shifts nothing.
#include "reprise/core/random.h"

#include "reprise/core/ops/define.h"

namespace rp {
namespace {

constexpr int key_scalars = 4;  // seed and position, low and high words

Philox block(std::span<const Value> v) {
  ProgramBuilder& b = *v[0].builder;
  const Value counter[4] = {b.index(), b.bits(0, Type::i32), v[2], v[3]};
  const Value key[2] = {v[0], v[1]};
  return philox(counter, key);
}

// [0, 1) from the leading bits of one word (f32) or two (f64)
Value unit(const Philox& p, Type type) {
  ProgramBuilder& b = *p.words[0].builder;
  if (type == Type::f32) return b.convert(shr(p.words[0], 8), type) * 0x1p-24;
  return b.convert(shr(p.words[0], 5), type) * 0x1p-27 + b.convert(shr(p.words[1], 6), type) * 0x1p-53;
}

Value uniform_meaning(std::span<const Value> v, const Attrs& attrs, Type out) {
  const Value low = v[key_scalars], high = v[key_scalars + 1];
  const DType dtype = attrs.as<SpecAttrs>().spec->dtype();
  const Value r = v[0].builder->rounded(low + unit(block(v), out) * (high - low), dtype);
  return select(r < high, r, low);  // rounding may reach the upper end
}

// Box and Muller: sqrt(-2 log u) cos(2 pi v), with u in (0, 1].
Value normal_meaning(std::span<const Value> v, const Attrs&, Type out) {
  const Philox p = block(v);
  const Value u = 1.0 - unit(p, out);
  const Value angle = v[0].builder->convert(shr(p.words[2], 8), out) * (0x1p-24 * 6.283185307179586);
  return v[key_scalars] + sqrt(log(u) * -2.0) * cos(angle) * v[key_scalars + 1];
}

// low + floor(word * range / 2^32); the range comes as 32 bits, 0 standing for 2^32
Value randint_meaning(std::span<const Value> v, const Attrs&, Type out) {
  ProgramBuilder& b = *v[0].builder;
  const Value word = block(v).words[0], range = v[key_scalars + 1];
  const Value offset = select(range == b.bits(0, Type::i32), word, mulhi(word, range));
  if (out == Type::i32) return v[key_scalars] + offset;
  const Value wide = b.convert(offset, Type::i64) & b.bits(0xffffffffull, Type::i64);
  return v[key_scalars] + wide;
}

Value bernoulli_meaning(std::span<const Value> v, const Attrs&, Type) {
  return unit(block(v), Type::f32) < v[key_scalars];
}

using ScalarType = Type (*)(int operand, Type out);

constexpr Op random(std::string_view name, int parameters, Meaning meaning, ScalarType type) {
  return {.name = name,
          .kind = Kind::pointwise,
          .operands = static_cast<int8_t>(key_scalars + parameters),
          .shape = given_spec,
          .meaning = meaning,
          .fields = SpecAttrs::fields,
          .random = true,
          .scalar_type = type};
}

constexpr ScalarType like_result = [](int k, Type out) { return k < key_scalars ? Type::i32 : out; };
constexpr ScalarType range_in_words = [](int k, Type out) { return k == key_scalars ? out : Type::i32; };
constexpr ScalarType probability = [](int k, Type) { return k < key_scalars ? Type::i32 : Type::f32; };

constinit const Op uniform_op = random("uniform", 2, uniform_meaning, like_result);
constinit const Op normal_op = random("normal", 2, normal_meaning, like_result);
constinit const Op randint_op = random("randint", 2, randint_meaning, range_in_words);
constinit const Op bernoulli_op = random("bernoulli", 1, bernoulli_meaning, probability);

constinit thread_local Generator thread_generator;

Call draw(const Op& op, const Shape& shape, DType dtype) {
  const Layout* spec = intern({dtype, shape, default_device()});
  if (spec->numel >> 32) fail("{}: at most 2^32 elements at once, got {}", op.name, to_string(shape));
  Generator& g = generator();
  Call c{.op = &op, .inputs = {}, .attrs = SpecAttrs{spec}};
  for (uint64_t word : {g.seed, g.position}) {
    c.scalars.add(static_cast<uint32_t>(word));
    c.scalars.add(static_cast<uint32_t>(word >> 32));
  }
  c.scalar_mask = static_cast<uint8_t>((1 << op.operands) - 1);
  ++g.position;
  return c;
}

}  // namespace

Generator& generator() { return thread_generator; }

void manual_seed(uint64_t seed) { generator() = {seed, 0}; }

Entries random_entries() {
  static constexpr const Op* entries[] = {&uniform_op, &normal_op, &randint_op, &bernoulli_op};
  return entries;
}

Tensor uniform(const Shape& shape, double low, double high, DType dtype, Loc loc) {
  At at(loc);
  if (!is_floating(dtype)) fail("uniform: expected a floating dtype, got {}", name_of(dtype));
  if (!(low <= high)) fail("uniform: expected low <= high, got {} and {}", low, high);
  Call c = draw(uniform_op, shape, dtype);
  add_scalar(c.scalars, low, dtype);
  add_scalar(c.scalars, high, dtype);
  return apply(c);
}

Tensor normal(const Shape& shape, double mean, double stddev, DType dtype, Loc loc) {
  At at(loc);
  if (!is_floating(dtype)) fail("normal: expected a floating dtype, got {}", name_of(dtype));
  Call c = draw(normal_op, shape, dtype);
  add_scalar(c.scalars, mean, dtype);
  add_scalar(c.scalars, stddev, dtype);
  return apply(c);
}

Tensor randint(const Shape& shape, int64_t low, int64_t high, DType dtype, Loc loc) {
  At at(loc);
  if (dtype != DType::i32 && dtype != DType::i64) fail("randint: expected i32 or i64, got {}", name_of(dtype));
  if (low >= high || high - low > int64_t{1} << 32)
    fail("randint: expected low < high, at most 2^32 apart, got {} and {}", low, high);
  Call c = draw(randint_op, shape, dtype);
  add_scalar(c.scalars, low, dtype);
  c.scalars.add(static_cast<uint32_t>(high - low));
  return apply(c);
}

Tensor bernoulli(const Shape& shape, double p, Loc loc) {
  At at(loc);
  if (!(p >= 0 && p <= 1)) fail("bernoulli: expected a probability, got {}", p);
  Call c = draw(bernoulli_op, shape, DType::boolean);
  add_scalar(c.scalars, p, DType::f32);
  return apply(c);
}

Tensor dropout(In x, double p, bool training) {
  At at(x.loc);
  if (!(p >= 0 && p < 1)) fail("dropout: expected a probability in [0, 1), got {}", p);
  if (!training || p == 0) return x;
  const DeviceScope on(x->device());
  return where(bernoulli(x->shape(), 1 - p), x.tensor * (1 / (1 - p)), 0);
}

}  // namespace rp
