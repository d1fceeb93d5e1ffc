#include "reprise/bench/peers.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <stdexcept>

#include "reprise/bench/cases.h"

namespace bench {
namespace {

/// Sums in another order and other versions of tanh differ by less.
constexpr double mean_tolerance = 1e-5, norm_tolerance = 1e-3;

bool near(const std::optional<double>& a, const std::optional<double>& b, double absolute, double relative) {
  return !a || !b || std::abs(*a - *b) <= absolute + relative * std::abs(*b);
}

std::optional<double> number(const nlohmann::json& row, const char* key) {
  return row.contains(key) ? std::optional(row.at(key).get<double>()) : std::nullopt;
}

PeerRow parse_row(const nlohmann::json& row) {
  auto text = [&](const char* key) { return row.value(key, std::string()); };
  PeerRow r;
  r.peer = text("peer");
  r.version = text("version");
  r.cell = text("cell");
  r.form = text("form");
  r.size = text("size");
  r.threads = row.value("threads", 1);
  r.forward_ns = number(row, "forward_ns");
  r.train_ns = number(row, "train_ns");
  r.spread = std::max(row.value("forward_spread", 0.0), row.value("train_spread", 0.0));
  r.checks = {number(row, "mean_h"), number(row, "grad_norm"), number(row, "x_grad_norm")};
  r.error = text("error");
  return r;
}

bool same_function_as_first(const Peers& peers, const PeerRow& row) {
  for (const PeerRow& first : peers.rows)
    if (first.cell == row.cell && first.size == row.size && first.error.empty()) return agree(row.checks, first.checks);
  return true;
}

}  // namespace

bool agree(const RecurrentChecks& a, const RecurrentChecks& b) {
  return near(a.mean_h, b.mean_h, mean_tolerance, 0) && near(a.grad_norm, b.grad_norm, 0, norm_tolerance) &&
         near(a.x_grad_norm, b.x_grad_norm, 0, norm_tolerance);
}

Peers read_peers(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  try {
    Peers peers{nlohmann::json::parse(file), {}};
    for (const nlohmann::json& row : peers.source.at("rows")) peers.rows.push_back(parse_row(row));
    return peers;
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(path + " does not hold the figures of peers: " + e.what());
  }
}

void print_peers(const Peers& peers) {
  const nlohmann::json machine = peers.source.value("machine", nlohmann::json::object());
  fmt::print("\npeers on {}, load {:.2f}; medians, +- is the distance of the quartiles\n\n",
             machine.value("cpu", "an unknown machine"), machine.value("load", 0.0));
  fmt::print("{:19} {:13} {:9} {:8} {:14} {:>7} {:>9} {:>9} {:>6}\n", "", "version", "cell", "form", "size", "threads",
             "forward", "training", "+-");
  for (const PeerRow& r : peers.rows) {
    std::string note = r.error;
    if (!same_function_as_first(peers, r)) note += note.empty() ? "computes another function" : ", another function";
    const std::string spread = r.forward_ns || r.train_ns ? fmt::format("{:.0f}%", 100 * r.spread) : "";
    fmt::print("{:19} {:13} {:9} {:8} {:14} {:>7} {:>9} {:>9} {:>6}  {}\n", r.peer, r.version, r.cell, r.form, r.size,
               r.threads, time_text(r.forward_ns), time_text(r.train_ns), spread, note);
  }
}

}  // namespace bench
