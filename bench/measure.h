#pragma once
// Timing. Entrants in one row take turns in a number of rounds, so that what disturbs the machine disturbs all of them;
// a turn repeats an entrant until a fixed time has passed. A row of slow entrants has fewer rounds.
#include <functional>
#include <string>
#include <vector>

#include "reprise/graph/capture.h"

namespace bench {

/// How long rows are measured.
struct Effort {
  int most_rounds = 31, least_rounds = 3;
  double turn_ns = 5e5;                ///< the least time of one entrant in one round
  double row_s = 8;                    ///< rounds beyond the least end here
  std::function<void()> wait = [] {};  ///< until what calls have queued is done
};
Effort& effort();

/// Makes that many calls; the time of all in ns. A turn that throws takes its entrant out of the row.
using Timed = std::function<double(int64_t calls)>;

struct Variant {
  rp::Mode mode;
  std::function<void()> run;
  std::function<void()> before = {};  ///< called, untimed, before every run
};
Timed timed(Variant v);

/// Time of one call in every round, in ns.
using Times = std::vector<double>;

struct Timing {
  std::vector<Times> of;            ///< per entrant; empty if it failed
  std::vector<std::string> failed;  ///< why
  int64_t system_calls = 0;         ///< to get or return memory, during the rounds
};

Timing take_turns(const std::vector<Timed>& entrants);
/// The same of entrants that must not fail.
Timing interleave(const std::vector<Variant>& variants);

double quantile(Times times, double q);
inline double median(const Times& times) { return quantile(times, 0.5); }
/// Distance of the quartiles in relation to the median.
double spread(const Times& times);
/// a - b, round by round.
Times difference(const Times& a, const Times& b);

}  // namespace bench
