// Products by cuBLASLt, whose place a library takes that multiplies on the processor.
#include <filesystem>

#include "reprise/backends/cuda/lt_product.h"
#include "reprise/core/switches.h"
#include "reprise/test/cuda/cublas_lt_fake.h"
#include "reprise/test/cuda/state.h"
#include "reprise/test/cuda_products.h"
#include "reprise/test/environment.h"

using namespace rp;
using namespace rp::test;
using namespace rp::cuda;
using Catch::Matchers::Contains;

namespace {

std::unique_ptr<LtProduct> make(const Region& region) {
  std::string why;
  return LtProduct::make(region, &why, 0);
}

std::string refusal(const Region& region, int64_t least = 0) {
  std::string why;
  const auto product = LtProduct::make(region, &why, least);
  return product ? "" : why;
}

/// The library's kernel, whatever the size.
class LibraryKernel final : public RegionKernel {
 public:
  explicit LibraryKernel(const Region& region) : product_(make(region)) { REQUIRE(product_); }
  void run(const RegionCall& call) const override {
    REQUIRE(product_->takes(call));
    product_->run(call);
  }
  std::string form() const override { return product_->form(); }
  size_t scratch_bytes() const override { return product_->scratch_bytes(); }

 private:
  std::unique_ptr<LtProduct> product_;
};

/// The same product of factors of 16 bits, whose sums are f32.
Setup with_short_factors(Setup s, DType dtype) {
  for (size_t k = 0; k < 2; ++k) {
    const Layout& l = *s.region.operands[k].layout;
    s.region.operands[k].layout = intern({dtype, l.shape(), {}}, l.strides);
    s.memory[k] = Memory(s.region.operands[k].layout, s.memory[k].shift);
    s.memory[k].fill_random();
  }
  return s;
}

/// With the same elements as f32.
Setup widened(Setup s) {
  for (size_t k = 0; k < 2; ++k) {
    const Memory from = s.memory[k];
    s.region.operands[k].layout = intern({DType::f32, from.layout->shape(), {}}, from.layout->strides);
    Memory to(s.region.operands[k].layout, from.shift);
    visit_dtype(from.layout->dtype(), [&]<class T>(T) {
      for (int64_t i = 0; i < from.count(); ++i)
        reinterpret_cast<float*>(to.bytes.data())[i] =
            static_cast<float>(reinterpret_cast<const T*>(from.bytes.data())[i]);
    });
    s.memory[k] = std::move(to);
  }
  return s;
}

/// Adds a stage that rounds the product to `dtype`, adds a row of that dtype, and stores what f makes of the sum.
template <class F>
Setup with_short_result(Setup s, DType dtype, F&& f) {
  Region& r = s.region;
  const Shape shape = r.operands[2].layout->shape();
  Strides row(shape);
  for (int i = 0; i < shape.rank(); ++i) row[i] = i + 1 == shape.rank();
  r.operands.push_back({layout(dtype, shape, row)});
  r.operands.push_back({layout(dtype, shape), true});
  for (size_t k : {3, 4}) s.memory.emplace_back(r.operands[k].layout).fill_random();
  const Strides own = r.operands[2].layout->strides;
  r.members = {matrix_nest(shape, {own, own, own, row, r.operands[4].layout->strides})};
  ProgramBuilder b;
  Stage stage;
  for (int k : {2, 3, 4}) {
    const DType d = r.operands[static_cast<size_t>(k)].layout->dtype();
    stage.slots.push_back({StageSlot::Kind::operand, b.operand(d, Access::contiguous, k == 4)});
    stage.slots.back().index = k;
  }
  const Value sum = b.rounded(b.rounded(b.load(0), dtype) + b.load(1), dtype);
  b.store(b.rounded(f(sum), dtype), 2);
  stage.program = b.take();
  r.stages.push_back(std::move(stage));
  r.keeps_product = false;
  return s;
}

Value add_row(ProgramBuilder&, Value x, Value b, Value, Value) { return x + b; }
Value add_row_relu(ProgramBuilder&, Value x, Value b, Value, Value) { return max(b + x, 0.0); }
Value only_relu(ProgramBuilder&, Value x, Value, Value, Value) { return max(x, 0.0); }
Value more(ProgramBuilder&, Value x, Value b, Value y, Value s) { return max(x + b, y) * s; }
Value add_matrix(ProgramBuilder&, Value x, Value, Value y, Value) { return x + y; }
Value twice_rounded(ProgramBuilder& b, Value x, Value, Value, Value) { return b.rounded(x, DType::bf16); }

}  // namespace

