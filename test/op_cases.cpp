#include "reprise/test/op_cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "reprise/core/error.h"
#include "reprise/core/ops.h"
#include "reprise/core/ops/attrs.h"

namespace rp::test {
namespace {

constexpr DType dtypes[] = {DType::boolean, DType::i32, DType::i64, DType::bf16, DType::f16, DType::f32, DType::f64};
// Ordinary, with a vector's tail, 0-d, empty, and of the greatest rank.
const Shape shapes[] = {{3, 4, 5}, {2, 131}, {}, {0}, {3, 0, 2}, {2, 1, 3, 1, 2, 1, 2, 1}};

bool sampled(const Samples& s, DType dtype) {
  return dtype == DType::boolean ? s.booleans : is_floating(dtype) ? s.floats : s.integers;
}

// Whether the entry's meaning exists for operands of this dtype. That public functions promote what it does not take is
// tested by calling them.
bool meant(const Op& op, DType dtype) {
  if (op.random || op.operands < 1) return false;
  ProgramBuilder b;
  std::vector<Value> v;
  for (int k = 0; k < op.operands; ++k) {
    const bool condition = op.name == "where" && k == 0;
    v.push_back(b.load(b.operand(condition ? DType::boolean : dtype, Access::contiguous)));
  }
  try {
    op.meaning(v, Attrs{}, type_of(dtype));
  } catch (const Error&) {
    return false;
  }
  return true;
}

Input domain(const Op& op, DType dtype, const Shape& shape) {
  Input in{shape, dtype, op.samples.low, op.samples.high};
  if (dtype == DType::boolean)
    in.low = 0, in.high = 1;
  else if (!is_floating(dtype))
    in.low = in.low < 0 ? -9 : 1, in.high = 9;
  return in;
}

OpCase pointwise_case(const Op& op, DType dtype, const Shape& shape, int mask, Draw& draw) {
  OpCase c{.op = &op, .scalar_mask = static_cast<uint8_t>(mask), .out = shape};
  for (int k = 0; k < op.operands; ++k) {
    const bool condition = op.name == "where" && k == 0;
    const Input in = domain(op, condition ? DType::boolean : dtype, shape);
    if (mask >> k & 1)
      add_scalar(c.scalars, static_cast<double>(draw.array({{}, in.dtype, in.low, in.high}).values[0]), dtype);
    else
      c.inputs.push_back(in);
  }
  return c;
}

std::vector<OpCase> pointwise_cases(const Op& op, DType dtype) {
  std::vector<OpCase> cases;
  Draw draw(op.name.size() + 1000);
  const int every = 1 << op.operands;
  const bool condition = op.name == "where";
  for (const Shape& shape : shapes) cases.push_back(pointwise_case(op, dtype, shape, 0, draw));
  for (int mask = 1; mask < every - 1; ++mask)
    if (!condition || (!(mask & 1) && mask != 6)) cases.push_back(pointwise_case(op, dtype, shapes[0], mask, draw));
  if (op.fields.empty()) return cases;
  std::vector<OpCase> casts;  // to every dtype
  for (DType to : dtypes)
    for (OpCase c : cases) {
      c.attrs = CastAttrs{static_cast<int32_t>(to)};
      casts.push_back(c);
    }
  return casts;
}

// full and arange: all operands are numbers
std::vector<OpCase> creation_cases(const Op& op, DType dtype) {
  std::vector<OpCase> cases;
  if (op.operands == 2 && dtype == DType::boolean) return cases;
  for (const Shape& shape : {Shape{37}, Shape{3, 5}, Shape{}, Shape{0}}) {
    if (op.operands == 2 && shape.rank() != 1) continue;
    OpCase c{.op = &op, .attrs = SpecAttrs{intern({dtype, shape, {}})}, .out = shape};
    c.scalar_mask = static_cast<uint8_t>((1 << op.operands) - 1);
    for (int k = 0; k < op.operands; ++k) add_scalar(c.scalars, dtype == DType::boolean ? 1 : 3 - k, dtype);
    cases.push_back(c);
  }
  return cases;
}

std::vector<OpCase> reduce_cases(const Op& op, DType dtype) {
  std::vector<OpCase> cases;
  const auto add = [&](const Shape& shape, int axes, bool keepdim) {
    Shape out;
    for (int i = 0; i < shape.rank(); ++i)
      if (!(axes >> i & 1))
        out.push_back(shape[i]);
      else if (keepdim)
        out.push_back(1);
    const Input in = domain(op, dtype, shape);
    cases.push_back({.op = &op, .inputs = {in}, .attrs = ReduceAttrs{axes, keepdim}, .out = out});
  };
  for (int axes = 1; axes < 8; ++axes) add({3, 4, 5}, axes, axes % 2);
  add({2, 9001}, 2, false);
  add({300, 37}, 1, false);
  add({9, 5, 7, 3}, 0b1010, false);
  add({3, 0}, 1, false);
  if (op.combine != Combine::sum) return cases;
  add({0, 3}, 1, false);
  add({0}, 1, true);
  add({2, 0}, 3, false);
  return cases;
}

template <class T>
Tensor contiguous_of(const ref::Array& a) {
  const size_t n = a.values.size();
  const auto values = std::make_unique<T[]>(n + 1);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<T>(a.values[i]);
  return tensor(std::span<const T>(values.get(), n), a.shape);
}

// The same elements with `extra` others before and after every one along an axis.
ref::Array widened(const ref::Array& a, int axis, int64_t before, int64_t step, int64_t extent) {
  ref::Array wide{a.dtype, a.shape, {}};
  wide.shape[axis] = extent;
  int64_t inner = 1, outer = 1;
  for (int i = 0; i < axis; ++i) outer *= a.shape[i];
  for (int i = axis + 1; i < a.shape.rank(); ++i) inner *= a.shape[i];
  wide.values.assign(static_cast<size_t>(outer * extent * inner), a.dtype == DType::boolean ? 1.0L : -77.0L);
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < a.shape[axis]; ++i)
      for (int64_t k = 0; k < inner; ++k)
        wide.values[static_cast<size_t>((o * extent + before + i * step) * inner + k)] =
            a.values[static_cast<size_t>((o * a.shape[axis] + i) * inner + k)];
  return wide;
}

Tensor transposed(const ref::Array& a) {
  const int r = a.shape.rank();
  ref::Array turned{a.dtype, {}, std::vector<long double>(a.values.size())};
  Dims back;
  for (int i = r - 1; i >= 0; --i) {
    turned.shape.push_back(a.shape[i]);
    back.push_back(i);
  }
  for (size_t n = 0; n < a.values.size(); ++n) {
    int64_t rest = static_cast<int64_t>(n), at = 0, step = 1;
    Dims place = a.shape;
    for (int i = r - 1; i >= 0; rest /= a.shape[i--]) place[i] = rest % a.shape[i];
    for (int i = 0; i < r; step *= a.shape[i++]) at += place[i] * step;
    turned.values[static_cast<size_t>(at)] = a.values[n];
  }
  return contiguous(turned).permute(back);
}

// The elements of the first index along an axis.
ref::Array first_of(const ref::Array& a, int axis) {
  ref::Array first{a.dtype, a.shape, {}};
  first.shape[axis] = 1;
  int64_t inner = 1;
  for (int i = axis + 1; i < a.shape.rank(); ++i) inner *= a.shape[i];
  for (size_t n = 0; n < a.values.size(); ++n)
    if (static_cast<int64_t>(n) / inner % a.shape[axis] == 0) first.values.push_back(a.values[n]);
  return first;
}

}  // namespace

