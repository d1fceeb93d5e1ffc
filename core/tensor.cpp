#include "reprise/core/tensor.h"

#include <cstring>
#include <limits>

#include "reprise/core/block.h"
#include "reprise/core/engine.h"
#include "reprise/core/fail.h"

namespace rp {
namespace {

// A tensor that owns its elements is one block: the handle, its storage and, if they are few, the elements themselves.
constexpr size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }
constexpr size_t storage_at = rounded(sizeof(TensorImpl), alignof(Storage));
constexpr size_t header_bytes = rounded(storage_at + sizeof(Storage), 64);
constexpr size_t inline_bytes = block_sizes[2] - header_bytes;
static_assert(header_bytes <= block_sizes[1]);

TensorImpl* owner_in_block(Storage* s) {
  return reinterpret_cast<TensorImpl*>(reinterpret_cast<std::byte*>(s) - storage_at);
}

size_t block_bytes(const Storage& s) { return header_bytes + s.room; }

bool in_block(Storage& s) { return s.room && s.data == reinterpret_cast<std::byte*>(&s) - storage_at + header_bytes; }

alignas(64) std::byte nothing[64];  // where empty tensors point

TensorImpl* make_block(const Layout* layout, size_t bytes, bool elements_inline) {
  auto* memory = static_cast<std::byte*>(allocate_block(header_bytes + (elements_inline ? bytes : 0)));
  auto* impl = new (memory) TensorImpl;
  auto* storage = new (memory + storage_at) Storage;
  impl->owns_block = true;
  impl->layout = layout;
  impl->storage = storage;
  storage->bytes = bytes;
  storage->device = layout->spec.device;
  if (!elements_inline) return impl;
  storage->room = bytes;
  storage->data = memory + header_bytes;
  return impl;
}

}  // namespace

Tensor allocate(const Layout* packed) {
  const size_t bytes = packed->bytes();
  const bool small = bytes <= inline_bytes && packed->spec.device.kind == DeviceKind::cpu;
  Tensor t(make_block(packed, bytes, small && bytes));
  if (!t.impl()->storage->room) materialize(*t.impl()->storage, bytes);
  return t;
}

Tensor allocate_pending(const Layout* packed) {
  Tensor t(make_block(packed, packed->bytes(), false));
  if (!t.impl()->storage->bytes) t.impl()->storage->data = nothing;
  return t;
}

void materialize(Storage& storage, size_t bytes) {
  storage.bytes = bytes;
  storage.data = bytes ? engine.backend(storage.device).allocate(bytes) : nothing;
}

void dematerialize(Storage& storage) noexcept {
  if (!storage.data || storage.data == nothing) return;
  engine.backend(storage.device).release(storage.data, storage.bytes);
  storage.data = nullptr;
}

namespace {

inline TensorImpl* make_view(Storage* storage, const Layout* layout, int64_t offset) {
  auto* impl = new (allocate_block(sizeof(TensorImpl))) TensorImpl;
  impl->layout = layout;
  impl->storage = storage;
  impl->offset = offset;
  retain(storage);
  return impl;
}

}  // namespace

Tensor storage_view(Storage* storage, const Layout* layout) { return Tensor(make_view(storage, layout, 0)); }

Tensor alias(const Tensor& base, const Layout* layout, int64_t offset) {
  return Tensor(make_view(base.impl()->storage, layout, offset));
}

Tensor bare_alias(const Tensor& t) {
  const TensorImpl& from = *t.impl();
  TensorImpl* impl = make_view(from.storage, from.layout, from.offset);
  impl->epoch = from.epoch;
  impl->slot = from.slot;
  return Tensor(impl);
}

Tensor adopt(void* data, const Layout* layout, void (*release)(void*), void* context) {
  Tensor t(make_block(layout, layout->bytes(), false));
  Storage& storage = *t.impl()->storage;
  storage.data = static_cast<std::byte*>(data);
  storage.release = release ? release : [](void*) {};
  storage.release_context = context;
  storage.exposed = true;
  return t;
}

namespace {

void release_data(Storage& s) noexcept {
  if (s.release)
    s.release(s.release_context);
  else if (s.data && s.data != nothing && !in_block(s))
    engine.backend(s.device).release(s.data, s.bytes);
}

}  // namespace

TensorImpl* owner_of(Storage& storage) noexcept {
  TensorImpl* impl = owner_in_block(&storage);
  return impl->refs.load(std::memory_order_relaxed) ? impl : nullptr;
}

