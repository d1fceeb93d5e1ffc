#include "reprise/backends/cuda/cudnn_engine.h"

#include <algorithm>

#include "reprise/backends/cuda/device.h"

namespace rp::cuda {
namespace {

/// A graph as cuDNN's descriptors.
class Described {
 public:
  explicit Described(const DnnGraph& graph) : alignment_(graph.alignment) {
    for (const DnnTensor& t : graph.tensors) tensors_.push_back(tensor(t));
    for (const DnnOperation& o : graph.operations) operations_.push_back(operation(o));
    graph_.set<CUDNN_ATTR_OPERATIONGRAPH_OPS>(operations_);
    graph_.finalize();
  }
  const Descriptor& graph() const { return graph_; }

 private:
  Descriptor tensor(const DnnTensor& t) {
    Descriptor d = Descriptor::make<CUDNN_BACKEND_TENSOR_DESCRIPTOR>();
    d.set<CUDNN_ATTR_TENSOR_DATA_TYPE>(t.type);
    d.set<CUDNN_ATTR_TENSOR_DIMENSIONS>(t.shape);
    d.set<CUDNN_ATTR_TENSOR_STRIDES>(t.strides);
    d.set<CUDNN_ATTR_TENSOR_UNIQUE_ID>(dnn_number(tensors_.size()));
    d.set<CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT>(
        static_cast<int64_t>(t.kind == DnnTensor::Kind::constant ? size_of(t.type) : alignment_));
    if (t.kind == DnnTensor::Kind::inner) d.set<CUDNN_ATTR_TENSOR_IS_VIRTUAL>(true);
    if (t.kind == DnnTensor::Kind::constant) d.set<CUDNN_ATTR_TENSOR_IS_BY_VALUE>(true);
    d.finalize();
    return d;
  }

  const Descriptor& at(int tensor) const { return tensors_[static_cast<size_t>(tensor)]; }

  Descriptor operation(const DnnOperation& o) {
    switch (o.kind) {
      case DnnOperation::Kind::convolution:
        return convolved<CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y>(o);
      case DnnOperation::Kind::image_gradient:
        return convolved<CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX>(o);
      case DnnOperation::Kind::weights_gradient:
        return convolved<
            CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
            CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW>(o);
      case DnnOperation::Kind::pointwise:
        return pointwise(o);
      case DnnOperation::Kind::product:
        return product(o);
      case DnnOperation::Kind::reduction:
        return reduction(o);
      case DnnOperation::Kind::transpose:
        break;
    }
    Descriptor d = Descriptor::make<CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR>();
    d.set<CUDNN_ATTR_OPERATION_RESHAPE_XDESC>(at(o.inputs[0]));
    d.set<CUDNN_ATTR_OPERATION_RESHAPE_YDESC>(at(o.output));
    d.finalize();
    return d;
  }

  template <auto type, auto how, auto alpha, auto beta, auto first, auto second, auto result>
  Descriptor convolved(const DnnOperation& o) {
    Descriptor w = Descriptor::make<CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR>();
    w.set<CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS>(static_cast<int64_t>(o.window.strides.rank()));
    w.set<CUDNN_ATTR_CONVOLUTION_COMP_TYPE>(o.compute);
    w.set<CUDNN_ATTR_CONVOLUTION_CONV_MODE>(CUDNN_CROSS_CORRELATION);
    w.set<CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS>(o.window.before);
    w.set<CUDNN_ATTR_CONVOLUTION_POST_PADDINGS>(o.window.after);
    w.set<CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES>(o.window.strides);
    w.set<CUDNN_ATTR_CONVOLUTION_DILATIONS>(o.window.dilation);
    w.finalize();
    Descriptor d = Descriptor::make<type>();
    d.template set<how>(w);
    if (o.compute == CUDNN_DATA_DOUBLE) {
      d.template set<alpha>(1.0);
      d.template set<beta>(0.0);
    } else {
      d.template set<alpha>(1.0f);
      d.template set<beta>(0.0f);
    }
    d.template set<first>(at(o.inputs[0]));
    d.template set<second>(at(o.inputs[1]));
    d.template set<result>(at(o.output));
    d.finalize();
    parts_.push_back(std::move(w));
    return d;
  }

