#pragma once
// The text of kernels that reduce. Element r of what is reduced belongs to lane r mod 16 of block r / 4096; a lane adds
// up in order, lanes combine at distances 8, 4, 2, 1, and blocks as neighbours do, then neighbours of those: the tree
// that the CPU has.
#include <string>
#include <vector>

#include "reprise/backends/cuda/kernel_text.h"

namespace rp::cuda {

inline constexpr int64_t leaf = 4096;  // reduced elements of one block of the tree

/// Something that has a value for each element and lives through several stages: a temporary, or an operand that is
/// read by more than one of them.
struct Kept {
  std::string name;
  DType dtype;
  size_t first, last;  // stages that make and that use it
};
std::vector<Kept> kept_values(const Region& region, bool operands);

/// Whether an accumulator takes the elements of a kept value as they are, and of which: then they need not be written
/// once more. -1 if of none.
int kept_as(const Stage& stage, size_t accumulator, const std::vector<Kept>& kept);

/// What the texts of all forms share. `Args` begins with the operands: pointers, then, of those with a value per
/// element, the steps along the outer axes and the rows.
class ReduceText {
 protected:
  ReduceText(const Region& region, bool wide) : region_(region), nest_(region.members[0]), wide_(wide) {}

  int axes() const { return nest_.outer.rank() + 1; }
  std::string operand(size_t k) const { return operand_name(region_.operands[k], k); }
  std::string operand_type(size_t k) const;
  void begin_args(bool rows);
  void end_args();
  void begin_kernel(uint32_t threads, std::string_view more = "");
  std::string finish();

  /// Row `row` of each operand, from its number among all rows, or, for `outer`, from that of the outer axes alone.
  void write_places(const std::string& row, bool outer);
  void write_temps();
  /// Operands that a row has one element of.
  void write_broadcast_loads(const Stage& stage);
  /// A stage on one value per result.
  void write_row_stage(size_t s, const std::string& number, const std::string& storing);

  struct Slot {
    std::string name, type;
    bool operand, full_temp, contiguous, written;
  };
  Slot slot(const Stage& stage, size_t k) const;
  std::vector<Slot> slots(const Stage& stage) const;
  std::string stage_name(size_t s) const { return fmt::format("stage{}", s); }
  std::string type_of(const Stage& stage, size_t accumulator) const;

  const Region& region_;
  const Nest& nest_;
  const bool wide_;
  Text text_;
};

/// Appends what `begin_args` declares; the pointers are set at launch, at the places that are returned.
std::vector<size_t> add_operands(ArgsBytes& args, const Region& region, bool rows, bool wide);

/// Rows of at most 16 * `each` elements: 16 threads have a row in their registers.
std::string short_rows_text(const Region& region, uint32_t each, bool wide);

/// How long rows are gone through.
struct LongForm {
  uint32_t threads = 256, vector = 1, turns = 1;
  bool keep_operands = true, wide = false;
};
/// A row to a block of threads, its temporaries in shared memory.
std::string long_rows_text(const Region& region, const LongForm& form);
/// One full stage of rows that many blocks of threads share; temporaries are in global memory.
std::string rows_stage_text(const Region& region, size_t stage, const LongForm& form);

inline constexpr uint32_t column_threads = 512;
/// Column reductions; `direct` if no column is longer than a leaf, so that the stages behind it follow at once.
std::string columns_text(const Region& region, uint32_t turns, bool direct, bool wide);

/// Combines partial results of the stage `stage`: into fewer ones, or, with what follows it, into results.
std::string finish_text(const Region& region, size_t stage, bool last, bool wide);

}  // namespace rp::cuda
