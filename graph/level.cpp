#include <atomic>

#include "reprise/core/fail.h"
#include "reprise/core/switches.h"
#include "reprise/graph/recorder.h"

namespace rp {
namespace {

constexpr int no_level = -1;
constinit thread_local int scoped_level = no_level;
std::atomic<int> default_level{no_level};

Level initial_level() {
  const std::string name = switch_value("REPRISE_LEVEL");
  return name.empty() ? Level::exact : parse_level(name);
}

void run_pending() {
  if (thread_state.recorder) thread_state.recorder->flush("a change of level");
}

}  // namespace

Level parse_level(const std::string& name) {
  if (name == "exact") return Level::exact;
  if (name == "fast") return Level::fast;
  fail("level: expected exact or fast, got '{}'", name);
}

Level level() {
  if (scoped_level != no_level) return static_cast<Level>(scoped_level);
  int l = default_level.load(std::memory_order_relaxed);
  if (l == no_level) {
    l = static_cast<int>(initial_level());
    default_level.store(l, std::memory_order_relaxed);
  }
  return static_cast<Level>(l);
}

void set_default_level(Level level) { default_level = static_cast<int>(level); }

LevelGuard::LevelGuard(Level level) : before_(scoped_level) {
  run_pending();
  scoped_level = static_cast<int>(level);
}

LevelGuard::~LevelGuard() {
  try {
    run_pending();
  } catch (...) {  // the values concerned tell when they are read
  }
  scoped_level = before_;
}

}  // namespace rp
