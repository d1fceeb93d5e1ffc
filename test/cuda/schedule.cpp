#include "reprise/test/cuda/schedule.h"

#include <fmt/core.h>

#include <bit>
#include <numeric>

namespace rp::fake {

Choice::Choice(const Schedule& schedule, unsigned n)
    : order_(schedule.order), n_(n), state_(schedule.seed * 2654435761u + 1) {
  if (order_ != Schedule::Order::random) return;
  first_ = draw() % n;
  step_ = draw() % n;
  while (std::gcd(step_, n_) != 1) ++step_;
}

unsigned Choice::at(unsigned i) const {
  if (order_ == Schedule::Order::ascending) return i;
  if (order_ == Schedule::Order::descending) return n_ - 1 - i;
  return static_cast<unsigned>((first_ + i * step_) % n_);
}

int Choice::bit(unsigned mask) {
  if (order_ == Schedule::Order::ascending) return std::countr_zero(mask);
  if (order_ == Schedule::Order::descending) return 31 - std::countl_zero(mask);
  if (draw() % 8 == 0) turn_ = static_cast<int>(draw() % 32);  // seldom, so that some threads get far ahead
  return (std::countr_zero(std::rotr(mask, turn_)) + turn_) % 32;
}

unsigned Choice::draw() {
  state_ ^= state_ << 13, state_ ^= state_ >> 17, state_ ^= state_ << 5;
  return state_ >> 3;
}

Schedule Schedule::parse(const std::string& text) {
  if (text.starts_with("descending")) return {Order::descending, 1};
  if (text.starts_with("random:")) return {Order::random, static_cast<uint32_t>(std::stoul(text.substr(7)))};
  return {};
}

std::string Schedule::text() const {
  if (order == Order::random) return fmt::format("random:{}", seed);
  return order == Order::descending ? "descending" : "ascending";
}

}  // namespace rp::fake