std::vector<OpCase> cases_of(const Op& op, DType dtype) {
  if (op.kind == Kind::reduce) return sampled(op.samples, dtype) ? reduce_cases(op, dtype) : std::vector<OpCase>{};
  if (op.kind != Kind::pointwise) return listed_cases(op, dtype);
  if (op.random) return {};
  if (!op.fields.empty() && op.fields[0].type == FieldType::spec) return creation_cases(op, dtype);
  return sampled(op.samples, dtype) && meant(op, dtype) ? pointwise_cases(op, dtype) : std::vector<OpCase>{};
}

const char* name_of(Lie lie) {
  constexpr const char* names[] = {"contiguous", "offset",        "transposed",
                                   "stepped",    "repeated rows", "repeated columns"};
  return names[static_cast<int>(lie)];
}

double Draw::next() {  // SplitMix64
  uint64_t z = state_ += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return static_cast<double>((z ^ z >> 31) >> 11) * 0x1p-53;
}

ref::Array Draw::array(const Input& in, Lie lie) {
  ref::Array a{in.dtype, in.shape, std::vector<long double>(static_cast<size_t>(element_count(in.shape)))};
  for (long double& v : a.values) {
    const double u = next();
    if (in.indices)
      v = std::floor(u * in.high);
    else if (!is_floating(in.dtype))
      v = std::floor(in.low + u * (in.high - in.low + 1));
    else
      v = visit_dtype(in.dtype, [&]<class T>(T) -> long double {
        return static_cast<Computed<T>>(static_cast<T>(in.low + u * (in.high - in.low)));
      });
  }
  if (!a.shape.rank() || a.values.empty()) return a;
  if (lie == Lie::repeated_rows) {
    const size_t row = a.values.size() / static_cast<size_t>(a.shape[0]);
    for (size_t i = row; i < a.values.size(); ++i) a.values[i] = a.values[i - row];
  }
  if (lie == Lie::repeated_columns)
    for (size_t i = 0; i < a.values.size(); ++i)
      if (i % static_cast<size_t>(a.shape.back())) a.values[i] = a.values[i - 1];
  return a;
}

