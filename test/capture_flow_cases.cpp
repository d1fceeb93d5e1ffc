// Programs that have gone wrong in systems that record: branches, shapes, errors, nesting, memory of others, threads.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>

#include "reprise/test/capture_cases.h"

using namespace rp;
using cases::agree;
using cases::leaf;
using cases::Log;
using cases::values;

// ---- errors ----

TEST_CASE("the first call throws, later ones work") {
  agree([](Log& log) {
    int calls = 0;
    auto f = capture([&](const Tensor& x) {
      Tensor y = x * 2;
      if (calls++ == 0) throw std::runtime_error("first");
      return y + 1;
    });
    log.add_error([&] { f(values({3})); });
    for (int i = 0; i < 4; ++i) log.add(f(values({3}, i)));
  });
}

TEST_CASE("a body throws in mid-call after an update: the update is there, the rest is not") {
  agree([](Log& log) {
    Tensor w = values({3});
    for (int where = 0; where < 4; ++where) {
      int calls = 0;
      auto f = capture([&](const Tensor& x) {
        w += x;
        if (where == 0 && calls == 3) throw std::runtime_error("early");
        Tensor y = w * 2;
        if (where == 1 && calls == 3) throw std::runtime_error("between");
        w.copy_(tanh(y));
        if (where == 2 && calls == 3) throw std::runtime_error("late");
        return sum(w);
      });
      for (; calls < 6; ++calls) {
        log.add_error([&] { log.add(f(values({3}, calls))); });
        log.add(w);
      }
    }
  });
}

TEST_CASE("a wrong shape in the third call is an error at its line, and the fourth is right") {
  agree([](Log& log) {
    Tensor w = values({4, 2}), n = scalar(0);
    auto f = capture([&](const Tensor& x) {
      n += 1;
      Tensor y = matmul(tanh(x), w);
      n += 10;
      return y;
    });
    for (int i = 0; i < 6; ++i) {
      log.add_error([&] { log.add(f(values({3, i == 3 ? 5 : 4}, i))); });
      log.add(n);
    }
  });
}

TEST_CASE("an index out of range inside a deferred stretch is one error, and the next call is right") {
  ModeGuard guard(Mode::graph);
  Tensor table = values({10, 3}), seen;
  auto f = capture([&](const Tensor& indices) {
    Tensor rows = index_select(table * 2, indices);
    seen = rows + 1;
    return sum(seen);
  });
  const float right = f(tensor({1, 2})).item<float>();
  for (int i = 0; i < 2; ++i) CHECK(f(tensor({1, 2})).item<float>() == right);
  bool thrown = false;
  try {
    f(tensor({1, 17})).item<float>();
  } catch (const Error& e) {
    thrown = true;
    INFO(e.what());
    CHECK(std::string(e.what()).find("17") != std::string::npos);
    CHECK(std::string(e.what()).find("capture_flow_cases.cpp") != std::string::npos);
  }
  CHECK(thrown);
  if (seen.defined()) CHECK_THROWS_AS(seen.to_vector<float>(), Error);
  for (int i = 0; i < 3; ++i) CHECK(f(tensor({1, 2})).item<float>() == right);
}

TEST_CASE("a user's gradient that throws leaves tape and recorder in order") {
  agree([](Log& log) {
    Tensor x = leaf({3});
    bool bad = false;
    const CustomGradient f{.forward = [](const Tensors& in) { return exp(in[0]); },
                           .backward =
                               [&](const Tensors&, const Tensor& y, const Tensor& dy) {
                                 if (bad) throw std::runtime_error("backward");
                                 return Tensors{dy * y};
                               }};
    auto step = capture([&](const Tensor& k) {
      sum(f({x}) * k).backward();
      return x.grad() * 2;
    });
    for (int i = 0; i < 7; ++i) {
      bad = i == 3 || i == 4;
      log.add_error([&] { log.add(step(values({3}, i))); });
      log.add(x.grad());
    }
  });
}

// ---- branches and loops on values ----

