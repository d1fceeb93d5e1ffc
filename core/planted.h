#pragma once
// Defects for the tests of the tests. A build with REPRISE_PLANTED_DEFECTS contains them all, one of them active at a
// time; in every other build `planted` is the constant false and nothing of them remains.
#include <cstdint>

namespace rp {

enum class Defect : uint8_t {
  none,
  liveness,           // a plan runs although it does not keep a value that is still held
  storage_partition,  // aliasing of externals is not compared
  strides,            // only dtype and shape of operands are compared
  baked_scalar,       // a float scalar keeps its first value
  frozen_random,      // a random op keeps its first position
  write_order,        // a write may run before a read of the old elements
  dead_base,          // a storage counts as dead once its first handle is gone, views or not
  stale_pack,         // a packed weight is used after the weight has changed
  dtype_key,          // i32 and f32 share a kernel slot
  gradient_order,     // sums of three are reassociated
  swapped_operands,   // a - b becomes b - a where one vector at a time is processed
  reused_output,      // a run writes its results over those of the run before, too
};
inline constexpr int defect_count = 13;

#ifdef REPRISE_PLANTED_DEFECTS
inline Defect& active_defect() {
  static Defect defect = Defect::none;
  return defect;
}
inline bool planted(Defect d) { return active_defect() == d; }
#else
constexpr bool planted(Defect) { return false; }
#endif

}  // namespace rp