bool is_movable(const Tensor& t) {
  engine.before_write(t);
  const Storage& s = *t.impl()->storage;
  return !s.release && s.refs.load(std::memory_order_relaxed) == 1;
}

void move_elements(const Tensor& t, Device device) {
  const Tensor there = bare_alias(t).to(device);
  TensorImpl& impl = *t.impl();
  Storage &s = *impl.storage, &other = *there.impl()->storage;
  if (in_block(other)) {
    const auto* elements = other.data;
    materialize(other, other.bytes);
    std::memcpy(other.data, elements, other.bytes);
  }
  release_data(s);
  s.data = std::exchange(other.data, nullptr);
  s.bytes = other.bytes;
  s.device = device;
  s.exposed = false;  // raw pointers led to what is gone now
  s.attached.reset();
  ++s.version;
  ++s.content;
  impl.layout = there.impl()->layout;
  impl.offset = 0;
}

void attach(Storage& storage, std::unique_ptr<Attachment> attachment) {
  attachment->next = std::move(storage.attached);
  storage.attached = std::move(attachment);
}

void drop(Storage* s) noexcept {
  if (s->refs.load(std::memory_order_acquire) != 1) {
    const uint32_t left = s->refs.fetch_sub(1, std::memory_order_acq_rel) - 1;
    // Once only the tape holds the elements, nobody can ask for their history; it may hold the tape in turn.
    if (left && s->history && left == s->saved_refs) engine.drop_history(std::exchange(s->history, nullptr));
    if (left) return;
  }
  s->attached.reset();
  if (s->history) engine.drop_history(std::exchange(s->history, nullptr));
  release_data(*s);
  TensorImpl* block = owner_in_block(s);
  const size_t bytes = block_bytes(*s);
  s->~Storage();
  free_block(block, bytes);
}

void Tensor::destroy(TensorImpl* impl) noexcept {
  if (impl->grad) engine.drop_grad(std::exchange(impl->grad, nullptr));
  Storage* storage = impl->storage;
  if (impl->saved) std::atomic_ref(storage->saved_refs).fetch_sub(1, std::memory_order_relaxed);
  if (!impl->owns_block) free_block(impl, sizeof(TensorImpl));
  drop(storage);  // frees an owning handle's block once no view needs the elements
}

const Layout& Tensor::undefined() { fail("tensor: expected a defined tensor, got an empty handle"); }

int64_t Tensor::size(int axis, Loc loc) const {
  At at(loc);
  const int r = rank();
  if (axis < -r || axis >= r) fail("size: axis {} of a tensor with {} axes", axis, r);
  return shape()[axis < 0 ? axis + r : axis];
}

std::vector<std::byte> bytes_of(const Storage& s) {
  std::vector<std::byte> bytes(s.bytes);
  if (s.bytes) engine.backend(s.device).read(bytes.data(), s.data, s.bytes);
  return bytes;
}

void set_bytes(Storage& s, std::span<const std::byte> bytes) {
  if (!bytes.empty()) engine.backend(s.device).write(s.data, bytes.data(), bytes.size());
  ++s.content;
}

Tensor allocate_bytes_on(Device device, size_t bytes) {
  return allocate(intern({DType::boolean, {static_cast<int64_t>(bytes)}, device}));
}

// ---- host access ----------------------------------------------------------------------------------------------------

namespace {

// Calls `f(address, index)` for every element in row-major order.
template <class Byte, class F>
void for_each_element(const Layout& layout, Byte* base, F&& f) {
  const auto element = static_cast<int64_t>(size_of(layout.dtype()));
  Dims at = layout.shape();
  for (int i = 0; i < at.rank(); ++i) at[i] = 0;
  int64_t offset = 0;
  for (int64_t n = 0; n < layout.numel; ++n) {
    f(base + offset * element, n);
    for (int i = layout.rank() - 1; i >= 0; --i) {
      offset += layout.strides[i];
      if (++at[i] < layout.shape()[i]) break;
      offset -= layout.strides[i] * layout.shape()[i];
      at[i] = 0;
    }
  }
}

template <class To, class From>
To converted(From v) {
  if constexpr (is_float16<From>)
    return converted<To>(static_cast<float>(v));
  else if constexpr (is_float16<To>)
    return To(static_cast<float>(v));
  else if constexpr (std::is_same_v<To, bool>)
    return v != From{0};
  else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    // As the engine's own conversion: what does not fit becomes the least integer.
    constexpr From limit = static_cast<From>(uint64_t{1} << (sizeof(To) * 8 - 1));
    return v >= -limit && v < limit ? static_cast<To>(v) : std::numeric_limits<To>::min();
  } else
    return static_cast<To>(v);
}

