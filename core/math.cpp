// Elementary functions as recipes of correctly rounded f32 and wrapping i32 operations: no tables, no branches, no
// wider type. The coefficients are weighted minimax fits made for this file, each rounded to f32 and the rest fitted
// anew. The errors given are the largest that test/math_ulp.cpp saw.
#include <cmath>
#include <initializer_list>
#include <limits>

#include "reprise/core/expr.h"
#include "reprise/core/fail.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float smallest_normal = 0x1p-126f;
constexpr float log2_e = 1.44269502f;
constexpr float ln2_high = 0.693147182f, ln2_low = -1.90465421e-9f;
constexpr float half_pi_high = 1.57079637f, half_pi_mid = -4.37113883e-8f, half_pi_low = -1.71512451e-15f;

/// Adding this to a float below 2^22 leaves its nearest integer in the low bits of the sum.
constexpr float rounder = 12582912.0f;

Value f64_call(Function f, Value x, const char* name) {
  if (x.type != Type::f64) fail("{}: expected floating elements", name);
  return x.builder->call(f, x);
}

Value constant(Value like, float v) { return like.builder->constant(v, Type::f32); }
Value word(Value like, uint32_t v) { return like.builder->bits(v, Type::i32); }
Value bits_of(Value x) { return x.builder->bitcast(x, Type::i32); }
Value float_of(Value bits) { return bits.builder->bitcast(bits, Type::f32); }
Value sign_of(Value x) { return x & constant(x, -0.0f); }
Value fma(Value a, float b, Value c) { return fma(a, constant(a, b), c); }

/// The smaller (larger) of a bound and x, and x if that is NaN.
Value at_most(float bound, Value x) { return x.builder->emit(Ir::min, Type::f32, constant(x, bound), x); }
Value at_least(float bound, Value x) { return x.builder->emit(Ir::max, Type::f32, constant(x, bound), x); }

/// The polynomial with these coefficients, lowest power first.
Value polynomial(Value x, std::initializer_list<float> coefficients) {
  auto c = coefficients.end();
  Value p = constant(x, *--c);
  while (c != coefficients.begin()) p = fma(p, x, constant(x, *--c));
  return p;
}

/// x = n ln 2 + r with |r| <= ln 2 / 2. The low nine bits of `n_bits` are n + bias: shifted left by 23 they are the
/// float 2^n if the bias is 127.
struct Reduced {
  Value r, n_bits;
};

Reduced reduce_exp(Value x, int bias) {
  const float shift = rounder + static_cast<float>(bias);
  const Value t = fma(x, log2_e, constant(x, shift));
  const Value n = t - shift;
  return {fma(n, -ln2_low, fma(n, -ln2_high, x)), bits_of(t)};
}

/// e^r for a reduced r, to 2^-28.
Value exp_core(Value r) {
  return polynomial(r, {1.0f, 1.0f, 0.49999994f, 0.166665167f, 0.041668281f, 0.00836924836f, 0.0013820742f});
}

/// e^r - 1 for a reduced r, to a relative 2^-31.
Value expm1_core(Value r) {
  const Value q = polynomial(r, {0.5f, 0.166666657f, 0.0416664854f, 0.00833354145f, 0.00139332283f, 0.000197669942f});
  return fma(q, r * r, r);
}

/// ln(1 + f) + e ln 2 for f in [sqrt(1/2) - 1, sqrt(2) - 1].
Value log_core(Value f, Value e) {
  const Value p = polynomial(f, {0.333333105f, -0.24999994f, 0.200022012f, -0.16668652f, 0.142187297f, -0.123961642f,
                                 0.118852347f, -0.117219038f, 0.0680306107f});
  const Value square = f * f;
  // f - f^2/2 cancels little, so only its second term and what is below it need be summed first
  Value low = fma(p * f, square, e * ln2_low);
  low = fma(square, -0.5f, low);
  return fma(e, ln2_high, f + low);
}

/// The exponent that takes a positive normal number to [sqrt(1/2), sqrt(2)).
Value exponent_of(Value x) { return sar(bits_of(x) - word(x, 0x3F3504F3), 23); }

Value require_normal(Value x, Value tiny) { return select(tiny, x * 0x1p24, x); }

}  // namespace

// ---- exponentials ---------------------------------------------------------------------------------------------------

