// Views, reductions, products, normalisation and indexing.
#include <bit>
#include <cmath>
#include <map>

#include "reprise/backends/ref/ref.h"
#include "reprise/core/ops/attrs.h"

namespace rp::ref {
namespace {

using Real = long double;
using Reals = std::vector<Real>;

int64_t product(const Shape& s, int from, int to) {
  int64_t n = 1;
  for (int i = from; i < to; ++i) n *= s[i];
  return n;
}
int64_t count(const Shape& s) { return product(s, 0, s.rank()); }

// The coordinates of the element with a row-major number, and back.
Dims place(int64_t number, const Shape& s) {
  Dims at = s;
  for (int i = s.rank() - 1; i >= 0; --i) {
    at[i] = number % s[i];
    number /= s[i];
  }
  return at;
}
int64_t number(const Dims& at, const Shape& s) {
  int64_t n = 0;
  for (int i = 0; i < s.rank(); ++i) n = n * s[i] + at[i];
  return n;
}

// For every element of the result the element of the first input at `source(coordinates)`.
template <class F>
Reals pick(const LoopCall& c, F source) {
  const Array& x = c.inputs[0];
  Reals y(static_cast<size_t>(c.out.numel));
  for (int64_t i = 0; i < c.out.numel; ++i)
    y[static_cast<size_t>(i)] = x.values[static_cast<size_t>(source(place(i, c.out.shape())))];
  return y;
}

Reals reshape(const LoopCall& c) { return c.inputs[0].values; }

Reals permute(const LoopCall& c) {
  const Shape& s = c.inputs[0].shape;
  const auto& p = c.attrs.as<PermuteAttrs>();
  return pick(c, [&](const Dims& at) {
    Dims from = s;
    for (int i = 0; i < s.rank(); ++i) from[p.axes[i]] = at[i];
    return number(from, s);
  });
}

Reals expand(const LoopCall& c) {
  const Shape& s = c.inputs[0].shape;
  return pick(c, [&](const Dims& at) {
    Dims from = s;
    for (int i = 0; i < s.rank(); ++i) from[i] = s[i] == 1 ? 0 : at[i + at.rank() - s.rank()];
    return number(from, s);
  });
}

Reals slice(const LoopCall& c) {
  const Shape& s = c.inputs[0].shape;
  const auto& a = c.attrs.as<SliceAttrs>();
  return pick(c, [&](Dims at) {
    const int axis = static_cast<int>(a.axis);
    at[axis] = c.scalars.get<int64_t>(0) + at[axis] * a.step;
    return number(at, s);
  });
}

Reals part(const LoopCall& c) {
  const Shape& s = c.inputs[0].shape;
  const auto& a = c.attrs.as<PartAttrs>();
  return pick(c, [&](Dims at) {
    at[static_cast<int>(a.axis)] += a.start;
    return number(at, s);
  });
}

Reals as_strided(const LoopCall& c) {
  const Strides& strides = c.attrs.as<SpecAttrs>().spec->strides;
  return pick(c, [&](const Dims& at) {
    int64_t from = c.scalars.get<int64_t>(0);
    for (int i = 0; i < at.rank(); ++i) from += at[i] * strides[i];
    return from;
  });
}

template <class F>
Reals reduce(const LoopCall& c, Real start, F combine) {
  const Array& x = c.inputs[0];
  const auto& r = c.attrs.as<ReduceAttrs>();
  Shape kept;
  for (int i = 0; i < x.shape.rank(); ++i)
    if (!(r.axes >> i & 1)) kept.push_back(x.shape[i]);
  Reals y(static_cast<size_t>(count(kept)), start);
  for (size_t n = 0; n < x.values.size(); ++n) {
    const Dims at = place(static_cast<int64_t>(n), x.shape);
    Dims to;
    for (int i = 0; i < x.shape.rank(); ++i)
      if (!(r.axes >> i & 1)) to.push_back(at[i]);
    Real& sum = y[static_cast<size_t>(number(to, kept))];
    sum = combine(sum, x.values[n]);
  }
  return y;
}

Reals sum(const LoopCall& c) {
  return reduce(c, 0, [](Real a, Real b) { return a + b; });
}
Reals max(const LoopCall& c) {
  return reduce(c, -INFINITY,
                [](Real a, Real b) { return std::isnan(a) || std::isnan(b) ? Real(NAN) : std::fmax(a, b); });
}
Reals min(const LoopCall& c) {
  return reduce(c, INFINITY,
                [](Real a, Real b) { return std::isnan(a) || std::isnan(b) ? Real(NAN) : std::fmin(a, b); });
}

// A tensor as [outer, n, inner] around an axis.
struct Around {
  int64_t outer, n, inner;
  Around(const Shape& s, int axis) : outer(product(s, 0, axis)), n(s[axis]), inner(product(s, axis + 1, s.rank())) {}
  size_t at(int64_t o, int64_t i, int64_t k) const { return static_cast<size_t>((o * n + i) * inner + k); }
};

template <class F>
void for_rows(const Around& a, F f) {
  for (int64_t o = 0; o < a.outer; ++o)
    for (int64_t k = 0; k < a.inner; ++k) f(o, k);
}

template <class Better>
Reals arg(const LoopCall& c, Better better) {
  const Reals& x = c.inputs[0].values;
  const Around a(c.inputs[0].shape, c.attrs.as<ArgAttrs>().axis);
  Reals y;
  for_rows(a, [&](int64_t o, int64_t k) {
    int64_t best = 0;
    for (int64_t i = 1; i < a.n; ++i) {
      const Real now = x[a.at(o, i, k)], before = x[a.at(o, best, k)];
      if (!std::isnan(before) && (std::isnan(now) || better(now, before))) best = i;
    }
    y.push_back(static_cast<Real>(best));
  });
  return y;
}
Reals argmax(const LoopCall& c) {
  return arg(c, [](Real a, Real b) { return a > b; });
}
Reals argmin(const LoopCall& c) {
  return arg(c, [](Real a, Real b) { return a < b; });
}

Reals matmul(const LoopCall& c) {
  const Array &a = c.inputs[0], &b = c.inputs[1];
  const int r = a.shape.rank();
  const int64_t batch = product(a.shape, 0, r - 2), m = a.shape[r - 2], k = a.shape[r - 1], n = b.shape[r - 1];
  Reals y(static_cast<size_t>(batch * m * n));
  for (int64_t t = 0; t < batch; ++t)
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t l = 0; l < k; ++l)
          y[static_cast<size_t>((t * m + i) * n + j)] +=
              a.values[static_cast<size_t>((t * m + i) * k + l)] * b.values[static_cast<size_t>((t * k + l) * n + j)];
  return y;
}

Reals softmax_of(const LoopCall& c, bool logarithm) {
  const Reals& x = c.inputs[0].values;
  const Around a(c.inputs[0].shape, c.attrs.as<AxisAttrs>().axis);
  Reals y(x.size());
  for_rows(a, [&](int64_t o, int64_t k) {
    Real total = 0;
    for (int64_t i = 0; i < a.n; ++i) total += std::exp(x[a.at(o, i, k)]);
    for (int64_t i = 0; i < a.n; ++i) {
      const size_t p = a.at(o, i, k);
      y[p] = logarithm ? x[p] - std::log(total) : std::exp(x[p]) / total;
    }
  });
  return y;
}

Reals layer_norm(const LoopCall& c) {
  const Reals& x = c.inputs[0].values;
  const auto eps = std::bit_cast<double>(c.attrs.as<EpsAttrs>().bits);
  const auto n = static_cast<size_t>(c.inputs[0].shape.back());
  Reals y(x.size());
  for (size_t row = 0; row < x.size(); row += n) {
    Real mean = 0, variance = 0;
    for (size_t i = 0; i < n; ++i) mean += x[row + i] / static_cast<Real>(n);
    for (size_t i = 0; i < n; ++i) variance += (x[row + i] - mean) * (x[row + i] - mean) / static_cast<Real>(n);
    for (size_t i = 0; i < n; ++i) {
      const Real scale = c.inputs.size() > 1 ? c.inputs[1].values[i] : 1,
                 shift = c.inputs.size() > 2 ? c.inputs[2].values[i] : 0;
      y[row + i] = (x[row + i] - mean) / std::sqrt(variance + eps) * scale + shift;
    }
  }
  return y;
}

template <class Keep>
Reals triangle(const LoopCall& c, Keep keep) {
  const Shape& s = c.inputs[0].shape;
  Reals y = c.inputs[0].values;
  for (size_t i = 0; i < y.size(); ++i) {
    const Dims at = place(static_cast<int64_t>(i), s);
    if (!keep(at[s.rank() - 1] - at[s.rank() - 2], c.attrs.as<DiagonalAttrs>().diagonal)) y[i] = 0;
  }
  return y;
}
Reals tril(const LoopCall& c) {
  return triangle(c, [](int64_t at, int64_t diagonal) { return at <= diagonal; });
}
Reals triu(const LoopCall& c) {
  return triangle(c, [](int64_t at, int64_t diagonal) { return at >= diagonal; });
}

// How many matrices, and their extents.
struct Attention {
  explicit Attention(const LoopCall& call) : c(call) {
    const Shape &q = c.inputs[0].shape, &k = c.inputs[1].shape, &v = c.inputs[2].shape;
    const int r = q.rank();
    rows = static_cast<size_t>(q[r - 2]);
    columns = static_cast<size_t>(k[r - 2]);
    width = static_cast<size_t>(q[r - 1]);
    out = static_cast<size_t>(v[r - 1]);
    all_rows = c.inputs[0].values.size() / width;
  }

