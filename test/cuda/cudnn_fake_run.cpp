// Runs the operations of a fake cuDNN's graph, in double precision.
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "reprise/core/dtype.h"
#include "reprise/test/cuda/cudnn_fake.h"

namespace rp::test {
namespace {

using Dims = std::vector<int64_t>;

/// A tensor's elements in row-major order of its dimensions.
struct Elements {
  Dims dims;
  std::vector<double> at;

  /// Dimensions of 1 are repeated.
  double& operator()(const Dims& index) { return at[offset(index)]; }
  double operator()(const Dims& index) const { return at[offset(index)]; }

 private:
  size_t offset(const Dims& index) const {
    int64_t offset = 0;
    for (size_t i = 0; i < dims.size(); ++i) offset = offset * dims[i] + (dims[i] == 1 ? 0 : index[i]);
    return static_cast<size_t>(offset);
  }
};

template <class F>
void for_each_index(const Dims& dims, F&& f) {
  Dims index(dims.size(), 0);
  for (;;) {
    f(index);
    size_t axis = dims.size();
    while (axis-- > 0 && ++index[axis] == dims[axis]) index[axis] = 0;
    if (axis == static_cast<size_t>(-1)) return;
  }
}

float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}
uint16_t to_bf16(double from) {
  const auto value = static_cast<float>(from);
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

class Run {
 public:
  explicit Run(const std::map<int64_t, void*>& memory) : memory_(memory) {}

  void operation(const FakeDescriptor& o) {
    switch (o.type) {
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return convolution(o, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, 2);
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        return convolution(o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                           CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, 0);
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
        return convolution(
            o, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, 1);
      case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return pointwise(o);
      case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return product(o);
      case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return reduction(o);
      case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return transpose(o);
      default:
        throw std::logic_error("the fake cuDNN has no such operation");
    }
  }

 private:
  static int64_t number(const FakeDescriptor& t) { return t.one<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID); }
  static Dims dims(const FakeDescriptor& t) { return t.list<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS); }
  static bool inner(const FakeDescriptor& t) { return t.has(CUDNN_ATTR_TENSOR_IS_VIRTUAL); }

  void* place(const FakeDescriptor& t, const Dims& index, size_t size) const {
    const auto strides = t.list<int64_t>(CUDNN_ATTR_TENSOR_STRIDES);
    int64_t offset = 0;
    for (size_t i = 0; i < index.size(); ++i) offset += index[i] * strides[i];
    return static_cast<char*>(memory_.at(number(t))) + offset * static_cast<int64_t>(size);
  }

