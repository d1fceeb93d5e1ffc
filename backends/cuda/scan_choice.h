#pragma once
// How the steps of a scan are spread over a device: chosen from sizes and what the device has, never from timing.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "reprise/backends/cuda/scan_body.h"

namespace rp::cuda {

struct ScanDevice {
  int64_t multiprocessors = 132;
  int64_t shared_bytes = 227 << 10;  // of a block, at most
  int64_t cluster = 8;               // blocks of a cluster, at most; 1: there are none
  bool tensor = true;                // there are tensor cores for all 16-bit floats
};

/// How threads that exchange values meet.
enum class ScanMeeting : uint8_t {
  none,     // nothing is exchanged
  block,    // one block has all units
  cluster,  // several, which write into each other's shared memory
  grid,     // many, by way of device memory; all are there at the same time
};

struct ScanChoice {
  ScanMeeting meeting = ScanMeeting::none;
  int64_t blocks = 1;    // that share the units of a slice of the batch
  int64_t slices = 1;    // of the batch
  int64_t rows = 1;      // of a slice
  int64_t each = 1;      // rows of a thread
  int64_t width = 1;     // threads side by side, one for each unit of the largest space that a block has
  int64_t threads = 32;  // of a block
  int64_t chunk = 0;     // columns of rows that are multiplied at a time, where they are handed over
  // On tensor cores, else 0: warps that share what a sum adds up, and warps that stand side by side.
  int64_t split = 0, across = 0;
  bool kept = false;  // weights are in registers for all steps, not in shared memory
  size_t shared_bytes = 0;
  double step_ns = 0;  // what a step takes by a simple model
};

/// Units of a space that one block has.
int64_t units_of_block(const ScanSpace& space, const ScanChoice& choice);

/// Whether threads meet before a step, because carries are exchanged; and how often they meet in all.
bool meets_at_start(const ScanBody& body);
int meetings_of(const ScanBody& body);

/// How a block forms a product on tensor cores: as tiles of 16 columns by 8 rows. An octet is 8 units' columns of one
/// group; the groups of 8 units stand behind each other, two octets in a tile. What is added up comes in pieces of 32.
struct ScanTiles {
  int64_t octets = 0;  // all
  int64_t each = 0;    // octets of a warp
  int64_t pieces = 0;  // all
  int64_t turns = 0;   // pieces of a warp
  int64_t tiles() const { return (each + 1) / 2; }
  int64_t fragments() const { return tiles() * turns * 2; }  // of a warp: 16 bytes in each lane
};
ScanTiles tiles_of(const ScanBody& body, const ScanValue& product, const ScanChoice& choice);

/// Where things lie: in a block's shared memory, and in device memory what goes from block to block. In bytes.
struct ScanMemory {
  struct Exchange {
    size_t at = 0;          // in shared memory, rows behind each other
    int64_t pitch = 0;      // elements from row to row
    bool twice = false;     // two of them, for even and odd steps
    bool handed = false;    // put into device memory, and fetched from there
    bool streamed = false;  // only products read it, some columns at a time: it has no place in shared memory
    size_t handed_at = 0;   // for each slice: its rows, once or twice
    int64_t handed_pitch = 0;
    bool handed_twice = false;
  };
  std::vector<size_t> weights;  // by value: of products
  std::vector<size_t> partial;  // by value: the sums of products that several warps share
  std::vector<size_t> reduced;  // by value: of reductions
  std::vector<Exchange> exchanges;
  size_t chunks = 0;              // two of what is streamed
  size_t shared = 0, handed = 0;  // all
};
ScanMemory scan_memory(const ScanBody& body, const ScanChoice& choice);

/// All that the device can run. If there are none, `why` says so.
std::vector<ScanChoice> scan_choices(const ScanBody& body, const ScanDevice& device, std::string* why);

/// The fastest by the model of those that the device can run; none, with the reason, if it can run none, or if steps as
/// launches of their own should be faster.
std::optional<ScanChoice> choose_scan(const ScanBody& body, const ScanDevice& device, std::string* why);

}  // namespace rp::cuda
