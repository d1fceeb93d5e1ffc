#pragma once
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "reprise/core/error.h"
#include "reprise/core/layout.h"

namespace rp {

class Tensor;
using Tensors = std::vector<Tensor>;
struct GradState;
struct WriteHistory;

/// Gives up one reference; true if it was the last. Who holds the only one need not subtract atomically: nobody else
/// can take another meanwhile.
inline bool give_up(std::atomic<uint32_t>& refs) noexcept {
  if (refs.load(std::memory_order_acquire) != 1) return refs.fetch_sub(1, std::memory_order_acq_rel) == 1;
  refs.store(0, std::memory_order_relaxed);
  return true;
}

/// Something kept beside a storage and dropped with it, such as a packed copy of a weight.
struct Attachment {
  virtual ~Attachment() = default;
  std::unique_ptr<Attachment> next;
  const void* kind = nullptr;  // tells the owner's type from others: the address of something of its own
};

/// Counted bytes on a device. While `data` is null the bytes are *pending*: recorded, not yet computed.
struct Storage {
  std::atomic<uint32_t> refs{1};
  uint32_t version = 0;  // incremented by each write when it is called, though it may run later
  uint32_t content = 0;  // incremented whenever the bytes have changed
  std::byte* data = nullptr;
  size_t bytes = 0;
  Device device;
  size_t room = 0;                   // bytes behind this struct in its block, where few elements lie at first
  std::atomic<bool> exposed{false};  // a raw pointer that may write has escaped
  void* recorder = nullptr;          // while pending: the recorder that knows it
  std::unique_ptr<Attachment> attached;
  uint32_t saved_refs = 0;           // how many of `refs` are the gradient tape's own: they do not keep `history` alive
  WriteHistory* history = nullptr;   // of writes that the gradient tape noted
  void (*release)(void*) = nullptr;  // for bytes that came from outside
  void* release_context = nullptr;
};

struct TensorImpl {
  std::atomic<uint32_t> refs{1};
  bool owns_block = false;  // allocated together with its storage
  bool saved = false;       // held by the gradient tape
  const Layout* layout = nullptr;
  Storage* storage = nullptr;
  int64_t offset = 0;  // in elements
  uint64_t epoch = 0;  // the recorded segment that `slot` belongs to
  uint32_t slot = 0;
  GradState* grad = nullptr;  // null until gradients concern this tensor
};

/// A number where a tensor is also welcome. It takes the dtype of the tensors it meets, as in NumPy: `x * 2` stays f32,
/// an integer tensor times a fraction becomes f32.
struct Scalar {
  Scalar(bool v) : kind(Kind::boolean), i(v), f(v) {}
  template <std::integral T>
  Scalar(T v) : kind(Kind::integer), i(static_cast<int64_t>(v)), f(static_cast<double>(v)) {}
  template <std::floating_point T>
  Scalar(T v) : kind(Kind::real), i(0), f(static_cast<double>(v)) {}

