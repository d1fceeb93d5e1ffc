#include "reprise/bench/measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "reprise/backends/cpu/memory.h"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int warm_up_calls = 6;
constexpr double warm_up_ns = 2e8;       // slow entrants have fewer: they have been checked before
constexpr double cold_matters_ns = 2e7;  // what takes longer does not mind a cache that another has filled

double ns_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

/// Time of `calls` calls together.
double time_calls(const Variant& v, int64_t calls) {
  rp::ModeGuard guard(v.mode);
  const auto& wait = effort().wait;
  if (!v.before) {
    wait();
    const auto start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) v.run();
    wait();
    return ns_since(start);
  }
  double total = 0;
  for (int64_t i = 0; i < calls; ++i) {
    v.before();
    wait();
    const auto start = Clock::now();
    v.run();
    wait();
    total += ns_since(start);
  }
  return total;
}

/// An entrant with what its turns need.
class Entrant {
 public:
  explicit Entrant(const Timed& timed) : timed_(timed) {}

  /// Finds how many calls a turn takes.
  void warm_up() {
    double spent = 0;
    for (int i = 0; i < warm_up_calls && spent < warm_up_ns; ++i) spent += last_ = timed_(1);
    while (last_ * static_cast<double>(calls_) < effort().turn_ns) {
      calls_ *= 2;
      last_ = timed_(calls_) / static_cast<double>(calls_);
    }
    calls_ = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(effort().turn_ns / last_)));
  }

  double turn() {
    if (last_ < cold_matters_ns) timed_(1);
    return timed_(calls_) / static_cast<double>(calls_);
  }

  double turn_ns() const { return last_ * static_cast<double>(calls_ + (last_ < cold_matters_ns)); }

 private:
  const Timed& timed_;
  int64_t calls_ = 1;
  double last_ = 0;  // ns of one call
};

int count_rounds(const std::vector<Entrant>& entrants) {
  double ns = 0;
  for (const Entrant& e : entrants) ns += e.turn_ns();
  const double fit = effort().row_s * 1e9 / std::max(ns, 1.0);
  return std::clamp(static_cast<int>(std::min(fit, 1e6)), effort().least_rounds, effort().most_rounds);
}

}  // namespace

Effort& effort() {
  static Effort effort;
  return effort;
}

Timed timed(Variant v) {
  return [v = std::move(v)](int64_t calls) { return time_calls(v, calls); };
}

Timing take_turns(const std::vector<Timed>& timed) {
  Timing timing;
  timing.of.resize(timed.size());
  timing.failed.resize(timed.size());
  std::vector<Entrant> entrants(timed.begin(), timed.end());
  const auto attempt = [&](size_t i, const std::function<void()>& what) {
    if (!timing.failed[i].empty()) return;
    try {
      what();
    } catch (const std::exception& e) {
      timing.failed[i] = e.what();
    }
  };
  for (size_t i = 0; i < timed.size(); ++i) attempt(i, [&] { entrants[i].warm_up(); });
  const size_t system_calls = rp::memory_stats().system_calls;
  for (int left = count_rounds(entrants); left > 0; --left)
    for (size_t i = 0; i < timed.size(); ++i) attempt(i, [&] { timing.of[i].push_back(entrants[i].turn()); });
  timing.system_calls = static_cast<int64_t>(rp::memory_stats().system_calls - system_calls);
  for (size_t i = 0; i < timed.size(); ++i)
    if (!timing.failed[i].empty()) timing.of[i].clear();
  return timing;
}

Timing interleave(const std::vector<Variant>& variants) {
  std::vector<Timed> entrants;
  for (const Variant& v : variants) entrants.push_back(timed(v));
  Timing timing = take_turns(entrants);
  for (const std::string& why : timing.failed)
    if (!why.empty()) throw std::runtime_error(why);
  return timing;
}

double quantile(Times times, double q) {
  const auto at = times.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(times.size() - 1) + 0.5);
  std::nth_element(times.begin(), at, times.end());
  return *at;
}

double spread(const Times& times) { return (quantile(times, 0.75) - quantile(times, 0.25)) / median(times); }

Times difference(const Times& a, const Times& b) {
  Times result;
  for (size_t i = 0; i < a.size(); ++i) result.push_back(a[i] - b[i]);
  return result;
}

}  // namespace bench
