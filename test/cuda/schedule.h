#pragma once
#include <cstdint>
#include <string>

namespace rp::fake {

/// Which thread runs when several could. A thread runs until it has to wait, and a block as far as it can go: that
/// shows races which taking turns would hide.
struct Schedule {
  enum class Order : uint8_t { ascending, descending, random } order = Order::ascending;
  uint32_t seed = 1;

  /// "ascending", "descending" or "random:SEED".
  static Schedule parse(const std::string& text);
  std::string text() const;
};

/// Those that tests should try.
inline constexpr Schedule schedules[] = {{Schedule::Order::ascending},
                                         {Schedule::Order::descending},
                                         {Schedule::Order::random, 1},
                                         {Schedule::Order::random, 2}};

/// Numbers below n in the order of a schedule, and a choice among the bits of a mask.
class Choice {
 public:
  Choice(const Schedule& schedule, unsigned n);
  /// The i-th number.
  unsigned at(unsigned i) const;
  /// A bit that is set.
  int bit(unsigned mask);

 private:
  unsigned draw();

  Schedule::Order order_;
  unsigned n_, state_;
  uint64_t first_ = 0, step_ = 1;
  int turn_ = 0;
};

}  // namespace rp::fake
