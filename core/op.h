#pragma once
// An op is one entry of the table: name, kind, shape rule, gradient rule, meaning, samples for the tests. Eager
// running, capture, fusion, gradients, printing, tests and documentation all read that entry.
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "reprise/core/expr.h"
#include "reprise/core/tensor.h"

namespace rp {

struct Op;
struct KernelCall;

enum class Kind : uint8_t {
  input,      // a graph's parameter
  pointwise,  // `meaning` gives one element from one element of each operand
  reduce,     // combines along axes (ReduceAttrs)
  view,       // another layout of the same elements
  contract,   // matrix products
  write,      // replaces the elements of its first input by those of its second
  kernel,     // computed by a kernel of the backend
  transfer,   // the same elements on another device: never part of a graph
  composite,  // `body` in public ops
  control,    // runs graphs (ControlAttrs); its value is a token, which `result` ops take its results from
  result,     // one of the results of the control op that made the token
};

// ---- attrs ----------------------------------------------------------------------------------------------------------

enum class FieldType : uint8_t { i32, i64, boolean, dtype, spec, graph };
/// One member of an attrs struct, for printing and parsing.
struct Field {
  const char* name;
  FieldType type;
  uint8_t offset;
  uint8_t count = 1;  // arrays print as [a,b]
};

/// Structural arguments of a call: integers, enums, bools and interned specs of at most 64 bytes, compared as bytes.
class Attrs {
 public:
  Attrs() = default;
  template <class T>
    requires(!std::is_same_v<std::remove_cvref_t<T>, Attrs>)
  Attrs(const T& v) : size_(sizeof(T)) {
    static_assert(sizeof(T) <= 64 && std::has_unique_object_representations_v<T> && alignof(T) <= 8);
    std::memcpy(bytes_.data(), &v, sizeof(T));
  }
  template <class T>
  const T& as() const {
    return *reinterpret_cast<const T*>(bytes_.data());
  }
  const std::byte* data() const { return bytes_.data(); }
  std::byte* data() { return bytes_.data(); }
  int size() const { return size_; }
  void resize(int n) { size_ = static_cast<uint8_t>(n); }
  bool operator==(const Attrs& o) const {
    return size_ == o.size_ && (!size_ || !std::memcmp(bytes_.data(), o.bytes_.data(), size_));
  }

 private:
  alignas(8) std::array<std::byte, 64> bytes_{};
  uint8_t size_ = 0;
};

// ---- calls ----------------------------------------------------------------------------------------------------------

/// How many scalars the operands of one op can be; control ops pass on as many as their bodies have.
inline constexpr int max_scalars = 8;

/// Run-time numbers of a call, as bit patterns in their own dtype. They are kernel arguments: never matched, folded or
/// shared.
class Scalars {
 public:
  Scalars() = default;
  explicit Scalars(std::span<const uint64_t> bits) {
    for (uint64_t b : bits) add_bits(b);
  }
  template <class T>
  void add(T v) {
    uint64_t bits = 0;
    std::memcpy(&bits, &v, sizeof(T));
    add_bits(bits);
  }
  void add_bits(uint64_t bits) {
    if (size_ < max_scalars) {
      few_[size_++] = bits;
      return;
    }
    if (many_.empty()) many_.assign(few_.begin(), few_.end());
    many_.push_back(bits);
    ++size_;
  }
  template <class T>
  T get(int i) const {
    T v;
    std::memcpy(&v, data() + i, sizeof(T));
    return v;
  }
  int size() const { return static_cast<int>(size_); }
  const uint64_t* data() const { return many_.empty() ? few_.data() : many_.data(); }
  std::span<const uint64_t> bits() const { return {data(), size_}; }

