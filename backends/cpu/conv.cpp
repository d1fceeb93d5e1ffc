#include "reprise/backends/cpu/conv.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "reprise/backends/cpu/kernel_call.h"
#include "reprise/backends/cpu/kernels.h"
#include "reprise/backends/cpu/onednn.h"
#include "reprise/backends/cpu/threads.h"
#include "reprise/core/hash.h"
#include "reprise/core/ops.h"

namespace rp::cpu {

namespace {

int64_t extent_after(int64_t extent, int64_t kernel, int64_t dilation, int64_t stride) {
  const int64_t span = (kernel - 1) * dilation + 1;
  return extent < span ? 0 : (extent - span) / stride + 1;
}

/// Images per slice: enough work to outweigh the start of a primitive, and few enough to stay in a core's cache.
int64_t slice_of(const ConvShape& s) {
  constexpr int64_t worthwhile = int64_t{8} << 20;  // operations
  constexpr int64_t partial_bytes = int64_t{64} << 20;
  const int64_t each = 2 * s.weights() * s.oh * s.ow;
  int64_t slice = std::clamp<int64_t>((worthwhile + each - 1) / each, 1, s.n);
  if (s.pass != ConvPass::backward_weights) return slice;
  // Each slice has a partial sum of its own.
  const int64_t most = std::clamp<int64_t>(partial_bytes / (s.weights() * int64_t{sizeof(float)}), 2, 16);
  return std::max(slice, (s.n + most - 1) / most);
}

// Weights that are read again and again beside a row of the image: they stay in the second-level cache or, where they
// are what is added up, in the first.
constexpr int64_t few_weights = 1 << 16, few_sums = 10240;
constexpr int64_t few_channels = 32;  // of an image: too few columns for a product that gives its gradient

/// Whether our kernels serve the pass, and which.
bool own_method(const ConvShape& s, ConvMethod& method) {
  if (!s.nhwc || (s.turns() && s.c <= few_channels)) return false;
  const ConvShape read = s.turns() ? s.turned() : s;
  const bool padded = std::min({read.top, read.left, read.bottom, read.right}) >= 0;
  const bool direct = read.pass != ConvPass::backward_data && padded && s.dilation_w == 1 && s.kh * s.kw > 1 &&
                      s.weights() <= (s.pass == ConvPass::backward_weights ? few_sums : few_weights);
  method = direct ? ConvMethod::direct : ConvMethod::patches;
  return true;
}

void choose_library(const ConvShape& s, ConvChoice& choice) {
  ConvShape part = s;
  part.n = choice.slice;
  auto whole = make_dnn_conv(part);
  if (!whole) return;
  if (const int64_t rest = s.n % choice.slice) {
    part.n = rest;
    choice.tail = make_dnn_conv(part, whole.get());
    if (!choice.tail) return;
  }
  choice.method = ConvMethod::library;
  choice.form = whole->form();
  choice.reorders = whole->reorders();
  choice.whole = std::move(whole);
}

ConvChoice choose(const ConvShape& s, DType dtype) {
  ConvChoice choice;
  choice.slice = slice_of(s);
  choice.slices = (s.n + choice.slice - 1) / choice.slice;
  if (dtype != DType::f32) return choice;
  if (own_method(s, choice.method))
    choice.form = choice.method == ConvMethod::direct ? "direct" : "patches";
  else
    choose_library(s, choice);
  return choice;
}

struct Key {
  ConvShape shape;
  DType dtype;
  bool operator==(const Key&) const = default;
};
struct KeyHash {
  size_t operator()(const Key& k) const { return hash_bytes(static_cast<size_t>(k.dtype), &k.shape, sizeof k.shape); }
};
static_assert(std::has_unique_object_representations_v<ConvShape>);

struct Choices {
  std::shared_mutex mutex;
  std::unordered_map<Key, ConvChoice, KeyHash> map;
};

/// The i-th slice of a call.
struct Slice {
  int64_t images, x, y;  // how many, and the first elements of theirs
};
Slice slice_at(const ConvShape& s, const ConvChoice& c, int64_t i) {
  const int64_t first = i * c.slice;
  return {std::min(c.slice, s.n - first), first * s.x_image(), first * s.y_image()};
}

const DnnConv& part_for(const ConvChoice& c, const Slice& slice) {
  return slice.images == c.slice ? *c.whole : *c.tail;
}

/// The rows of the result that slice i holds.
void finish_slice(const ConvShape& s, const ConvChoice& c, int64_t i, const Epilogue& epilogue) {
  const bool forward = s.pass == ConvPass::forward;
  const int64_t columns = forward ? (s.nhwc ? s.out : s.ow) : (s.nhwc ? s.c : s.w);
  const int64_t rows = (forward ? s.y_image() : s.x_image()) / columns, first = i * c.slice;
  epilogue.run(epilogue.context, first * rows, std::min(c.slice, s.n - first) * rows, 0, columns);
}

void run_slice(const DnnConv& conv, float* x, std::byte* w, float* y) {
  const Buffer<std::byte> scratch(static_cast<int64_t>(conv.scratch_bytes()));
  conv.run(x, w, y, scratch.data());
}

void run_dnn(const ConvShape& s, const ConvChoice& c, float* x, const float* w, float* y, const Epilogue* epilogue) {
  const Buffer<std::byte> inner(static_cast<int64_t>(c.whole->weights_bytes()));
  c.whole->pack(w, inner.data());
  parallel_for(c.slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Slice slice = slice_at(s, c, i);
      run_slice(part_for(c, slice), x + slice.x, inner.data(), y + slice.y);
      if (epilogue) finish_slice(s, c, i, *epilogue);
    }
  });
}