  enum class Kind : uint8_t { boolean, integer, real } kind;
  int64_t i;
  double f;
};

/// A multi-dimensional array, or a strided view of one. Copying a Tensor copies the handle, not the elements.
class Tensor {
 public:
  Tensor() = default;
  Tensor(const Tensor& other) noexcept : impl_(other.impl_) {
    if (impl_) impl_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  Tensor(Tensor&& other) noexcept : impl_(std::exchange(other.impl_, nullptr)) {}
  Tensor& operator=(Tensor other) noexcept {
    std::swap(impl_, other.impl_);
    return *this;
  }
  ~Tensor() {
    if (impl_ && give_up(impl_->refs)) destroy(impl_);
  }

  bool defined() const noexcept { return impl_; }
  const Shape& shape() const { return layout().spec.shape; }
  DType dtype() const { return layout().spec.dtype; }
  Device device() const { return layout().spec.device; }
  const Spec& spec() const { return layout().spec; }
  const Strides& strides() const { return layout().strides; }
  int rank() const { return shape().rank(); }
  int64_t numel() const { return layout().numel; }
  /// Extent of one axis; negative axes count from the end. Throws if there is no such axis.
  int64_t size(int axis, Loc loc = Loc::current()) const;
  bool is_contiguous() const { return layout().contiguous; }

  /// The value of a tensor with one element, converted to T. Inside a capture this runs what is pending.
  template <class T>
  T item(Loc loc = Loc::current()) const;
  /// All elements in row-major order, converted to T; from another device they are copied.
  template <class T>
  std::vector<T> to_vector(Loc loc = Loc::current()) const;
  /// Reading access to the elements of a contiguous tensor of dtype T on the CPU. Valid until the tensor is written or
  /// dropped.
  template <class T>
  std::span<const T> data(Loc loc = Loc::current()) const;
  /// A raw pointer for reading and writing. From then on the engine assumes that the elements may change at any time,
  /// and copies them whenever deferred work reads them. Prefer `copy_from`.
  template <class T>
  T* unsafe_data(Loc loc = Loc::current());
  /// Replaces all elements by `values`, in row-major order; their number must be `numel()`.
  template <class T>
  void copy_from(std::span<const T> values, Loc loc = Loc::current());
  /// True while the value is recorded but not yet computed.
  bool pending() const noexcept { return impl_ && !impl_->storage->data && impl_->layout->numel; }

  // Views share the elements; a write through one is seen through all.
  Tensor reshape(const Shape& shape, Loc loc = Loc::current()) const;  ///< One extent may be -1. Copies if it must.
  Tensor permute(const Dims& axes, Loc loc = Loc::current()) const;
  Tensor transpose(int axis0 = -2, int axis1 = -1, Loc loc = Loc::current()) const;
  Tensor slice(int axis, int64_t start, int64_t stop, int64_t step = 1, Loc loc = Loc::current()) const;
  Tensor select(int axis, int64_t index, Loc loc = Loc::current()) const;  ///< Drops the axis.
  /// An index that notes the line of the call.
  struct Index {
    template <std::integral T>
    Index(T i, Loc where = Loc::current()) : value(static_cast<int64_t>(i)), loc(where) {}
    int64_t value;
    Loc loc;
  };
  Tensor operator[](Index i) const { return select(0, i.value, i.loc); }
  Tensor expand(const Shape& shape, Loc loc = Loc::current()) const;  ///< Axes of extent 1 are repeated.
  Tensor squeeze(int axis, Loc loc = Loc::current()) const;
  Tensor unsqueeze(int axis, Loc loc = Loc::current()) const;
  Tensor flatten(int first_axis = 0, int last_axis = -1, Loc loc = Loc::current()) const;
  Tensor contiguous(Loc loc = Loc::current()) const;
  Tensor clone(Loc loc = Loc::current()) const;
  Tensor to(DType dtype, Loc loc = Loc::current()) const;
  /// The same elements on another device; this tensor itself if they are there. Inside a capture, what is pending runs
  /// first.
  Tensor to(Device device, Loc loc = Loc::current()) const;

  // In-place forms write into this tensor's elements and return it. They are operations on the handle's contents, so a
  // const handle allows them, like a const pointer to mutable data.
  const Tensor& copy_(const Tensor& source, Loc loc = Loc::current()) const;
  const Tensor& fill_(Scalar value, Loc loc = Loc::current()) const;
  const Tensor& zero_(Loc loc = Loc::current()) const { return fill_(0, loc); }

  // Gradients.
  bool requires_grad() const noexcept;
  /// Marks a leaf whose gradient `backward` shall leave in `grad()`. Throws for integer tensors.
  const Tensor& set_requires_grad(bool on = true, Loc loc = Loc::current()) const;
  /// The gradient accumulated so far; undefined if there is none.
  Tensor grad() const;
  void set_grad(const Tensor& g, Loc loc = Loc::current()) const;
  /// Adds the gradients of this tensor of one element to `grad()` of all leaves that require them.
  void backward(Loc loc = Loc::current()) const;
  /// The same for any shape, given the gradient of this tensor; `retain_graph` allows another walk.
  void backward(const Tensor& seed, bool retain_graph = false, Loc loc = Loc::current()) const;
  /// The same elements, cut off from the gradient's history.
  Tensor detach(Loc loc = Loc::current()) const;

  /// True if both handles name the same tensor object.
  bool is(const Tensor& other) const noexcept { return impl_ == other.impl_; }
  bool shares_storage(const Tensor& other) const noexcept {
    return impl_ && other.impl_ && impl_->storage == other.impl_->storage;
  }
  explicit operator bool() const = delete;  // ambiguous: write item<bool>() or defined()

  // For the engine.
  explicit Tensor(TensorImpl* owned) noexcept : impl_(owned) {}
  TensorImpl* impl() const noexcept { return impl_; }
  TensorImpl* detach_impl() noexcept { return std::exchange(impl_, nullptr); }
  const Layout& layout() const { return impl_ ? *impl_->layout : undefined(); }
  std::byte* bytes() const { return impl_->storage->data + impl_->offset * static_cast<int64_t>(size_of(dtype())); }

 private:
  static void destroy(TensorImpl* impl) noexcept;
  [[noreturn]] static const Layout& undefined();

  TensorImpl* impl_ = nullptr;
};

/// A tensor parameter of a public function: it notes the line of the call.
struct In {
  In(const Tensor& t, Loc where = Loc::current()) : tensor(t), loc(where) {}
  operator const Tensor&() const { return tensor; }
  const Tensor* operator->() const { return &tensor; }
  const Tensor& tensor;
  Loc loc;
};

/// A tensor or number parameter of a public function: it notes the line of the call.
struct Operand {
  Operand(const Tensor& t, Loc where = Loc::current()) : tensor(&t), loc(where) {}
  Operand(const In& in) : tensor(&in.tensor), loc(in.loc) {}
  template <class T>
    requires std::is_arithmetic_v<T>
  Operand(T v, Loc where = Loc::current()) : tensor(nullptr), scalar(v), loc(where) {}
  Operand(Scalar v, Loc where = Loc::current()) : tensor(nullptr), scalar(v), loc(where) {}

