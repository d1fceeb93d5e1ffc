#pragma once
// The public operations. Each runs at once, or is recorded, captured and fused; each has gradients of any order where
// they make sense. Operands broadcast as in NumPy and are promoted to a common dtype (bool < i32 < i64 < bf16, f16 <
// f32 < f64, and f32 for bf16 with f16; a C++ number adapts to the tensors it meets). Wrong shapes, axes and dtypes
// throw rp::Error with the line of the call.
#include <optional>

#include "reprise/core/tensor.h"

namespace rp {

// ---- creation ----

/// A tensor filled with `value`. The dtype is f32 unless given.
Tensor full(const Shape& shape, Scalar value, DType dtype = DType::f32, Loc loc = Loc::current());
Tensor zeros(const Shape& shape, DType dtype = DType::f32, Loc loc = Loc::current());
Tensor ones(const Shape& shape, DType dtype = DType::f32, Loc loc = Loc::current());
Tensor full_like(In x, Scalar value);
Tensor zeros_like(In x);
Tensor ones_like(In x);
/// A tensor of the values given, in row-major order; `values.size()` must be the shape's product.
template <class T>
Tensor tensor(std::span<const T> values, const Shape& shape, Loc loc = Loc::current());
template <class T>
Tensor tensor(const std::vector<T>& values, const Shape& shape, Loc loc = Loc::current()) {
  return tensor(std::span<const T>(values), shape, loc);
}
/// A 1-d tensor: `tensor({1.f, 2.f})`.
template <class T>
Tensor tensor(std::initializer_list<T> values, Loc loc = Loc::current()) {
  return tensor(std::span<const T>(values.begin(), values.size()), {static_cast<int64_t>(values.size())}, loc);
}
/// A 0-d tensor.
Tensor scalar(Scalar value, DType dtype = DType::f32, Loc loc = Loc::current());
/// start, start + step, ... (`count` values).
Tensor arange(int64_t count, Scalar start = 0, Scalar step = 1, DType dtype = DType::i64, Loc loc = Loc::current());
/// A view of memory that somebody else owns and may change; `release(context)` is called when the last view dies.
template <class T>
Tensor from_blob(T* data, const Shape& shape, void (*release)(void*) = nullptr, void* context = nullptr,
                 Loc loc = Loc::current());

// ---- random: Philox, indexed by seed, position in program order and element ----

/// Uniform in [low, high). Of 16 bits, such a number rounded: low and high must have that dtype to be kept to.
Tensor uniform(const Shape& shape, double low = 0, double high = 1, DType dtype = DType::f32, Loc loc = Loc::current());
/// Gaussian (Box-Muller).
Tensor normal(const Shape& shape, double mean = 0, double stddev = 1, DType dtype = DType::f32,
              Loc loc = Loc::current());
/// Uniform integers in [low, high); at most 2^32 different ones.
Tensor randint(const Shape& shape, int64_t low, int64_t high, DType dtype = DType::i64, Loc loc = Loc::current());
/// True with probability p.
Tensor bernoulli(const Shape& shape, double p, Loc loc = Loc::current());

// ---- arithmetic ----

Tensor add(const Operand& a, const Operand& b);
Tensor sub(const Operand& a, const Operand& b);
Tensor mul(const Operand& a, const Operand& b);
/// True division: integers become f32.
Tensor div(const Operand& a, const Operand& b);
/// Division rounded towards minus infinity, and its remainder (sign of the divisor). Integer division by zero gives 0.
Tensor floor_div(const Operand& a, const Operand& b);
Tensor remainder(const Operand& a, const Operand& b);
Tensor pow(const Operand& a, const Operand& b);
Tensor maximum(const Operand& a, const Operand& b);  ///< NaN if either is NaN.
Tensor minimum(const Operand& a, const Operand& b);
Tensor neg(In x);
Tensor abs(In x);
Tensor sign(In x);
Tensor square(In x);
Tensor reciprocal(In x);
Tensor clamp(In x, Scalar low, Scalar high);

inline Tensor operator+(const Operand& a, const Operand& b) { return add(a, b); }
inline Tensor operator-(const Operand& a, const Operand& b) { return sub(a, b); }
inline Tensor operator*(const Operand& a, const Operand& b) { return mul(a, b); }
inline Tensor operator/(const Operand& a, const Operand& b) { return div(a, b); }
inline Tensor operator-(In x) { return neg(x); }

// ---- comparison and choice: results are bool ----

Tensor equal(const Operand& a, const Operand& b);
Tensor not_equal(const Operand& a, const Operand& b);
Tensor less(const Operand& a, const Operand& b);
Tensor less_equal(const Operand& a, const Operand& b);
Tensor greater(const Operand& a, const Operand& b);
Tensor greater_equal(const Operand& a, const Operand& b);
inline Tensor operator==(const Operand& a, const Operand& b) { return equal(a, b); }
inline Tensor operator!=(const Operand& a, const Operand& b) { return not_equal(a, b); }
inline Tensor operator<(const Operand& a, const Operand& b) { return less(a, b); }
inline Tensor operator<=(const Operand& a, const Operand& b) { return less_equal(a, b); }
inline Tensor operator>(const Operand& a, const Operand& b) { return greater(a, b); }
inline Tensor operator>=(const Operand& a, const Operand& b) { return greater_equal(a, b); }
/// On bool tensors.
Tensor logical_and(const Operand& a, const Operand& b);
Tensor logical_or(const Operand& a, const Operand& b);
Tensor logical_not(In x);
Tensor isnan(In x);
/// a where the condition (bool) is true, else b.
Tensor where(In condition, const Operand& a, const Operand& b);

/// x with `value` where the mask (bool) is true.
Tensor masked_fill(In x, In mask, Scalar value);

// ---- elementary functions: integers become f32 ----

Tensor exp(In x);
Tensor expm1(In x);
Tensor log(In x);
Tensor log1p(In x);
Tensor sqrt(In x);
Tensor rsqrt(In x);  ///< 1 / sqrt(x), two roundings.
Tensor sin(In x);
Tensor cos(In x);
Tensor tan(In x);
Tensor asin(In x);
Tensor acos(In x);
Tensor atan(In x);
Tensor tanh(In x);
Tensor sigmoid(In x);
Tensor erf(In x);
Tensor floor(In x);
Tensor ceil(In x);
Tensor round(In x);  ///< Ties to even.
Tensor trunc(In x);

// ---- activations ----

Tensor relu(In x);
Tensor leaky_relu(In x, double slope = 0.01);
Tensor elu(In x, double alpha = 1);
Tensor silu(In x);       ///< x * sigmoid(x)
Tensor softplus(In x);   ///< log(1 + exp(x)), without overflow
Tensor gelu(In x);       ///< x * Phi(x), by erf (Hendrycks and Gimpel, 2016)
Tensor gelu_tanh(In x);  ///< its tanh approximation

// ---- reductions. `axes` empty means all. Sums follow a fixed tree over the reduced elements ----

Tensor sum(In x, const Dims& axes = {}, bool keepdim = false);  ///< bool and i32 sum as i64
Tensor mean(In x, const Dims& axes = {}, bool keepdim = false);
Tensor max(In x, const Dims& axes = {}, bool keepdim = false);  ///< NaN if any is NaN. Throws on an empty axis.
Tensor min(In x, const Dims& axes = {}, bool keepdim = false);
/// Mean squared deviation; the divisor is n - correction.
Tensor var(In x, const Dims& axes = {}, bool keepdim = false, int correction = 1);
Tensor logsumexp(In x, const Dims& axes = {}, bool keepdim = false);
/// Index (i64) of the first largest or smallest element along an axis; a NaN counts as larger and as smaller.
Tensor argmax(In x, int axis = -1, bool keepdim = false);
Tensor argmin(In x, int axis = -1, bool keepdim = false);
Tensor any(In x, const Dims& axes = {}, bool keepdim = false);
Tensor all(In x, const Dims& axes = {}, bool keepdim = false);

// ---- matrices ----

/// Matrix product over the last two axes, batch axes broadcast: a: [..., m, k], b: [..., k, n] -> [..., m, n]; a 1-d
/// operand is a row on the left, a column on the right. Each element is summed in order of k.
Tensor matmul(In a, In b);
/// x: [..., in], w: [in, out], b: [out] -> [..., out]
Tensor linear(In x, In w, const Tensor& b = {});
/// The elements on and below a diagonal of the last two axes, and zeros; the diagonal counts up to the right from 0,
/// the main one.
Tensor tril(In x, int diagonal = 0);
/// Those on and above it.
Tensor triu(In x, int diagonal = 0);

struct AttentionOptions {
  bool causal = false;  ///< row i sees columns 0 to i only
  double scale = 0;     ///< 0: 1 / sqrt(width)
};
/// softmax(q · kᵀ * scale) · v (Vaswani et al., 2017): q: [..., rows, width], k: [..., columns, width], v: [...,
/// columns, out] -> [..., rows, out], batch axes broadcast. Only columns where the mask (bool, broadcast to [..., rows,
/// columns]) is true are seen; a row that sees none is NaN.
Tensor scaled_dot_product_attention(In q, In k, In v, const Tensor& mask = {}, AttentionOptions options = {});

// ---- normalisation and losses ----

Tensor softmax(In x, int axis = -1);
Tensor log_softmax(In x, int axis = -1);
/// Over the last axis: (x - mean) / sqrt(var + eps) * scale + shift; scale and shift: [n] or undefined. All three are
/// promoted to a common dtype.
Tensor layer_norm(In x, const Tensor& scale = {}, const Tensor& shift = {}, double eps = 1e-5);
/// Normalises `x` over every axis but `channel_axis` with the given statistics ([channels]).
Tensor batch_norm(In x, In mean, In variance, const Tensor& scale, const Tensor& shift, int channel_axis,
                  double eps = 1e-5);
/// Mean over the batch of -log softmax(logits)[label]. logits: [n, classes], labels: [n] integers in [0, classes).
Tensor cross_entropy(In logits, In labels);
Tensor mse_loss(In prediction, In target);

// ---- convolution and pooling ----

enum class DataFormat : int32_t { nchw, nhwc };
enum class Padding : int32_t { valid, same };
struct Conv2dOptions {
  int stride_h = 1, stride_w = 1;
  Padding padding = Padding::valid;  ///< same: output extent is ceil(extent / stride), the odd one padded at the end
  int dilation_h = 1, dilation_w = 1;
  DataFormat format = DataFormat::nchw;
};
/// x: [n, c, h, w] (nchw) or [n, h, w, c] (nhwc), w: [out, c, kh, kw] in both formats, bias: [out] or undefined.
Tensor conv2d(In x, In w, const Tensor& bias = {}, Conv2dOptions options = {});
/// The gradient of conv2d for its input of shape `x_shape`.
Tensor conv2d_backward_data(In dy, In w, const Shape& x_shape, Conv2dOptions options = {});
/// The gradient of conv2d for its weights of shape `w_shape`.
Tensor conv2d_backward_weights(In x, In dy, const Shape& w_shape, Conv2dOptions options = {});

struct Pool2dOptions {
  int window_h = 2, window_w = 2;
  int stride_h = 0, stride_w = 0;  ///< 0: as the window
  Padding padding = Padding::valid;
  DataFormat format = DataFormat::nchw;
};
Tensor max_pool2d(In x, Pool2dOptions options = {});
/// The mean of the elements inside the image.
Tensor avg_pool2d(In x, Pool2dOptions options = {});

// ---- indexing and assembly ----

/// Elements of x along `axis` at `indices` (integers): the result has x's shape with `axis` replaced by indices' shape.
/// An index outside [0, extent) throws.
Tensor index_select(In x, In indices, int axis = 0);
/// result[i][j] = x[i][indices[i][j]] along `axis`; x and indices have the same rank and agree on the other axes.
Tensor gather(In x, In indices, int axis = -1);
/// zeros(shape) with every element of `src` added at its index along `axis`, in order: the gradient of gather.
Tensor scatter_add(In src, In indices, const Shape& shape, int axis = -1);
Tensor one_hot(In indices, int64_t classes, DType dtype = DType::f32);
Tensor concat(const Tensors& tensors, int axis = 0, Loc loc = Loc::current());
Tensor stack(const Tensors& tensors, int axis = 0, Loc loc = Loc::current());
/// Zeros (or `value`) around: `before` and `after` have one entry per axis.
Tensor pad(In x, const Dims& before, const Dims& after, Scalar value = 0);
Tensors split(In x, int64_t parts, int axis = 0);

Tensor cast(In x, DType dtype);

/// Keeps each element with probability 1 - p and scales it by 1 / (1 - p); the identity when not training.
Tensor dropout(In x, double p, bool training = true);

// ---- in place: x's elements are replaced; x must have the result's shape. Returns x ----

const Tensor& add_(In x, const Operand& y);
const Tensor& sub_(In x, const Operand& y);
const Tensor& mul_(In x, const Operand& y);
const Tensor& div_(In x, const Operand& y);
const Tensor& clamp_(In x, Scalar low, Scalar high);
const Tensor& relu_(In x);
inline const Tensor& operator+=(const Tensor& x, const Operand& y) { return add_(In(x, y.loc), y); }
inline const Tensor& operator-=(const Tensor& x, const Operand& y) { return sub_(In(x, y.loc), y); }
inline const Tensor& operator*=(const Tensor& x, const Operand& y) { return mul_(In(x, y.loc), y); }
inline const Tensor& operator/=(const Tensor& x, const Operand& y) { return div_(In(x, y.loc), y); }

}  // namespace rp
