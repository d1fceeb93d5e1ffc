#pragma once
// Other libraries' figures for the recurrences, as bench/peers/run.py keeps them. peers/workload.py says what is
// computed.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace bench {

/// What a computation of a recurrence is checked by.
struct RecurrentChecks {
  std::optional<double> mean_h, grad_norm, x_grad_norm;
};

/// Whether both may be of the same function; what only one of them knows is not compared.
bool agree(const RecurrentChecks& a, const RecurrentChecks& b);

struct PeerRow {
  std::string peer, version, cell, form, size;  ///< all but `peer` may be empty where there is an error
  int threads = 1;
  std::optional<double> forward_ns, train_ns;
  double spread = 0;  ///< of the noisier of the two: distance of the quartiles in relation to the median
  RecurrentChecks checks;
  std::string error;  ///< what was not measured, and why
};

struct Peers {
  nlohmann::json source;  ///< the file as it is
  std::vector<PeerRow> rows;
};

/// Throws if the file cannot be read or is no such file.
Peers read_peers(const std::string& path);

/// One line for each row, and a note at those that do not compute what the first of the same cell and size does.
void print_peers(const Peers& peers);

}  // namespace bench
