#include "reprise/backends/cpu/threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfenv>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "reprise/core/error.h"
#include "reprise/test/catch.h"

using namespace rp;

namespace {

struct Threads {
  explicit Threads(int count) : before(thread_count()) { set_thread_count(count); }
  ~Threads() { set_thread_count(before); }
  int before;
};

std::vector<int> visits(int64_t n, int64_t grain) {
  std::vector<int> seen(static_cast<size_t>(n));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) seen[static_cast<size_t>(i)]++;
  });
  return seen;
}

}  // namespace

TEST_CASE("parallel_for covers each index once", "[threads]") {
  for (int count : {1, 2, 3, 8}) {
    const Threads threads(count);
    for (int64_t n : {0, 1, 2, 3, 7, 8, 9, 64, 1000, 100003})
      for (int64_t grain : {1, 2, 5, 1000}) CHECK(visits(n, grain) == std::vector<int>(static_cast<size_t>(n), 1));
  }
}

TEST_CASE("parallel_for does small work on the caller", "[threads]") {
  const Threads threads(4);
  int calls = 0;
  parallel_for(100, 100, [&](int64_t begin, int64_t end) {
    CHECK((begin == 0 && end == 100));
    calls++;
  });
  parallel_for(0, 1, [&](int64_t, int64_t) { calls++; });
  parallel_for(-3, 1, [&](int64_t, int64_t) { calls++; });
  CHECK(calls == 1);
}

TEST_CASE("many short regions", "[threads]") {
  const Threads threads(3);
  std::vector<int64_t> sums(12);
  for (int round = 0; round < 20000; round++)
    parallel_for(12, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) sums[static_cast<size_t>(i)] += i;
    });
  for (size_t i = 0; i < sums.size(); i++) CHECK(sums[i] == static_cast<int64_t>(i) * 20000);
}

TEST_CASE("a region inside a region runs on its own thread", "[threads]") {
  const Threads threads(2);
  std::atomic<int> total = 0;
  CHECK_FALSE(in_parallel_region());
  parallel_for(8, 1, [&](int64_t begin, int64_t end) {
    const auto self = std::this_thread::get_id();
    const bool inside = in_parallel_region();
    parallel_for(100, 1, [&](int64_t b, int64_t e) {
      if (inside && self == std::this_thread::get_id()) total += static_cast<int>((e - b) * (end - begin));
    });
  });
  CHECK(total == 800);
  CHECK_FALSE(in_parallel_region());
}

TEST_CASE("the first exception in range order reaches the caller after all ranges ran", "[threads]") {
  const Threads threads(2);
  std::atomic<int> ran = 0;
  try {
    parallel_for(8, 1, [&](int64_t begin, int64_t end) {
      ran += static_cast<int>(end - begin);
      if (begin >= 3) throw std::runtime_error(std::to_string(begin));
    });
    FAIL("nothing was thrown");
  } catch (const std::runtime_error& e) {
    CHECK(e.what() == std::string("3"));
  }
  CHECK(ran == 8);
  CHECK(visits(100, 1) == std::vector<int>(100, 1));
}

TEST_CASE("workers take over the caller's rounding mode and source line", "[threads]") {
  const Threads threads(2);
  const Loc here = Loc::current();
  const At at(here);
  std::fesetround(FE_UPWARD);
  std::atomic<int> upward = 0, lines = 0;
  for (int round = 0; round < 200; round++)
    parallel_for(8, 1, [&](int64_t begin, int64_t end) {
      volatile float one = 1, tiny = 1e-20f;
      const float sum = one + tiny;
      if (sum > 1) upward += static_cast<int>(end - begin);
      if (At::where().line() == here.line()) lines += static_cast<int>(end - begin);
    });
  std::fesetround(FE_TONEAREST);
  CHECK(upward == 1600);
  CHECK(lines == 1600);
}

TEST_CASE("two threads of the user at once", "[threads]") {
  const Threads threads(2);
  std::atomic<int64_t> total = 0;
  const auto work = [&] {
    for (int round = 0; round < 2000; round++)
      parallel_for(100, 1, [&](int64_t begin, int64_t end) { total += end - begin; });
  };
  std::thread a(work), b(work);
  a.join();
  b.join();
  CHECK(total == 400000);
}

TEST_CASE("set_thread_count checks its argument and its place", "[threads]") {
  CHECK_THROWS_AS(set_thread_count(0), Error);
  CHECK_THROWS_AS(set_thread_count(65), Error);
  const Threads threads(2);
  CHECK_THROWS_AS(parallel_for(8, 1, [](int64_t, int64_t) { set_thread_count(1); }), Error);
  CHECK(thread_count() == 2);
}

TEST_CASE("the child of a fork works alone", "[threads]") {
  const Threads threads(2);
  visits(100, 1);
  const pid_t child = fork();
  if (child == 0) _exit(thread_count() == 1 && visits(100, 1) == std::vector<int>(100, 1) ? 0 : 1);
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(thread_count() == 2);
}
