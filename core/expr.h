#pragma once
// The expression language: the meaning of a pointwise op, written once as a C++ lambda over `Value`s. Evaluating the
// lambda appends instructions to the Program under construction, so fused kernels are the concatenation of their ops'
// lambdas.
#include <span>

#include "reprise/core/program.h"

namespace rp {

class ProgramBuilder;

/// One SSA value of the program being built.
struct Value {
  ProgramBuilder* builder = nullptr;
  uint16_t id = 0;
  Type type = Type::f32;
};

/// The IR type that elements of a dtype are computed in.
constexpr Type type_of(DType d) {
  constexpr Type types[dtype_count] = {Type::mask, Type::i32, Type::i64, Type::f32, Type::f32, Type::f32, Type::f64};
  return types[static_cast<int>(d)];
}

/// Appends instructions, sharing equal ones and folding what is exactly foldable.
class ProgramBuilder {
 public:
  /// Declares an operand and returns its index. Throws Error beyond `max_operands`.
  int operand(DType dtype, Access access, bool written = false);
  Value load(int operand);
  Value scalar(int slot, Type type);
  Value constant(double v, Type type);
  Value bits(uint64_t pattern, Type type);  // a constant by its bit pattern
  Value index();
  Value emit(Ir op, Type type, Value a, Value b = {}, Value c = {}, uint64_t imm = 0);
  Value convert(Value a, Type to);
  Value bitcast(Value a, Type to);
  /// What a value becomes as an element of that dtype: rounded, if it has 16 bits.
  Value rounded(Value a, DType dtype);
  Value call(Function f, Value a, Value b = {});
  void store(Value a, int operand);
  int accumulate(Value a, Combine combine);  // returns the accumulator's index

  const Program& program() const { return program_; }
  Program take() { return std::move(program_); }
  void set_column_form() { program_.column_form = true; }

 private:
  uint16_t append(const Inst& inst);
  bool is_exact(const Inst& inst, DType dtype) const;
  Program program_;
  std::vector<uint8_t> exact_;    // by instruction: of which 16-bit dtypes its value is known to be one, a bit each
  std::vector<uint16_t> shared_;  // a small open-addressed table of instructions by content
};

// Arithmetic. The two sides have the same type; a C++ number takes the type of the other side.
Value operator+(Value a, Value b);
Value operator-(Value a, Value b);
Value operator*(Value a, Value b);
Value operator/(Value a, Value b);
Value operator-(Value a);
Value operator+(Value a, double b);
Value operator-(Value a, double b);
Value operator*(Value a, double b);
Value operator/(Value a, double b);
Value operator+(double a, Value b);
Value operator-(double a, Value b);
Value operator*(double a, Value b);
Value operator/(double a, Value b);
Value rem(Value a, Value b);
Value fma(Value a, Value b, Value c);
Value abs(Value a);
Value sqrt(Value a);
Value floor(Value a);
Value ceil(Value a);
Value trunc(Value a);
Value nearest(Value a);
/// The larger one, NaN if either is NaN.
Value max(Value a, Value b);
Value max(Value a, double b);
Value min(Value a, Value b);
Value min(Value a, double b);

// Comparisons give masks.
Value operator==(Value a, Value b);
Value operator!=(Value a, Value b);
Value operator<(Value a, Value b);
Value operator<=(Value a, Value b);
Value operator>(Value a, Value b);
Value operator>=(Value a, Value b);
Value operator<(Value a, double b);
Value operator>(Value a, double b);
Value operator==(Value a, double b);
Value select(Value mask, Value a, Value b);
Value select(Value mask, Value a, double b);
Value select(Value mask, double a, Value b);

// Bits.
Value operator&(Value a, Value b);
Value operator|(Value a, Value b);
Value operator^(Value a, Value b);
Value andnot(Value a, Value b);  // ~a & b
Value operator!(Value mask);
Value shl(Value a, int by);
Value shr(Value a, int by);  // logical
Value sar(Value a, int by);  // arithmetic
Value mulhi(Value a, Value b);
Value copysign(Value magnitude, Value sign);
Value isnan(Value a);

// Elementary functions (core/math.cpp): f32 by recipes of IEEE operations, f64 by the C library. The largest errors
// in ulp over all f32 inputs, as measured by test/math_ulp.cpp: exp 0.9, expm1 1.5, log 0.8, log1p 1.4, tanh 1.8,
// sigmoid 2.1, erf 1.1, sin and cos 1.6, tan 3.2, atan 1.8, asin 2.3, acos 1.3, pow 0.9.
Value exp(Value x);
Value expm1(Value x);
Value log(Value x);
Value log1p(Value x);
Value tanh(Value x);
Value sigmoid(Value x);
Value erf(Value x);
Value sin(Value x);
Value cos(Value x);
Value tan(Value x);
Value atan(Value x);
Value asin(Value x);
Value acos(Value x);
/// x to the power y, with C's special cases.
Value pow(Value x, Value y);

/// Ten rounds of Philox4x32 (Salmon et al., 2011): `words` of the block numbered `counter` under `key`.
struct Philox {
  Value words[4];
};
Philox philox(const Value (&counter)[4], const Value (&key)[2]);

}  // namespace rp