/// 0.84 ulp; gradual underflow.
Value exp(Value x) {
  if (x.type != Type::f32) return f64_call(Function::exp, x, "exp");
  // with bias 254 the two halves of n + 254 are the biased exponents of factors that neither overflow nor underflow
  const Reduced v = reduce_exp(at_least(-104.0f, at_most(89.0f, x)), 254);
  const Value half = sar(v.n_bits, 1);
  return exp_core(v.r) * float_of(shl(half, 23)) * float_of(shl(v.n_bits - half, 23));
}

/// 1.44 ulp.
Value expm1(Value x) {
  if (x.type != Type::f32) return f64_call(Function::expm1, x, "expm1");
  const Reduced v = reduce_exp(at_least(-20.0f, at_most(89.0f, x)), 126);
  const Value half_power = float_of(shl(v.n_bits, 23));
  const Value half = fma(expm1_core(v.r), half_power, half_power - 0.5);
  return select(abs(x) < 0x1p-26, x, half + half);
}

namespace {

/// 5.5 ulp: an odd quotient of polynomials, and its largest value, 1 - 2^-24, from 7.9 on.
Value approximate_tanh(Value x) {
  const Value v = at_least(-7.9f, at_most(7.9f, x)), u = v * v;
  const Value p = polynomial(u, {1.0f, 0.129849240f, 2.99211242e-3f, 9.93931462e-6f, -1.49065755e-8f, 2.41058712e-11f});
  const Value q = polynomial(u, {1.0f, 0.463182420f, 2.40531582e-2f, 2.38088876e-4f});
  return v * p / q;
}

}  // namespace

/// 1.71 ulp.
Value tanh(Value x) {
  if (x.type != Type::f32) return f64_call(Function::tanh, x, "tanh");
  if (!disabled("approximate")) return approximate_tanh(x);
  const Value a = at_most(10.0f, abs(x));
  const Reduced v = reduce_exp(a + a, 126);
  const Value half_power = float_of(shl(v.n_bits, 23));
  const Value h = fma(expm1_core(v.r), half_power, half_power - 0.5);  // (e^2a - 1) / 2
  // With d = h + 1, tanh is h / d = k - k k / d for k = h as for k = 1. The first keeps small results precise, the
  // second large ones monotone.
  const Value k = select(a < 0.55, h, 1.0);
  return fma(-k, k / (h + 1.0), k) | sign_of(x);
}

/// 2.01 ulp, also where the result is denormal.
Value sigmoid(Value x) {
  if (x.type == Type::f64) {
    const Value e = exp(-abs(x));
    return select(x < 0.0, e, 1.0) / (1.0 + e);
  }
  if (x.type != Type::f32) fail("sigmoid: expected floating elements");
  // e^-|x| keeps its precision where 1 / (1 + e^-x) would overflow within; 2^100 keeps the power normal
  const Reduced v = reduce_exp(at_least(-104.0f, x | constant(x, -0.0f)), 227);
  const Value e = exp_core(v.r) * float_of(shl(v.n_bits, 23)) * 0x1p-100;
  return select(x < 0.0, e, 1.0) / (1.0 + e);
}

/// 1.02 ulp.
Value erf(Value x) {
  if (x.type != Type::f32) return f64_call(Function::erf, x, "erf");
  const Value a = at_most(4.05f, abs(x));
  const Value small = fma(a,
                          polynomial(a * a, {0.128379166f, -0.376126289f, 0.112836242f, -0.02685556f, 0.00519175315f,
                                             -0.000803975272f, 7.94310035e-05f}),
                          a);
  const Value log_erfc = polynomial(a, {0.000166376805f, -1.12947464f, -0.633428991f, -0.108189091f, 0.0250601806f,
                                        -0.00414842041f, 0.000429761363f, -2.0686095e-05f});
  const Reduced v = reduce_exp(log_erfc, 127 + 256);  // 256 sets the sign: -2^n
  const Value large = fma(exp_core(v.r), float_of(shl(v.n_bits, 23)), constant(x, 1.0f));
  return select(a < 0.9, small, large) | sign_of(x);
}

// ---- logarithms -----------------------------------------------------------------------------------------------------