TEST_CASE("a value is printed in the middle of the body") {
  agree([](Log& log) {
    auto f = capture([&](const Tensor& x) {
      Tensor y = exp(x);
      log.add(to_string(y));
      return y * 2;
    });
    for (int i = 0; i < 4; ++i) log.add(f(values({2, 2}, i)));
  });
}

TEST_CASE("a value decides a branch, alternating: two plans at most for each part") {
  const CaptureStats s = agree([](Log& log) {
    auto f = capture([](const Tensor& x) {
      Tensor y = x * 2;
      return mean(y).item<float>() > 0 ? exp(y) : neg(y) + 1;
    });
    for (int i = 0; i < 20; ++i) log.add(f(values({4}) * (i % 2 ? 1 : -1)));
    log.stats = f.stats();
  });
  CHECK(s.plan_builds <= 6);
  CHECK(s.planned * 2 >= s.ops);
}

TEST_CASE("loops on values with varying numbers of rounds") {
  agree([](Log& log) {
    auto f = capture([](Tensor x) {
      int rounds = 0;
      while (sum(square(x)).item<float>() > 0.1f) x = x * 0.6, ++rounds;
      return x + rounds;
    });
    for (int i = 0; i < 8; ++i) log.add(f(values({3}) * (1 + i % 4)));
  });
}

TEST_CASE("intermediates that live at a read in mid-body are right afterwards") {
  agree([](Log& log) {
    auto f = capture([&](const Tensor& x) {
      Tensor a = x * 2, b = exp(a), c = b + a;
      log.add(sum(c));
      return a * b - c;
    });
    for (int i = 0; i < 6; ++i) log.add(f(values({3}, i)));
  });
}

TEST_CASE("a handle that lives in odd calls only needs two plans at most") {
  const CaptureStats s = agree([](Log& log) {
    Tensors kept;
    auto f = capture([&](const Tensor& x, int i) {
      Tensor h = exp(x);
      if (i % 2) kept.push_back(h);
      return h * 2 + x;
    });
    for (int i = 0; i < 12; ++i) log.add(f(values({3}, i), i));
    log.add(kept);
    log.stats = f.stats();
  });
  CHECK(s.plan_builds <= 2);
}

TEST_CASE("forty independent branches stay right and bounded") {
  const CaptureStats s = agree([](Log& log) {
    uint64_t bits = 0x9e3779b97f4a7c15ull;
    auto f = capture([&](Tensor x) {
      for (int i = 0; i < 40; ++i) x = bits >> i & 1 ? x * 0.9 : x + 0.1;
      return x;
    });
    for (int i = 0; i < 300; ++i, bits = bits * 6364136223846793005ull + 1442695040888963407ull)
      log.add(f(values({3}, i)));
    log.stats = f.stats();
  });
  CHECK(s.recordings <= 64);
}

// ---- shapes ----

TEST_CASE("batches of changing size, down to one and none") {
  agree([](Log& log) {
    Tensor w = values({3, 4}), b = values({4}, 2);
    auto f = capture([&](const Tensor& x) {
      Tensor h = relu(matmul(x, w) + b);
      return Tensors{h, sum(h, {0}), h.reshape({h.size(0) * 4}), softmax(h)};
    });
    for (int n : {5, 5, 5, 3, 5, 1, 0, 1, 5, 4, 3, 0}) log.add(f(values({n, 3}, n)));
  });
}

TEST_CASE("a batch that equals another extent by accident") {
  agree([](Log& log) {
    Tensor w = values({4, 4});
    auto f = capture([&](const Tensor& x) { return matmul(x, w) + sum(x, {1}, true) + w[0]; });
    for (int n : {4, 4, 4, 7, 7, 4, 1, 1}) log.add(f(values({n, 4}, n)));
  });
}

TEST_CASE("sizes read on the host") {
  agree([](Log& log) {
    auto f = capture([](const Tensor& x) {
      const int64_t n = x.size(0), m = x.size(1);
      return sum(x.reshape({n * m / 2, 2}), {0}) / (n * m);
    });
    for (int n : {2, 2, 3, 3, 2, 5}) log.add(f(values({n, 4}, n)));
  });
}

