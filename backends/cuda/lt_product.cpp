#include "reprise/backends/cuda/lt_product.h"

#include <algorithm>
#include <cstring>

#include "reprise/backends/cuda/epilogue.h"
#include "reprise/backends/cuda/matrix_kernel.h"
#include "reprise/backends/cuda/region_kernels.h"

namespace rp::cuda {
namespace {

constexpr size_t round_up(size_t n) {
  return (n + lt_workspace_alignment - 1) / lt_workspace_alignment * lt_workspace_alignment;
}

bool is_aligned(const std::byte* p) { return reinterpret_cast<uintptr_t>(p) % lt_alignment == 0; }

// What the library calls a matrix of `rows` rows and `columns` columns.
std::optional<LtMatrix> matrix(int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
  if (row_step == 1 && column_step >= rows) return LtMatrix{rows, columns, column_step};
  if (column_step == 1 && row_step >= columns) return LtMatrix{columns, rows, row_step, 0, true};
  return {};
}

// The step of all batch axes as one; no value if they are not evenly spaced.
std::optional<int64_t> batch_step(const Dims& batch, const Moves& moves) {
  std::optional<int64_t> step;
  int64_t below = 1;
  for (int i = batch.rank() - 1; i >= 0; --i) {
    if (batch[i] == 1) continue;
    if (!step) step = moves.batch[i];
    if (moves.batch[i] != *step * below) return {};
    below *= batch[i];
  }
  return step.value_or(0);
}

bool has_aligned_columns(const LtMatrix& m, DType dtype) {
  const auto pack = static_cast<int64_t>(lt_alignment / size_of(dtype));
  return m.ld % pack == 0 && m.batch_step % pack == 0;
}

// Our rows are the library's columns, so that it is asked for the transpose: of our right factor's and our left one's.
std::optional<LtShape> shape_of(const Region& region, const MatrixProduct& p) {
  LtShape s{
      .dtype = region.operands[0].layout->dtype(), .to = p.dtype, .left = {}, .right = {}, .result = {}, .count = 1};
  for (int64_t extent : p.batch) s.count *= extent;
  const Moves &a = p.moves[0], &b = p.moves[1], &c = p.moves[2];
  const struct {
    LtMatrix& to;
    const Moves& moves;
    DType dtype;
    std::optional<LtMatrix> seen;
  } parts[] = {{s.left, b, s.dtype, matrix(p.n, p.k, b.column, b.row)},
               {s.right, a, s.dtype, matrix(p.k, p.m, a.column, a.row)},
               {s.result, c, s.to, matrix(p.n, p.m, c.column, c.row)}};
  for (const auto& part : parts) {
    const std::optional<int64_t> step = batch_step(p.batch, part.moves);
    if (!part.seen || !step) return {};
    part.to = *part.seen;
    part.to.batch_step = *step;
    if (!has_aligned_columns(part.to, part.dtype)) return {};
  }
  const bool small = std::max({p.m, p.n, p.k, s.left.ld, s.right.ld, s.result.ld, s.count}) <= INT32_MAX;
  return small && !s.result.transposed ? std::optional(s) : std::nullopt;
}

std::string refusal(const MatrixProduct& p, int64_t least) {
  if (!is_floating(p.dtype)) return fmt::format("no products of {}", name_of(p.dtype));
  if (p.segment) return "no sums in segments";
  double work = 1;
  for (int64_t extent : {p.m, p.n, p.k}) work *= static_cast<double>(extent);
  for (int64_t extent : p.batch) work *= static_cast<double>(extent);
  return work < std::max(1.0, static_cast<double>(least)) ? fmt::format("fewer than {} multiplications", least) : "";
}

}  // namespace

std::unique_ptr<LtProduct> LtProduct::make(const Region& region, std::string* why, int64_t least) {
  const MatrixProduct p = matrix_product(region);
  *why = refusal(p, least);
  if (!why->empty()) return nullptr;
  const std::optional<LtShape> shape = shape_of(region, p);
  *why = "its matrices do not lie in rows or columns at multiples of 16 bytes";
  if (!shape) return nullptr;
  const auto made = [](const LtShape& s, size_t result, size_t bias) {
    const std::optional<LtAlgorithm> how = lt_algorithm(s);
    return std::unique_ptr<LtProduct>(how ? new LtProduct(s, *how, result, bias) : nullptr);
  };
  const std::optional<PlainStage> plain = region.keeps_product ? std::nullopt : plain_stage(region);
  if (plain) {
    LtShape whole = *shape;
    whole.to = region.operands[plain->result].layout->dtype();
    whole.bias = plain->bias;
    whole.relu = plain->relu;
    if (is_floating(whole.to) && has_aligned_columns(whole.result, whole.to))
      if (auto product = made(whole, plain->result, plain->bias)) return product;
  }
  *why = "it has no algorithm";
  auto product = made(*shape, product_operand, 0);
  if (product && !region.stages.empty()) product->stage_ = compile_map(map_behind(region));
  return product;
}

LtProduct::LtProduct(const LtShape& shape, const LtAlgorithm& how, size_t result, size_t bias)
    : shape_(shape), how_(how), result_(result), bias_(bias) {}

LtOperands LtProduct::operands(const RegionCall& call) const {
  const auto at = reinterpret_cast<uintptr_t>(call.scratch);
  return {call.pointers[1], call.pointers[0], shape_.bias ? call.pointers[bias_] : nullptr, call.pointers[result_],
          call.scratch + (round_up(at) - at)};
}

bool LtProduct::takes(const RegionCall& call) const {
  const LtOperands o = operands(call);
  return is_aligned(o.left) && is_aligned(o.right) && is_aligned(o.bias) && is_aligned(o.result);
}

void LtProduct::run(const RegionCall& call) const {
  const LtOperands o = operands(call);
  launch(*this, std::as_bytes(std::span(&o, 1)));
  if (stage_) stage_->run(call);
}

void LtProduct::queue(std::span<const std::byte> args, cudaStream_t stream) const {
  LtOperands o;
  std::memcpy(&o, args.data(), sizeof o);
  lt_multiply(shape_, how_, o, stream);
}

std::string LtProduct::form() const {
  std::string text = is_short(shape_.dtype) ? fmt::format("cuBLASLt of {}", name_of(shape_.dtype)) : "cuBLASLt";
  if (shape_.bias || shape_.relu)
    text += fmt::format(" with {}{}{}", shape_.bias ? "bias" : "", shape_.bias && shape_.relu ? " and " : "",
                        shape_.relu ? "relu" : "");
  return stage_ ? text + ", " + stage_->form() : text;
}

// The stage comes after the product, so that one place serves both.
size_t LtProduct::scratch_bytes() const {
  const size_t own = how_.workspace ? lt_workspace_alignment + how_.workspace : 0;
  return std::max(own, stage_ ? stage_->scratch_bytes() : 0);
}

}  // namespace rp::cuda
