#include "reprise/backends/cuda/matrix_kernel.h"

#include <algorithm>
#include <climits>

#include "reprise/backends/cuda/epilogue.h"
#include "reprise/backends/cuda/product_text.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"

namespace rp::cuda {
namespace {

constexpr int max_batch = max_rank - 2;

int64_t vector_of(DType dtype) { return static_cast<int64_t>(16 / size_of(dtype)); }

bool is_aligned(const std::byte* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

bool same(const Moves& a, const Moves& b) {
  return a.row == b.row && a.column == b.column && std::equal(a.batch, a.batch + max_batch, b.batch);
}

bool lies_along_k(int64_t side, int64_t k, int64_t step, int64_t k_step) {
  if (side == 1 || k == 1) return k != 1;
  return step == 1 || k_step == 1 ? k_step == 1 : k_step < step;
}

// The product of the transposed matrices.
MatrixProduct turned(MatrixProduct p) {
  std::swap(p.m, p.n);
  std::swap(p.moves[0], p.moves[1]);
  for (Moves& m : p.moves) std::swap(m.row, m.column);
  return p;
}

int64_t count_of(const MatrixProduct& p) {
  int64_t count = 1;
  for (int64_t extent : p.batch) count *= extent;
  return count;
}

}  // namespace

MatrixProduct matrix_product(const Region& region) {
  const Layout &a = *region.operands[0].layout, &c = *region.operands[2].layout;
  const Nest& nest = region.members[0];
  const int r = c.rank();
  MatrixProduct p{c.dtype(), nest.rows, nest.columns, a.shape()[r - 1], 0, nest.outer, {}};
  if (region.op == &segmented_matmul_op) p.segment = region.attrs.as<SegmentAttrs>().segment;
  for (size_t k = 0; k < region.operands.size(); ++k) {
    const Strides& own = region.operands[k].layout->strides;  // A and B have shapes of their own
    const Nest::Steps& s = nest.operands[k];
    Moves m{s.row, s.column, {}};
    if (k < 2) m = {own[r - 2], own[r - 1], {}};
    for (int i = 0; i < r - 2; ++i) m.batch[i] = k < 2 ? own[i] : s.outer[i];
    p.moves.push_back(m);
  }
  return p;
}

Cut choose_cut(const MatrixProduct& p) {
  const TileLimits limits{.segmented = p.segment != 0};
  const TileChoice upright = choose_tile(p.dtype, {p.m, p.n, count_of(p)}, limits);
  const TileChoice turned = choose_tile(p.dtype, {p.n, p.m, count_of(p)}, limits);
  if (turned.cost < upright.cost) return {turned.tile, true};
  return {upright.tile, false};
}

MatrixKernel::MatrixKernel(const Region& region, const MatrixProduct& product, Cut cut)
    : region_(region), dtype_(product.dtype), segmented_(product.segment), cut_(cut) {
  const MatrixProduct p = cut.turned ? turned(product) : product;
  left_ = factor(p, p.moves[0], p.m, p.moves[0].row, p.moves[0].column);
  right_ = factor(p, p.moves[1], p.n, p.moves[1].column, p.moves[1].row);
  tiles_ = count_of(p) * tiles_along(p.m, cut_.tile->rows) * tiles_along(p.n, cut_.tile->columns);
  moves_ = p.moves;
  add_args(p);
}

MatrixKernel::Factor MatrixKernel::factor(const MatrixProduct& product, const Moves& moves, int64_t side, int64_t step,
                                          int64_t k_step) const {
  Factor f;
  f.along_k = lies_along_k(side, product.k, step, k_step);
  const int64_t vector = vector_of(dtype_), fast = f.along_k ? k_step : step, slow = f.along_k ? step : k_step;
  const int64_t rows = f.along_k ? side : product.k;
  f.vectors = fast == 1 && (rows == 1 || slow % vector == 0);
  for (int i = 0; i < product.batch.rank(); ++i)
    f.vectors = f.vectors && (product.batch[i] == 1 || moves.batch[i] % vector == 0);
  return f;
}

void MatrixKernel::add_args(const MatrixProduct& p) {
  args_.reserve(p.moves.size());
  scalars_at_ = args_.reserve_scalars(static_cast<size_t>(std::max(1, region_.scalars)));
  for (const Moves& m : p.moves) {
    args_.add(m.row);
    args_.add(m.column);
    for (int64_t step : m.batch) args_.add(step);
  }
  for (int i = 0; i < max_batch; ++i) args_.add<int64_t>(i < p.batch.rank() ? p.batch[i] : 1);
  const int64_t row = cut_.turned ? 1 : p.n, column = cut_.turned ? p.m : 1;
  for (int64_t number : {int64_t{p.batch.rank()}, p.m, p.n, p.k, p.segment, tiles_, tiles_along(p.m, cut_.tile->rows),
                         tiles_along(p.n, cut_.tile->columns), p.m * p.n, row, column})
    args_.add(number);
  stores_at_ = args_.add(int64_t{1});
}

std::string MatrixKernel::text(bool left_vectors, bool right_vectors) const {
  const bool vectors = left_vectors && right_vectors;
  std::string text = tile_text(*cut_.tile, dtype_, segmented_, segmented_ || !vectors);
  text += fmt::format("constexpr int OPERANDS = {}, SCALARS = {};\n", moves_.size(), std::max(1, region_.scalars));
  text += fmt::format("constexpr bool LEFT_ALONG_K = {}, LEFT_VECTORS = {};\n", left_.along_k, left_vectors);
  text += fmt::format("constexpr bool RIGHT_ALONG_K = {}, RIGHT_VECTORS = {};\n", right_.along_k, right_vectors);
  text += product_tile_text;
  text += matrix_text;
  text += epilogue_text(region_);
  text += product_kernel_text;
  return text;
}

// Not where a result takes the product's place.
bool MatrixKernel::stores_product(const RegionCall& call) const {
  for (size_t k = product_operand + 1; k < moves_.size(); ++k)
    if (region_.operands[k].written && call.pointers[k] == call.pointers[product_operand] &&
        region_.operands[k].layout->dtype() == dtype_ && same(moves_[k], moves_[product_operand]))
      return false;
  return true;
}

void MatrixKernel::run(const RegionCall& call) const {
  if (!tiles_) return;
  static thread_local ArgsBytes args;
  args = args_;
  for (size_t k = 0; k < moves_.size(); ++k) args.set(8 * k, call.pointers[k]);
  std::byte* const* const pointers = call.pointers;
  const std::byte *left = pointers[cut_.turned ? 1 : 0], *right = pointers[cut_.turned ? 0 : 1];
  args.set(0, left);
  args.set(8, right);
  set_scalars(args, scalars_at_, {call.scalars, static_cast<size_t>(region_.scalars)});
  args.set(stores_at_, int64_t{stores_product(call)});
  const auto blocks = static_cast<uint32_t>(std::min<int64_t>(tiles_, INT_MAX));
  const size_t shared = tile_bytes(*cut_.tile, dtype_) + shared_scalar_bytes(region_) + 8 * moves_.size();
  const LazyFunction& function = functions_[left_.vectors && is_aligned(left)][right_.vectors && is_aligned(right)];
  launch(function.get(), {.blocks = blocks, .threads = tile_threads, .shared_bytes = shared}, args.bytes());
}

std::vector<std::string> MatrixKernel::texts() const {
  return {text(left_.vectors, right_.vectors), text(false, false)};
}

std::string MatrixKernel::form() const {
  return fmt::format("gemm {}x{}{}", cut_.tile->rows, cut_.tile->columns, region_.stages.empty() ? "" : ", epilogue");
}

}  // namespace rp::cuda