/// Adds the partial sums that follow the first to it, in order.
template <class T>
void add_partials(T* sum, int64_t count, int64_t partials) {
  parallel_for(count, grain(partials), [&](int64_t begin, int64_t end) {
    for (int64_t p = 1; p < partials; ++p)
      for (int64_t j = begin; j < end; ++j) add_to(sum[j], sum[p * count + j]);
  });
}

void run_dnn_weights(const ConvShape& s, const ConvChoice& c, float* x, float* w, float* y) {
  const int64_t bytes = static_cast<int64_t>(c.whole->weights_bytes()), pitch = (bytes + 63) / 64 * 64;
  const Buffer<std::byte> partials(c.slices * pitch);
  parallel_for(c.slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Slice slice = slice_at(s, c, i);
      std::byte* const partial = partials.data() + i * pitch;
      std::fill(partial + bytes, partial + pitch, std::byte{});
      run_slice(part_for(c, slice), x + slice.x, partial, y + slice.y);
    }
  });
  add_partials(reinterpret_cast<float*>(partials.data()), pitch / int64_t{sizeof(float)}, c.slices);
  c.whole->unpack(partials.data(), w);
}

/// Calls part(images, x, y, sum) for every slice, each with a sum of its own, and adds these in order.
template <class T, class F>
const T* sum_slices(const ConvShape& s, const ConvChoice& c, const T* x, const T* y, const Buffer<T>& sums, F part) {
  parallel_for(c.slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Slice at = slice_at(s, c, i);
      part(at.images, x + at.x, y + at.y, sums.data() + i * s.weights());
    }
  });
  add_partials(sums.data(), s.weights(), c.slices);
  return sums.data();
}

template <class T>
void run_weights(const ConvShape& s, T* x, T* w, T* y) {
  const ConvChoice& c = conv_choice(s, dtype_of<T>());
  if constexpr (std::is_same_v<T, float>) {
    if (c.method == ConvMethod::library) return run_dnn_weights(s, c, x, w, y);
    if (c.method == ConvMethod::patches) return patches_weights(s, x, w, y);
  }
  const Buffer<T> sums(c.slices * s.weights());
  if constexpr (std::is_same_v<T, float>)
    if (c.method == ConvMethod::direct)
      return weights_to_front(s,
                              sum_slices(s, c, x, y, sums,
                                         [&](int64_t images, const float* from, const float* dy, float* sum) {
                                           direct_weights(s, images, from, sum, dy);
                                         }),
                              w);
  const T* sum = sum_slices(s, c, x, y, sums, [&](int64_t images, const T* from, const T* dy, T* to) {
    im2col_backward_weights<T>(s, images, from, to, dy);
  });
  std::copy_n(sum, s.weights(), w);
}

