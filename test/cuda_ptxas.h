#pragma once
// What CUDA's own compiler says of kernels, where it is there.
#include <string>

#include "reprise/backends/cuda/api.h"
#include "reprise/backends/cuda/compile.h"
#include "reprise/backends/cuda/module.h"
#include "reprise/test/catch.h"

namespace rp::test {

inline bool compiler_is_there() {
  try {
    cuda::nvrtc();
    return true;
  } catch (const Error& e) {
    WARN("skipped: " << e.what());
    return false;
  }
}

/// What ptxas says when it makes a kernel of a text.
inline std::string ptxas_log(const std::string& text, int architecture) {
  return cuda::compile_image(cuda::whole_source(text), "text", architecture, {"--ptxas-options=-v"}).log;
}

/// The number that a log has before `what`, "bytes spill stores" say.
inline int reported(const std::string& log, const std::string& what) {
  const size_t end = log.find(' ' + what);
  REQUIRE((end != std::string::npos && end > 0));
  return std::stoi(log.substr(log.rfind(' ', end - 1) + 1));
}

inline int bytes_spilled(const std::string& log) { return reported(log, "bytes spill stores"); }

}  // namespace rp::test