/// 0.77 ulp.
Value log(Value x) {
  if (x.type != Type::f32) return f64_call(Function::log, x, "log");
  const Value tiny = x < smallest_normal;
  const Value normal = require_normal(x, tiny);
  const Value e = exponent_of(normal);
  const Value m = float_of(bits_of(normal) - shl(e, 23));
  const Value result = log_core(m - 1.0, x.builder->convert(e, Type::f32) + select(tiny, constant(x, -24.0f), 0.0));
  const Value edge = select(x == 0.0, -infinity, constant(x, NAN));
  const Value positive = x > 0.0;
  return select(positive & (x < infinity), result, select(positive, x, edge));
}

/// 1.34 ulp.
Value log1p(Value x) {
  if (x.type != Type::f32) return f64_call(Function::log1p, x, "log1p");
  const Value u = x + 1.0;
  const Value e = exponent_of(u);
  // (1 + x) 2^-e - 1 rounded once; the factor 4 keeps 2^-e normal
  const Value scale = float_of(word(x, 0x40800000) - shl(e, 23));
  const Value f = fma(x * 0.25, scale, fma(scale, 0.25f, constant(x, -1.0f)));
  const Value result = log_core(f, x.builder->convert(e, Type::f32));
  const Value edge = select(u == 0.0, -infinity, constant(x, NAN));
  const Value positive = u > 0.0;
  const Value y = select(positive & (u < infinity), result, select(positive, u, edge));
  return select(abs(x) < 0x1p-26, x, y);
}

// ---- circular functions ---------------------------------------------------------------------------------------------

namespace {

/// |x| = (4k + q) pi/2 + r with |r| <= pi/4; only the low two bits of q mean anything.
struct Quadrant {
  Value r, q;
};

/// The 96 bits of 2/pi that decide a * 2/pi modulo 4, highest word first.
struct Window {
  Value word[3];
};

Window window_of_two_over_pi(Value exponent) {
  constexpr uint32_t table[] = {0, 0xA2F9836E, 0x4E441529, 0xFC2757D1, 0xF534DDC0, 0xDB629599, 0x3C439041};
  const Value position = exponent - word(exponent, 1);
  const Value index = shr(position, 5);
  const Value first = index == word(index, 0), second = index == word(index, 1), third = index == word(index, 2);
  Value w[4];
  for (int k = 0; k < 4; ++k) {
    w[k] = select(third, word(index, table[k + 2]), word(index, table[k + 3]));
    w[k] = select(second, word(index, table[k + 1]), w[k]);
    w[k] = select(first, word(index, table[k]), w[k]);
  }
  // a shift by a run-time count is a product with 2^count; converting 2^31 wraps to the right bits
  const Value count = position & word(index, 31);
  const Value power = index.builder->convert(float_of(shl(count + word(index, 127), 23)), Type::i32);
  Window out;
  for (int k = 0; k < 3; ++k) out.word[k] = (w[k] * power) + mulhi(w[k + 1], power);
  return out;
}

/// Payne and Hanek's reduction in 32-bit integers, for finite a >= 2.
Quadrant reduce_large(Value a) {
  const Value bits = bits_of(a);
  const Value mantissa = shl(bits, 8) | word(bits, 0x80000000);
  const Window w = window_of_two_over_pi(shr(bits, 23) - word(bits, 127));
  const Value middle = mantissa * w.word[1];
  const Value low = middle + mulhi(mantissa, w.word[2]);
  const Value top_bit = word(bits, 0x80000000);
  const Value carried = (low ^ top_bit) < (middle ^ top_bit);
  const Value carry = select(carried, word(bits, 1), word(bits, 0));
  const Value high = mantissa * w.word[0] + mulhi(mantissa, w.word[1]) + carry;

  const Value q = shr(high + word(bits, 0x20000000), 30);
  const Value fraction = high - shl(q, 30);  // signed, in units of 2^-30; `low` continues it
  ProgramBuilder& b = *a.builder;
  const Value upper = b.convert(fraction & word(bits, 0xFFFFFF00), Type::f32);
  const Value lower = b.convert(shl(fraction & word(bits, 0xFF), 23) | shr(low, 9), Type::f32);
  const Value rest = fma(lower, half_pi_high * 0x1p-53f, upper * (half_pi_mid * 0x1p-30f));
  return {fma(upper, half_pi_high * 0x1p-30f, rest), q};
}

/// Cody and Waite's reduction up to 2^16, the exact one beyond; r is NaN for infinities and NaN.
Quadrant reduce_circular(Value x) {
  const Value a = abs(x);
  const Value t = fma(a, 0.636619747f, constant(x, rounder));
  const Value n = t - rounder;
  const Value r = fma(n, -half_pi_low, fma(n, -half_pi_mid, fma(n, -half_pi_high, a)));
  const Quadrant large = reduce_large(a);
  const Value small = a < 0x1p16;
  const Value rest = select(a < infinity, large.r, constant(x, NAN));
  return {select(small, r, rest), select(small, bits_of(t), large.q)};
}

Value sin_core(Value r, Value z) {
  return fma(r * z, polynomial(z, {-0.166666538f, 0.00833210628f, -0.000195078814f}), r);
}

Value cos_core(Value z) { return polynomial(z, {1.0f, -0.5f, 0.0416666456f, -0.00138873048f, 2.44314251e-05f}); }

/// sin(q pi/2 + r).
Value sin_of(Value r, Value q) {
  const Value z = r * r;
  const Value one = word(q, 1);
  const Value y = select((q & one) == one, cos_core(z), sin_core(r, z));
  return y ^ sign_of(float_of(shl(q, 30)));
}

}  // namespace

