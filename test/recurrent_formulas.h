#pragma once
// The recurrent layers' formulas in plain double precision, one row at a time.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "reprise/nn/cells.h"

namespace formulas {

using Row = std::vector<double>;

// A layer's parameters as numbers; missing ones are empty.
struct Numbers {
  explicit Numbers(const rp::Module& m) {
    for (const auto& [name, p] : m.parameters()) {
      const std::string last = name.substr(name.rfind('.') + 1);
      values[last] = p.to_vector<double>();
      columns[last] = p.size(-1);
    }
  }
  // Column j of x · M.
  double product(const Row& x, const std::string& m, int64_t j) const {
    double s = 0;
    for (size_t i = 0; i < x.size(); ++i)
      s += x[i] * values.at(m)[i * static_cast<size_t>(columns.at(m)) + static_cast<size_t>(j)];
    return s;
  }
  Row product(const Row& x, const std::string& m) const {
    Row y;
    for (int64_t j = 0; j < columns.at(m); ++j) y.push_back(product(x, m, j));
    return y;
  }
  double at(const std::string& v, size_t i, double otherwise = 0) const {
    const auto it = values.find(v);
    return it == values.end() ? otherwise : it->second[i];
  }
  bool has(const std::string& v) const { return values.contains(v); }

  std::map<std::string, Row> values;
  std::map<std::string, int64_t> columns;
};

inline double sigma(double x) { return 1 / (1 + std::exp(-x)); }

inline Row normalised(Row x) {
  const double n = static_cast<double>(x.size());
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / n;
  double variance = 0;
  for (double v : x) variance += (v - mean) * (v - mean) / n;
  for (double& v : x) v = (v - mean) / std::sqrt(variance + 1e-5);
  return x;
}

// All states of one sequence, {h} or {h, c}; steps(x, states) makes one step.
using Step = std::function<std::vector<Row>(const Row& x, const std::vector<Row>& state)>;

inline Step rnn_step(const Numbers& p, const rp::RNNOptions& o) {
  return [=](const Row& x, const std::vector<Row>& s) {
    Row h = p.product(x, "input_weight"), u = p.product(s[0], "recurrent_weight");
    for (size_t j = 0; j < h.size(); ++j) {
      const double sum = h[j] + u[j] + p.at("bias", j);
      h[j] = o.relu ? std::max(sum, 0.0) : std::tanh(sum);
    }
    return std::vector<Row>{h};
  };
}

inline Step lstm_step(const Numbers& p, const rp::LSTMOptions& o) {
  return [=](const Row& x, const std::vector<Row>& s) {
    Row a = p.product(x, "input_weight"), u = p.product(s[0], "recurrent_weight");
    if (o.layer_norm) a = normalised(a), u = normalised(u);
    const size_t n = s[1].size();
    for (size_t j = 0; j < a.size(); ++j)
      a[j] = a[j] * p.at("input_scale", j, 1) + u[j] * p.at("recurrent_scale", j, 1) + p.at("bias", j);
    Row c(n), h(n);
    for (size_t j = 0; j < n; ++j) {
      const double i = sigma(a[j] + p.at("peephole", j) * s[1][j]);
      const double f = sigma(a[n + j] + (o.peephole ? p.at("peephole", n + j) : 0) * s[1][j]);
      c[j] = f * s[1][j] + i * std::tanh(a[2 * n + j]);
    }
    Row seen = o.layer_norm ? normalised(c) : c;
    for (size_t j = 0; j < n; ++j) {
      seen[j] = seen[j] * p.at("state_scale", j, 1) + p.at("state_shift", j);
      h[j] = sigma(a[3 * n + j] + (o.peephole ? p.at("peephole", 2 * n + j) : 0) * c[j]) * std::tanh(seen[j]);
    }
    return std::vector<Row>{o.projection ? p.product(h, "projection") : h, c};
  };
}

inline Step gru_step(const Numbers& p, const rp::GRUOptions& o) {
  return [=](const Row& x, const std::vector<Row>& s) {
    const size_t n = s[0].size();
    const Row a = p.product(x, "input_weight"), u = p.product(s[0], "recurrent_weight");
    Row r(n), scaled(n), h(n);
    for (size_t j = 0; j < n; ++j) {
      r[j] = sigma(a[j] + u[j] + p.at("bias", j));
      scaled[j] = r[j] * s[0][j];
    }
    for (size_t j = 0; j < n; ++j) {
      const double z = sigma(a[n + j] + u[n + j] + p.at("bias", n + j));
      const double from_h = o.reset_after ? r[j] * (u[2 * n + j] + p.at("candidate_bias", j))
                                          : p.product(scaled, "recurrent_weight", static_cast<int64_t>(2 * n + j));
      h[j] = (1 - z) * std::tanh(a[2 * n + j] + p.at("bias", 2 * n + j) + from_h) + z * s[0][j];
    }
    return std::vector<Row>{h};
  };
}

inline Step ligru_step(const Numbers& p, const rp::LiGRUOptions& o) {
  return [=](const Row& x, const std::vector<Row>& s) {
    const size_t n = s[0].size();
    Row a = p.product(x, "input_weight"), h(n);
    const Row u = p.product(s[0], "recurrent_weight");
    if (o.layer_norm) a = normalised(a);
    for (size_t j = 0; j < 2 * n; ++j) a[j] = a[j] * p.at("input_scale", j, 1) + u[j] + p.at("bias", j);
    for (size_t j = 0; j < n; ++j) {
      const double z = sigma(a[j]);
      h[j] = z * s[0][j] + (1 - z) * std::max(a[n + j], 0.0);
    }
    return std::vector<Row>{h};
  };
}

}  // namespace formulas
