#pragma once
// What the kernels of this folder share: typed access to a call's operands, element types, work per thread, memory.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "reprise/backends/cpu/memory.h"
#include "reprise/core/backend.h"
#include "reprise/core/fail.h"

namespace rp::cpu {

template <class T>
T* in(const KernelCall& call, int i) {
  return reinterpret_cast<T*>(call.inputs[i].data);
}
template <class T>
T* out(const KernelCall& call) {
  return reinterpret_cast<T*>(call.output.data);
}

/// Calls f(T{}) with the type of a tensor's elements, which must be numbers of 32 or 64 bits.
template <class F>
void visit_numbers(const KernelCall& call, DType dtype, F&& f) {
  visit_dtype(dtype, [&]<class T>(T v) {
    if constexpr (std::is_same_v<T, bool> || is_float16<T>)
      fail("{}: not defined for {}", call.op.name, name_of(dtype));
    else
      f(v);
  });
}

/// sum += v. Integers wrap.
template <class T>
void add_to(T& sum, T v) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    sum = static_cast<T>(static_cast<U>(sum) + static_cast<U>(v));
  } else {
    sum += v;
  }
}

/// How many units of so many elements repay the start of a thread.
inline int64_t grain(int64_t elements) { return std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, elements)); }

inline void zero(const View& view) { std::fill_n(view.data, view.layout->bytes(), std::byte{}); }

/// Uninitialised memory for the life of a scope, aligned to 64 bytes.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : bytes_(count * sizeof(T)), data_(bytes_ ? allocate_bytes(bytes_) : nullptr) {}
  ~Buffer() {
    if (data_) release_bytes(data_, bytes_);
  }
  Buffer(const Buffer&) = delete;
  T* data() const { return reinterpret_cast<T*>(data_); }

 private:
  size_t bytes_;
  std::byte* data_;
};

}  // namespace rp::cpu