TEST_CASE("the library is asked for products as they lie", "[cuda]") {
  rp::fake::Device gpu;
  const UsesFakeLt library;
  for (DType dtype : {DType::f32, DType::f64})
    for (const Shape& batch : {Shape{}, Shape{3}, Shape{2, 3}})
      for (bool left : {false, true})
        for (bool right : {false, true})
          for (int64_t gap : {0, 4}) {
            const Setup s = product(dtype, batch, 12, 20, 8, {left, right, gap});
            INFO(left << right << " gap " << gap << " batch " << batch.rank());
            CHECK(distance(run_on_cpu(s), run_on_device(s, LibraryKernel(s.region))) == 0);
          }
  CHECK(fake_lt().products.size() == 48);
  CHECK(fake_lt().products.front().result == CUDA_R_32F);
  CHECK(fake_lt().products.back().result == CUDA_R_64F);
}

TEST_CASE("products of 16-bit factors, by the library and by our own kernels", "[cuda]") {
  rp::fake::Device gpu;
  const UsesFakeLt library;
  for (DType dtype : {DType::f16, DType::bf16})
    for (const Shape& batch : {Shape{}, Shape{3}})
      for (bool left : {false, true})
        for (bool right : {false, true})
          for (int64_t gap : {0, 8}) {
            const Setup s = with_short_factors(product(DType::f32, batch, 24, 16, 32, {left, right, gap}), dtype);
            INFO(name_of(dtype) << left << right << " gap " << gap << " batch " << batch.rank());
            const auto expected = run_on_cpu(widened(s))[2];
            CHECK(distance(expected, run_on_device(s, LibraryKernel(s.region))[2]) == 0);
            CHECK(distance(expected, run_on_device(s, *compile_gemm(s.region))[2]) == 0);
          }
  CHECK(fake_lt().products.size() == 32);
  CHECK(fake_lt().products.back().factors == CUDA_R_16BF);
  CHECK(fake_lt().products.back().result == CUDA_R_32F);
  // At odd addresses only our own serve.
  const Setup odd = with_short_factors(product(DType::f32, {}, 9, 7, 5, {false, true, 3, 1, 1}), DType::bf16);
  CHECK(distance(run_on_cpu(widened(odd))[2], run_on_device(odd, *compile_gemm(odd.region))[2]) == 0);
}

TEST_CASE("stages in the library's products and behind them", "[cuda]") {
  rp::fake::Device gpu;
  const UsesFakeLt library;
  const auto check = [](auto stage, bool in_place, bool keeps, cublasLtEpilogue_t epilogue) {
    Setup s = with_stage(product(DType::f32, {2}, 12, 20, 8), DType::f32, in_place, stage);
    s.region.keeps_product = keeps;
    auto expected = run_on_cpu(s), got = run_on_device(s, LibraryKernel(s.region));
    if (!keeps) expected[2] = got[2];  // may hold anything, unless it is the result
    if (in_place) expected = run_on_cpu(s);
    CHECK(distance(expected, got) == 0);
    CHECK(fake_lt().products.back().epilogue == epilogue);
  };
  for (bool in_place : {false, true}) {
    check(add_row, in_place, false, CUBLASLT_EPILOGUE_BIAS);
    check(add_row_relu, in_place, false, CUBLASLT_EPILOGUE_RELU_BIAS);
    check(only_relu, in_place, false, CUBLASLT_EPILOGUE_RELU);
    for (auto stage : {more, add_matrix}) check(stage, in_place, false, CUBLASLT_EPILOGUE_DEFAULT);
  }
  check(twice_rounded, true, false, CUBLASLT_EPILOGUE_DEFAULT);
  for (auto stage : {add_row, only_relu}) check(stage, false, true, CUBLASLT_EPILOGUE_DEFAULT);
  fake_lt().knows_no_epilogue = true;
  forget_everything();
  std::filesystem::remove_all(switch_value("REPRISE_CUDA_CACHE"));
  check(add_row, true, false, CUBLASLT_EPILOGUE_DEFAULT);
}

