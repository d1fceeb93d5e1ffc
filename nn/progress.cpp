#include "reprise/nn/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

namespace rp {
namespace {

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
}

/// A line that wraps could not be drawn over.
size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1u : 79u;
}

}  // namespace

std::string progress_line(const std::string& title, int64_t done, int64_t total, double seconds,
                          const std::string& note) {
  std::string line = total > 0 ? fmt::format("{} {}/{} ({}%)", title, done, total, done * 100 / total)
                               : fmt::format("{} {}", title, done);
  if (done > 0 && seconds > 0) {
    const double rate = static_cast<double>(done) / seconds;
    line += rate >= 1 ? fmt::format("  {:.1f}/s", rate) : fmt::format("  {:.1f} s each", 1 / rate);
    if (total > done) line += fmt::format("  {} left", duration(static_cast<double>(total - done) / rate));
  }
  if (!note.empty()) line += "  " + note;
  return line;
}

Progress::Progress(std::string title, int64_t total)
    : title_(std::move(title)), total_(total), shown_(isatty(STDERR_FILENO)), start_(Clock::now()), next_(start_) {}

Progress::~Progress() { clear(); }

void Progress::step(const std::function<std::string()>& note) {
  ++done_;
  if (!shown_) return;
  const auto now = Clock::now();
  if (now < next_) return;
  next_ = now + std::chrono::milliseconds(100);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::string line = progress_line(title_, done_, total_, seconds, note ? note() : std::string());
  fmt::print(stderr, "\r\x1b[K{}", line.substr(0, terminal_width()));
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::clear() {
  if (!drawn_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  drawn_ = false;
}

}  // namespace rp
