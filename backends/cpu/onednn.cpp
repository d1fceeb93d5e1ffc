#include "reprise/backends/cpu/onednn.h"

#include <dlfcn.h>

#include <cstring>
#include <initializer_list>
#include <oneapi/dnnl/dnnl.hpp>
#include <optional>
#include <utility>

namespace rp::cpu {

namespace {

using dnnl::memory;
using Desc = memory::desc;
using Tag = memory::format_tag;

/// oneDNN's OpenMP runtime, found at run time: the library may have been built with another one, or none.
struct OpenMp {
  int (*threads)() = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  void (*set_threads)(int) = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
};

/// Within its scope oneDNN uses the calling thread alone; the caller's setting is left as found.
class OneThread {
 public:
  OneThread() {
    if (!omp().threads || !omp().set_threads) return;
    before_ = omp().threads();
    if (before_ != 1) omp().set_threads(1);
  }
  ~OneThread() {
    if (before_ > 1) omp().set_threads(before_);
  }
  OneThread(const OneThread&) = delete;

 private:
  static const OpenMp& omp() {
    static const OpenMp runtime;
    return runtime;
  }
  int before_ = 1;
};

// The instruction set is part of the result, so it is AVX2 everywhere.
dnnl::engine& engine() {
  static dnnl::engine* const e = [] {
    dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);  // never destroyed: kernels may run while statics go
  }();
  return *e;
}

dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}

size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

memory bound(const Desc& desc, const void* data) { return memory(desc, engine(), const_cast<void*>(data)); }

dnnl::primitive_attr own_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

/// A tensor as oneDNN wants it, and the way there from plain memory and back.
class Inner {
 public:
  Inner(const Desc& plain, const Desc& inner, bool to, bool from) : plain_(plain), inner_(inner) {
    if (same()) return;
    if (to) to_ = Move(plain, inner);
    if (from) from_ = Move(inner, plain);
  }
  bool same() const { return plain_ == inner_; }
  const Desc& desc() const { return inner_; }
  size_t bytes() const { return inner_.get_size(); }
  void pack(const void* plain, void* inner) const { to_.run(plain_, plain, inner_, inner); }
  void unpack(const void* inner, void* plain) const { from_.run(inner_, inner, plain_, plain); }

 private:
  /// A copy where there is nothing else to do, our own transposition between nchw and nhwc (oneDNN's takes several
  /// times as long), or a reorder.
  class Move {
   public:
    Move() = default;
    Move(const Desc& from, const Desc& to) {
      const auto dims = from.dims();
      const auto is = [&](const Desc& d, Tag tag) { return d == Desc(dims, memory::data_type::f32, tag); };
      const int64_t plane = dims[2] * dims[3];
      if (is(from, Tag::nchw) && is(to, Tag::nhwc))
        images_ = dims[0], rows_ = dims[1], columns_ = plane;
      else if (is(from, Tag::nhwc) && is(to, Tag::nchw))
        images_ = dims[0], rows_ = plane, columns_ = dims[1];
      else
        reorder_.emplace(dnnl::reorder::primitive_desc(engine(), from, engine(), to));
    }
    void run(const Desc& from_desc, const void* from, const Desc& to_desc, void* to) const {
      if (reorder_) {
        OneThread one;
        reorder_->execute(stream(), {{DNNL_ARG_FROM, bound(from_desc, from)}, {DNNL_ARG_TO, bound(to_desc, to)}});
      } else if (images_) {
        transpose_images(images_, rows_, columns_, static_cast<const float*>(from), static_cast<float*>(to));
      } else {
        std::memcpy(to, from, from_desc.get_size());
      }
    }

   private:
    std::optional<dnnl::reorder> reorder_;
    int64_t images_ = 0, rows_ = 0, columns_ = 0;
  };

  Desc plain_, inner_;
  Move to_, from_;
};

struct Descs {
  Desc x, w, y;
};

/// A primitive with what it reads and writes.
struct Made {
  dnnl::primitive primitive;
  Descs descs;
  Desc scratchpad;
  std::string form;
};

template <class P>
std::optional<Made> made(const P& pd, const Desc& x, const Desc& w, const Desc& y) {
  const std::string form = pd.impl_info_str();
  if (form.find("ref") != std::string::npos) return {};  // hundreds of times slower than anything else
  return Made{dnnl::primitive(pd.get()), {x, w, y}, pd.scratchpad_desc(), form};
}

struct Window {
  memory::dims strides, dilation, before, after;
};

std::optional<Made> make(ConvPass pass, const Descs& d, const Window& v) {
  using namespace dnnl;
  constexpr auto algorithm = algorithm::convolution_direct;
  const primitive_attr attr = own_scratchpad();
  try {
    const convolution_forward::primitive_desc forward(
        {prop_kind::forward_training, algorithm, d.x, d.w, d.y, v.strides, v.dilation, v.before, v.after}, attr,
        engine());
    if (pass == ConvPass::forward) return made(forward, forward.src_desc(), forward.weights_desc(), forward.dst_desc());
    if (pass == ConvPass::backward_data) {
      const convolution_backward_data::primitive_desc pd(
          {algorithm, d.x, d.w, d.y, v.strides, v.dilation, v.before, v.after}, attr, engine(), forward);
      return made(pd, pd.diff_src_desc(), pd.weights_desc(), pd.diff_dst_desc());
    }
    const convolution_backward_weights::primitive_desc pd(
        {algorithm, d.x, d.w, d.y, v.strides, v.dilation, v.before, v.after}, attr, engine(), forward);
    return made(pd, pd.src_desc(), pd.diff_weights_desc(), pd.diff_dst_desc());
  } catch (const dnnl::error&) {
    return {};
  }
}