void check_host(const Tensor& t, const char* what) {
  if (t.device() != Device::cpu())
    fail("{}: expected a tensor on the CPU, got {}; use to(Device::cpu())", what, to_string(t.spec()));
}

size_t reached_bytes(const Layout& layout) { return static_cast<size_t>(extent_of(layout)) * size_of(layout.dtype()); }

}  // namespace

HostBytes::HostBytes(Device device, const std::byte* data, size_t bytes) : data_(data) {
  if (device == Device::cpu() || !bytes) return;
  copy_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
  engine.backend(device).read(copy_.get(), data, bytes);
  data_ = copy_.get();
}

HostBytes::HostBytes(const Tensor& t) : HostBytes(t.device(), t.bytes(), t.numel() ? reached_bytes(t.layout()) : 0) {}

template <class T>
std::vector<T> Tensor::to_vector(Loc loc) const {
  At at(loc);
  std::vector<T> values(static_cast<size_t>(numel()));
  engine.before_read(*this);
  const HostBytes elements(*this);
  visit_dtype(dtype(), [&]<class E>(E) {
    for_each_element(layout(), elements.data(), [&](const std::byte* p, int64_t i) {
      E v;
      std::memcpy(&v, p, sizeof v);
      values[static_cast<size_t>(i)] = converted<T>(v);
    });
  });
  return values;
}

template <class T>
T Tensor::item(Loc loc) const {
  At at(loc);
  if (numel() != 1) fail("item: expected a tensor with one element, got {}", to_string(spec()));
  engine.before_read(*this);
  const HostBytes element(*this);
  return visit_dtype(dtype(), [&]<class E>(E v) {
    std::memcpy(&v, element.data(), sizeof v);
    return converted<T>(v);
  });
}

template <class T>
std::span<const T> Tensor::data(Loc loc) const {
  At at(loc);
  check_host(*this, "data");
  if (dtype() != dtype_of<T>()) fail("data: expected {}, the tensor is {}", name_of(dtype_of<T>()), name_of(dtype()));
  if (!is_contiguous())
    fail("data: expected a contiguous tensor, got {} with strides {}", to_string(spec()), rp::to_string(strides()));
  engine.before_read(*this);
  return {reinterpret_cast<const T*>(bytes()), static_cast<size_t>(numel())};
}

template <class T>
T* Tensor::unsafe_data(Loc loc) {
  const auto values = data<T>(loc);
  engine.before_write(*this);
  impl_->storage->exposed = true;
  ++impl_->storage->version;
  ++impl_->storage->content;
  return const_cast<T*>(values.data());
}

template <class T>
void Tensor::copy_from(std::span<const T> values, Loc loc) {
  At at(loc);
  if (static_cast<int64_t>(values.size()) != numel())
    fail("copy_from: expected {} values for {}, got {}", numel(), to_string(spec()), values.size());
  engine.check_write(*this);
  const bool seen_by_tape = thread_state.grad && wants_grad(*this);
  if (seen_by_tape || device() != Device::cpu()) {
    Spec spec = this->spec();
    spec.device = Device::cpu();
    Tensor given = allocate(intern(spec));
    given.copy_from(values, loc);
    copy_(given.to(device(), loc), loc);
    return;
  }
  engine.before_write(*this);
  visit_dtype(dtype(), [&]<class E>(E) {
    for_each_element(layout(), bytes(), [&](std::byte* p, int64_t i) {
      const E v = converted<E>(values[static_cast<size_t>(i)]);
      std::memcpy(p, &v, sizeof v);
    });
  });
  ++impl_->storage->version;
  ++impl_->storage->content;
}

#define RP_INSTANTIATE(T)                                  \
  template std::vector<T> Tensor::to_vector<T>(Loc) const; \
  template T Tensor::item<T>(Loc) const;                   \
  template std::span<const T> Tensor::data<T>(Loc) const;  \
  template T* Tensor::unsafe_data<T>(Loc);                 \
  template void Tensor::copy_from<T>(std::span<const T>, Loc);
RP_INSTANTIATE(int32_t)
RP_INSTANTIATE(int64_t)
RP_INSTANTIATE(BFloat16)
RP_INSTANTIATE(Half)
RP_INSTANTIATE(float)
RP_INSTANTIATE(double)
RP_INSTANTIATE(bool)
#undef RP_INSTANTIATE

}  // namespace rp
