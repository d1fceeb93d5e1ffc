// CUDA's own libraries, for what they say and take.
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

#include "reprise/backends/cuda/cublas_lt.h"
#include "reprise/backends/cuda/stream.h"
#include "reprise/bench/cuda_texts.h"

#if __has_include(<cudnn_graph.h>)
#include "reprise/backends/cuda/cudnn.h"
#endif

namespace bench {

using namespace rp::cuda;

#if __has_include(<cudnn_graph.h>)

nlohmann::json cudnn_json() {
  const Cudnn& t = cudnn();
  cudnnBackendDescriptor_t properties = nullptr;
  t.cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &properties);
  int32_t index = 0;
  t.cudnnBackendSetAttribute(properties, CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, 1, &index);
  t.cudnnBackendFinalize(properties);
  int64_t size = 0;
  t.cudnnBackendGetAttribute(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, 0, &size, nullptr);
  std::vector<char> text(static_cast<size_t>(size) + 1);
  t.cudnnBackendGetAttribute(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, size, &size,
                             text.data());
  t.cudnnBackendDestroyDescriptor(properties);
  return {{"version", t.cudnnGetVersion()}, {"properties", text.data()}};
}

#else

nlohmann::json cudnn_json() { throw std::runtime_error("this build is without cuDNN's headers"); }

#endif

struct LibraryProduct::State {
  explicit State(int64_t n) : n(n), a(bytes()), b(bytes()), c(bytes()) {}
  size_t bytes() const { return 2 * static_cast<size_t>(n * n); }

  int64_t n;
  CudaBytes a, b, c, workspace{workspace_bytes};
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
  cublasLtMatmulHeuristicResult_t choice{};

  static constexpr size_t workspace_bytes = size_t{32} << 20;
};

LibraryProduct::LibraryProduct(int64_t n) : state_(new State(n)) {
  const CublasLt& t = cublas_lt();
  State& s = *state_;
  std::vector<uint16_t> values(static_cast<size_t>(n * n));
  std::minstd_rand random(1);
  for (uint16_t& v : values) v = static_cast<uint16_t>(0x3F00u | (random() >> 8 & 0x80FFu));  // 0.5 to 2, both signs
  for (const CudaBytes* to : {&s.a, &s.b})
    copy(to->data(), reinterpret_cast<const std::byte*>(values.data()), s.bytes(), Direction::to_device);
  t.cublasLtCreate(&s.handle);
  t.cublasLtMatmulDescCreate(&s.product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const auto side = static_cast<uint64_t>(n);
  t.cublasLtMatrixLayoutCreate(&s.layout, CUDA_R_16BF, side, side, n);
  cublasLtMatmulPreference_t preference = nullptr;
  t.cublasLtMatmulPreferenceCreate(&preference);
  const size_t most = State::workspace_bytes;
  t.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
  int found = 0;
  t.cublasLtMatmulAlgoGetHeuristic(s.handle, s.product, s.layout, s.layout, s.layout, s.layout, preference, 1,
                                   &s.choice, &found);
  t.cublasLtMatmulPreferenceDestroy(preference);
  if (!found) throw std::runtime_error("cuBLASLt has no algorithm for this product");
}

LibraryProduct::~LibraryProduct() {
  const CublasLt& t = cublas_lt();
  if (state_->layout) t.cublasLtMatrixLayoutDestroy.raw(state_->layout);
  if (state_->product) t.cublasLtMatmulDescDestroy.raw(state_->product);
  if (state_->handle) t.cublasLtDestroy.raw(state_->handle);
  delete state_;
}

void LibraryProduct::operator()() const {
  const float one = 1, zero = 0;
  State& s = *state_;
  cublas_lt().cublasLtMatmul(s.handle, s.product, &one, s.a.data(), s.layout, s.b.data(), s.layout, &zero, s.c.data(),
                             s.layout, s.c.data(), s.layout, &s.choice.algo, s.workspace.data(), State::workspace_bytes,
                             compute_stream());
}

}  // namespace bench
