// What rows aim at.
#include <fmt/core.h>

#include <utility>

#include "reprise/bench/cases.h"

namespace bench {

bool is_any(const Figure&) { return true; }
bool is_libtorch(const Figure& f) { return f.peer == "libtorch"; }
bool is_eager(const Figure& f) { return f.peer == "libtorch" || f.peer == "torch" || f.peer == "torch-graph"; }
bool is_compiled(const Figure& f) { return !is_eager(f); }
bool is_own_layer(const Figure& f) { return f.form == "own"; }
bool is_users_cell(const Figure& f) { return f.form != "own"; }

const Figure* Result::best(bool (*among)(const Figure&)) const {
  const Figure* best = nullptr;
  for (const Figure& f : peers)
    if (f.ns && among(f) && (!best || *f.ns < *best->ns)) best = &f;
  return best;
}

Goal eager_at_most(double ns) {
  return {"eager <= " + time_text(ns), [=](const Result& r) { return *r.eager_ns <= ns; }};
}

Goal captured_at_most(double ns) {
  return {"captured <= " + time_text(ns), [=](const Result& r) { return *r.captured_ns <= ns; }};
}

Goal faster_than_eager() {
  return {"captured < eager", [](const Result& r) { return r.loss_high_ns < 0; }};
}

Goal not_slower_than_eager() {
  return {"captured <= eager", [](const Result& r) { return r.loss_low_ns <= 0; }};
}

Goal both(Goal a, Goal b) {
  std::string text = a.text + ", " + b.text;
  return {std::move(text), [a = std::move(a.met), b = std::move(b.met)](const Result& r) -> std::optional<bool> {
            const std::optional<bool> first = a(r), second = b(r);
            if (first == false || second == false) return false;
            return first && second ? std::optional(true) : std::nullopt;
          }};
}

Goal stated(std::string text) {
  if (text.empty()) return {};
  return {std::move(text), [](const Result& r) { return r.met; }};
}

Goal ratios(std::vector<Aim> aims, double limit) {
  std::string text;
  for (const Aim& a : aims)
    text += fmt::format("{}{}{:g} x {}", text.empty() ? "" : ", ", a.of_eager ? "eager " : "", a.times, a.than);
  if (limit < 1) text += fmt::format("{}{:.0f}% of limit", text.empty() ? "" : " or ", 100 * limit);
  return {std::move(text), [aims = std::move(aims), limit](const Result& r) -> std::optional<bool> {
            if (!r.disagreeing.empty()) return false;
            if (r.fraction_of_limit().value_or(0) >= limit) return true;
            bool unknown = false, missed = aims.empty();
            for (const Aim& a : aims) {
              const Figure* best = a.among ? r.best(a.among) : nullptr;
              const std::optional<double> theirs = !a.among ? r.eager_ns : best ? best->ns : std::nullopt;
              unknown |= !theirs;
              missed |= theirs && *theirs / (a.of_eager ? *r.eager_ns : r.ours()) < a.times;
            }
            if (missed) return false;
            return unknown ? std::nullopt : std::optional(true);
          }};
}

}  // namespace bench