TEST_CASE("results of 16 bits", "[cuda]") {
  rp::fake::Device gpu;
  const UsesFakeLt library;
  for (DType dtype : {DType::f16, DType::bf16})
    for (bool relu : {false, true}) {
      const Setup s = with_short_result(with_short_factors(product(DType::f32, {2}, 24, 16, 32), dtype), dtype,
                                        [&](Value x) { return relu ? max(x, 0.0) : x; });
      const LibraryKernel kernel(s.region);
      CHECK(kernel.form() == fmt::format("cuBLASLt of {} with bias{}", name_of(dtype), relu ? " and relu" : ""));
      // The library rounds once, a stage each sum.
      CHECK(distance(run_on_cpu(widened(s))[4], run_on_device(s, kernel)[4]) < (dtype == DType::f16 ? 0.008 : 0.07));
      CHECK(fake_lt().products.back().result == (dtype == DType::f16 ? CUDA_R_16F : CUDA_R_16BF));
      CHECK(distance(run_on_cpu(widened(s))[4], run_on_device(s, *compile_gemm(s.region))[4]) == 0);
    }
  // Other things than a sum come after it, from f32.
  const Setup s = with_short_result(with_short_factors(product(DType::f32, {}, 24, 16, 32), DType::bf16), DType::bf16,
                                    [](Value x) { return x * 0.3; });
  const LibraryKernel kernel(s.region);
  CHECK_THAT(kernel.form(), Contains("cuBLASLt of bf16, cuda"));
  CHECK(distance(run_on_cpu(widened(s))[4], run_on_device(s, kernel)[4]) == 0);
  CHECK(fake_lt().products.back().result == CUDA_R_32F);
}

TEST_CASE("the machine's own library on its own device", "[cuda]") {
  rp::fake::Device gpu;
  std::optional<UsesFakeLt> library;
  if (rp::fake::state) library.emplace();
  for (bool left : {false, true})
    for (bool right : {false, true}) {
      const Lie lie{left, right};
      for (DType dtype : {DType::f32, DType::f64}) {
        const Setup plain = product(dtype, {2}, 136, 72, 200, lie);
        const double most = dtype == DType::f32 ? 1e-4 : 1e-12;
        CHECK(distance(run_on_cpu(plain), run_on_device(plain, LibraryKernel(plain.region))) < most);
        Setup stage = with_stage(plain, dtype, true, add_row_relu);
        stage.region.keeps_product = false;
        CHECK(distance(run_on_cpu(stage), run_on_device(stage, LibraryKernel(stage.region))) < most);
        // A NaN stays one.
        auto* const first = reinterpret_cast<uint32_t*>(stage.memory[0].bytes.data());
        std::fill_n(first, plain.memory[0].size() / 4, 0x7fffffff);
        CHECK(distance(run_on_cpu(stage), run_on_device(stage, LibraryKernel(stage.region))) < most);
      }
      for (DType dtype : {DType::f16, DType::bf16}) {
        const Setup wide = with_short_factors(product(DType::f32, {2}, 136, 72, 200, lie), dtype);
        CHECK(distance(run_on_cpu(widened(wide))[2], run_on_device(wide, LibraryKernel(wide.region))[2]) < 1e-4);
        const Setup s = with_short_result(wide, dtype, [](Value x) { return max(x, 0.0); });
        const double most = dtype == DType::f16 ? 0.04 : 0.3;
        CHECK(distance(run_on_cpu(widened(s))[4], run_on_device(s, LibraryKernel(s.region))[4]) < most);
      }
    }
}

TEST_CASE("what the library does not serve, and why", "[cuda]") {
  rp::fake::Device gpu;
  const UsesFakeLt library;
  CHECK(refusal(product(DType::f32, {}, 16, 16, 16).region).empty());
  CHECK(refusal(product(DType::i32, {}, 16, 16, 16).region) == "no products of i32");
  CHECK(refusal(product(DType::f32, {}, 16, 16, 16, {}, 8).region) == "no sums in segments");
  CHECK_THAT(refusal(product(DType::f32, {}, 16, 16, 16, {false, false, 0, 2}).region), Contains("multiples of 16"));
  CHECK_THAT(refusal(product(DType::f32, {}, 16, 18, 16).region), Contains("multiples of 16"));
  CHECK_THAT(refusal(with_short_factors(product(DType::f32, {}, 16, 12, 16), DType::f16).region), Contains("of 16"));
  CHECK(refusal(product(DType::f32, {2}, 16, 16, 16).region, 8192).empty());
  CHECK(refusal(product(DType::f32, {2}, 16, 16, 16).region, 8193) == "fewer than 8193 multiplications");
  CHECK(!refusal(product(DType::f32, {}, 16, 16, 0).region).empty());
  fake_lt().knows_nothing = true;
  CHECK(refusal(product(DType::f32, {}, 16, 32, 16).region) == "it has no algorithm");
  // Addresses are known at run time only.
  const Setup s = product(DType::f32, {}, 16, 16, 16);
  std::byte* pointers[] = {nullptr, nullptr, nullptr};
  CHECK(make(s.region)->takes({pointers, nullptr, nullptr, nullptr}));
  for (size_t k = 0; k < 3; ++k) {
    pointers[k] = reinterpret_cast<std::byte*>(4);
    CHECK_FALSE(make(s.region)->takes({pointers, nullptr, nullptr, nullptr}));
    pointers[k] = nullptr;
  }
}

