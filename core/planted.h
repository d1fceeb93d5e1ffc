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
  attrs_match,        // attrs are not compared with the recording's
  no_snapshot,        // elements whose raw pointer has escaped are not copied for deferred ops
  shared_random,      // all random ops of a run take the position of the first
  lost_twin,          // of two outputs that are one value, only the first is filled
  share_own,          // a value that is written later is shared with an equal one
  fold_sign,          // -(-x) becomes -x
  dead_write,         // a write goes if there is a later one to the storage
  batch_rows,         // the results of a batch are its rows in reverse
  batch_order,        // a product joins a batch that runs after what it reads was written
  chain_order,        // the products of a sum are added from the last
  legal_axes,         // a reduction over separated axes reduces the others
  taken_home,         // a value is made in each of two concats
  other_axes,         // reductions over other axes join a region
  write_reads,        // a write joins a read of other elements of its storage
  stale_temp,         // a region has memory for one result of its reductions
  near_home,          // places in a concat overlap by one
  short_life,         // a buffer may be reused in the last step that needs it
  group_scalars,      // updates with other scalars share a launch
  epilogue_block,     // the epilogue of every block runs on the first rows
  conv_block,         // the epilogue of a convolution's blocks runs on the first rows
  k_split,            // a product of a packed operand forgets what earlier parts of k gave
  segment_adds,       // a sum of products forgets what earlier blocks of segments gave
  jit_tail,           // the lanes of the tail add where they should multiply
  long_blocks,        // a reduction in a fused kernel has longer blocks
  scan_buffers,       // a step writes over the carry it reads
  scan_position,      // every step draws the numbers of the first
  scan_reverse,       // a reversed scan runs forwards
  echo_step,          // a carry that is stacked as it begins stands one step early
  last_carry,         // the last carry is not handed over
  hoist_right,        // a product that left the loop has the first factor from outside
  hoist_random,       // random numbers leave the loop
  merge_columns,      // products side by side take each other's columns
  saved_step,         // the gradient's steps run in the order of the scan
  twice,              // a gradient of a scan is added to itself
  cond_scalars,       // a branch takes the numbers of the other
  extra_trip,         // a loop runs once more after its condition is false
};
inline constexpr int defect_count = 49;

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
