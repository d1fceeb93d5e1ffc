#include "reprise/eager/nan.h"

#include <algorithm>
#include <cmath>

#include "reprise/core/fail.h"
#include "reprise/core/map.h"

namespace rp {

namespace {

// In elements, of element `i` in row-major order.
int64_t offset_of(const Layout& layout, int64_t i) {
  int64_t offset = 0;
  for (int a = layout.rank() - 1; a >= 0; --a) {
    offset += i % layout.shape()[a] * layout.strides[a];
    i /= layout.shape()[a];
  }
  return offset;
}

template <class T>
int64_t first_in(const T* data, const Layout& layout) {
  for (int64_t i = 0; i < layout.numel; ++i)
    if (!std::isfinite(static_cast<double>(data[layout.contiguous ? i : offset_of(layout, i)]))) return i;
  return -1;
}

// The first element that is NaN or Inf, -1 if none is.
int64_t first_not_finite(const Tensor& t) {
  const Layout& layout = *t.impl()->layout;
  if (t.pending()) return -1;  // who runs the call complains
  if (!is_floating(layout.dtype())) return -1;
  const HostBytes elements(t);
  return visit_dtype(layout.dtype(), [&]<class T>(T) { return first_in(elements.as<T>(), layout); });
}

bool finite(uint64_t bits, Type type) {
  Scalars s;
  s.add(bits);
  if (type == Type::f32) return std::isfinite(s.get<float>(0));
  return type != Type::f64 || std::isfinite(s.get<double>(0));
}

// The numbers among a pointwise op's operands; `out` is the type of its result.
bool finite_numbers(const Call& call, Type out) {
  const Op& op = *call.op;
  if (op.kind != Kind::pointwise) return true;
  const Type common = call.inputs.empty() ? out : type_of(call.inputs.back()->dtype());
  int scalar = 0;
  for (int k = 0; k < op.operands; ++k) {
    if (!(call.scalar_mask >> k & 1)) continue;
    if (!finite(call.scalars.data()[scalar++], scalar_type(op, k, common, out))) return false;
  }
  return true;
}

double element(const Tensor& t, int64_t i) {
  const int64_t at = offset_of(t.layout(), i);
  const HostBytes elements(t);
  return visit_dtype(t.dtype(), [&]<class T>(T) { return static_cast<double>(elements.as<T>()[at]); });
}

}  // namespace

bool finite_operands(const Call& call) {
  return std::all_of(call.inputs.begin(), call.inputs.end(), [](const Tensor* t) { return first_not_finite(*t) < 0; });
}

void check_finite(const Call& call, const Tensor& out, bool known_finite) {
  const int64_t at = first_not_finite(out);
  if (at < 0 || !finite_numbers(call, type_of(out.dtype())) || (!known_finite && !finite_operands(call))) return;
  std::string operands;
  for (const Tensor* t : call.inputs) operands += (operands.empty() ? "" : ", ") + to_string(t->spec());
  const double value = element(out, at);
  fail("first {}: {}({}) made {} of finite operands, in element {} of {}", std::isnan(value) ? "NaN" : "Inf",
       call.op->name, operands, value, at, to_string(out.spec()));
}

}  // namespace rp