/// Forward, or towards the image, slice by slice.
template <class T>
void run_slices(const ConvShape& s, const ConvChoice& c, T* x, const T* w, T* y, const Epilogue* epilogue) {
  const bool forward = s.pass == ConvPass::forward;
  if constexpr (std::is_same_v<T, float>) {
    if (c.method == ConvMethod::library) return run_dnn(s, c, x, w, y, epilogue);
  }
  parallel_for(c.slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Slice at = slice_at(s, c, i);
      if (forward)
        im2col_forward<T>(s, at.images, x + at.x, w, y + at.y);
      else
        im2col_backward_data<T>(s, at.images, x + at.x, w, y + at.y);
      if (epilogue) finish_slice(s, c, i, *epilogue);
    }
  });
}

void weights_pass(const KernelCall& call) {
  const ConvShape s = conv_shape(ConvPass::backward_weights, call);
  if (!call.inputs[0].layout->numel || !call.inputs[1].layout->numel) return zero(call.output);
  visit_numbers(call, call.output.layout->dtype(),
                [&]<class T>(T) { run_weights(s, in<T>(call, 0), out<T>(call), in<T>(call, 1)); });
}

void image_pass(ConvPass pass, const KernelCall& call) {
  if (!call.output.layout->numel) return;
  const ConvShape s = conv_shape(pass, call);
  const DType dtype = call.output.layout->dtype();
  if (dtype == DType::boolean || is_short(dtype)) fail("{}: not defined for {}", call.op.name, name_of(dtype));
  if (!call.inputs[0].layout->numel || !call.inputs[1].layout->numel) return zero(call.output);
  const auto packed = pack_conv_weights(s, dtype, call.inputs[1].data);
  const bool forward = pass == ConvPass::forward;
  convolve(s, dtype, forward ? call.inputs[0].data : call.output.data, call.inputs[1].data,
           forward ? call.output.data : call.inputs[0].data, packed.get(), nullptr);
}

}  // namespace

ConvShape ConvShape::turned() const {
  ConvShape t = *this;
  std::swap(t.c, t.out);
  std::swap(t.h, t.oh);
  std::swap(t.w, t.ow);
  const auto span = [](int64_t k, int64_t step) { return static_cast<int32_t>((k - 1) * step); };
  t.top = span(kh, dilation_h) - top;
  t.left = span(kw, dilation_w) - left;
  t.bottom = span(kh, dilation_h) - bottom;
  t.right = span(kw, dilation_w) - right;
  t.pass = ConvPass::forward;
  return t;
}

ConvShape conv_shape(ConvPass pass, const KernelCall& call) {
  const auto& a = call.attrs.as<ConvAttrs>();
  const Layout &first = *call.inputs[0].layout, &second = *call.inputs[1].layout, &result = *call.output.layout;
  const Shape& x = (pass == ConvPass::backward_data ? result : first).shape();
  const Shape& w = (pass == ConvPass::backward_weights ? result : second).shape();
  const Shape& y = (pass == ConvPass::forward ? result : pass == ConvPass::backward_data ? first : second).shape();
  const bool nhwc = a.format == static_cast<int32_t>(DataFormat::nhwc);
  const int ch = nhwc ? 3 : 1, h = nhwc ? 1 : 2;
  const ConvShape s{x[0],    x[ch],        x[h],         x[h + 1],   w[0],  w[2],   w[3],
                    y[h],    y[h + 1],     a.stride_h,   a.stride_w, a.top, a.left, a.bottom,
                    a.right, a.dilation_h, a.dilation_w, nhwc,       pass};
  const bool fit = first.dtype() == second.dtype() && x[0] == y[0] && w[1] == s.c && y[ch] == s.out && a.groups <= 1 &&
                   s.oh == extent_after(s.h + s.top + s.bottom, s.kh, s.dilation_h, s.stride_h) &&
                   s.ow == extent_after(s.w + s.left + s.right, s.kw, s.dilation_w, s.stride_w);
  if (!fit)
    fail("{}: image {}, weight {} and result {} do not belong together", call.op.name, to_string(x), to_string(w),
         to_string(y));
  return s;
}