  Descriptor pointwise(const DnnOperation& o) {
    Descriptor p = Descriptor::make<CUDNN_BACKEND_POINTWISE_DESCRIPTOR>();
    p.set<CUDNN_ATTR_POINTWISE_MODE>(o.pointwise);
    p.set<CUDNN_ATTR_POINTWISE_MATH_PREC>(o.compute);
    if (o.axis >= 0) p.set<CUDNN_ATTR_POINTWISE_AXIS>(o.axis);
    p.finalize();
    Descriptor d = Descriptor::make<CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR>();
    d.set<CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR>(p);
    d.set<CUDNN_ATTR_OPERATION_POINTWISE_XDESC>(at(o.inputs[0]));
    if (o.inputs.size() > 1) d.set<CUDNN_ATTR_OPERATION_POINTWISE_BDESC>(at(o.inputs[1]));
    if (o.inputs.size() > 2) d.set<CUDNN_ATTR_OPERATION_POINTWISE_TDESC>(at(o.inputs[2]));
    d.set<CUDNN_ATTR_OPERATION_POINTWISE_YDESC>(at(o.output));
    d.finalize();
    parts_.push_back(std::move(p));
    return d;
  }

  Descriptor product(const DnnOperation& o) {
    Descriptor p = Descriptor::make<CUDNN_BACKEND_MATMUL_DESCRIPTOR>();
    p.set<CUDNN_ATTR_MATMUL_COMP_TYPE>(o.compute);
    p.finalize();
    Descriptor d = Descriptor::make<CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR>();
    d.set<CUDNN_ATTR_OPERATION_MATMUL_DESC>(p);
    d.set<CUDNN_ATTR_OPERATION_MATMUL_ADESC>(at(o.inputs[0]));
    d.set<CUDNN_ATTR_OPERATION_MATMUL_BDESC>(at(o.inputs[1]));
    d.set<CUDNN_ATTR_OPERATION_MATMUL_CDESC>(at(o.output));
    d.finalize();
    parts_.push_back(std::move(p));
    return d;
  }

  Descriptor reduction(const DnnOperation& o) {
    Descriptor p = Descriptor::make<CUDNN_BACKEND_REDUCTION_DESCRIPTOR>();
    p.set<CUDNN_ATTR_REDUCTION_OPERATOR>(o.reduction);
    p.set<CUDNN_ATTR_REDUCTION_COMP_TYPE>(o.compute);
    p.finalize();
    Descriptor d = Descriptor::make<CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR>();
    d.set<CUDNN_ATTR_OPERATION_REDUCTION_DESC>(p);
    d.set<CUDNN_ATTR_OPERATION_REDUCTION_XDESC>(at(o.inputs[0]));
    d.set<CUDNN_ATTR_OPERATION_REDUCTION_YDESC>(at(o.output));
    d.finalize();
    parts_.push_back(std::move(p));
    return d;
  }

