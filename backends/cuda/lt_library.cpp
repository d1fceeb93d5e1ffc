#include "reprise/backends/cuda/lt_library.h"

#include <cstring>
#include <map>
#include <mutex>

#include "reprise/backends/cuda/cache.h"
#include "reprise/backends/cuda/device.h"
#include "reprise/backends/cuda/sha256.h"

namespace rp::cuda {
namespace {

constexpr size_t most_workspace = size_t{32} << 20;

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return CUDA_R_16F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f64:
      return CUDA_R_64F;
    default:
      return CUDA_R_32F;
  }
}

bool is_wide(const LtShape& s) { return s.dtype == DType::f64; }

cublasLtEpilogue_t epilogue(const LtShape& s) {
  if (s.bias) return s.relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
  return s.relu ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_DEFAULT;
}

// ---- what the library hands out ----

// Something the library has made, with attributes.
template <class Handle, auto destroy, auto set_attribute>
class LtObject {
 public:
  LtObject(const LtObject&) = delete;
  operator Handle() const { return handle_; }

 protected:
  LtObject() = default;
  ~LtObject() {
    if (handle_) (cublas_lt().*destroy).raw(handle_);
  }
  template <class Attribute, class T>
  void set(Attribute attribute, T value) {
    (cublas_lt().*set_attribute)(handle_, attribute, &value, sizeof value);
  }
  Handle handle_ = nullptr;
};

class Description : public LtObject<cublasLtMatmulDesc_t, &CublasLt::cublasLtMatmulDescDestroy,
                                    &CublasLt::cublasLtMatmulDescSetAttribute> {
 public:
  Description(const LtShape& s, const std::byte* bias) {
    // Sums are formed with full precision: no factor is rounded to fewer bits.
    cublas_lt().cublasLtMatmulDescCreate(&handle_, is_wide(s) ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                         is_wide(s) ? CUDA_R_64F : CUDA_R_32F);
    set(CUBLASLT_MATMUL_DESC_TRANSA, s.left.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, s.right.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue(s));
    if (s.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias));
  }
};

class MatrixLayout : public LtObject<cublasLtMatrixLayout_t, &CublasLt::cublasLtMatrixLayoutDestroy,
                                     &CublasLt::cublasLtMatrixLayoutSetAttribute> {
 public:
  MatrixLayout(DType dtype, const LtMatrix& m, int64_t count) {
    cublas_lt().cublasLtMatrixLayoutCreate(&handle_, data_type(dtype), static_cast<uint64_t>(m.rows),
                                           static_cast<uint64_t>(m.columns), m.ld);
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(count));
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, m.batch_step);
  }
};

class Preference : public LtObject<cublasLtMatmulPreference_t, &CublasLt::cublasLtMatmulPreferenceDestroy,
                                   &CublasLt::cublasLtMatmulPreferenceSetAttribute> {
 public:
  Preference() {
    cublas_lt().cublasLtMatmulPreferenceCreate(&handle_);
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most_workspace);
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(which, static_cast<uint32_t>(lt_alignment));
  }
};

/// A product as it is described to the library.
struct Described {
  Described(const LtShape& s, const std::byte* bias)
      : product(s, bias),
        left(s.dtype, s.left, s.count),
        right(s.dtype, s.right, s.count),
        result(s.to, s.result, s.count) {}
  Description product;
  MatrixLayout left, right, result;
};

// ---- algorithms ----

std::string key_of(const LtShape& s) {
  const cudaDeviceProp& d = device().properties;
  std::string text =
      fmt::format("cublasLt {}, {} of {} multiprocessors: {} {} {} {} {}", cublas_lt().cublasLtGetVersion(), d.name,
                  d.multiProcessorCount, name_of(s.dtype), name_of(s.to), s.count, s.bias, s.relu);
  for (const LtMatrix& m : {s.left, s.right, s.result})
    text += fmt::format(" {},{},{},{},{}", m.rows, m.columns, m.ld, m.batch_step, m.transposed);
  return text;
}

class Library {
 public:
  Library() : cache_(DiskCache::user_folder()) { cublas_lt().cublasLtCreate(&handle_); }
  ~Library() { cublas_lt().cublasLtDestroy.raw(handle_); }
  Library(const Library&) = delete;
  cublasLtHandle_t handle() const { return handle_; }

  std::optional<LtAlgorithm> algorithm(const LtShape& shape) {
    const std::string text = key_of(shape), key = hex(sha256(text));
    const std::lock_guard lock(mutex_);
    if (const auto it = known_.find(text); it != known_.end()) return it->second;
    std::optional<LtAlgorithm> found = read(key);
    if (!found && (found = look_up(shape))) cache_.write(key, {reinterpret_cast<const char*>(&*found), sizeof *found});
    return known_[text] = found;
  }

 private:
  std::optional<LtAlgorithm> read(const std::string& key) {
    const std::optional<std::string> bytes = cache_.read(key);
    LtAlgorithm found;
    if (!bytes || bytes->size() != sizeof found) return {};
    std::memcpy(&found, bytes->data(), sizeof found);
    return found;
  }

  std::optional<LtAlgorithm> look_up(const LtShape& s) const {
    const Described d(s, nullptr);
    const Preference preference;
    cublasLtMatmulHeuristicResult_t first{};
    int count = 0;
    const cublasStatus_t status = cublas_lt().cublasLtMatmulAlgoGetHeuristic.raw(
        handle_, d.product, d.left, d.right, d.result, d.result, preference, 1, &first, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
    check(status, "cublasLtMatmulAlgoGetHeuristic");
    if (!count || first.state != CUBLAS_STATUS_SUCCESS) return {};
    return LtAlgorithm{first.algo, first.workspaceSize};
  }

  cublasLtHandle_t handle_ = nullptr;
  DiskCache cache_;
  std::mutex mutex_;
  std::map<std::string, std::optional<LtAlgorithm>> known_;
};

Lazy<Library> library;

}  // namespace

std::optional<LtAlgorithm> lt_algorithm(const LtShape& shape) { return library.get().algorithm(shape); }

void lt_multiply(const LtShape& shape, const LtAlgorithm& how, const LtOperands& o, cudaStream_t stream) {
  const struct {
    double wide;
    float narrow;
  } one{1, 1}, zero{0, 0};
  const auto number = [&](const auto& n) {
    return is_wide(shape) ? static_cast<const void*>(&n.wide) : static_cast<const void*>(&n.narrow);
  };
  const Described d(shape, o.bias);
  cublas_lt().cublasLtMatmul(library.get().handle(), d.product, number(one), o.left, d.left, o.right, d.right,
                             number(zero), o.result, d.result, o.result, d.result, &how.algorithm, o.workspace,
                             how.workspace, stream);
}

}  // namespace rp::cuda
