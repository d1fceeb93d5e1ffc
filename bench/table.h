#pragma once
// How rows are shown and kept.
#include <string>
#include <vector>

#include "reprise/bench/cases.h"

namespace bench {

/// The measured rows: a line for each as it comes, and the file, which is whole after every row.
class Table {
 public:
  /// `json` is the file; may be empty.
  Table(const std::vector<Case>& cases, const Surroundings& around, std::string json);

  void add(const Case& c, const Result& r);
  void add_failed(const Case& c, const std::string& why);
  /// What holds for all rows, and how many goals are met. Returns whether no row failed.
  bool finish();

 private:
  void print_head() const;
  void print(const Case& c, const Result& r, std::optional<bool> met) const;
  void keep(nlohmann::json row);

  const Surroundings& around_;
  std::string json_;
  size_t id_width_ = 26, goal_width_ = 22;
  nlohmann::json rows_ = nlohmann::json::array();
  int goals_ = 0, met_ = 0, failed_ = 0;
  std::vector<std::string> slower_;  // captured than eager
  int in_both_modes_ = 0;
};

}  // namespace bench
