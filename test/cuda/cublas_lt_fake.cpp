#include "reprise/test/cuda/cublas_lt_fake.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>

#include "reprise/core/dtype.h"
#include "reprise/test/cuda/state.h"

namespace rp::test {
namespace {

FakeLt made;
constexpr size_t workspace_bytes = 4096;

cublasStatus_t wrong(const std::string& text) {
  fake::state->find("cuBLASLt: " + text);
  return CUBLAS_STATUS_INVALID_VALUE;
}

// ---- what it hands out ----

/// A handle or a descriptor of whatever kind: its attributes by number.
struct Object {
  enum class Kind : uint8_t { handle, product, matrix, preference } kind;
  int type = 0;  // of a matrix's elements, or of the numbers that scale a product
  cublasComputeType_t compute{};
  int64_t rows = 0, columns = 0, ld = 0;
  std::map<int, uint64_t> attributes{};

  uint64_t at(int name, uint64_t otherwise = 0) const {
    const auto it = attributes.find(name);
    return it == attributes.end() ? otherwise : it->second;
  }
};
using Kind = Object::Kind;

template <class T>
Object* object(T handle, Kind kind) {
  auto* const o = reinterpret_cast<Object*>(handle);
  if (o && o->kind == kind) return o;
  wrong("an object of another kind");
  return nullptr;
}

template <class T>
cublasStatus_t create(T* to, Object object) {
  ++made.live;
  *to = reinterpret_cast<T>(new Object(std::move(object)));
  return CUBLAS_STATUS_SUCCESS;
}

template <class T, Kind kind>
cublasStatus_t destroy(T handle) {
  if (!object(handle, kind)) return CUBLAS_STATUS_INVALID_VALUE;
  --made.live;
  delete reinterpret_cast<Object*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}

/// Attributes that it knows, and their sizes.
template <class T, Kind kind, class A>
cublasStatus_t set(T handle, A name, const void* value, size_t bytes) {
  static const std::map<std::pair<Kind, int>, size_t> known{
      {{Kind::product, CUBLASLT_MATMUL_DESC_TRANSA}, 4},
      {{Kind::product, CUBLASLT_MATMUL_DESC_TRANSB}, 4},
      {{Kind::product, CUBLASLT_MATMUL_DESC_EPILOGUE}, 4},
      {{Kind::product, CUBLASLT_MATMUL_DESC_BIAS_POINTER}, 8},
      {{Kind::matrix, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT}, 4},
      {{Kind::matrix, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET}, 8},
      {{Kind::preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES}, 8},
      {{Kind::preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK}, 4},
      {{Kind::preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES}, 4},
      {{Kind::preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES}, 4},
      {{Kind::preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES}, 4},
      {{Kind::preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}, 4}};
  Object* const o = object(handle, kind);
  const auto it = known.find({kind, static_cast<int>(name)});
  if (!o || it == known.end() || it->second != bytes)
    return wrong(fmt::format("attribute {} of {} bytes", static_cast<int>(name), bytes));
  uint64_t word = 0;
  std::memcpy(&word, value, bytes);
  o->attributes[static_cast<int>(name)] = word;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t create_handle(cublasLtHandle_t* to) { return create(to, {Kind::handle}); }
cublasStatus_t create_product(cublasLtMatmulDesc_t* to, cublasComputeType_t compute, cudaDataType_t scale) {
  return create(to, {Kind::product, scale, compute});
}
cublasStatus_t create_matrix(cublasLtMatrixLayout_t* to, cudaDataType type, uint64_t rows, uint64_t columns,
                             int64_t ld) {
  const auto r = static_cast<int64_t>(rows), c = static_cast<int64_t>(columns);
  if (r < 1 || c < 1 || ld < r) return wrong(fmt::format("a matrix of {} by {}, {} apart", r, c, ld));
  return create(to, {Kind::matrix, type, {}, r, c, ld});
}
cublasStatus_t create_preference(cublasLtMatmulPreference_t* to) { return create(to, {Kind::preference}); }

// ---- products ----

std::optional<DType> dtype_of(int type) {
  switch (type) {
    case CUDA_R_16F:
      return DType::f16;
    case CUDA_R_16BF:
      return DType::bf16;
    case CUDA_R_32F:
      return DType::f32;
    case CUDA_R_64F:
      return DType::f64;
    default:
      return {};
  }
}

/// A matrix of a product.
struct Matrix {
  DType dtype;
  int64_t rows, columns, ld, step;  // as they lie
  bool turned = false;
  const std::byte* data = nullptr;

  int64_t place(int64_t r, int64_t c) const { return turned ? r * ld + c : c * ld + r; }
  size_t bytes(int64_t count) const {
    return static_cast<size_t>((count - 1) * step + (columns - 1) * ld + rows) * size_of(dtype);
  }
};

/// A product as it was described, checked.
struct Product {
  Matrix a{}, b{}, d{};
  int64_t m = 0, n = 0, k = 0, count = 0;
  cublasLtEpilogue_t epilogue{};
  const std::byte* bias = nullptr;

  bool has_bias() const { return epilogue & CUBLASLT_EPILOGUE_BIAS; }
  /// All that an algorithm is chosen for.
  uint64_t key() const {
    std::string text = fmt::format("{} {}", static_cast<int>(epilogue), count);
    for (const Matrix& x : {a, b, d})
      text += fmt::format(" {},{},{},{},{},{}", static_cast<int>(x.dtype), x.rows, x.columns, x.ld, x.step, x.turned);
    return std::hash<std::string>()(text);
  }
};

std::string shape_fault(const Product& p, const Object& product) {
  const bool wide = p.a.dtype == DType::f64;
  if (p.a.dtype != p.b.dtype || (p.d.dtype != p.a.dtype && !(is_short(p.a.dtype) && p.d.dtype == DType::f32)))
    return "types that do not go together";
  if (product.compute != (wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F) ||
      product.type != (wide ? CUDA_R_64F : CUDA_R_32F))
    return "sums of another type";
  const auto [am, ak] = p.a.turned ? std::pair(p.a.columns, p.a.rows) : std::pair(p.a.rows, p.a.columns);
  const auto [bk, bn] = p.b.turned ? std::pair(p.b.columns, p.b.rows) : std::pair(p.b.rows, p.b.columns);
  if (am != p.d.rows || bn != p.d.columns || ak != bk) return "matrices that do not fit together";
  if (p.count < 1 || (p.count > 1 && p.d.step < (p.d.columns - 1) * p.d.ld + p.d.rows)) return "results that overlap";
  switch (p.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
      return "";
    default:
      return "an epilogue that is unknown here";
  }
}

cublasStatus_t product_of(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                          cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, Product& p) {
  const Object* const how = object(description, Kind::product);
  if (!how) return CUBLAS_STATUS_INVALID_VALUE;
  if (c != d) return wrong("another layout of C than of D");
  int64_t counts[3];
  int at = 0;
  for (const auto& [matrix, handle, turn] :
       {std::tuple(&p.a, a, static_cast<int>(CUBLASLT_MATMUL_DESC_TRANSA)),
        std::tuple(&p.b, b, static_cast<int>(CUBLASLT_MATMUL_DESC_TRANSB)), std::tuple(&p.d, d, -1)}) {
    const Object* const o = object(handle, Kind::matrix);
    if (!o) return CUBLAS_STATUS_INVALID_VALUE;
    const std::optional<DType> dtype = dtype_of(o->type);
    if (!dtype) return wrong("elements of a type that is unknown here");
    *matrix = {*dtype,
               o->rows,
               o->columns,
               o->ld,
               static_cast<int64_t>(o->at(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)),
               turn >= 0 && how->at(turn, CUBLAS_OP_N) == CUBLAS_OP_T};
    counts[at++] = static_cast<int64_t>(o->at(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1));
  }
  if (counts[0] != counts[1] || counts[0] != counts[2]) return wrong("batches of several sizes");
  p.m = p.d.rows;
  p.n = p.d.columns;
  p.k = p.a.turned ? p.a.rows : p.a.columns;
  p.count = counts[0];
  p.epilogue = static_cast<cublasLtEpilogue_t>(how->at(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT));
  p.bias = reinterpret_cast<const std::byte*>(how->at(CUBLASLT_MATMUL_DESC_BIAS_POINTER));
  const std::string fault = shape_fault(p, *how);
  return fault.empty() ? CUBLAS_STATUS_SUCCESS : wrong(fault);
}

double multiply_add(double a, double b, double sum) { return std::fma(a, b, sum); }
float multiply_add(float a, float b, float sum) { return std::fmaf(a, b, sum); }

/// Sums in order, each rounded once, so that ours have the same bits.
template <class T, class R>
void multiply(const Product& p) {
  const auto *a = reinterpret_cast<const T*>(p.a.data), *b = reinterpret_cast<const T*>(p.b.data);
  const auto* const bias = reinterpret_cast<const R*>(p.bias);
  auto* const d = reinterpret_cast<R*>(const_cast<std::byte*>(p.d.data));
  using S = Computed<T>;
  for (int64_t batch = 0; batch < p.count; ++batch, a += p.a.step, b += p.b.step)
    for (int64_t c = 0; c < p.n; ++c)
      for (int64_t r = 0; r < p.m; ++r) {
        S sum = 0;
        for (int64_t k = 0; k < p.k; ++k)
          sum = multiply_add(static_cast<S>(a[p.a.place(r, k)]), static_cast<S>(b[p.b.place(k, c)]), sum);
        if (p.has_bias()) sum += static_cast<S>(bias[r]);
        if (p.epilogue & CUBLASLT_EPILOGUE_RELU && sum < 0) sum = 0;
        d[batch * p.d.step + p.d.place(r, c)] = static_cast<R>(sum);
      }
}

void run(const Product& p, std::byte* workspace, size_t bytes) {
  std::memset(workspace, 0xFF, bytes);
  switch (p.a.dtype) {
    case DType::f64:
      multiply<double, double>(p);
      break;
    case DType::f16:
      p.d.dtype == DType::f16 ? multiply<Half, Half>(p) : multiply<Half, float>(p);
      break;
    case DType::bf16:
      p.d.dtype == DType::bf16 ? multiply<BFloat16, BFloat16>(p) : multiply<BFloat16, float>(p);
      break;
    default:
      multiply<float, float>(p);
  }
  const auto type = [](DType dtype) {
    return dtype == DType::f16    ? CUDA_R_16F
           : dtype == DType::bf16 ? CUDA_R_16BF
           : dtype == DType::f64  ? CUDA_R_64F
                                  : CUDA_R_32F;
  };
  made.products.push_back({p.epilogue, type(p.a.dtype), type(p.d.dtype), bytes});
}

cublasStatus_t heuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a,
                         cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                         cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t* results,
                         int* found) {
  const Object* const wishes = object(preference, Kind::preference);
  Product p;
  if (!object(handle, Kind::handle) || !wishes) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = product_of(description, a, b, c, d, p); status != CUBLAS_STATUS_SUCCESS)
    return status;
  if (wanted < 1 || wishes->at(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) < workspace_bytes)
    return wrong("room for no algorithm");
  for (const auto name : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    if (wishes->at(name, 256) != 16) return wrong("another alignment than what operands have");
  if (wishes->at(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
    return wrong("partial sums that may be rounded");
  *found = 0;
  if (made.knows_nothing || (made.knows_no_epilogue && p.epilogue != CUBLASLT_EPILOGUE_DEFAULT))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  *found = 1;
  results[0] = {};
  results[0].algo.data[3] = p.key();
  results[0].workspaceSize = workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

std::string memory_fault(const Product& p, const void* workspace, size_t bytes) {
  const auto place = [](const void* data) { return reinterpret_cast<uintptr_t>(data); };
  for (const Matrix& x : {p.a, p.b, p.d}) {
    if (place(x.data) % 16) return "an operand that is not aligned";
    if (!fake::state->arena.holds(x.data, x.bytes(p.count))) return "an operand outside of all memory";
  }
  if (p.has_bias() &&
      (place(p.bias) % 16 || !fake::state->arena.holds(p.bias, static_cast<size_t>(p.m) * size_of(p.d.dtype))))
    return "a bias outside of all memory";
  if (bytes < workspace_bytes || place(workspace) % 256 || !fake::state->arena.holds(workspace, bytes))
    return "a workspace that is none";
  return "";
}

cublasStatus_t matmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                      cublasLtMatrixLayout_t left, const void* b, cublasLtMatrixLayout_t right, const void* beta,
                      const void* c, cublasLtMatrixLayout_t before, void* d, cublasLtMatrixLayout_t result,
                      const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t bytes, cudaStream_t stream) {
  Product p;
  if (!object(handle, Kind::handle)) return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = product_of(description, left, right, before, result, p);
      status != CUBLAS_STATUS_SUCCESS)
    return status;
  const auto number = [&](const void* n) {
    return p.a.dtype == DType::f64 ? *static_cast<const double*>(n)
                                   : static_cast<double>(*static_cast<const float*>(n));
  };
  if (number(alpha) != 1 || number(beta) != 0 || c != d) return wrong("more than a product");
  if (algorithm->data[3] != p.key()) return wrong("the algorithm of another product");
  p.a.data = static_cast<const std::byte*>(a);
  p.b.data = static_cast<const std::byte*>(b);
  p.d.data = static_cast<const std::byte*>(d);
  if (const std::string fault = memory_fault(p, workspace, bytes); !fault.empty()) return wrong(fault);
  const auto work = [p, workspace, bytes] { run(p, static_cast<std::byte*>(workspace), bytes); };
  const cudaError_t queued =
      fake::state->queue(fake::state->stream(stream), {.kind = fake::Work::Kind::call, .call = work});
  return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

const char* status_name(cublasStatus_t) { return "FAKE_STATUS"; }
const char* status_text(cublasStatus_t) { return "it failed"; }

const cuda::CublasLt& table() {
  static const cuda::CublasLt* const table = [] {
    auto* const t = new cuda::CublasLt;
    t->cublasLtGetVersion.set([]() -> size_t { return 130000; });
    t->cublasLtGetStatusName.set(status_name);
    t->cublasLtGetStatusString.set(status_text);
    fake::put<create_handle>(t->cublasLtCreate);
    fake::put<destroy<cublasLtHandle_t, Kind::handle>>(t->cublasLtDestroy);
    fake::put<create_product>(t->cublasLtMatmulDescCreate);
    fake::put<destroy<cublasLtMatmulDesc_t, Kind::product>>(t->cublasLtMatmulDescDestroy);
    fake::put<set<cublasLtMatmulDesc_t, Kind::product, cublasLtMatmulDescAttributes_t>>(
        t->cublasLtMatmulDescSetAttribute);
    fake::put<create_matrix>(t->cublasLtMatrixLayoutCreate);
    fake::put<destroy<cublasLtMatrixLayout_t, Kind::matrix>>(t->cublasLtMatrixLayoutDestroy);
    fake::put<set<cublasLtMatrixLayout_t, Kind::matrix, cublasLtMatrixLayoutAttribute_t>>(
        t->cublasLtMatrixLayoutSetAttribute);
    fake::put<create_preference>(t->cublasLtMatmulPreferenceCreate);
    fake::put<destroy<cublasLtMatmulPreference_t, Kind::preference>>(t->cublasLtMatmulPreferenceDestroy);
    fake::put<set<cublasLtMatmulPreference_t, Kind::preference, cublasLtMatmulPreferenceAttributes_t>>(
        t->cublasLtMatmulPreferenceSetAttribute);
    fake::put<heuristic>(t->cublasLtMatmulAlgoGetHeuristic);
    fake::put<matmul>(t->cublasLtMatmul);
    return t;
  }();
  return *table;
}

}  // namespace

FakeLt& fake_lt() { return made; }

UsesFakeLt::UsesFakeLt() {
  if (!fake::state) throw std::runtime_error("only the device of the tests runs products of this cuBLASLt");
  made = {};
  cuda::install_fake(&table());
}
UsesFakeLt::~UsesFakeLt() { cuda::install_fake(static_cast<const cuda::CublasLt*>(nullptr)); }

}  // namespace rp::test