  size_t alignment_;
  std::vector<Descriptor> tensors_, parts_, operations_;
  Descriptor graph_ = Descriptor::make<CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR>();
};

struct Objectionable {
  cudnnBackendNumericalNote_t note;
  std::string_view name;
  bool full_products_only;
};
template <auto note>
constexpr Objectionable objectionable(bool full_products_only) {
  return {note, enumerator_name<note>(), full_products_only};
}
// Transforms (FFT, Winograd) add up differences of large numbers, which costs more than the last bits.
constexpr Objectionable objections[] = {
    objectionable<CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC>(false),
    objectionable<CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION>(false),
    objectionable<CUDNN_NUMERICAL_NOTE_FFT>(false),
    objectionable<CUDNN_NUMERICAL_NOTE_WINOGRAD>(false),
    objectionable<CUDNN_NUMERICAL_NOTE_TENSOR_CORE>(true),
    objectionable<CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS>(true),
};

std::vector<DnnEngine> engines_of(const Descriptor& graph, const DnnTarget& target, cudnnBackendHeurMode_t mode) {
  Descriptor h = Descriptor::make<CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR>();
  h.set<CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH>(graph);
  h.set<CUDNN_ATTR_ENGINEHEUR_MODE>(mode);
  h.set<CUDNN_ATTR_ENGINEHEUR_DEVICEPROP>(target.descriptor());
  std::string why;
  if (!h.finalize_if_supported(&why)) return {};
  std::vector<DnnEngine> list;
  for (Descriptor& c : h.get<CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR>()) {
    const auto engine = c.get<CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR>();
    if (engine.empty()) continue;
    const auto number = engine[0].get<CUDNN_ATTR_ENGINE_GLOBAL_INDEX, int64_t>();
    list.push_back({std::move(c), number.empty() ? -1 : number[0],
                    engine[0].get<CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, cudnnBackendNumericalNote_t>()});
  }
  return list;
}

}  // namespace

/// The device that the backend computes on.
class Here {
 public:
  Here() : target_(described(), std::make_unique<DnnHandle>()) {}
  const DnnTarget& target() const { return target_; }

 private:
  static Descriptor described() {
    device();  // or the reason why there is none
    Descriptor d = Descriptor::make<CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR>();
    d.set<CUDNN_ATTR_DEVICEPROP_DEVICE_ID>(int32_t{0});
    return d;
  }
  DnnTarget target_;
};

const DnnTarget& DnnTarget::here() {
  static Lazy<Here> here;
  return here.get().target();
}

Descriptor empty_dnn_plan(const DnnTarget& target) {
  Descriptor p = Descriptor::make<CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR>();
  if (target.handle())
    p.set<CUDNN_ATTR_EXECUTION_PLAN_HANDLE>(target.handle()->raw());
  else
    p.set<CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP>(target.descriptor());
  return p;
}

void DnnHandle::execute(const Descriptor& plan, const Descriptor& pack, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  cudnn().cudnnSetStream(handle_, stream);
  cudnn().cudnnBackendExecute(handle_, plan.raw(), pack.raw());
}

std::vector<DnnEngine> dnn_engines(const DnnGraph& graph, const DnnTarget& target, cudnnBackendHeurMode_t mode) {
  return engines_of(Described(graph).graph(), target, mode);
}

std::string_view objection(const DnnEngine& engine, const DnnGraph& graph) {
  for (const Objectionable& o : objections)
    if ((graph.full_products || !o.full_products_only) && std::ranges::find(engine.notes, o.note) != engine.notes.end())
      return o.name;
  return {};
}

DnnChoice choose_engine(const DnnGraph& graph, const DnnTarget& target) {
  const Described described(graph);
  std::string reasons;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const DnnEngine& e : engines_of(described.graph(), target, mode)) {
      std::string why{objection(e, graph)};
      if (why.empty()) {
        Descriptor p = empty_dnn_plan(target);
        p.set<CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG>(e.configuration);
        if (p.finalize_if_supported(&why))
          return {e.number, p.get<CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, int64_t>().at(0),
                  p.get_text<CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION>()};
      }
      reasons += fmt::format("; engine {}: {}", e.number, why);
    }
  fail("cudnn: {}: no engine{}", graph.name, reasons.empty() ? " is proposed" : reasons);
}

DnnTarget::DnnTarget(std::string properties)
    : DnnTarget([&] {
        Descriptor d = Descriptor::make<CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR>();
        d.set<CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION>(properties);
        return d;
      }()) {}

DnnTarget::DnnTarget(Descriptor descriptor, std::unique_ptr<DnnHandle> handle)
    : handle_(std::move(handle)), descriptor_(std::move(descriptor)) {
  descriptor_.finalize();
  properties_ = descriptor_.get_text<CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION>();
}

}  // namespace rp::cuda