  // Calls f with a value of the type in memory, and how it becomes a double and comes from one.
  template <class F>
  static void with_type(const FakeDescriptor& t, F&& f) {
    const auto same = [](auto value) { return value; };
    switch (t.one<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE)) {
      case CUDNN_DATA_DOUBLE:
        return f(0.0, same, same);
      case CUDNN_DATA_FLOAT:
        return f(0.0f, same, same);
      case CUDNN_DATA_BFLOAT16:
        return f(uint16_t{}, from_bf16, to_bf16);
      case CUDNN_DATA_HALF:
        return f(uint16_t{}, f16_value, [](double x) { return f16_bits(static_cast<float>(x)); });
      default:
        throw std::logic_error("the fake cuDNN keeps no such type in memory");
    }
  }

  Elements load(const FakeDescriptor& t) const {
    if (inner(t)) return inner_.at(number(t));
    Elements e{dims(t), {}};
    with_type(t, [&](auto value, auto from, auto) {
      for_each_index(e.dims, [&](const Dims& i) {
        std::memcpy(&value, place(t, i, sizeof value), sizeof value);
        e.at.push_back(from(value));
      });
    });
    return e;
  }

  void store(const FakeDescriptor& t, Elements e) {
    if (!inner(t))
      with_type(t, [&](auto value, auto, auto to) {
        for_each_index(e.dims, [&](const Dims& i) {
          value = static_cast<decltype(value)>(to(e(i)));
          std::memcpy(place(t, i, sizeof value), &value, sizeof value);
        });
      });
    inner_[number(t)] = std::move(e);
  }

  // One of x, w and y is computed from the other two; `result` says which.
  void convolution(const FakeDescriptor& o, cudnnBackendAttributeName_t xn, cudnnBackendAttributeName_t wn,
                   cudnnBackendAttributeName_t yn, cudnnBackendAttributeName_t how, int result) {
    const FakeDescriptor* const parts[] = {&o.child(xn), &o.child(wn), &o.child(yn)};
    Elements e[3];
    for (int i = 0; i < 3; ++i) {
      if (i != result)
        e[i] = load(*parts[i]);
      else
        e[i].dims = dims(*parts[i]);
      size_t count = 1;
      for (const int64_t d : e[i].dims) count *= static_cast<size_t>(d);
      e[i].at.resize(count);
    }
    const FakeDescriptor& c = o.child(how);
    const auto before = c.list<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
               strides = c.list<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
               dilation = c.list<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS);
    auto& [x, w, y] = e;
    for_each_index(y.dims, [&](const Dims& i) {
      for_each_index({w.dims[1], w.dims[2], w.dims[3]}, [&](const Dims& k) {
        const int64_t row = i[2] * strides[0] - before[0] + k[1] * dilation[0],
                      column = i[3] * strides[1] - before[1] + k[2] * dilation[1];
        if (row < 0 || row >= x.dims[2] || column < 0 || column >= x.dims[3]) return;
        const Dims xi{i[0], k[0], row, column}, wi{i[1], k[0], k[1], k[2]};
        double* const places[] = {&x(xi), &w(wi), &y(i)};
        *places[result] += *places[(result + 1) % 3] * *places[(result + 2) % 3];
      });
    });
    store(*parts[result], std::move(e[result]));
  }

  void pointwise(const FakeDescriptor& o) {
    const FakeDescriptor& how = o.child(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR);
    const auto mode = how.one<cudnnPointwiseMode_t>(CUDNN_ATTR_POINTWISE_MODE);
    const FakeDescriptor& to = o.child(CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    Elements in[3], out{dims(to), {}};
    int count = 0;
    for (const auto name : {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                            CUDNN_ATTR_OPERATION_POINTWISE_TDESC})
      if (o.has(name) && mode != CUDNN_POINTWISE_GEN_INDEX) in[count++] = load(o.child(name));
    for_each_index(out.dims, [&](const Dims& i) {
      double v[3] = {};
      for (int k = 0; k < count; ++k) v[k] = in[k](i);
      out.at.push_back(mode == CUDNN_POINTWISE_GEN_INDEX
                           ? static_cast<double>(i[static_cast<size_t>(how.one<int64_t>(CUDNN_ATTR_POINTWISE_AXIS))])
                           : value(mode, v));
    });
    store(to, std::move(out));
  }

  static double value(cudnnPointwiseMode_t mode, const double* v) {
    switch (mode) {
      case CUDNN_POINTWISE_ADD:
        return v[0] + v[1];
      case CUDNN_POINTWISE_SUB:
        return v[0] - v[1];
      case CUDNN_POINTWISE_MUL:
        return v[0] * v[1];
      case CUDNN_POINTWISE_DIV:
        return v[0] / v[1];
      case CUDNN_POINTWISE_EXP:
        return std::exp(v[0]);
      case CUDNN_POINTWISE_LOG:
        return std::log(v[0]);
      case CUDNN_POINTWISE_RELU_FWD:
        return v[0] > 0 ? v[0] : 0;
      case CUDNN_POINTWISE_CMP_GE:
        return v[0] >= v[1];
      case CUDNN_POINTWISE_BINARY_SELECT:
        return v[2] != 0 ? v[0] : v[1];
      default:
        throw std::logic_error("the fake cuDNN has no such function");
    }
  }

  void product(const FakeDescriptor& o) {
    const Elements a = load(o.child(CUDNN_ATTR_OPERATION_MATMUL_ADESC)),
                   b = load(o.child(CUDNN_ATTR_OPERATION_MATMUL_BDESC));
    const FakeDescriptor& to = o.child(CUDNN_ATTR_OPERATION_MATMUL_CDESC);
    Elements c{dims(to), {}};
    for_each_index(c.dims, [&](const Dims& i) {
      double sum = 0;
      for (int64_t k = 0; k < a.dims.back(); ++k) {
        Dims ai = i, bi = i;
        ai.back() = k;
        bi[bi.size() - 2] = k;
        sum += a(ai) * b(bi);
      }
      c.at.push_back(sum);
    });
    store(to, std::move(c));
  }

  void reduction(const FakeDescriptor& o) {
    const Elements from = load(o.child(CUDNN_ATTR_OPERATION_REDUCTION_XDESC));
    const FakeDescriptor& to = o.child(CUDNN_ATTR_OPERATION_REDUCTION_YDESC);
    const bool most =
        o.child(CUDNN_ATTR_OPERATION_REDUCTION_DESC).one<cudnnReduceTensorOp_t>(CUDNN_ATTR_REDUCTION_OPERATOR) ==
        CUDNN_REDUCE_TENSOR_MAX;
    Elements result{dims(to), {}};
    for_each_index(result.dims,
                   [&](const Dims&) { result.at.push_back(most ? -std::numeric_limits<double>::infinity() : 0); });
    for_each_index(from.dims, [&](const Dims& i) {
      double& r = result(i);
      r = most ? std::max(r, from(i)) : r + from(i);
    });
    store(to, std::move(result));
  }

  void transpose(const FakeDescriptor& o) {
    const Elements from = load(o.child(CUDNN_ATTR_OPERATION_RESHAPE_XDESC));
    const FakeDescriptor& to = o.child(CUDNN_ATTR_OPERATION_RESHAPE_YDESC);
    Elements result{dims(to), {}};
    for_each_index(result.dims, [&](const Dims& i) {
      Dims turned = i;
      std::swap(turned[turned.size() - 2], turned.back());
      result.at.push_back(from(turned));
    });
    store(to, std::move(result));
  }

  const std::map<int64_t, void*>& memory_;
  std::map<int64_t, Elements> inner_;
};

}  // namespace

void run_fake_graph(const FakeDescriptor& graph, const std::map<int64_t, void*>& memory) {
  Run run(memory);
  for (const auto& operation : graph.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).children) run.operation(*operation);
}

}  // namespace rp::test
