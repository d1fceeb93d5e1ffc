#include "reprise/core/trace_events.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "reprise/core/fail.h"
#include "reprise/core/switches.h"

namespace rp {
namespace {

constexpr size_t chunk_bytes = 16 << 10;

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The file. It lives for ever, since ops may run while the process ends, and takes nothing once it is closed. Until
// then it lacks the bracket at its end, which viewers forgive.
class Trace {
 public:
  explicit Trace(const std::string& path) {
    file_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (file_ < 0) fail("REPRISE_TRACE: cannot write \"{}\": {}", path, std::strerror(errno));
    if (::flock(file_, LOCK_EX | LOCK_NB) &&
        errno == EWOULDBLOCK) {  // a process that was started by one which writes here
      std::fprintf(stderr, "REPRISE_TRACE: another process writes %s; this one does not\n", path.c_str());
      open_ = false;
      return;
    }
    if (::ftruncate(file_, 0) && errno != EINVAL)  // that is a pipe or a terminal
      fail("REPRISE_TRACE: cannot write \"{}\": {}", path, std::strerror(errno));
    text_ = fmt::format(R"([{{"name":"process_name","ph":"M","pid":{},"args":{{"name":{}}}}})", process_,
                        json_text(program_invocation_short_name));
  }

  bool open() const { return open_; }
  int64_t start() const { return start_; }
  pid_t process() const { return process_; }

  // What a child of fork does first: the file is its parent's.
  void leave() { open_ = false; }

  void add(const std::string& event) {
    if (!open_) return;
    const std::lock_guard lock(mutex_);
    if (!open_) return;
    text_ += ",\n";
    text_ += event;
    if (text_.size() >= chunk_bytes) write();
  }

  void close() {
    if (!open_) return;
    const std::lock_guard lock(mutex_);
    if (!open_) return;
    text_ += "\n]\n";
    write();
    open_ = false;
  }

 private:
  void write() {
    for (size_t done = 0; done < text_.size();) {
      const ssize_t n = ::write(file_, text_.data() + done, text_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        std::fprintf(stderr, "REPRISE_TRACE: the trace ends here: %s\n", std::strerror(errno));
        open_ = false;
        break;
      }
      done += static_cast<size_t>(n);
    }
    text_.clear();
  }

  std::mutex mutex_;
  std::string text_;
  int file_ = -1;
  std::atomic<bool> open_ = true;
  const pid_t process_ = ::getpid();
  const int64_t start_ = now();
};

// Null if the switch is not set.
Trace* trace() {
  static Trace* const it = [] {
    const std::string path = switch_value("REPRISE_TRACE");
    Trace* t = path.empty() ? nullptr : new Trace(path);
    if (!t) return t;
    ::pthread_atfork(nullptr, nullptr, [] { trace()->leave(); });
    std::atexit([] { trace()->close(); });
    return t;
  }();
  return it;
}

}  // namespace

int8_t read_watch() {
  const bool nan = switch_value("REPRISE_NAN") == "1", spans = trace() && trace()->open();
  return thread_state.watch = static_cast<int8_t>((nan ? watch_nan : 0) | (spans ? watch_trace : 0));
}

int64_t begin_span() { return traced() ? now() : 0; }

std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < ' ')
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
    else
      out += c;
  }
  return out + '"';
}

std::string where_members(const Where& where) {
  std::string out;
  if (where.line()) out = "\"line\":" + json_text(line_text(where));
  if (where.module) out += (out.empty() ? "\"module\":" : ",\"module\":") + json_text(where.module);
  return out;
}

void end_span(int64_t begun, std::string_view category, std::string_view name, std::string_view members) {
  if (!begun) return;
  static thread_local const pid_t thread = ::gettid();
  const int64_t length = now() - begun, start = begun - trace()->start();
  trace()->add(
      fmt::format(R"({{"name":{},"cat":"{}","ph":"X","ts":{}.{:03},"dur":{}.{:03},"pid":{},"tid":{},"args":{{{}}}}})",
                  json_text(name), category, start / 1000, start % 1000, length / 1000, length % 1000,
                  trace()->process(), thread, members));
}

}  // namespace rp