  const Tensor* tensor;
  Scalar scalar{0};
  Loc loc;
};

/// A tensor with its own uninitialised elements.
Tensor allocate(const Layout* packed);
/// A tensor without elements yet; its storage is pending.
Tensor allocate_pending(const Layout* packed);
/// Gives a pending storage its memory (from the device's allocator).
void materialize(Storage& storage, size_t bytes);
/// Takes it back.
void dematerialize(Storage& storage) noexcept;
/// Whether nobody but this tensor's handles knows its storage: no other view, no adopted memory.
bool is_movable(const Tensor& t);
/// Moves the elements to another device; all handles see them there. The tensor must be movable, and not there yet.
void move_elements(const Tensor& t, Device device);
/// Another view of the same storage.
Tensor alias(const Tensor& base, const Layout* layout, int64_t offset);
/// A handle on all elements of a storage.
Tensor storage_view(Storage* storage, const Layout* layout);
/// Another handle on the same elements, without the gradient's history.
Tensor bare_alias(const Tensor& t);
/// `t`'s elements under a strided layout whose first element lies `offset` behind t's; t must be contiguous.
Tensor as_strided(const Tensor& t, const Layout* layout, int64_t offset);
/// A tensor over `data` that somebody else owns; `release(context)` is called when the last view dies.
Tensor adopt(void* data, const Layout* layout, void (*release)(void*), void* context);
/// The handle that was allocated with the storage, null if it is gone.
TensorImpl* owner_of(Storage& storage) noexcept;
/// Elements where the host can read them: `bytes` from `data`, in place on the CPU, copied from elsewhere.
class HostBytes {
 public:
  HostBytes(Device device, const std::byte* data, size_t bytes);
  /// All elements that a computed tensor's layout reaches, from its first one.
  explicit HostBytes(const Tensor& t);
  const std::byte* data() const { return data_; }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::unique_ptr<std::byte[]> copy_;
  const std::byte* data_;
};
/// A copy of a storage's bytes in the host's memory.
std::vector<std::byte> bytes_of(const Storage& storage);
/// Replaces a storage's bytes by such a copy.
void set_bytes(Storage& storage, std::span<const std::byte> bytes);
/// Bytes on a device, as a tensor.
Tensor allocate_bytes_on(Device device, size_t bytes);
/// Adds an attachment to a storage.
void attach(Storage& storage, std::unique_ptr<Attachment> attachment);
inline void retain(Storage* storage) noexcept { storage->refs.fetch_add(1, std::memory_order_relaxed); }
void drop(Storage* storage) noexcept;

/// Text in NumPy's style, elements included. Inside a capture this runs what is pending.
std::string to_string(const Tensor& t, Loc loc = Loc::current());

}  // namespace rp
