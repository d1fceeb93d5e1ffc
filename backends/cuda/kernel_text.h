#pragma once
#include <fmt/format.h>

#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "reprise/fusion/region.h"

namespace rp::cuda {

/// A kernel's text under construction.
class Text {
 public:
  template <class... T>
  void line(fmt::format_string<T...> text, T&&... values) {
    append(fmt::format(text, std::forward<T>(values)...));
  }
  /// A line that ends in a brace, with what follows indented until `close`.
  template <class... T>
  void open(fmt::format_string<T...> text, T&&... values) {
    const std::string head = fmt::format(text, std::forward<T>(values)...);
    append(head.empty() ? "{" : head + " {");
    ++depth_;
  }
  void close(std::string_view after = "");
  /// `close`, then `open` with what stands between.
  void otherwise(std::string_view between);
  /// Tells the compiler to unroll the loop that follows.
  void unrolled() { out_ += "#pragma unroll\n"; }
  void rolled() { out_ += "#pragma unroll 1\n"; }
  /// Several lines, each indented.
  void lines(std::string_view text);
  std::string take() { return std::move(out_); }

 private:
  void append(std::string_view line);
  std::string out_;
  size_t depth_ = 0;
};

/// The names that a stage's values have everywhere in a kernel: `x2` for an element read from the region's operand 2,
/// `y2` for one written there, `row0` for a value per row, `kept0` for one per element, `sum0` for what goes into an
/// accumulator.
std::string slot_name(const Stage& stage, size_t slot);
std::string accumulator_name(const Stage& stage, size_t accumulator);
/// The functor of the prelude.
std::string_view combine_name(Combine combine);
/// The first pieces of a name: "x2" of operand 2.
std::string operand_name(const RegionOperand& operand, size_t index);

/// The stage's program as a function for one element: its scalars and index if it uses them, then its slots in order,
/// what it writes by reference, then what goes into its accumulators.
void write_stage(Text& text, const Stage& stage, const std::string& name);
/// A kernel's scalars, if it has any: the member of its Args, and what a function begins with that has calls of stages.
void write_scalars_member(Text& text, int count);
void write_scalars(Text& text, int count);
/// A call of a stage: `value` gives an argument by its name.
std::string stage_call(const Stage& stage, const std::string& name, const std::string& index,
                       const std::function<std::string(const std::string& name)>& value);

/// The bytes of a kernel's Args, member by member, each at its own alignment as in C.
class ArgsBytes {
 public:
  template <class T>
  size_t add(const T& value) {
    return add(&value, sizeof(T), alignof(T));
  }
  size_t add(const void* value, size_t size, size_t alignment);
  /// A pointer, say, set before each launch.
  size_t reserve(size_t words);
  /// The prelude's Scalars<count>, if there are any; see `set_scalars`.
  size_t reserve_scalars(size_t count) { return reserve(count ? count + 1 : 0); }
  /// Rounds up to the alignment of a struct with 8-byte members.
  void finish() { bytes_.resize((bytes_.size() + 7) / 8 * 8); }
  template <class T>
  void set(size_t at, const T& value) {
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
  }
  void set(size_t at, const void* from, size_t size) { std::memcpy(bytes_.data() + at, from, size); }
  std::span<const std::byte> bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
};

/// The prelude's Divisor<u32> (of numbers below 2^31) or Divisor<u64> (below 2^63).
void add_divisor(ArgsBytes& args, uint64_t value, bool wide);

/// Threads of a block, unless a kernel says otherwise.
inline constexpr uint32_t threads = 256;
/// Blocks for so many pieces of work; what is left over goes around once more.
uint32_t blocks_for(uint64_t pieces);

}  // namespace rp::cuda