TEST_CASE("algorithms are looked up once, and found on the disk by the next process", "[cuda]") {
  const FreshFolder folder("library");
  const Setup plain = product(DType::f32, {}, 64, 64, 64);
  Setup with_bias = with_stage(plain, DType::f32, true, add_row);
  with_bias.region.keeps_product = false;
  for (int process = 0; process < 2; ++process) {
    rp::fake::Device gpu({.cache = folder.path()});
    const UsesFakeLt library;
    for (int i = 0; i < 2; ++i) {
      CHECK(distance(run_on_cpu(plain), run_on_device(plain, LibraryKernel(plain.region))) == 0);
      if (process == 1) make(with_bias.region);
    }
    CHECK(gpu.count("cublasLtMatmulAlgoGetHeuristic") == 1);
  }
}

TEST_CASE("the library serves plans that may change bits, from some size on", "[cuda]") {
  rp::fake::Device gpu;
  const UsesFakeLt library;
  const Setup small = product(DType::f32, {}, 16, 16, 16), large = product(DType::f32, {}, 256, 256, 256);
  const auto form = [](const Setup& s) { return compile_gemm(s.region)->form(); };
  const auto reads_short = [](DType left, DType right, int64_t n, DType result = DType::f32) {
    const Shape shape{n, n};
    const Layout* const factors[] = {layout(left, shape), layout(right, shape)};
    return product_reads_short(matmul_op, {}, factors, *layout(result, shape));
  };
  CHECK_THAT(form(large), Contains("gemm") && !Contains("cuBLASLt"));
  CHECK(gpu.count("cublasLtCreate") == 0);
  const Allow allow({"library"});
  CHECK(form(large) == "cuBLASLt");
  CHECK_THAT(form(small), Contains("gemm") && Contains("; not cuBLASLt: fewer than 16777216 multiplications"));
  CHECK(reads_short(DType::f16, DType::f16, 256));
  CHECK_FALSE(reads_short(DType::f16, DType::bf16, 256));
  CHECK_FALSE(reads_short(DType::f16, DType::f16, 256, DType::f16));
  CHECK_FALSE(reads_short(DType::f16, DType::f16, 16));
}

TEST_CASE("whichever call of the library fails, plans do without or an error says which", "[cuda]") {
  const Setup s = product(DType::f32, {2}, 12, 20, 8), large = product(DType::f32, {}, 256, 256, 256);
  const auto expected = run_on_cpu(s);
  const Allow allow({"library"});
  int injected = 0;
  const CublasLt table;
  for (const Symbol* const symbol : table.symbols()) {
    const std::string name = symbol->name();
    if (name.find("Get") != std::string::npos && name.find("Heuristic") == std::string::npos) continue;
    for (int n = 1; n < 20; ++n) {
      INFO("call " << n << " of " << name);
      rp::fake::Device gpu;
      const bool destroys = name.find("Destroy") != std::string::npos;
      {
        const UsesFakeLt library;
        const auto fail = [&] { gpu.fail(name, n, CUBLAS_STATUS_INTERNAL_ERROR); };
        fail();
        try {
          const double d = distance(expected, run_on_device(s, LibraryKernel(s.region)));
          CHECK(d == 0);
          if (gpu.failed()) CHECK(destroys);
        } catch (const Error& e) {
          CHECK_THAT(e.what(), Contains(name + ": FAKE_STATUS: it failed"));
        }
        if (!gpu.failed()) n = 20;
        injected += gpu.failed();
        gpu.fail("", 0, 0);
        CHECK(distance(expected, run_on_device(s, LibraryKernel(s.region))) == 0);
        fail();
        const std::string form = compile_gemm(large.region)->form();
        CHECK((form == "cuBLASLt" || form.find("; not cuBLASLt: " + name) != std::string::npos));
        gpu.fail("", 0, 0);
      }
      if (!destroys) CHECK(fake_lt().live == 0);
    }
  }
  CHECK(injected > 40);
}
