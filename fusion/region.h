#pragma once
// From a graph to what a backend runs. `partition` splits a graph into regions, each of which becomes one kernel;
// `lower` turns a region's ops into loop-IR programs over a nest of loops; the plan lays out memory and orders the
// kernels.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "reprise/core/backend.h"
#include "reprise/core/graph.h"

namespace rp {

enum class RegionKind : uint8_t {
  map,      // one program over every element
  rows,     // reductions along the innermost axes, with what stands before, between and after them
  columns,  // reductions along outer axes, with what stands before and after
  gemm,     // products and convolutions whose epilogue runs on blocks of the result while they are hot
  kernel,   // one op by the backend's kernel
  copy,     // strided elements into a contiguous buffer, or back
  control,  // a control op: runs the plans of its bodies
};
std::string_view name_of(RegionKind kind);

/// A nest of loops: outer extents, then rows, then columns; and how each operand's address moves in it, in elements.
struct Nest {
  struct Steps {
    Dims outer;
    int64_t row = 0, column = 0;
  };
  Dims outer;
  int64_t rows = 1, columns = 1;
  std::vector<Steps> operands;
  int64_t outer_count() const;
};

/// Joins the axes of `shape` into a nest. Axes in `reduced` (a bit mask; the innermost ones, or outer ones for column
/// form) become the columns (`rows` form) or the rows (`columns` form); 0 leaves the choice free (`map`). No value if
/// the operands' strides do not allow it or some column step is neither 0 nor 1.
std::optional<Nest> make_nest(RegionKind kind, const Shape& shape, int32_t reduced,
                              const std::vector<Strides>& operands);

/// The nest of a matrix product: its batch axes as they are, its rows and its columns.
Nest matrix_nest(const Shape& shape, const std::vector<Strides>& operands);

/// What a stage's operand stands for.
struct StageSlot {
  enum class Kind : uint8_t { operand, row_temp, full_temp } kind;
  int index;
};

struct Reduction {
  Combine combine;
  Type type;
  int row_temp;  // where the finished value goes
};

/// One pass of a region: a program over all its elements, or (row stages) over one value per row.
struct Stage {
  bool full = true;
  Program program;
  std::vector<StageSlot> slots;       // of the program's operands
  std::vector<Reduction> reductions;  // of the program's accumulators
};

struct RegionOperand {
  const Layout* layout;
  bool written = false;
  bool per_row = false;              // rows and columns: one element per result rather than per element
  std::optional<DType> cast_from{};  // control: the 16-bit floats that all its elements of f32 have been
};

/// A region ready for a backend's compiler.
struct Region {
  RegionKind kind = RegionKind::map;
  std::vector<RegionOperand> operands;
  std::vector<Nest> members;  // several for grouped updates: the same program over several nests
  std::vector<Stage> stages;
  std::vector<DType> row_temps, full_temps;
  int scalars = 0;
  // gemm: the op; operands 0, 1 and 2 are its inputs and its result; the stage is the epilogue. kernel: the op and its
  // inputs, then the output. control: likewise, the outputs being those in `results`.
  const Op* op = nullptr;
  Attrs attrs{};
  std::vector<int32_t> results;
  bool keeps_product = true;  // gemm: whether the product is read by anything but the stage
  // gemm: a map over the rows of C and the columns of one of `groups` equal parts of C; it reads C part by part, its
  // columns where its own stand. It runs on columns whose parts of C are finished and still hot. Its operands and
  // scalars follow the product's.
  std::shared_ptr<const Region> after{};
  int64_t groups = 1;
};

}  // namespace rp
