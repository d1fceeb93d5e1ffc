#pragma once
// What tile_decode.cpp prepares and tile.cpp runs.
#include <cstddef>
#include <cstring>
#include <new>
#include <vector>

#include "reprise/backends/cpu/tile.h"
#include "reprise/backends/cpu/tile_kernels.h"

namespace rp::tile {

inline constexpr size_t line = 64;

/// A block of 64-byte aligned memory that grows and is zero at first.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  ~Memory() { release(); }
  std::byte* at_least(size_t bytes) {
    if (bytes > bytes_) {
      release();
      data_ = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{line}));
      bytes_ = bytes;
      std::memset(data_, 0, bytes);
    }
    return data_;
  }

 private:
  void release() {
    if (data_) ::operator delete(data_, std::align_val_t{line});
    data_ = nullptr;
    bytes_ = 0;
  }
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

inline size_t size_of(Type t) { return t == Type::f64 || t == Type::i64 ? 8 : 4; }

/// Bytes from one buffer to the next: a line more than a tile, so that buffers do not fall on the same cache sets.
inline size_t buffer_bytes(size_t element) { return element * width + line; }

enum class StepKind : uint8_t { compute, call, load, load_broadcast, store, index, accumulate };

struct Step {
  StepKind kind;
  uint8_t element = 0;  // bytes of an element of the operand or accumulator
  uint8_t operand = 0;
  Access access = Access::contiguous;
  uint16_t out = 0, a = 0, b = 0, c = 0;  // buffers
  uint64_t imm = 0;
  Compute compute = nullptr;
  Move move = nullptr;  // null where elements are lanes as they are
  Gather gather = nullptr;
};

struct Buffer {
  bool constant;
  size_t offset;
};

struct ScalarFill {
  uint16_t buffer;
  uint16_t slot;
  Type type;
};

}  // namespace rp::tile

namespace rp {

struct TileProgram {
  const tile::Kernels* kernels = nullptr;
  std::vector<tile::Step> steps;
  std::vector<tile::Buffer> buffers;
  std::vector<tile::ScalarFill> scalars;
  tile::Memory constants;
  std::byte* constant_data = nullptr;
  size_t scratch_bytes = 0;
  std::vector<uint8_t> written;  // operands
  bool column_form = false;
};

}  // namespace rp