  // The product of row i of a with row j of b's matrix of the same batch.
  Real dot(const Array& a, size_t i, const Array& b, size_t j, size_t n) const {
    Real sum = 0;
    for (size_t w = 0; w < n; ++w) sum += a.values[i * n + w] * b.values[row(i, j) * n + w];
    return sum;
  }
  size_t row(size_t i, size_t j) const { return i / rows * columns + j; }
  Real scale() const { return std::bit_cast<double>(c.attrs.as<AttentionAttrs>().scale_bits); }

  // What row i of all weighs the columns by.
  Reals weights(size_t i, const Array* mask) const {
    Reals weights(columns);
    Real total = 0;
    for (size_t j = 0; j < columns; ++j) {
      const bool seen =
          (!c.attrs.as<AttentionAttrs>().causal || j <= i % rows) && (!mask || mask->values[i * columns + j] != 0);
      total += weights[j] = seen ? std::exp(dot(c.inputs[0], i, c.inputs[1], j, width) * scale()) : 0;
    }
    for (Real& w : weights) w /= total;
    return weights;
  }

  const LoopCall& c;
  size_t rows, columns, width, out, all_rows;
};

Reals attention(const LoopCall& c) {
  const Attention a(c);
  Reals y(static_cast<size_t>(c.out.numel));
  for (size_t i = 0; i < a.all_rows; ++i) {
    const Reals weights = a.weights(i, c.inputs.size() > 3 ? &c.inputs[3] : nullptr);
    for (size_t j = 0; j < a.columns; ++j)
      for (size_t o = 0; o < a.out; ++o) y[i * a.out + o] += weights[j] * c.inputs[2].values[a.row(i, j) * a.out + o];
  }
  return y;
}

Reals attention_gradient(const LoopCall& c) {
  const Attention a(c);
  const Array &q = c.inputs[0], &k = c.inputs[1], &v = c.inputs[2], &dy = c.inputs[3];
  Reals result(static_cast<size_t>(c.out.numel));
  Real *const dq = result.data(), *const dk = dq + q.values.size(), *const dv = dk + k.values.size();
  for (size_t i = 0; i < a.all_rows; ++i) {
    const Reals weights = a.weights(i, nullptr);
    Real mean = 0;  // of what the weights are worth
    for (size_t j = 0; j < a.columns; ++j) mean += weights[j] * a.dot(dy, i, v, j, a.out);
    for (size_t j = 0; j < a.columns; ++j) {
      const size_t at = a.row(i, j);
      const Real d = weights[j] * (a.dot(dy, i, v, j, a.out) - mean) * a.scale();
      for (size_t w = 0; w < a.width; ++w) {
        dq[i * a.width + w] += d * k.values[at * a.width + w];
        dk[at * a.width + w] += d * q.values[i * a.width + w];
      }
      for (size_t o = 0; o < a.out; ++o) dv[at * a.out + o] += weights[j] * dy.values[i * a.out + o];
    }
  }
  return result;
}

Reals index_select(const LoopCall& c) {
  const Around a(c.inputs[0].shape, c.attrs.as<AxisAttrs>().axis);
  Reals y;
  for (int64_t o = 0; o < a.outer; ++o)
    for (Real index : c.inputs[1].values)
      for (int64_t k = 0; k < a.inner; ++k) y.push_back(c.inputs[0].values[a.at(o, static_cast<int64_t>(index), k)]);
  return y;
}

Reals index_add(const LoopCall& c) {
  const Around a(c.out.shape(), static_cast<int>(c.attrs.as<ScatterAttrs>().axis));
  Reals y(static_cast<size_t>(c.out.numel));
  size_t next = 0;
  for (int64_t o = 0; o < a.outer; ++o)
    for (Real index : c.inputs[1].values)
      for (int64_t k = 0; k < a.inner; ++k) y[a.at(o, static_cast<int64_t>(index), k)] += c.inputs[0].values[next++];
  return y;
}

Reals gather(const LoopCall& c) {
  const int axis = c.attrs.as<AxisAttrs>().axis;
  size_t next = 0;
  return pick(c, [&](Dims at) {
    at[axis] = static_cast<int64_t>(c.inputs[1].values[next++]);
    return number(at, c.inputs[0].shape);
  });
}

Reals scatter_add(const LoopCall& c) {
  const int axis = static_cast<int>(c.attrs.as<ScatterAttrs>().axis);
  const Array& src = c.inputs[0];
  Reals y(static_cast<size_t>(c.out.numel));
  for (size_t i = 0; i < src.values.size(); ++i) {
    Dims at = place(static_cast<int64_t>(i), src.shape);
    at[axis] = static_cast<int64_t>(c.inputs[1].values[i]);
    y[static_cast<size_t>(number(at, c.out.shape()))] += src.values[i];
  }
  return y;
}

Reals concat(const LoopCall& c) {
  const int axis = c.attrs.as<AxisAttrs>().axis;
  Reals y;
  for (int64_t o = 0; o < product(c.out.shape(), 0, axis); ++o)
    for (const Array& x : c.inputs) {
      const int64_t row = product(x.shape, axis, x.shape.rank());
      y.insert(y.end(), x.values.begin() + o * row, x.values.begin() + (o + 1) * row);
    }
  return y;
}

}  // namespace

Loop find_loop(std::string_view op) {
  static const std::map<std::string_view, Loop> table{
      {"reshape", reshape},
      {"permute", permute},
      {"expand", expand},
      {"slice", slice},
      {"part", part},
      {"detach", reshape},
      {"as_strided", as_strided},
      {"sum", sum},
      {"max", max},
      {"min", min},
      {"argmax", argmax},
      {"argmin", argmin},
      {"matmul", matmul},
      {"segmented_matmul", matmul},
      {"softmax", [](const LoopCall& c) { return softmax_of(c, false); }},
      {"log_softmax", [](const LoopCall& c) { return softmax_of(c, true); }},
      {"layer_norm", layer_norm},
      {"tril", tril},
      {"triu", triu},
      {"scaled_dot_product_attention", attention},
      {"attention_gradient", attention_gradient},
      {"index_select", index_select},
      {"index_add", index_add},
      {"gather", gather},
      {"scatter_add", scatter_add},
      {"concat", concat},
  };
  const auto it = table.find(op);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace rp::ref
