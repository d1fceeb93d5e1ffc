#pragma once
// The step of a scan as one kernel over all steps sees it.
//
// Everything in the step is a matrix whose rows are those of the batch. Threads own elements of it: all columns that
// stand where one *unit* does in every part of a value (its gates, say), in some rows. Values that pointwise ops, parts
// and concats connect have the same units: a *space*. So whatever those ops read is in the thread's own registers. Only
// products and reductions along rows read elements of other threads; what they read is *exchanged*: put where the
// others find it, and read after all have met.
#include <optional>
#include <string>
#include <vector>

#include "reprise/core/ops/attrs.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// Where elements that do not come from the step itself lie.
struct ScanOutside {
  int operand = 0;                                    // of the scan
  bool stepped = false;                               // another matrix at every step
  int64_t offset = 0, row = 0, column = 0, step = 0;  // in elements
  DType dtype = DType::f32;
  bool operator==(const ScanOutside&) const = default;
};

/// What a node reads: columns of a value of the step, or elements from outside.
struct ScanRead {
  int value = -1;       // -1: from outside
  int64_t column = 0;   // of the value, where column 0 of what is read stands
  bool spread = false;  // one column, read for every column
  ScanOutside outside{};
};

struct ScanValue {
  enum class Kind : uint8_t { carry, pointwise, concat, product, reduction, copy } kind = Kind::pointwise;
  int32_t node = -1;  // of the body
  DType dtype = DType::f32;
  int64_t rows = 1, columns = 1;
  int space = -1;
  int level = 0;                  // how often the threads meet in a step before it is known
  std::vector<ScanRead> reads{};  // carry: its next value
  std::vector<int64_t> starts{};  // concat: the first column of each part
  ScanOutside first{};            // carry: its value before the first step
  int exchange = -1;              // the index of its exchange
  bool held = false;              // in registers beyond the loop that computes it
  // product
  int64_t inner = 0;
  ScanOutside factor{};
  DType numbers = DType::f32;  // of both factors; if it has 16 bits, what is read are those
};

struct ScanSpace {
  int64_t units = 1;
  /// Every thread has all of it.
  bool everywhere() const { return units == 1; }
};

/// A value that is read by others than those who own it.
struct ScanExchange {
  int value = 0;
  int last_read = 0;  // the last level that reads it
};

/// A result of the scan that is wanted: a carry after the last step, or the stack of what every step gives.
struct ScanResult {
  int operand = 0;  // of the scan
  int value = 0;
  bool stacked = false;
};

struct ScanBody {
  ControlAttrs attrs{};
  int64_t batch = 1;
  bool tensor = false;            // all products are of 16-bit floats, added up as f32: for tensor cores
  int levels = 0;                 // the greatest level
  std::vector<ScanValue> values;  // in an order in which they can be computed
  std::vector<ScanSpace> spaces;
  std::vector<ScanExchange> exchanges;
  std::vector<ScanResult> results;
  std::vector<int32_t> positions;  // parameters that are a random position's low word

  const Graph& graph() const { return *attrs.body; }
  const ScanValue& operator[](int v) const { return values[static_cast<size_t>(v)]; }
  int64_t units(const ScanValue& v) const { return spaces[static_cast<size_t>(v.space)].units; }
  int64_t groups(const ScanValue& v) const { return v.columns / units(v); }
  /// The value, or the place outside, that column `column` of a read comes from, through concats.
  ScanRead source(ScanRead read, int64_t column) const;
};

/// No value, with the reason, if a step does not have that form. `tensor`: its products are for tensor cores.
std::optional<ScanBody> scan_body(const Region& region, bool tensor, std::string* why);

}  // namespace rp::cuda