/// 1.54 ulp for every finite argument.
Value sin(Value x) {
  if (x.type != Type::f32) return f64_call(Function::sin, x, "sin");
  const Quadrant v = reduce_circular(x);
  return sin_of(v.r, v.q) ^ sign_of(x);
}

/// 1.51 ulp for every finite argument.
Value cos(Value x) {
  if (x.type != Type::f32) return f64_call(Function::cos, x, "cos");
  const Quadrant v = reduce_circular(x);
  return sin_of(v.r, v.q + word(v.q, 1));
}

/// 3.15 ulp for every finite argument.
Value tan(Value x) {
  if (x.type != Type::f32) return f64_call(Function::tan, x, "tan");
  const Quadrant v = reduce_circular(x);
  const Value z = v.r * v.r;
  const Value s = sin_core(v.r, z), c = cos_core(z), one = word(v.q, 1);
  const Value odd = (v.q & one) == one;
  return (select(odd, c, s) / select(odd, s, c)) ^ sign_of(float_of(shl(v.q, 31))) ^ sign_of(x);
}

/// 1.73 ulp.
Value atan(Value x) {
  if (x.type != Type::f32) return f64_call(Function::atan, x, "atan");
  const Value a = abs(x);
  const Value big = a > 1.0;
  const Value t = select(big, -1.0, a) / select(big, a, 1.0);
  const Value z = t * t;
  const Value p = polynomial(z, {-0.333332986f, 0.19998531f, -0.142640516f, 0.109511748f, -0.0840047523f, 0.0579065457f,
                                 -0.0311270021f, 0.0108873611f, -0.0017875476f});
  const Value y = fma(p, z * t, t);
  return select(big, y + half_pi_high, y) | sign_of(x);
}

namespace {

/// asin(s) for s in [0, 1/2], z being s^2.
Value asin_core(Value s, Value z) {
  const Value p = polynomial(z, {0.166667521f, 0.0749530941f, 0.0454691499f, 0.0241847783f, 0.0421583056f});
  return fma(p, z * s, s);
}

}  // namespace

/// 2.24 ulp.
Value asin(Value x) {
  if (x.type != Type::f32) return f64_call(Function::asin, x, "asin");
  const Value a = abs(x);
  const Value small = a < 0.5;
  const Value z = select(small, a * a, fma(a, -0.5f, constant(x, 0.5f)));
  const Value y = asin_core(select(small, a, sqrt(z)), z);
  return select(small, y, fma(y, -2.0f, constant(x, half_pi_high))) | sign_of(x);
}

/// 1.22 ulp.
Value acos(Value x) {
  if (x.type != Type::f32) return f64_call(Function::acos, x, "acos");
  const Value a = abs(x);
  const Value small = a < 0.5;
  const Value z = select(small, a * a, fma(a, -0.5f, constant(x, 0.5f)));
  const Value y = asin_core(select(small, a, sqrt(z)), z);
  const Value negative = x < 0.0;
  const Value twice = y + y;
  const Value outer = select(negative, 2 * half_pi_high - twice, twice);
  const Value signed_y = y ^ sign_of(x);
  return select(small, half_pi_high - (signed_y - half_pi_mid), outer);
}

