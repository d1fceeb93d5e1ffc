#pragma once
// Random regions: nests with random strides around random programs of every type, with memory for their operands.
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "reprise/core/expr.h"
#include "reprise/fusion/region.h"

namespace rp::test {

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  int64_t below(int64_t n) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  template <class T>
  T among(std::initializer_list<T> choices) {
    return *(choices.begin() + below(static_cast<int64_t>(choices.size())));
  }
  /// The bits of a number: an ordinary one mostly, else one of those where mistakes show.
  uint64_t number(Type type);

 private:
  std::mt19937_64 engine_;
};

/// A region and what it runs on.
struct RandomRegion {
  Region region;
  std::vector<std::vector<uint64_t>> memory;  // of operands that have some of their own
  std::vector<std::byte*> pointers;
  std::vector<uint64_t> scalars;
};

/// `wide` asks for operands and values of 64 bits among them. The extents are those of the outer axes, the rows and
/// the columns.
RandomRegion random_map(Dice& dice, const Dims& outer, int64_t rows, int64_t columns, bool wide);
/// Two passes with up to four reductions each, what stands between them and behind them.
RandomRegion random_rows(Dice& dice, const Dims& outer, int64_t rows, int64_t columns, bool wide);
RandomRegion random_columns(Dice& dice, const Dims& outer, int64_t rows, int64_t columns, bool wide);

}  // namespace rp::test