 private:
  std::array<uint64_t, max_scalars> few_{};
  uint32_t size_ = 0;
  std::vector<uint64_t> many_;  // all of them, once they are more than few
};

/// One application of an op, before it runs. A pointwise op's operands are its tensor inputs and scalars; bit k of
/// `scalar_mask` says that operand k is the next scalar rather than the next tensor.
struct Call {
  const Op* op;
  std::span<const Tensor* const> inputs;
  Attrs attrs{};
  Scalars scalars{};
  uint8_t scalar_mask = 0;
};

/// What a shape rule sees. Layouts, not only specs, because views derive strides; other ops read `spec` alone.
struct ShapeCall {
  const Op& op;
  std::span<const Layout* const> inputs;  // tensors only
  const Attrs& attrs;
  const Scalars& scalars;
  uint8_t scalar_mask;
};

/// What a gradient rule sees: the forward call and the gradient of its result (control ops: of each result; an
/// undefined one means zero).
class GradCall {
 public:
  virtual ~GradCall() = default;
  virtual const Tensor& dy(int result = 0) const = 0;
  virtual Tensor input(int i) const = 0;            // tensor input i, if the entry says that its gradient needs inputs
  virtual Tensor output(int result = 0) const = 0;  // likewise
  virtual const Spec& input_spec(int i) const = 0;
  virtual int inputs() const = 0;
  virtual bool wanted(int i) const = 0;  // whether input i takes part in the gradient
  virtual const Attrs& attrs() const = 0;
  virtual const Scalars& scalars() const = 0;
  virtual uint8_t scalar_mask() const = 0;
  /// Operand k of a pointwise op, tensor or scalar.
  virtual Operand operand(int k) const = 0;
};

enum class Needs : uint8_t { nothing = 0, inputs = 1, output = 2, both = 3 };

/// A gradient rule, written with public ops. It returns one gradient per tensor input; an undefined one means zero.
/// Where a rule is written per operand, gradients of scalar operands are dropped by the caller.
struct Gradient {
  Tensors (*rule)(const GradCall&) = nullptr;
  Needs needs = Needs::nothing;
};

// ---- samples for the tests ------------------------------------------------------------------------------------------

/// Where the tests draw inputs from, and the dtypes the op must work for.
struct Samples {
  double low = -2, high = 2;
  bool floats = true, integers = true, booleans = false;
  bool differentiable = true;  // false where kinks make central differences meaningless
  double ulp = 4;              // allowed error of the f32 result against long double
};

// ---- the entry ------------------------------------------------------------------------------------------------------

/// One value per operand in, the result's value out. `out` is the type of the result.
using Meaning = Value (*)(std::span<const Value> operands, const Attrs&, Type out);
using ShapeRule = const Layout* (*)(const ShapeCall&);
using ViewOffset = int64_t (*)(const ShapeCall&);
using Body = Tensor (*)(std::span<const Tensor> inputs, const Attrs&, const Scalars&);
using Kernel = void (*)(const KernelCall&);

/// Elements start, start + step, ... of one axis: what a view keeps of its input.
struct Section {
  int64_t axis, start, length, step;
};
using SectionRule = Section (*)(const Attrs&, const Scalars&);

/// Filled by the engine when an op first runs somewhere; part of the entry so that finding a kernel is one look-up.
struct Slots {
  std::atomic<Kernel> kernels[2][dtype_count]{};     // [device kind][dtype]
  std::atomic<const void*> maps[dtype_count][16]{};  // compiled contiguous map, by scalar_mask
};

struct Op {
  std::string_view name;
  Kind kind;
  int8_t operands = 1;  // -1: any number
  ShapeRule shape = nullptr;
  Meaning meaning = nullptr;
  Combine combine = Combine::sum;
  Body body = nullptr;
  ViewOffset view_offset = nullptr;  // in elements; a view's scalar, if it has one, counts in one stride
  SectionRule section = nullptr;     // of views that keep part of one axis
  Gradient gradient{};
  std::span<const Field> fields{};
  Samples samples{};
  bool blocks = false;                                   // a kernel that takes an epilogue: see makes_blocks
  bool random = false;                                   // takes a position of the generator
  bool moves = false;                                    // a kernel that moves elements as they are
  bool whole = false;                                    // a composite noted itself only if Backend::keeps_whole
  Type (*scalar_type)(int operand, Type out) = nullptr;  // of scalar operands; default: as the tensor operands
  mutable Slots slots{};
};

/// Whether pointwise ops may run on finished blocks of the op's result while they are in cache: matrix products, and
/// kernels that say so.
inline bool makes_blocks(const Op& op) { return op.kind == Kind::contract || op.blocks; }

/// All entries, in the order of their families.
std::span<const Op* const> op_table();
/// The entry of that name, or null.
const Op* find_op(std::string_view name);

/// The one path of every op: shape rule, gradient tape, then run now or record.
Tensor apply(const Call& call);
/// As `apply`, for an in-place form: the result replaces the elements of `target`, whose shape and dtype it must have.
void apply_into(const Tensor& target, const Call& call);

}  // namespace rp