// ---- pow ------------------------------------------------------------------------------------------------------------

namespace {

/// high + low, low being below half an ulp of high.
struct Pair {
  Value high, low;
};

/// a + b where |a| >= |b| or a is 0.
Pair exact_sum(Value a, Value b) {
  const Value s = a + b;
  return {s, b - (s - a)};
}

Pair product(Value a, Pair b) {
  const Value p = a * b.high;
  return {p, fma(a, b.low, fma(a, b.high, -p))};
}

/// log2 of a positive finite x to some 2^-36: with s = (m - 1) / (m + 1), ln m = 2 (s + s^3/3 + s^5/5 + ...).
Pair log2_pair(Value x) {
  const Value tiny = x < smallest_normal;
  const Value normal = require_normal(x, tiny);
  const Value e = exponent_of(normal);
  const Value m = float_of(bits_of(normal) - shl(e, 23));
  const Value exponent = x.builder->convert(e, Type::f32) + select(tiny, constant(x, -24.0f), 0.0);

  const Value numerator = m - 1.0;
  const Pair denominator = exact_sum(constant(x, 1.0f), m);
  const Value inverse = 1.0 / denominator.high;
  const Value s = numerator * inverse;
  const Value rest = fma(-s, denominator.low, fma(-s, denominator.high, numerator));
  const Value s_low = rest * inverse;
  const Value z = s * s;
  const Value z_low = fma(s + s, s_low, fma(s, s, -z));

  const Value tail = z * polynomial(z, {0.57708025f, 0.411843538f, 0.337979555f});
  constexpr float third_high = 0.961796701f, third_low = -7.02846181e-9f;  // 2 / (3 ln 2)
  const Pair a = exact_sum(constant(x, third_high), tail);
  Pair b = product(z, {a.high, a.low + third_low});
  b.low = fma(z_low, a.high, b.low);
  constexpr float first_high = 2.88539004f, first_low = 3.85192607e-8f;  // 2 / ln 2
  const Pair c = exact_sum(constant(x, first_high), b.high);
  Pair l = product(s, {c.high, c.low + (b.low + first_low)});
  l.low = fma(s_low, c.high, l.low);
  const Pair sum = exact_sum(exponent, l.high);
  return {sum.high, sum.low + l.low};
}

/// 2 to the power of a pair, which may be far out of range.
Value exp2_pair(Pair p) {
  const Value high = at_least(-160.0f, at_most(160.0f, p.high));
  const Value low = at_least(-1.0f, at_most(1.0f, p.low));
  const Value n = nearest(high);
  const Value f = (high - n) + low;
  const Value y = polynomial(f, {1.0f, 0.693147182f, 0.240226507f, 0.0555040538f, 0.00961808488f, 0.00133375078f,
                                 0.000154532827f, 1.44508831e-05f});
  const Value n_bits = n.builder->convert(n, Type::i32) + word(n, 254);
  const Value half = sar(n_bits, 1);
  return y * float_of(shl(half, 23)) * float_of(shl(n_bits - half, 23));
}

}  // namespace

/// 0.85 ulp over 2^20 pairs that test/math_ulp.cpp draws.
Value pow(Value x, Value y) {
  if (x.type != Type::f32) {
    if (x.type != Type::f64) fail("pow: expected floating elements");
    return x.builder->call(Function::pow, x, y);
  }
  const Value a = abs(x);
  // beyond 2^100 the result is decided already, and products stay finite
  const Value bounded = at_least(-0x1p100f, at_most(0x1p100f, y));
  const Value finite = exp2_pair(product(bounded, log2_pair(a)));
  const Value zero = a == 0.0, infinite = a == infinity;
  const Value edge = select(zero == (y > 0.0), constant(x, 0.0f), infinity);
  Value r = select(zero | infinite, edge, finite);

  const Value half = y * 0.5;
  const Value whole = trunc(y) == y;
  const Value odd = whole & (trunc(half) != half);
  const Value negative = x < 0.0;
  r = r | select(odd, sign_of(x), 0.0);
  r = select(negative & (a < infinity) & !whole, constant(x, NAN), r);
  r = select(isnan(x) | isnan(y), x + y, r);
  return select((y == 0.0) | (x == 1.0), 1.0, r);
}

}  // namespace rp