Tensor contiguous(const ref::Array& a) {
  return visit_dtype(a.dtype, [&]<class T>(T) { return contiguous_of<T>(a); });
}

Tensor placed(const ref::Array& a, Lie lie) {
  const int last = a.shape.rank() - 1;
  if (last < 0 || lie == Lie::contiguous) return contiguous(a);
  const int64_t rows = a.shape[0], columns = a.shape[last];
  switch (lie) {
    case Lie::offset:
      return contiguous(widened(a, 0, 1, 1, rows + 2)).slice(0, 1, rows + 1);
    case Lie::stepped:
      return contiguous(widened(a, last, 1, 2, 2 * columns + 1)).slice(last, 1, 2 * columns + 1, 2);
    case Lie::transposed:
      return transposed(a);
    case Lie::repeated_rows:
      return rows ? contiguous(first_of(a, 0)).expand(a.shape) : contiguous(a);
    case Lie::repeated_columns:
      return columns ? contiguous(first_of(a, last)).expand(a.shape) : contiguous(a);
    case Lie::contiguous:
      break;
  }
  return contiguous(a);
}

ref::Array array_of(const Tensor& t) {
  ref::Array a{t.dtype(), t.shape(), {}};
  if (is_floating(t.dtype()))
    for (double v : t.to_vector<double>()) a.values.push_back(v);
  else
    for (int64_t v : t.to_vector<int64_t>()) a.values.push_back(static_cast<long double>(v));
  return a;
}

Tensor run(const OpCase& c, const Tensors& inputs) {
  const bool copies = c.op->kind == Kind::kernel || c.op->name == "reshape" || c.op->name == "as_strided";
  Tensors held;
  std::vector<const Tensor*> pointers;
  for (const Tensor& t : inputs) held.push_back(copies ? t.contiguous() : t);
  for (const Tensor& t : held) pointers.push_back(&t);
  return apply({.op = c.op, .inputs = pointers, .attrs = c.attrs, .scalars = c.scalars, .scalar_mask = c.scalar_mask});
}

std::string to_string(const OpCase& c) {
  std::string text(c.op->name);
  for (const Input& in : c.inputs) text += " " + rp::to_string(Spec{in.dtype, in.shape, {}});
  return text + " mask " + std::to_string(c.scalar_mask) + " -> " + rp::to_string(c.out);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  if (a.dtype() == DType::boolean) return a.to_vector<int32_t>() == b.to_vector<int32_t>();
  return visit_dtype(a.dtype(), [&]<class T>(T) {
    if constexpr (std::is_same_v<T, bool>)
      return true;
    else {
      const std::vector<T> x = a.to_vector<T>(), y = b.to_vector<T>();
      return x.empty() || !std::memcmp(x.data(), y.data(), x.size() * sizeof(T));
    }
  });
}

void add_scalar(Scalars& scalars, double v, DType dtype) {
  visit_dtype(dtype, [&]<class T>(T) {
    if constexpr (std::is_same_v<T, bool>)
      scalars.add<int32_t>(v != 0);
    else
      scalars.add(static_cast<Computed<T>>(v));
  });
}

}  // namespace rp::test
