// The texts of products and kernels for devices of several architectures: CUDA's compiler takes them, and all values
// but a word stay in registers.
#include <set>

#include "reprise/core/ops.h"
#include "reprise/test/cuda_products.h"
#include "reprise/test/cuda_ptxas.h"

using namespace rp;
using namespace rp::test;
using namespace rp::cuda;

namespace {

using Texts = std::set<std::string>;

void add_texts(Texts& texts, const Region& region) {
  const auto kernel = compile_on_device(region);
  for (std::string& text : dynamic_cast<const TextKernel&>(*kernel).texts()) texts.insert(std::move(text));
}

void compile_for_devices(const Texts& texts) {
  for (const std::string& text : texts)
    for (int architecture : {80, 90, 100}) {
      const std::string log = ptxas_log(text, architecture);
      INFO("for " << architecture << ": " << log << '\n' << text);
      CHECK(bytes_spilled(log) <= 4);  // a word may stand aside where a division of 64 bits is called
    }
}

Value smooth_gate(ProgramBuilder&, Value x, Value b, Value y, Value s) {
  const Value z = x + b;
  return z * 0.5 * (1 + tanh((z + z * z * z * 0.044715) * 0.7978845608)) + y * s;
}

/// An op of kind kernel with its attrs and operands, the result last.
Region kernel_region(const Op& op, const Attrs& attrs, const std::vector<const Layout*>& layouts) {
  Region r;
  r.kind = RegionKind::kernel;
  r.op = &op;
  r.attrs = attrs;
  for (const Layout* l : layouts) r.operands.push_back({l, l == layouts.back()});
  return r;
}

}  // namespace

TEST_CASE("products fit into the registers of devices", "[cuda][slow]") {
  if (!compiler_is_there()) return;
  Texts texts;
  for (DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64})
    for (const Tile& tile : tiles_of(dtype))
      for (int64_t segment : {0, 4})
        for (const Lie& lie : {Lie{}, Lie{true, true}, Lie{false, true}}) {
          if (!fits(tile, dtype, {.segmented = segment != 0})) continue;
          Setup s = product(dtype, {}, 8, 8, 8, lie, segment);
          if (is_floating(dtype)) s = with_stage(std::move(s), dtype, false, smooth_gate);
          if (!is_floating(dtype) && lie.left_turned != lie.right_turned) continue;
          for (std::string& text : MatrixKernel(s.region, matrix_product(s.region), {&tile, false}).texts())
            texts.insert(std::move(text));
        }
  compile_for_devices(texts);
}

TEST_CASE("convolutions fit into the registers of devices", "[cuda][slow]") {
  if (!compiler_is_there()) return;
  Texts texts;
  {
    rp::fake::Device gpu;
    for (DType dtype : {DType::f32, DType::f64, DType::i32})
      for (const Op* op : {&conv2d_op, &conv2d_backward_data_op, &conv2d_backward_weights_op})
        for (const ConvCase& t : {ConvCase{64, 64, 56, 56, 512, 3, 3, 1, 1, 1, 1}, ConvCase{64, 4, 60, 60, 64, 3, 3, 2},
                                  ConvCase{1, 4, 5, 5, 4, 3, 3}}) {
          Region r = conv_region(*op, t, dtype);
          if (op != &conv2d_backward_weights_op && is_floating(dtype)) {
            r.kind = RegionKind::gemm;
            r = with_stage(std::move(r), dtype, false, smooth_gate);
          }
          add_texts(texts, r);
        }
  }
  compile_for_devices(texts);
}

TEST_CASE("kernels fit into the registers of devices", "[cuda][slow]") {
  if (!compiler_is_there()) return;
  Texts texts;
  {
    rp::fake::Device gpu;
    const Layout *x = layout(DType::f32, {8, 8}), *few = layout(DType::i32, {4}), *many = layout(DType::i64, {100}),
                 *each = layout(DType::i64, {100, 8}), *row = layout(DType::i64, {8}),
                 *y = layout(DType::f32, {100, 8});
    add_texts(texts, kernel_region(argmax_op, ArgAttrs{0, 0}, {x, row}));
    add_texts(texts, kernel_region(argmin_op, ArgAttrs{0, 0}, {layout(DType::boolean, {5000, 8}), row}));
    add_texts(texts, kernel_region(index_select_op, AxisAttrs{0}, {x, many, y}));
    add_texts(texts, kernel_region(gather_op, AxisAttrs{0}, {x, each, y}));
    add_texts(texts, kernel_region(index_add_op, ScatterAttrs{x, 0}, {layout(DType::f32, {4, 8}), few, x}));
    add_texts(texts, kernel_region(index_add_op, ScatterAttrs{x, 0}, {y, many, x}));
    add_texts(texts, kernel_region(scatter_add_op, ScatterAttrs{x, 0}, {y, each, x}));
    add_texts(texts, kernel_region(concat_op, AxisAttrs{0}, {x, y, x, layout(DType::f32, {116, 8})}));
    const PoolAttrs pool{2, 2, 1, 1, 0, 0, 0, 0, 0, 0, nullptr};
    for (DType dtype : {DType::f32, DType::i64}) {
      const Layout *image = layout(dtype, {2, 2, 8, 8}), *pooled = layout(dtype, {2, 2, 7, 7});
      add_texts(texts, kernel_region(max_pool2d_op, pool, {image, pooled}));
      add_texts(texts, kernel_region(max_pool2d_backward_op, pool, {image, pooled, image}));
      add_texts(texts, kernel_region(max_pool2d_pick_op, pool, {image, image, pooled}));
      add_texts(texts, kernel_region(avg_pool2d_op, pool, {image, pooled}));
      add_texts(texts, kernel_region(avg_pool2d_backward_op, pool, {pooled, image}));
    }
  }
  CHECK(texts.size() > 20);
  compile_for_devices(texts);
}
