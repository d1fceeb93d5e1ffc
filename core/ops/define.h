#pragma once
// How the family files write entries and their public functions.
#include <initializer_list>
#include <optional>
#include <tuple>
#include <utility>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"

namespace rp {

// ---- shape rules ----------------------------------------------------------------------------------------------------

/// The layout of the first tensor input, contiguous.
const Layout* same_as_input(const ShapeCall& c);
/// The same shape as bool.
const Layout* bool_as_input(const ShapeCall& c);
/// SpecAttrs::spec.
const Layout* given_spec(const ShapeCall& c);

// ---- entries --------------------------------------------------------------------------------------------------------

/// A pointwise entry. `f` takes N Values (one per operand) and returns the result's.
template <int N, class F>
constexpr Op pointwise(std::string_view name, F, Gradient gradient = {}, Samples samples = {},
                       ShapeRule shape = same_as_input) {
  static_assert(std::is_empty_v<F>, "a meaning is a lambda without captures");
  constexpr Meaning meaning = [](std::span<const Value> v, const Attrs&, Type) {
    return [&]<size_t... I>(std::index_sequence<I...>) { return F{}(v[I]...); }(std::make_index_sequence<N>());
  };
  return {.name = name,
          .kind = Kind::pointwise,
          .operands = N,
          .shape = shape,
          .meaning = meaning,
          .gradient = gradient,
          .samples = samples};
}

template <class F>
constexpr Gradient gradient(Needs needs, F rule) {
  return {rule, needs};
}

// ---- public functions -----------------------------------------------------------------------------------------------

/// What a pointwise op does to dtypes before it runs.
enum class Promote : uint8_t {
  same,      // a common dtype
  floating,  // a common dtype; integers and bools become f32
  boolean,   // all operands must be bool
};

/// Promotes and broadcasts the operands, then applies a pointwise op.
Tensor elementwise(const Op& op, std::initializer_list<const Operand*> operands, Promote promote,
                   const Attrs& attrs = {});

/// As elementwise, but replaces the elements of `target`.
void elementwise_into(const Tensor& target, const Op& op, std::initializer_list<const Operand*> operands,
                      Promote promote);

/// The order of axes in which a tensor lies that is dense but not row-major: pointwise functions compute and store in
/// it. Matrices are left as they are, since products read either order.
std::optional<Dims> order_of(const Tensor& x);
/// The order that brings back what `order` has permuted.
Dims undone(const Dims& order);

inline Tensor unary(const Op& op, const In& x, Promote promote) {
  const Operand a(x);
  return elementwise(op, {&a}, promote);
}

/// Applies an op of any other kind to tensors.
Tensor call(const Op& op, std::initializer_list<const Tensor*> inputs, const Attrs& attrs = {},
            const Scalars& scalars = {});

/// The bit pattern of a number in a dtype.
void add_scalar(Scalars& scalars, const Scalar& v, DType dtype);

/// The shape both broadcast to; throws naming the op if they do not.
Shape broadcast(std::string_view op, const Shape& a, const Shape& b);

/// An axis counted from the front; throws if there is none such.
int checked_axis(std::string_view op, int64_t axis, int rank);
/// Bit mask of distinct axes; all if none is given.
int32_t axes_mask(std::string_view op, const Dims& axes, int rank);

// ---- the families ---------------------------------------------------------------------------------------------------

using Entries = std::span<const Op* const>;
Entries structure_entries();
Entries view_entries();
Entries arithmetic_entries();
Entries elementary_entries();
Entries activation_entries();
Entries random_entries();
Entries reduce_entries();
Entries matrix_entries();
Entries norm_entries();
Entries window_entries();
Entries index_entries();
Entries control_entries();

}  // namespace rp