TEST_CASE("a reduction after a gather of growing length") {
  agree([](Log& log) {
    Tensor x = values({6, 2});
    auto f = capture([&](const Tensor& i) { return sum(index_select(x, i), {0}) * 2; });
    for (int n : {1, 2, 3, 4, 4, 5, 9}) log.add(f(remainder(arange(n), 6)));
  });
}

TEST_CASE("large graphs: many ops, and a chain five thousand deep") {
  const CaptureStats s = agree([](Log& log) {
    auto wide = capture([](const Tensor& x) {
      Tensors parts;
      for (int i = 0; i < 300; ++i)
        parts.push_back(i % 3 ? tanh(x * (0.01 * i)) : parts.empty() ? x : parts.back() + i);
      return concat(parts);
    });
    for (int i = 0; i < 3; ++i) log.add(wide(values({4}, i)));
    auto deep = capture([](Tensor x) {
      for (int i = 0; i < 5000; ++i) x = i % 2 ? x * 0.999 : x + 0.001;
      return x;
    });
    for (int i = 0; i < 3; ++i) log.add(deep(values({4}, i)));
    log.stats = deep.stats();
  });
  CHECK(s.planned > 0);
}

// ---- nesting ----

TEST_CASE("a capture within a capture, used alone before and after") {
  agree([](Log& log) {
    auto inner = capture([](const Tensor& x) { return tanh(x) + uniform({2}); });
    auto outer = capture([&](const Tensor& x) { return inner(x * 2) - inner(x); });
    for (int i = 0; i < 3; ++i) log.add(inner(values({3, 2}, i)));
    for (int i = 0; i < 4; ++i) log.add(outer(values({5, 2}, i)));
    for (int i = 0; i < 3; ++i) log.add(inner(values({3, 2}, i)));
    for (int i = 0; i < 3; ++i) log.add(i == 1 ? inner(values({1, 2})) : outer(values({5, 2}, i)));
  });
}

TEST_CASE("a captured function calls itself") {
  agree([](Log& log) {
    std::function<Tensor(Tensor, int)> again;
    auto f = capture([&](const Tensor& x, int n) -> Tensor { return n ? again(tanh(x) + n, n - 1) : x; });
    again = [&](Tensor x, int n) { return f(x, n); };
    for (int n : {3, 3, 3, 1, 0, 2, 3}) log.add(f(values({3}), n));
  });
}

// ---- memory of others ----

TEST_CASE("a buffer is overwritten through its raw pointer as soon as the call is over") {
  agree([](Log& log) {
    Tensor batch = values({6});
    float* raw = batch.unsafe_data<float>();
    auto f = capture([](const Tensor& x) { return exp(x) + x; });
    Tensors kept;
    for (int i = 0; i < 6; ++i) {
      raw[i] = static_cast<float>(i);
      kept.push_back(f(batch));
      for (int k = 0; k < 6; ++k) raw[k] = -1;
    }
    log.add(kept);
  });
}

TEST_CASE("memory whose raw pointer has escaped is written and read through views, and changed in mid-body") {
  agree([](Log& log) {
    Tensor x = values({3, 3});
    float* raw = x.unsafe_data<float>();
    auto f = capture([&](float v) {
      Tensor turned = x.transpose(), before = x * 2;
      raw[1] = v;
      Tensor after = x * 2 + turned;
      x.slice(0, 0, 2).copy_(x.slice(0, 1, 3));
      turned += 1;
      return Tensors{before, after, stack({turned, turned}), matmul(turned, turned.transpose())};
    });
    for (int i = 0; i < 6; ++i) log.add(f(static_cast<float>(i)));
    log.add(x);
  });
}

TEST_CASE("memory behind a tensor is changed and freed by its owner after the call") {
  agree([](Log& log) {
    Tensors kept;
    auto f = capture([](const Tensor& x) { return x * 2 + 1; });
    for (int i = 0; i < 5; ++i) {
      auto memory = std::make_unique<std::vector<float>>(8, static_cast<float>(i));
      kept.push_back(f(from_blob(memory->data(), {8})));
      std::fill(memory->begin(), memory->end(), -1.f);
    }
    log.add(kept);
  });
}

