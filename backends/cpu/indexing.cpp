// Argmax, indexing and concat. Every tensor is seen as [outer, extent, inner] around the axis in question.
#include <algorithm>
#include <cstring>

#include "reprise/backends/cpu/kernel_call.h"
#include "reprise/backends/cpu/kernels.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/ops/attrs.h"

namespace rp::cpu {

namespace {

constexpr int64_t strip = 64;  // inner elements that one thread takes at least, several cache lines

struct Fold {
  int64_t outer = 1, extent = 1, inner = 1;
};

Fold fold(const Shape& shape, int64_t axis) {
  Fold f;
  for (int i = 0; i < shape.rank(); ++i) (i < axis ? f.outer : i > axis ? f.inner : f.extent) *= shape[i];
  return f;
}

/// Calls f(I{}) with the type of the index tensor, input 1.
template <class F>
void visit_index(const KernelCall& call, F&& f) {
  const DType dtype = call.inputs[1].layout->dtype();
  if (dtype == DType::i64) return f(int64_t{});
  if (dtype == DType::i32) return f(int32_t{});
  fail("{}: indices must be i32 or i64, got {}", call.op.name, name_of(dtype));
}

/// Calls f(U{}) with an unsigned type as wide as an element: enough to move it.
template <class F>
void visit_width(DType dtype, F&& f) {
  switch (size_of(dtype)) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint64_t{});
  }
}

int64_t checked(const KernelCall& call, int64_t index, int64_t extent) {
  if (index < 0 || index >= extent) fail("{}: index {} out of range [0,{})", call.op.name, index, extent);
  return index;
}

/// All indices are looked at before the first element is written, so that an error leaves no half-made result.
template <class I>
void check_all(const KernelCall& call, int64_t extent) {
  const I* index = in<const I>(call, 1);
  for (int64_t i = 0; i < call.inputs[1].layout->numel; ++i) checked(call, index[i], extent);
}

struct Larger {
  template <class T>
  bool operator()(T v, T best) const {
    return v > best || (v != v && best == best);
  }
};
struct Smaller {
  template <class T>
  bool operator()(T v, T best) const {
    return v < best || (v != v && best == best);
  }
};

/// The position of the best element of each column of x: [extent, inner].
template <class T, class Better>
void best_positions(const T* x, int64_t* to, const Fold& f, Better better) {
  if (f.inner == 1) {
    int64_t best = 0;
    for (int64_t e = 1; e < f.extent; ++e)
      if (better(x[e], x[best])) best = e;
    *to = best;
    return;
  }
  std::fill_n(to, f.inner, 0);
  for (int64_t e = 1; e < f.extent; ++e)
    for (int64_t i = 0; i < f.inner; ++i)
      if (better(x[e * f.inner + i], x[to[i] * f.inner + i])) to[i] = e;
}

template <class Better>
void arg(const KernelCall& call, Better better) {
  const Layout& layout = *call.inputs[0].layout;
  const Fold f = fold(layout.shape(), call.attrs.as<ArgAttrs>().axis);
  if (!call.output.layout->numel) return;
  if (!f.extent) fail("{}: the axis is empty in {}", call.op.name, to_string(layout.spec));
  visit_dtype(layout.dtype(), [&]<class T>(T) {
    parallel_for(f.outer, grain(f.extent * f.inner), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        best_positions(in<const T>(call, 0) + o * f.extent * f.inner, out<int64_t>(call) + o * f.inner, f, better);
    });
  });
}

/// Runs body(outer, begin, end) for every outer index and strip of inner ones. Adding along the axis stays inside a
/// body, so its order is that of the indices.
template <class F>
void for_strips(const Fold& f, int64_t added, F&& body) {
  const int64_t strips = (f.inner + strip - 1) / strip;
  const int64_t each = (added + f.extent) * std::min(f.inner, strip);
  parallel_for(f.outer * strips, grain(each), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t from = u % strips * strip;
      body(u / strips, from, std::min(f.inner, from + strip));
    }
  });
}

