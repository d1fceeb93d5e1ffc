#pragma once
#include <functional>
#include <memory>
#include <string>

#include "reprise/graph/executable.h"

namespace rp {

/// What a wrong result comes from.
struct Culprit {
  std::string rewrite;  ///< one of `rewrites()`; "kernel": a kernel of one op is wrong alone; "plan": none of these
  std::string op, line;
  std::string text;  ///< all of it as a sentence
};

/// A compiled graph whose results are wrong, to be compiled and tried again.
struct Trial {
  const Executable* code;        // as it was found
  size_t wrong;                  // which of its outputs, or behind those writes, was first
  std::function<Graph()> graph;  // makes the graph, by the rewrites that are not switched off
  /// Runs the plan and compares: the first wrong output, or behind those the first wrong write; -1 if all are right.
  std::function<int(const Executable&)> differs;
  std::function<void(const std::function<void(const Frame&)>&)> with_frame;  // the state it begins with
};

/// Compiles with all rewrites off, then with one more at a time in their order, and names the first with which the
/// result is wrong, and the first wrong op.
Culprit bisect(const Trial& trial);

}  // namespace rp
