#include "reprise/core/layout.h"

#include <algorithm>
#include <array>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "reprise/core/fail.h"
#include "reprise/core/hash.h"

namespace rp {

Dims::Dims(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  if (dims.size() > max_rank) fail("shape: at most {} axes, got {}", max_rank, dims.size());
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

void Dims::push_back(int64_t d) { insert(rank_, d); }

void Dims::insert(int axis, int64_t d) {
  if (rank_ == max_rank) fail("shape: at most {} axes", max_rank);
  std::copy_backward(dims_.begin() + axis, dims_.begin() + rank_, dims_.begin() + rank_ + 1);
  dims_[axis] = d;
  ++rank_;
}

void Dims::erase(int axis) {
  std::copy(dims_.begin() + axis + 1, dims_.begin() + rank_, dims_.begin() + axis);
  dims_[--rank_] = 0;
}

int64_t element_count(const Shape& shape) {
  int64_t n = 1;
  bool overflow = false;
  for (int64_t d : shape) {
    if (d < 0) fail("shape: extents must not be negative, got {}", to_string(shape));
    overflow |= __builtin_mul_overflow(n, d, &n);
  }
  // Sixteen bytes an element leave room for any dtype; a zero extent anywhere makes the tensor empty.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  if (overflow || n > (int64_t{1} << 58)) fail("shape: {} has too many elements", to_string(shape));
  return n;
}

std::string to_string(const Dims& dims) {
  std::string text = "[";
  for (int i = 0; i < dims.rank(); ++i) text += (i ? "," : "") + std::to_string(dims[i]);
  return text + "]";
}

std::string to_string(const Spec& spec) {
  const std::string text = std::string(name_of(spec.dtype)) + to_string(spec.shape);
  return spec.device == Device::cpu() ? text : text + "@" + to_string(spec.device);
}

Strides packed_strides(const Shape& shape) {
  Strides strides = shape;
  uint64_t step = 1;  // may wrap around, for shapes that element_count refuses and for empty ones
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = static_cast<int64_t>(step);
    step *= static_cast<uint64_t>(std::max<int64_t>(shape[i], 1));
  }
  return strides;
}

std::optional<Dims> memory_order(const Layout& l) {
  if (l.contiguous) return {};
  std::array<int, max_rank> axes{};  // by stride, the largest first
  for (int i = 0; i < l.rank(); ++i) {
    int at = i;
    for (; at > 0 && l.strides[axes[static_cast<size_t>(at) - 1]] < l.strides[i]; --at)
      axes[static_cast<size_t>(at)] = axes[static_cast<size_t>(at) - 1];
    axes[static_cast<size_t>(at)] = i;
  }
  Dims order;
  int64_t left = l.numel;
  for (int i = 0; i < l.rank(); ++i) {
    const int axis = axes[static_cast<size_t>(i)];
    order.push_back(axis);
    if (l.shape()[axis] == 1) continue;
    left /= l.shape()[axis];
    if (l.strides[axis] != left) return {};
  }
  return order;
}

int64_t extent_of(const Layout& layout) {
  if (!layout.numel) return 0;
  int64_t last = 0;
  for (int i = 0; i < layout.rank(); ++i) last += (layout.shape()[i] - 1) * layout.strides[i];
  return last + 1;
}

namespace {

struct Key {
  Spec spec;
  Strides strides;
  bool operator==(const Key&) const = default;
};

struct KeyHash {
  size_t operator()(const Key& k) const {
    size_t h = hash_mix(static_cast<size_t>(k.spec.dtype), static_cast<size_t>(k.spec.device.kind));
    h = hash_mix(h, k.spec.device.index);
    h = hash_bytes(h, k.spec.shape.begin(), sizeof(int64_t) * k.spec.shape.rank());
    return hash_bytes(h, k.strides.begin(), sizeof(int64_t) * k.strides.rank());
  }
};

struct Table {
  std::mutex mutex;
  std::unordered_map<Key, const Layout*, KeyHash> map;
  std::deque<Layout> layouts;
};

Table& table() {
  static Table* t = new Table;  // never destroyed: tensors may outlive every static
  return *t;
}

// Extents of one may have any stride; give them the packed one, so that equal memory is an equal layout.
Strides canonical(const Shape& shape, Strides strides) {
  const Strides packed = packed_strides(shape);
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] <= 1) strides[i] = packed[i];
  return element_count(shape) ? strides : packed;
}

}  // namespace

const Layout* intern(const Spec& spec, const Strides& wanted) {
  const int64_t numel = element_count(spec.shape);
  const Key key{spec, canonical(spec.shape, wanted)};
  const Strides packed = packed_strides(spec.shape);
  const bool contiguous = key.strides == packed;
  const Layout* packed_layout = contiguous ? nullptr : intern(spec, packed);
  Table& t = table();
  std::lock_guard lock(t.mutex);
  auto [it, fresh] = t.map.try_emplace(key, nullptr);
  if (fresh) {
    Layout& layout = t.layouts.emplace_back(Layout{spec, key.strides, numel, contiguous, packed_layout});
    if (contiguous) layout.packed = &layout;
    it->second = &layout;
  }
  return it->second;
}

const Layout* intern(const Spec& spec) {
  // Results of ops have the same few specs again and again: a look before the table and its lock.
  struct Seen {
    Spec spec;
    const Layout* layout = nullptr;
  };
  static thread_local std::array<Seen, 256> seen;
  size_t h = static_cast<size_t>(spec.dtype);
  for (int64_t d : spec.shape) h = hash_mix(h, static_cast<size_t>(d));
  Seen& s = seen[h % seen.size()];
  if (!s.layout || !(s.spec == spec)) s = {spec, intern(spec, packed_strides(spec.shape))};
  return s.layout;
}

}  // namespace rp
