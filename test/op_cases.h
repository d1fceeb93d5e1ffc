#pragma once
// What the tests of the op table run: for every entry, calls with inputs drawn from its samples. Pointwise ops and
// reductions get theirs from the entry alone; the other kinds have a list each, in op_cases_lists.cpp.
#include <string>
#include <vector>

#include "reprise/backends/ref/ref.h"
#include "reprise/core/op.h"

namespace rp::test {

/// A tensor input: real numbers or integers of [low, high], or indices, integers of [0, high).
struct Input {
  Shape shape{};
  DType dtype = DType::f32;
  double low = -2, high = 2;
  bool indices = false;
};

/// One call of an op, its tensor inputs described.
struct OpCase {
  const Op* op;
  std::vector<Input> inputs{};
  Attrs attrs{};
  Scalars scalars{};
  uint8_t scalar_mask = 0;
  Shape out{};  // the shape expected of the result
};

/// The calls of an op whose main operands have this dtype; empty if the op does not mean anything for it.
std::vector<OpCase> cases_of(const Op& op, DType dtype);
/// Those of an op that is neither pointwise nor a reduction.
std::vector<OpCase> listed_cases(const Op& op, DType dtype);

/// How an input's elements lie in memory.
enum class Lie { contiguous, offset, transposed, stepped, repeated_rows, repeated_columns };
inline constexpr Lie all_lies[] = {Lie::contiguous, Lie::offset,        Lie::transposed,
                                   Lie::stepped,    Lie::repeated_rows, Lie::repeated_columns};
const char* name_of(Lie lie);

/// Numbers in [0, 1), the same on every machine.
class Draw {
 public:
  explicit Draw(uint64_t seed) : state_(seed) {}
  double next();
  /// A row-major array for an input. Where the tensor will repeat elements, the array does.
  ref::Array array(const Input& input, Lie lie = Lie::contiguous);

 private:
  uint64_t state_;
};

/// A contiguous tensor of these values.
Tensor contiguous(const ref::Array& a);
/// A tensor of these values that lies as asked, among other elements that no op may touch.
Tensor placed(const ref::Array& a, Lie lie);
/// The elements of any tensor.
ref::Array array_of(const Tensor& t);

/// Runs a case through the one path of every op. Kernels that want contiguous inputs get copies, as from public
/// functions.
Tensor run(const OpCase& c, const Tensors& inputs);

std::string to_string(const OpCase& c);

/// Whether both have the same dtype, shape and bits.
bool same_bits(const Tensor& a, const Tensor& b);

/// Sets the bits of a number in a dtype.
void add_scalar(Scalars& scalars, double v, DType dtype);

}  // namespace rp::test
