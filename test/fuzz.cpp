// Runs random programs eagerly and captured and compares every bit that a user could see.
//
//   fuzz --programs 2000 --seed 1            the last line is "N passed, N failed"
//   fuzz --only 17 --shrink                  one program, made small, as text
//   fuzz --replay FILE                       a program that was printed before
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>

#include "reprise/core/planted.h"
#include "reprise/test/fuzz.h"

namespace {

using namespace fuzz;

struct Options {
  uint64_t programs = 200, seed = 1;
  std::optional<uint64_t> only;
  std::string mode = "graph", replay;
  int seconds = 60;
  int defect = 0;
  bool shrink = false, describe = false;
};

// ---- children ----

// What a child sends for each program it has run.
struct Report {
  Outcome outcome;
  Coverage coverage;
  uint32_t length;  // of the detail that follows
};

bool read_all(int fd, void* to, size_t n) {
  for (auto* at = static_cast<char*>(to); n;) {
    const ssize_t got = read(fd, at, n);
    if (got <= 0) return false;
    at += got, n -= static_cast<size_t>(got);
  }
  return true;
}

void send(int fd, const Verdict& v) {
  std::string message(sizeof(Report), '\0');
  const Report report{v.outcome, v.coverage, static_cast<uint32_t>(v.detail.size())};
  std::memcpy(message.data(), &report, sizeof report);
  message += v.detail;
  for (size_t at = 0; at < message.size();) {
    const ssize_t n = write(fd, &message[at], message.size() - at);
    if (n <= 0) std::_Exit(3);
    at += static_cast<size_t>(n);
  }
}

/// A process that compares programs one after another. The parent itself never touches the engine, so that a crash or a
/// hang ends one program only.
class Child {
 public:
  template <class Next>
  Child(Next program, rp::Mode mode, int seconds) {
    int ends[2];
    if (pipe(ends)) throw std::runtime_error("no pipe");
    std::fflush(nullptr);
    pid_ = fork();
    if (pid_ < 0) throw std::runtime_error("no process");
    if (pid_ == 0) {
      close(ends[0]);
      use_device();
      while (std::optional<Program> p = program()) {
        alarm(static_cast<unsigned>(seconds));
        send(ends[1], whole ? verify_whole(*p) : compare(*p, mode));
      }
      std::exit(0);
    }
    close(ends[1]);
    fd_ = ends[0];
  }
  ~Child() {
    close(fd_);
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  Child(const Child&) = delete;

  /// The verdict on the next program, or on the child's end.
  Verdict next() {
    Report report;
    Verdict v;
    if (!read_all(fd_, &report, sizeof report)) return end();
    v.outcome = report.outcome, v.coverage = report.coverage, v.detail.resize(report.length);
    return read_all(fd_, v.detail.data(), report.length) ? v : end();
  }

  /// The child has ended well: its own checks at exit found nothing.
  bool finish() {
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  Verdict end() {
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) return {Outcome::hung, "no end in time", {}};
    if (WIFSIGNALED(status)) return {Outcome::died, strsignal(WTERMSIG(status)), {}};
    return {Outcome::died, fmt::format("exit status {}", WEXITSTATUS(status)), {}};
  }

  pid_t pid_ = 0;
  int fd_ = -1;

 public:
  inline static bool whole = false;  // programs go to rp::verify
};

Verdict run_alone(const Program& program, rp::Mode mode, int seconds) {
  int left = 1;
  Child child([&]() -> std::optional<Program> { return left-- > 0 ? std::optional(program) : std::nullopt; }, mode,
              seconds);
  Verdict v = child.next();
  if (v.outcome == Outcome::same && !child.finish()) v = {Outcome::died, "at the end of the process", v.coverage};
  return v;
}

// ---- failures ----

void print_failure(const Program& program, const Verdict& v) {
  std::printf("seed %llu %s: %s\n", static_cast<unsigned long long>(program.seed),
              std::string(name_of(v.outcome)).c_str(), v.detail.c_str());
  std::fflush(stdout);
}

// Describing runs the program, so that it too happens in a process of its own.
void print_description(const Program& program) {
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    std::puts(describe(program).c_str());
    std::fflush(nullptr);
    std::_Exit(0);
  }
  if (pid > 0) waitpid(pid, nullptr, 0);
}

void shrink_and_print(const Program& program, const Verdict& v, rp::Mode mode) {
  const Program small = shrink(program, [&](const Program& p) { return run_alone(p, mode, 10).outcome == v.outcome; });
  std::printf("---- made small: %d statements, %d iterations; --replay reads this:\n%s----\n",
              statement_count(small.functions[0]), small.iterations, to_text(small).c_str());
  print_description(small);
  print_failure(small, run_alone(small, mode, 10));
}

int one(const Program& program, const Options& o, rp::Mode mode) {
  if (o.describe) std::puts(to_text(program).c_str()), print_description(program);
  const Verdict v = run_alone(program, mode, o.seconds);
  std::printf("%s", to_text(v.coverage).c_str());
  const bool failed = v.outcome != Outcome::same;
  if (failed) print_failure(program, v);
  if (failed && o.shrink) shrink_and_print(program, v, mode);
  std::printf("%d passed, %d failed\n", !failed, failed);
  return failed;
}

int many(const Options& o, rp::Mode mode) {
  constexpr uint64_t batch = 100;  // programs of one process
  Coverage coverage;
  uint64_t passed = 0, failed = 0;
  for (uint64_t at = o.seed, end = o.seed + o.programs; at < end;) {
    const uint64_t stop = std::min(end, at + batch);
    Child child([next = at, stop]() mutable { return next < stop ? std::optional(generate(next++)) : std::nullopt; },
                mode, o.seconds);
    bool alive = true;
    for (; at < stop && alive; ++at) {
      const Verdict v = child.next();
      coverage += v.coverage;
      alive = v.outcome != Outcome::died && v.outcome != Outcome::hung;
      if (v.outcome == Outcome::same) {
        ++passed;
        continue;
      }
      print_failure(generate(at), v);
      if (o.shrink && failed < 3) shrink_and_print(generate(at), v, mode);
      ++failed;
    }
    if (alive && !child.finish())
      std::printf("a process ended badly after seed %llu\n", static_cast<unsigned long long>(at - 1)), ++failed;
  }
  std::printf("%s", to_text(coverage).c_str());
  if (!Child::whole && 2 * coverage.planned < coverage.ops)
    std::printf("fewer than half of the ops were run by plans\n"), ++failed;
  std::printf("%llu passed, %llu failed\n", static_cast<unsigned long long>(passed),
              static_cast<unsigned long long>(failed));
  return failed != 0;
}

#ifdef REPRISE_PLANTED_DEFECTS
Verdict run_with(int defect, uint64_t seed, rp::Mode mode, int seconds) {
  rp::active_defect() = static_cast<rp::Defect>(defect);
  return run_alone(generate(seed), mode, seconds);
}

// The test of this test: a program must fail with the defect, and because of it.
int find_defect(const Options& o, rp::Mode mode) {
  for (uint64_t seed = o.seed; seed < o.seed + o.programs; ++seed) {
    const Verdict v = run_with(o.defect, seed, mode, o.seconds);
    if (v.outcome == Outcome::same || run_with(0, seed, mode, o.seconds).outcome != Outcome::same) continue;
    print_failure(generate(seed), v);
    std::printf("defect %d is found by program %llu\n1 passed, 0 failed\n", o.defect,
                static_cast<unsigned long long>(seed - o.seed + 1));
    return 0;
  }
  std::printf("no program finds defect %d\n0 passed, 1 failed\n", o.defect);
  return 1;
}
#endif

std::string contents(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  return (std::ostringstream() << file.rdbuf()).str();
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  std::string jit, threads;
  CLI::App app{"Random programs, eager against captured."};
  app.add_option("--programs", o.programs, "how many");
  app.add_option("--seed", o.seed, "of the first");
  app.add_option("--only", o.only, "the program of this seed alone");
  app.add_option("--replay", o.replay, "a file with a program");
  app.add_option("--mode", o.mode, "graph or verify; call: each program as a whole by rp::verify");
  app.add_option("--threads", threads, "as REPRISE_THREADS");
  app.add_option("--jit", jit, "as REPRISE_JIT");
  app.add_option("--seconds", o.seconds, "that one program may take");
  app.add_flag("--shrink", o.shrink, "make the first failing programs small");
  app.add_flag("--describe", o.describe, "print the one program");
#ifdef REPRISE_PLANTED_DEFECTS
  app.add_option("--defect", o.defect, "plant this one; the run passes when a program fails")
      ->check(CLI::Range(1, rp::defect_count - 1));
#endif
  CLI11_PARSE(app, argc, argv);
  if (!threads.empty()) setenv("REPRISE_THREADS", threads.c_str(), 1);
  if (!jit.empty()) setenv("REPRISE_JIT", jit.c_str(), 1);
  try {
    Child::whole = o.mode == "call";
    const rp::Mode mode = Child::whole ? rp::Mode::graph : rp::parse_mode(o.mode);
    if (!o.replay.empty()) return one(parse(contents(o.replay)), o, mode);
    if (o.only) return one(generate(*o.only), o, mode);
#ifdef REPRISE_PLANTED_DEFECTS
    if (o.defect) return find_defect(o, mode);
#endif
    return many(o, mode);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
