// Two runs of a program side by side, and making a failing program small.
#include <algorithm>
#include <cstring>

#include "reprise/test/fuzz.h"

namespace fuzz {

std::string_view name_of(Outcome outcome) {
  static constexpr std::string_view names[] = {"the same", "differs", "broke off", "died", "hung"};
  return names[static_cast<size_t>(outcome)];
}

Coverage& operator+=(Coverage& a, const Coverage& b) {
  static_assert(sizeof(Coverage) % sizeof(int64_t) == 0);
  auto* sums = reinterpret_cast<int64_t*>(&a);
  auto* more = reinterpret_cast<const int64_t*>(&b);
  for (size_t i = 0; i < sizeof(Coverage) / sizeof(int64_t); ++i) sums[i] += more[i];
  return a;
}

std::string to_text(const Coverage& c) {
  auto share = [](int64_t part, int64_t whole) {
    return 100.0 * static_cast<double>(part) / static_cast<double>(std::max<int64_t>(whole, 1));
  };
  return fmt::format(
      "statements {}, without operands {:.1f}%, errors {}, exceptions {}\n"
      "views {}, writes {}, host writes {}, random {}, reads {}, branches on values {}, gradients {}, nested captures "
      "{}\n"
      "values compared {}, NaN {:.1f}%\n"
      "ops in captures {}: matched {:.1f}%, run by plans {:.1f}%; flushes {}, by plans {}, plans built {}, divergences "
      "{}\n",
      c.statements, share(c.skipped, c.statements), c.errors, c.exceptions, c.views, c.writes, c.host_writes, c.randoms,
      c.reads, c.branches, c.gradients, c.nested, c.values, share(c.nans, c.values), c.ops, share(c.matched, c.ops),
      share(c.planned, c.ops), c.flushes, c.plan_runs, c.plan_builds, c.divergences);
}

namespace {

template <class T, class Bits>
std::string element_difference(const std::string& a, const std::string& b) {
  const size_t n = a.size() / sizeof(T);
  size_t differing = 0, first = n;
  for (size_t i = 0; i < n; ++i) {
    if (!std::memcmp(&a[i * sizeof(T)], &b[i * sizeof(T)], sizeof(T))) continue;
    first = std::min(first, i);
    ++differing;
  }
  T x, y;
  Bits xs, ys;
  std::memcpy(&x, &a[first * sizeof(T)], sizeof(T)), std::memcpy(&xs, &x, sizeof(T));
  std::memcpy(&y, &b[first * sizeof(T)], sizeof(T)), std::memcpy(&ys, &y, sizeof(T));
  return fmt::format("{} of {} elements; element {}: eager {} ({:#x}), captured {} ({:#x})", differing, n, first, x, xs,
                     y, ys);
}

std::string entry_difference(const Entry& a, const Entry& b) {
  if (a.elements == std::string::npos || b.elements == std::string::npos)
    return fmt::format("eager \"{}\", captured \"{}\"", a.bytes, b.bytes);
  const std::string x = a.bytes.substr(a.elements), y = b.bytes.substr(b.elements);
  if (x == y || x.size() != y.size() || a.dtype != b.dtype)
    return fmt::format("eager {}, captured {}", a.bytes.substr(0, a.elements), b.bytes.substr(0, b.elements));
  if (a.dtype == DType::f32 || rp::is_short(a.dtype)) return element_difference<float, uint32_t>(x, y);
  if (a.dtype == DType::f64) return element_difference<double, uint64_t>(x, y);
  return element_difference<int64_t, uint64_t>(x, y);
}

std::string first_difference(const Trace& eager, const Trace& captured) {
  for (size_t i = 0; i < std::min(eager.size(), captured.size()); ++i) {
    if (eager[i] == captured[i]) continue;
    const std::string also = eager[i].label == captured[i].label ? "" : " (captured: " + captured[i].label + ")";
    return eager[i].label + also + ": " + entry_difference(eager[i], captured[i]);
  }
  return fmt::format("{} observations eager, {} captured", eager.size(), captured.size());
}

}  // namespace

Verdict compare(const Program& program, rp::Mode mode) {
  Machine eager(program, rp::Mode::eager), captured(program, mode);
  try {
    eager.run();
  } catch (const std::exception& e) {
    return {Outcome::broke, "eager: " + std::string(e.what()), eager.coverage};
  }
  try {
    captured.run();
  } catch (const std::exception& e) {
    return {Outcome::broke, "captured: " + std::string(e.what()), captured.coverage};
  }
  if (eager.trace == captured.trace) return {Outcome::same, "", captured.coverage};
  return {Outcome::differs, first_difference(eager.trace, captured.trace), captured.coverage};
}

Verdict verify_whole(const Program& program) {
  Coverage coverage;
  const rp::VerifyReport report = rp::verify(rp::VerifyOptions{.calls = 3}, [&] {
    Machine machine(program, rp::mode());
    machine.run();
    coverage = machine.coverage;
    Tensors all = machine.outputs;
    for (const auto* list : {&machine.kept, &machine.variables}) all.insert(all.end(), list->begin(), list->end());
    return all;
  });
  return {report.ok ? Outcome::same : Outcome::differs, report.text, coverage};
}

std::string describe(const Program& program) {
  std::string text;
  Machine machine(program, rp::Mode::eager, &text);
  try {
    machine.run();
  } catch (const std::exception& e) {
    text += fmt::format("// broke off: {}\n", e.what());
  }
  return text;
}

// ---- shrinking ----

namespace {

class Shrinker {
 public:
  Shrinker(Program program, const std::function<bool(const Program&)>& fails)
      : best_(std::move(program)), fails_(fails) {}

