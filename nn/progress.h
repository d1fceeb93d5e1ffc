#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace rp {

/// One line on stderr for long work: how far, how fast, how long still. Drawn at most ten times a second, and not at
/// all when stderr is not a terminal.
class Progress {
 public:
  /// `total` 0 or less: not known.
  Progress(std::string title, int64_t total);
  /// Clears the line.
  ~Progress();
  Progress(const Progress&) = delete;

  /// Counts one step. `note` gives the text at the end of the line; it is called only when the line is drawn.
  void step(const std::function<std::string()>& note = {});
  /// Removes the line, for output of other kinds; the next step draws it again.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;

  std::string title_;
  int64_t total_, done_ = 0;
  bool shown_, drawn_ = false;
  Clock::time_point start_, next_;
};

/// The text of the line: "train 120/400 (30%)  52.1/s  5 s left  loss 0.31".
std::string progress_line(const std::string& title, int64_t done, int64_t total, double seconds,
                          const std::string& note);

}  // namespace rp