TEST_CASE("modes are switched between calls and inside the body") {
  agree([](Log& log) {
    Tensor n = scalar(0);
    int calls = 0;
    auto f = capture([&](const Tensor& x) {
      n += 1;
      Tensor y = x + n;
      if (calls % 3 == 2) {
        ModeGuard guard(Mode::eager);
        n *= 2;
        y = y * n;
      }
      return y - 1;
    });
    for (; calls < 12; ++calls) {
      std::optional<ModeGuard> guard;
      if (calls % 4 == 3) guard.emplace(Mode::eager);
      log.add(f(values({3}, calls)));
    }
    log.add(n);
  });
}

TEST_CASE("a program ends in the middle of a body") {
  const pid_t child = fork();
  if (child == 0) {
    Tensor n = scalar(0);
    int calls = 0;
    auto f = capture([&] {
      n += 1;
      if (++calls == 4) std::exit(0);
    });
    for (int i = 0; i < 5; ++i) f();
    std::_Exit(1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

TEST_CASE("thousands of captures come and go without growth") {
  auto pages = [] {
    long total = 0, resident = 0;
    std::ifstream("/proc/self/statm") >> total >> resident;
    return resident;
  };
  auto some = [](int n) {
    for (int i = 0; i < n; ++i) {
      auto f = capture([i](const Tensor& x) { return tanh(x * i) + i; });
      for (int k = 0; k < 3; ++k) f(values({8}, k));
    }
  };
  some(500);
  const long before = pages();
  some(3000);
  if (!cases::sanitized) CHECK((pages() - before) * sysconf(_SC_PAGESIZE) < (16 << 20));
}

// ---- threads ----

TEST_CASE("a capture is made on one thread, used on another and destroyed on a third") {
  using Function = Captured<std::function<Tensor(Tensor)>>;
  std::unique_ptr<Function> f;
  std::vector<float> first, second;
  std::thread([&] {
    f = std::make_unique<Function>(capture(std::function<Tensor(Tensor)>([](Tensor x) { return x * 2 + 1; })));
    for (int i = 0; i < 3; ++i) first = (*f)(values({4})).to_vector<float>();
  }).join();
  std::thread([&] {
    for (int i = 0; i < 3; ++i) second = (*f)(values({4})).to_vector<float>();
  }).join();
  std::thread([&] { f.reset(); }).join();
  auto g = capture([](const Tensor& x) { return x * 3; });
  for (int i = 0; i < 3; ++i) CHECK(g(values({4})).to_vector<float>() == (values({4}) * 3).to_vector<float>());
  CHECK(first == second);
  CHECK(first == (values({4}) * 2 + 1).to_vector<float>());
}

TEST_CASE("a pending tensor's last handle is dropped on another thread") {
  auto f = capture([](const Tensor& x) {
    Tensor y = exp(x), z = y + 1;
    std::thread([lost = std::move(y)]() mutable { lost = {}; }).join();
    return z * 2;
  });
  for (int i = 0; i < 5; ++i)
    CHECK(f(values({4}, i)).to_vector<float>() == ((exp(values({4}, i)) + 1) * 2).to_vector<float>());
}

TEST_CASE("a pending tensor is read on another thread: its value or a clear error") {
  bool right = true;
  auto f = capture([&](const Tensor& x) {
    Tensor y = exp(x);
    std::thread([&] {
      try {
        right &= y.to_vector<float>() == exp(x).to_vector<float>();
      } catch (const Error& e) {
        right &= std::string(e.what()).find("another thread") != std::string::npos;
      }
    }).join();
    return y * 2;
  });
  for (int i = 0; i < 5; ++i) {
    const Tensor x = values({4}, i);
    CHECK(f(x).to_vector<float>() == (exp(x) * 2).to_vector<float>());
  }
  CHECK(right);
  CHECK(f.stats().plan_runs >= 2);
}

TEST_CASE("two threads call one captured function") {
  auto f = capture([](const Tensor& x) { return tanh(x) * 2 + sum(x); });
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const Tensor x = values({5}, i + t);
        wrong += f(x).to_vector<float>() != (tanh(x) * 2 + sum(x)).to_vector<float>();
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(wrong == 0);
}