  Program run() {
    for (bool better = true; better;) {
      better = false;
      for (size_t f = 0; f < best_.functions.size(); ++f)
        better |= thin([f](Program& p) -> Block& { return p.functions[f]; });
      better |= thin([](Program& p) -> Block& { return p.between; });
      better |= simplify();
    }
    return best_;
  }

 private:
  bool keep_if_failing(Program candidate) {
    if (tried_++ > 1500 || !fails_(candidate)) return false;
    best_ = std::move(candidate);
    return true;
  }

  template <class F>
  bool attempt(F change) {
    Program candidate = best_;
    change(candidate);
    return to_text(candidate) != to_text(best_) && keep_if_failing(std::move(candidate));
  }

  // Removes runs of statements, halving their length; unwraps and thins bodies.
  bool thin(const std::function<Block&(Program&)>& where) {
    bool better = false;
    for (auto length = static_cast<int64_t>(where(best_).size()); length > 0; length /= 2)
      for (int64_t at = 0; at < static_cast<int64_t>(where(best_).size());) {
        const bool removed = attempt([&](Program& p) {
          Block& b = where(p);
          b.erase(b.begin() + at, b.begin() + std::min<int64_t>(at + length, static_cast<int64_t>(b.size())));
        });
        better |= removed;
        if (!removed) at += length;
      }
    for (size_t i = 0; i < where(best_).size(); ++i) {
      if (where(best_)[i].body.empty()) continue;
      better |= attempt([&](Program& p) {
        Block& b = where(p);
        const Block inner = b[i].body;
        b.erase(b.begin() + static_cast<int64_t>(i));
        b.insert(b.begin() + static_cast<int64_t>(i), inner.begin(), inner.end());
      });
      if (i < where(best_).size() && !where(best_)[i].body.empty())
        better |= thin([&where, i](Program& p) -> Block& { return where(p)[i].body; });
    }
    for (size_t i = 0; i < where(best_).size(); ++i) {
      better |= attempt([&](Program& p) { where(p)[i].when = When::always; });
      better |= attempt([&](Program& p) { where(p)[i].drift = Drift::constant; });
    }
    return better;
  }

  bool simplify() {
    bool better = false;
    while (best_.iterations > 1 && attempt([](Program& p) { --p.iterations; })) better = true;
    while (best_.functions.size() > 1 && attempt([](Program& p) { p.functions.pop_back(); })) better = true;
    better |= attempt([](Program& p) { p.tail = 0; });
    better |= attempt([](Program& p) { p.aliased = -1; });
    better |= attempt([](Program& p) { p.errors_escape = false; });
    better |= attempt([](Program& p) { p.max_pending = 0; });
    for (int& d : best_.dims) {
      const auto k = static_cast<size_t>(&d - best_.dims);
      while (best_.dims[k] > 1 && attempt([k](Program& p) { p.dims[k] /= 2; })) better = true;
      while (best_.dims[k] > 1 && attempt([k](Program& p) { --p.dims[k]; })) better = true;
    }
    while (best_.inputs.size() > 1 && attempt([](Program& p) { p.inputs.pop_back(); })) better = true;
    while (!best_.variables.empty() && attempt([](Program& p) { p.variables.pop_back(); })) better = true;
    for (size_t i = 0; i < best_.inputs.size(); ++i)
      better |= attempt([i](Program& p) { p.inputs[i].source = Source::fresh; });
    for (size_t i = 0; i < best_.variables.size(); ++i)
      better |= attempt([i](Program& p) { p.variables[i].leaf = false; });
    return better;
  }

  Program best_;
  const std::function<bool(const Program&)>& fails_;
  int tried_ = 0;
};

}  // namespace

Program shrink(Program program, const std::function<bool(const Program&)>& fails) {
  return Shrinker(std::move(program), fails).run();
}

}  // namespace fuzz
