#include "reprise/bench/table.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <utility>

namespace bench {
namespace {

using Json = nlohmann::json;

template <class T>
Json or_null(const std::optional<T>& v) {
  return v ? Json(*v) : Json();
}

std::optional<bool> meets(const Case& c, const Result& r) { return c.goal.met ? c.goal.met(r) : std::nullopt; }

/// The rate of the faster mode, in 1e9 operations a second.
std::optional<double> gflops(const Result& r) {
  if (r.flops == 0) return {};
  return r.flops / std::min(r.eager_ns.value_or(1e300), r.ours());
}

std::optional<double> ratio(const Result& r) {
  const Figure* best = r.best(is_any);
  return best && r.ours() > 0 ? std::optional(*best->ns / r.ours()) : std::nullopt;
}

/// What the peers took, those without a figure with the reason.
std::string peers_text(const Result& r) {
  std::string text;
  for (const Figure& f : r.peers) {
    text += text.empty() ? "" : "; ";
    text += f.ns ? fmt::format("{} {} ({:.2f}x)", f.name(), time_text(f.ns), *f.ns / r.ours())
                 : fmt::format("{}: {}", f.name(), f.error);
  }
  return text;
}

Json peers_json(const Result& r) {
  Json times = Json::object(), forms = Json::array();
  for (const Figure& f : r.peers) {
    Json& fastest = times[f.peer];
    if (f.ns && (fastest.is_null() || *f.ns < fastest.get<double>())) fastest = *f.ns;
    Json form = {{"peer", f.peer}, {"form", f.form}, {"ns", or_null(f.ns)}, {"spread", f.spread}};
    if (!f.error.empty()) form["error"] = f.error;
    forms.push_back(std::move(form));
  }
  const Figure* best = r.best(is_any);
  return {{"peers", times},
          {"forms", forms},
          {"best_peer", best ? Json(best->name()) : Json()},
          {"ratio", or_null(ratio(r))},
          {"disagreeing", r.disagreeing}};
}

Json row_json(const Case& c, const Result& r, std::optional<bool> met, int threads) {
  Json row = {{"id", c.id},
              {"goal", c.goal.text.empty() ? Json() : Json(c.goal.text)},
              {"threads", threads},
              {"eager_ns", or_null(r.eager_ns)},
              {"captured_ns", or_null(r.captured_ns)},
              {"fast_ns", or_null(r.fast_ns)},
              {"counts_fast", r.counts_fast},
              {"spread", r.spread},
              {"captured_slower", r.eager_ns && r.captured_ns ? Json(r.loss_low_ns > 0) : Json()},
              {"limit_ns", or_null(r.limit_ns)},
              {"fraction_of_limit", or_null(r.fraction_of_limit())},
              {"gflops", or_null(gflops(r))},
              {"system_calls", r.system_calls},
              {"meets_goal", or_null(met)},
              {"note", r.note}};
  row.update(peers_json(r));
  row.update(r.more);
  return row;
}

std::string yes_or_no(const std::optional<bool>& met) { return !met ? "" : *met ? "yes" : "no"; }

}  // namespace

Table::Table(const std::vector<Case>& cases, const Surroundings& around, std::string json)
    : around_(around), json_(std::move(json)) {
  for (const Case& c : cases) {
    id_width_ = std::max(id_width_, c.id.size());
    goal_width_ = std::max(goal_width_, c.goal.text.size());
  }
  print_head();
}

void Table::print_head() const {
  const Machine& m = around_.machine;
  fmt::print("{}, {} cores, load {:.2f}; {} thread{} do{} {:.1f} GFLOP/s and move", m.cpu, m.cores, m.load,
             around_.threads, around_.threads == 1 ? "" : "s", around_.threads == 1 ? "es" : "", m.peak_gflops);
  for (const MemoryLevel& l : m.levels) fmt::print(" {} {:.0f}", l.name, l.gbs);
  fmt::print(" GB/s\nmedians of at most {} rounds, all in turn; +- is the distance of the quartiles\n\n",
             effort().most_rounds);
  fmt::print("{:{}} {:>9} {:>9} {:>8} {:>6} {:>6} {:>6}  {:{}} {:4}\n", "", id_width_, "eager", "captured", "speed-up",
             "+-", "limit", "peer", "goal", goal_width_, "met");
}

void Table::print(const Case& c, const Result& r, std::optional<bool> met) const {
  const std::string gain = r.eager_ns && r.captured_ns ? fmt::format("{:.2f}", *r.eager_ns / *r.captured_ns) : "";
  const std::string percent = r.limit_ns ? fmt::format("{:.0f}%", 100 * r.fraction_of_limit().value_or(0)) : "";
  const Figure* best = r.best(is_any);
  const std::string ahead = best ? fmt::format("{:.2f}x", *best->ns / r.ours()) : "";
  std::string note = r.note;
  const auto remark = [&](const std::string& more) { note += (note.empty() || more.empty() ? "" : "; ") + more; };
  if (const auto rate = gflops(r)) remark(fmt::format("{:.1f} GFLOP/s", *rate));
  if (r.fast_ns) remark(fmt::format("at fast {:.2f}x", *r.captured_ns / *r.fast_ns));
  if (r.loss_low_ns > 0) remark("captured is slower than eager");
  if (r.system_calls) remark(fmt::format("{} system calls", r.system_calls));
  remark(peers_text(r));
  fmt::print("{:{}} {:>9} {:>9} {:>8} {:>5.1f}% {:>6} {:>6}  {:{}} {:4}  {}\n", c.id, id_width_, time_text(r.eager_ns),
             time_text(r.captured_ns), gain, 100 * r.spread, percent, ahead, c.goal.text, goal_width_, yes_or_no(met),
             note);
  std::fflush(stdout);
}

void Table::add(const Case& c, const Result& r) {
  const std::optional<bool> met = meets(c, r);
  print(c, r, met);
  goals_ += met.has_value();
  met_ += met.value_or(false);
  if (r.eager_ns && r.captured_ns) {
    ++in_both_modes_;
    if (r.loss_low_ns > 0) slower_.push_back(c.id);
  }
  keep(row_json(c, r, met, around_.threads));
}

void Table::add_failed(const Case& c, const std::string& why) {
  fmt::print("{:{}} FAILED: {}\n", c.id, id_width_, why);
  std::fflush(stdout);
  ++failed_;
  ++goals_;
  Json row = row_json(c, {}, false, around_.threads);
  row["error"] = why;
  keep(std::move(row));
}

void Table::keep(Json row) {
  rows_.push_back(std::move(row));
  if (json_.empty()) return;
  Json machine = to_json(around_.machine);
  for (const auto& peer : around_.peers)
    if (!peer->version().empty()) machine["versions"][peer->name()] = peer->version();
  const std::string unfinished = json_ + ".part";
  std::ofstream file(unfinished);
  file << Json{{"machine", machine}, {"rows", rows_}}.dump(2) << '\n';
  file.close();
  if (!file) throw std::runtime_error("cannot write " + unfinished);
  std::filesystem::rename(unfinished, json_);
}

bool Table::finish() {
  if (in_both_modes_) {
    Result all;
    all.met = slower_.empty();
    all.more["slower"] = slower_;
    all.note = fmt::format("of {} rows, {}", in_both_modes_, slower_.empty() ? "none is slower" : "slower are");
    for (const std::string& id : slower_) all.note += ' ' + id;
    add({"capture/never_slower", stated("captured <= eager in every row"), {}}, all);
  }
  fmt::print("\n{} of {} goals met", met_, goals_);
  if (failed_) fmt::print(", {} row{} failed", failed_, failed_ == 1 ? "" : "s");
  fmt::print("\n");
  return failed_ == 0;
}

}  // namespace bench
