#include "reprise/backends/cpu/tile.h"

#include <algorithm>

#include "reprise/backends/cpu/tile_program.h"

namespace rp {
namespace {

using namespace tile;

/// Part of the iteration space: whole rows, or a piece of one row. Its elements lie row after row in a tile.
struct Area {
  int64_t row, column, rows, columns;
  int64_t size() const { return rows * columns; }
};

class Runner {
 public:
  Runner(const TileProgram& program, const KernelArgs& args)
      : program_(program), args_(args), kernels_(*program.kernels) {
    static thread_local Memory scratch;
    static thread_local std::vector<std::byte*> at;
    std::byte* temporary = scratch.at_least(program.scratch_bytes);
    at.resize(program.buffers.size());
    for (size_t k = 0; k < at.size(); ++k)
      at[k] = (program.buffers[k].constant ? program.constant_data : temporary) + program.buffers[k].offset;
    at_ = at.data();
  }

  void run() {
    if (args_.rows <= 0 || args_.columns <= 0) return;
    for (const ScalarFill& s : program_.scalars) fill_scalar(s);
    const int64_t rows = rows_at_once();
    for (int64_t row = 0; row < args_.rows; row += rows)
      for (int64_t column = 0; column < args_.columns; column += width)
        run({row, column, std::min(rows, args_.rows - row), std::min(width, args_.columns - column)});
  }

 private:
  int64_t rows_at_once() const {
    if (args_.columns > width / 2) return 1;
    for (size_t k = 0; k < program_.written.size(); ++k)
      if (program_.written[k] && args_.row_strides[k] == 0) return 1;  // later rows may read what earlier ones wrote
    return width / args_.columns;
  }

  void fill_scalar(const ScalarFill& s) {
    const uint64_t bits = args_.scalars[s.slot];
    if (s.type == Type::mask)
      kernels_.fill4(at_[s.buffer], bits & 0xFF ? ~uint64_t{0} : 0, width);
    else
      (size_of(s.type) == 8 ? kernels_.fill8 : kernels_.fill4)(at_[s.buffer], bits, width);
  }

  void run(const Area& area) {
    const int64_t n = area.size(), padded = (n + block - 1) / block * block;
    for (const Step& s : program_.steps) {
      switch (s.kind) {
        case StepKind::compute:
          s.compute(at_[s.out], at_[s.a], at_[s.b], at_[s.c], s.imm, padded);
          break;
        case StepKind::call:
          s.compute(at_[s.out], at_[s.a], at_[s.b], at_[s.c], s.imm, n);
          break;
        case StepKind::load:
          load(s, area);
          break;
        case StepKind::load_broadcast:
          load_broadcast(s, area);
          break;
        case StepKind::store:
          store(s, area);
          break;
        case StepKind::index:
          index(s, area);
          break;
        case StepKind::accumulate:
          accumulate(s, area);
          break;
      }
    }
  }

  std::byte* address(const Step& s, int64_t row, int64_t column) const {
    return args_.pointers[s.operand] + row * args_.row_strides[s.operand] + column * s.element;
  }

  /// The area with as few rows as the operand allows: one, if its rows follow each other without a gap.
  Area merged(const Step& s, const Area& area) const {
    if (args_.row_strides[s.operand] != area.columns * s.element) return area;
    return {area.row, area.column, 1, area.size()};
  }

  void load(const Step& s, const Area& area) {
    const Area m = merged(s, area);
    const int64_t lane = s.move ? sizeof(uint32_t) : s.element;
    std::byte* to = at_[s.out];
    for (int64_t r = 0; r < m.rows; ++r, to += m.columns * lane) {
      const std::byte* from = address(s, m.row + r, m.column);
      if (s.move)
        s.move(to, from, m.columns);
      else
        std::memcpy(to, from, m.columns * s.element);
    }
  }

  void load_broadcast(const Step& s, const Area& area) {
    const int64_t lane = s.move ? sizeof(uint32_t) : s.element;
    std::byte* to = at_[s.out];
    for (int64_t r = 0; r < area.rows; ++r, to += area.columns * lane) {
      uint64_t bits = 0;
      const std::byte* from = address(s, area.row + r, 0);
      if (s.move)
        s.move(&bits, from, 1);
      else
        std::memcpy(&bits, from, s.element);
      (lane == 8 ? kernels_.fill8 : kernels_.fill4)(to, bits, area.columns);
    }
  }

  void store(const Step& s, const Area& area) {
    const Area m = s.access == Access::contiguous ? merged(s, area) : area;
    const int64_t lane = s.move ? sizeof(uint32_t) : s.element;
    const std::byte* from = at_[s.a];
    for (int64_t r = 0; r < m.rows; ++r, from += m.columns * lane) {
      // one element serves all columns of a broadcast row; the last column wins
      const bool one = s.access == Access::broadcast;
      const std::byte* source = one ? from + (m.columns - 1) * lane : from;
      std::byte* to = address(s, m.row + r, one ? 0 : m.column);
      const int64_t n = one ? 1 : m.columns;
      if (s.move)
        s.move(to, source, n);
      else
        std::memcpy(to, source, n * s.element);
    }
  }

  void index(const Step& s, const Area& area) {
    for (int64_t r = 0; r < area.rows; ++r) {
      const auto row = static_cast<uint32_t>(area.row + r), column = static_cast<uint32_t>(area.column);
      const uint32_t first = args_.index + row * args_.index_row + column;
      kernels_.iota(at_[s.out] + r * area.columns * sizeof(uint32_t), first, area.columns);
    }
  }

  void accumulate(const Step& s, const Area& area) {
    for (int64_t r = 0; r < area.rows; ++r) {
      const int64_t row = area.row + r;
      const int64_t offset = program_.column_form ? (row % lanes * args_.columns + area.column) * s.element
                                                  : row * args_.accumulator_row_stride;
      s.gather(args_.accumulators[s.operand] + offset, at_[s.a] + r * area.columns * s.element, area.columns);
    }
  }

  const TileProgram& program_;
  const KernelArgs& args_;
  const Kernels& kernels_;
  std::byte** at_;
};

}  // namespace

void run_tile(const KernelArgs* args) { Runner(*static_cast<const TileProgram*>(args->context), *args).run(); }

}  // namespace rp