/// Adds src: [outer, count, inner] into zeros. The index tensor has one index per element of src, or else one per
/// `count`.
template <bool per_element, class T, class I>
void add_at(const KernelCall& call, const Fold& f, int64_t count) {
  check_all<I>(call, f.extent);
  for_strips(f, count, [&](int64_t o, int64_t begin, int64_t end) {
    T* to = out<T>(call) + o * f.extent * f.inner;
    for (int64_t e = 0; e < f.extent; ++e) std::fill(to + e * f.inner + begin, to + e * f.inner + end, T{});
    const T* src = in<const T>(call, 0) + o * count * f.inner;
    const I* index = in<const I>(call, 1) + (per_element ? o * count * f.inner : 0);
    for (int64_t j = 0; j < count; ++j, src += f.inner) {
      if constexpr (per_element) {
        for (int64_t i = begin; i < end; ++i) add_to(to[index[j * f.inner + i] * f.inner + i], src[i]);
      } else {
        T* row = to + index[j] * f.inner;
        for (int64_t i = begin; i < end; ++i) add_to(row[i], src[i]);
      }
    }
  });
}

/// Calls f(T{}, I{}) with the types of elements and indices, for the dtypes that can be added.
template <class F>
void visit_addends(const KernelCall& call, F&& f) {
  visit_numbers(call, call.inputs[0].layout->dtype(), [&](auto v) { visit_index(call, [&](auto i) { f(v, i); }); });
}

}  // namespace

void argmax(const KernelCall& call) { arg(call, Larger{}); }
void argmin(const KernelCall& call) { arg(call, Smaller{}); }

void index_select(const KernelCall& call) {
  const Layout& layout = *call.inputs[0].layout;
  const Fold f = fold(layout.shape(), call.attrs.as<AxisAttrs>().axis);
  const int64_t count = call.inputs[1].layout->numel;
  const size_t bytes = f.inner * size_of(layout.dtype());
  visit_index(call, [&]<class I>(I) {
    check_all<I>(call, f.extent);
    const I* index = in<const I>(call, 1);
    parallel_for(f.outer * count, grain(f.inner), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        std::memcpy(call.output.data + r * bytes,
                    call.inputs[0].data + (r / count * f.extent + index[r % count]) * bytes, bytes);
    });
  });
}

void gather(const KernelCall& call) {
  const int64_t axis = call.attrs.as<AxisAttrs>().axis;
  const Fold f = fold(call.inputs[0].layout->shape(), axis);
  const int64_t count = call.inputs[1].layout->shape()[static_cast<int>(axis)];
  visit_width(call.inputs[0].layout->dtype(), [&]<class T>(T) {
    visit_index(call, [&]<class I>(I) {
      parallel_for(f.outer * count, grain(f.inner), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const T* x = in<const T>(call, 0) + r / count * f.extent * f.inner;
          const I* index = in<const I>(call, 1) + r * f.inner;
          T* to = out<T>(call) + r * f.inner;
          for (int64_t i = 0; i < f.inner; ++i) to[i] = x[checked(call, index[i], f.extent) * f.inner + i];
        }
      });
    });
  });
}

void index_add(const KernelCall& call) {
  const Fold f = fold(call.output.layout->shape(), call.attrs.as<ScatterAttrs>().axis);
  visit_addends(call, [&]<class T, class I>(T, I) { add_at<false, T, I>(call, f, call.inputs[1].layout->numel); });
}

void scatter_add(const KernelCall& call) {
  const int64_t axis = call.attrs.as<ScatterAttrs>().axis;
  const Fold f = fold(call.output.layout->shape(), axis);
  const int64_t count = call.inputs[1].layout->shape()[static_cast<int>(axis)];
  visit_addends(call, [&]<class T, class I>(T, I) { add_at<true, T, I>(call, f, count); });
}

void concat(const KernelCall& call) {
  constexpr int64_t block = 1 << 16;  // bytes
  const int64_t axis = call.attrs.as<AxisAttrs>().axis;
  const int64_t size = static_cast<int64_t>(size_of(call.output.layout->dtype()));
  const Fold whole = fold(call.output.layout->shape(), axis);
  const int64_t pitch = whole.extent * whole.inner * size;
  int64_t offset = 0;
  for (const View& input : call.inputs) {
    const Fold f = fold(input.layout->shape(), axis);
    const int64_t row = f.extent * f.inner * size, blocks = (row + block - 1) / block;
    parallel_for(f.outer * blocks, grain(std::min(row, block)), [&](int64_t begin, int64_t end) {
      for (int64_t u = begin; u < end; ++u) {
        const int64_t o = u / blocks, at = u % blocks * block;
        std::memcpy(call.output.data + o * pitch + offset + at, input.data + o * row + at, std::min(block, row - at));
      }
    });
    offset += row;
  }
}

}  // namespace rp::cpu
