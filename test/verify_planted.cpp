// Every planted defect must be found by its program, and most be named: the rewrite that causes it and the first wrong
// op. Each case runs in a process of its own, since compiled forms stay, and wrong code may crash.
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/core.h>

#include "reprise/reprise.h"
#include "reprise/test/catch.h"
#include "reprise/test/planted_cases.h"

using namespace rp;

namespace {

struct Found {
  bool sound = false, ended = false;
  std::string rewrite, op, line, text;
};

std::string in_child(const std::function<std::string()>& run) {
  int ends[2];
  if (pipe(ends)) return "";
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    close(ends[0]);
    const std::string text = run();
    const bool whole = write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(whole ? 0 : 1);
  }
  close(ends[1]);
  std::string all;
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) all.append(part, static_cast<size_t>(n));
  close(ends[0]);
  waitpid(pid, nullptr, 0);
  return all;
}

Found found(const PlantedCase& c, Defect defect) {
  const std::string text = in_child([&] {
    manual_seed(5);
    active_defect() = defect;
    const VerifyReport r = c.find();
    return fmt::format("{}\n{}\n{}\n{}\n{}", r.ok, r.rewrite, r.op, r.line, r.text);
  });
  Found f;
  std::string* const parts[] = {nullptr, &f.rewrite, &f.op, &f.line};
  size_t at = 0;
  for (std::string* part : parts) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) return f;
    if (part)
      *part = text.substr(at, end - at);
    else
      f.sound = text.substr(at, end - at) == "true";
    at = end + 1;
  }
  f.text = text.substr(at);
  f.ended = true;
  return f;
}

std::vector<PlantedCase> all_cases() {
  std::vector<PlantedCase> all;
  for (const auto list : {recorder_cases(), plan_cases(), kernel_cases(), loop_cases()})
    all.insert(all.end(), list.begin(), list.end());
  return all;
}

}  // namespace

TEST_CASE("every planted defect is found, and nearly all are named", "[verify]") {
  int named = 0, count = 0;
  std::string missing;
  for (const PlantedCase& c : all_cases()) {
    INFO(c.name);
    const Found sound = found(c, Defect::none), f = found(c, c.defect);
    CHECK((sound.ended && sound.sound));
    CHECK((f.ended && !f.sound));
    const bool right = f.rewrite == c.rewrite && f.op == c.op && *c.rewrite && f.line.find("planted_") != f.line.npos;
    if (!right)
      missing += fmt::format("\n{}: \"{}\", \"{}\",{}; expected \"{}\", \"{}\"\n  {}", c.name, f.rewrite, f.op, f.line,
                             c.rewrite, c.op, f.ended ? f.text.substr(0, 700) : "died");
    named += right;
    ++count;
  }
  INFO(named << " of " << count << " named" << missing);
  CHECK(count == defect_count - 2);  // random programs find the one left: storage_partition
  CHECK(count >= 40);
  CHECK(named >= count - 2);
  fmt::print("{} of {} named{}\n", named, count, missing);
}