class Conv final : public DnnConv {
 public:
  Conv(ConvPass pass, Made&& made, const Descs& plain)
      : pass_(pass),
        primitive_(made.primitive),
        x_(plain.x, made.descs.x, pass != ConvPass::backward_data, pass == ConvPass::backward_data),
        w_(plain.w, made.descs.w, pass != ConvPass::backward_weights, pass == ConvPass::backward_weights),
        y_(plain.y, made.descs.y, pass != ConvPass::forward, pass == ConvPass::forward),
        scratchpad_(made.scratchpad),
        form_(std::move(made.form)) {}

  std::string_view form() const override { return form_; }
  int reorders() const override { return !x_.same() + !y_.same(); }
  const Desc& weights_desc() const { return w_.desc(); }
  size_t weights_bytes() const override { return w_.bytes(); }
  size_t scratch_bytes() const override {
    return (x_.same() ? 0 : padded(x_.bytes())) + (y_.same() ? 0 : padded(y_.bytes())) + padded(scratchpad_.get_size());
  }
  void pack(const float* plain, std::byte* inner) const override { w_.pack(plain, inner); }
  void unpack(const std::byte* inner, float* plain) const override { w_.unpack(inner, plain); }

  void run(float* x, std::byte* w, float* y, std::byte* scratch) const override {
    OneThread one;
    const auto place = [&](const Inner& inner, float* plain) -> void* {
      if (inner.same()) return plain;
      return std::exchange(scratch, scratch + padded(inner.bytes()));
    };
    void* const x_inner = place(x_, x);
    void* const y_inner = place(y_, y);
    if (pass_ != ConvPass::backward_data && !x_.same()) x_.pack(x, x_inner);
    if (pass_ != ConvPass::forward && !y_.same()) y_.pack(y, y_inner);
    const bool data = pass_ == ConvPass::backward_data, weights = pass_ == ConvPass::backward_weights;
    primitive_.execute(stream(),
                       {{data ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, bound(x_.desc(), x_inner)},
                        {weights ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, bound(w_.desc(), w)},
                        {pass_ == ConvPass::forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, bound(y_.desc(), y_inner)},
                        {DNNL_ARG_SCRATCHPAD, bound(scratchpad_, scratch)}});
    if (data && !x_.same()) x_.unpack(x_inner, x);
    if (pass_ == ConvPass::forward && !y_.same()) y_.unpack(y_inner, y);
  }

 private:
  ConvPass pass_;
  dnnl::primitive primitive_;
  Inner x_, w_, y_;
  Desc scratchpad_;
  std::string form_;
};

/// Layouts of activations to try, best first, as measured on AVX2.
std::initializer_list<Tag> candidates(const ConvShape& s) {
  static constexpr std::initializer_list<Tag> blocked{Tag::any, Tag::nhwc, Tag::nchw};
  static constexpr std::initializer_list<Tag> channels_last{Tag::nhwc, Tag::any, Tag::nchw};
  static constexpr std::initializer_list<Tag> planes{Tag::nchw, Tag::nhwc, Tag::any};
  if (s.nhwc) return channels_last;
  if (s.c > 4) return blocked;
  // With few channels, blocks of eight are mostly padding.
  if (s.pass == ConvPass::backward_data) return planes;
  return s.pass == ConvPass::backward_weights ? channels_last : blocked;
}

}  // namespace

std::unique_ptr<const DnnConv> make_dnn_conv(const ConvShape& s, const DnnConv* like) {
  OneThread one;
  engine();
  constexpr auto f32 = memory::data_type::f32;
  const Tag tag = s.nhwc ? Tag::nhwc : Tag::nchw;
  const memory::dims x{s.n, s.c, s.h, s.w}, w{s.out, s.c, s.kh, s.kw}, y{s.n, s.out, s.oh, s.ow};
  const Descs plain{Desc(x, f32, tag), Desc(w, f32, Tag::oihw), Desc(y, f32, tag)};
  const Window window{
      {s.stride_h, s.stride_w}, {s.dilation_h - 1, s.dilation_w - 1}, {s.top, s.left}, {s.bottom, s.right}};
  const Desc weights = like ? static_cast<const Conv*>(like)->weights_desc() : Desc(w, f32, Tag::any);
  for (const Tag inner : candidates(s)) {
    auto made = make(s.pass, {Desc(x, f32, inner), weights, Desc(y, f32, inner)}, window);
    if (made) return std::make_unique<Conv>(s.pass, std::move(*made), plain);
  }
  return nullptr;
}

}  // namespace rp::cpu
