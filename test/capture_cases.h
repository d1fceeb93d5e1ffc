#pragma once
// One program run eagerly, captured and verified: all that it notes must be the same, bit for bit.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include "reprise/reprise.h"
#include "reprise/test/catch.h"

namespace cases {

// A sanitizer keeps freed memory for a while.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
constexpr bool sanitized = __has_feature(address_sanitizer);
#else
constexpr bool sanitized = false;
#endif

/// What a program saw.
struct Log {
  rp::Mode mode;
  std::string text;
  rp::CaptureStats stats{};

  void add(const rp::Tensor& t) {
    if (!t.defined()) return void(text += "undefined\n");
    text += rp::to_string(t.spec()) + rp::to_string(t.strides());
    for (double v : t.to_vector<double>()) {
      if (std::isnan(v)) v = std::numeric_limits<double>::quiet_NaN();  // whatever its payload and sign
      char bytes[sizeof v];
      std::memcpy(bytes, &v, sizeof v);
      text.append(bytes, sizeof v);
    }
    text += '\n';
  }
  void add(const rp::Tensors& list) {
    for (const rp::Tensor& t : list) add(t);
  }
  void add(const std::string& words) { text += words + '\n'; }
  /// The text of the error that `f` throws.
  template <class F>
  void add_error(F f) {
    try {
      f();
      add("nothing was thrown");
    } catch (const std::exception& e) {
      add(std::string(e.what()));
    }
  }
};

/// Runs `program` in every mode and compares the logs; returns the statistics that the captured run noted.
inline rp::CaptureStats agree(const std::function<void(Log&)>& program) {
  auto run = [&](rp::Mode mode) {
    rp::ModeGuard guard(mode);
    rp::manual_seed(7);
    Log log{mode, {}};
    program(log);
    return log;
  };
  const Log eager = run(rp::Mode::eager), graph = run(rp::Mode::graph), verified = run(rp::Mode::verify);
  CHECK(!eager.text.empty());
  CHECK((eager.text == graph.text));
  CHECK((eager.text == verified.text));
  return graph.stats;
}

/// 0.25, 0.75, 1.25, ... with changing signs; `k` chooses other values.
inline rp::Tensor values(const rp::Shape& shape, int k = 0) {
  std::vector<float> v(static_cast<size_t>(rp::element_count(shape)));
  for (size_t i = 0; i < v.size(); ++i)
    v[i] = (i % 3 == 1 ? -0.5f : 0.5f) * static_cast<float>((i * 5 + static_cast<size_t>(k) * 3) % 11) + 0.25f;
  return rp::tensor(v, shape);
}

inline rp::Tensor leaf(const rp::Shape& shape, int k = 0) {
  rp::Tensor t = values(shape, k);
  t.set_requires_grad();
  return t;
}

}  // namespace cases