const ConvChoice& conv_choice(const ConvShape& shape, DType dtype) {
  static Choices* const choices = new Choices;  // never destroyed: kernels may run while statics go
  const Key key{shape, dtype};
  {
    std::shared_lock lock(choices->mutex);
    if (const auto it = choices->map.find(key); it != choices->map.end()) return it->second;
  }
  ConvChoice made = choose(shape, dtype);
  std::unique_lock lock(choices->mutex);
  return choices->map.try_emplace(key, std::move(made)).first->second;
}

std::unique_ptr<const PackedB<float>> pack_conv_weights(const ConvShape& s, DType dtype, const void* weights) {
  const ConvMethod method = conv_choice(s, dtype).method;
  if (method != ConvMethod::direct && method != ConvMethod::patches) return nullptr;
  const auto* w = static_cast<const float*>(weights);
  const int64_t taps = s.kh * s.kw, all = s.c * taps;
  if (s.turns()) {
    if (taps == 1) return pack_b(s.out, s.c, w, s.c, 1);
    const Buffer<float> turned(s.weights());  // [kh, kw, out, c], the window turned around
    parallel_for(s.out, grain(all), [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o)
        for (int64_t t = 0; t < taps; ++t)
          for (int64_t c = 0; c < s.c; ++c)
            turned.data()[(t * s.out + o) * s.c + c] = w[o * all + c * taps + taps - 1 - t];
    });
    return pack_b(taps * s.out, s.c, turned.data(), s.c, 1);
  }
  const auto in_order = [&](const float* data) {
    return s.pass == ConvPass::forward ? pack_b(all, s.out, data, 1, all) : pack_b(s.out, all, data, all, 1);
  };
  if (taps == 1 || s.c == 1) return in_order(w);
  const Buffer<float> last(s.weights());  // [out, kh, kw, c]
  parallel_for(s.out, grain(all), [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o)
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t c = 0; c < s.c; ++c) last.data()[o * all + t * s.c + c] = w[o * all + c * taps + t];
  });
  return in_order(last.data());
}

void convolve(const ConvShape& s, DType dtype, void* x, const void* w, void* y, const PackedB<float>* packed,
              const Epilogue* epilogue) {
  const ConvChoice& choice = conv_choice(s, dtype);
  auto* const image = static_cast<float*>(x);
  auto* const result = static_cast<float*>(y);
  if (choice.method == ConvMethod::direct || choice.method == ConvMethod::patches) {
    const auto run = choice.method == ConvMethod::direct ? direct_forward : patches_forward;
    if (s.pass == ConvPass::forward) return run(s, image, *packed, result, epilogue);
    if (s.adds_patches()) return patches_backward_data(s, image, *packed, result, epilogue);
    return run(s.turned(), result, *packed, image, epilogue);
  }
  visit_dtype(dtype, [&]<class T>(T) {
    if constexpr (!std::is_same_v<T, bool> && !is_float16<T>)
      run_slices(s, choice, static_cast<T*>(x), static_cast<const T*>(w), static_cast<T*>(y), epilogue);
  });
}

void conv2d(const KernelCall& call) { image_pass(ConvPass::forward, call); }
void conv2d_backward_data(const KernelCall& call) { image_pass(ConvPass::backward_data, call); }
void conv2d_backward_weights(const KernelCall& call) {
  if (call.output.layout->numel) weights_pass(call);
}

}  // namespace rp::cpu
