#include "reprise/core/switches.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

#include "reprise/core/fail.h"

namespace rp {
namespace {

constexpr std::string_view prefix = "REPRISE_";

constexpr std::array table{
    Switch{"REPRISE_MODE", "what captures do: eager, graph (the default) or verify"},
    Switch{"REPRISE_DEVICE", "where tensors are made that nothing else places: cpu (the default) or cuda"},
    Switch{"REPRISE_LEVEL", "what captures may change: exact (the default), no bit; fast, what docs/levels.md lists"},
    Switch{"REPRISE_JIT", "0: fused loops run as compiled-in tile kernels instead of generated machine code"},
    Switch{"REPRISE_ISA", "vector instructions of kernels: avx2 or avx512; default: the widest that the processor has"},
    Switch{"REPRISE_THREADS", "threads that kernels may use; default: one per core"},
    Switch{"REPRISE_CUDA_PATH", "folders, separated by colons, in which the libraries of CUDA are looked for first"},
    Switch{"REPRISE_CUDA_CACHE", "the folder for compiled CUDA kernels; default: reprise in the user's cache folder"},
    Switch{"REPRISE_DISABLE", "rewrites to leave out, by name, separated by commas: see docs/verify.md"},
    Switch{"REPRISE_NAN", "1: the op that makes the first NaN or Inf throws an error that names it"},
    Switch{"REPRISE_PROFILE", "1: the kernels of captured functions are timed, for their reports"},
    Switch{"REPRISE_TRACE", "a file: the process writes its ops, kernels and captures there, for ui.perfetto.dev"},
    Switch{"REPRISE_LOG", "1: divergences, cuts, rebuilt plans and refusals are reported on standard error"},
};

constexpr std::array all_rewrites{
    Rewrite{"loops", "a scan is one op; off: its body is called step by step (outside captures)"},
    Rewrite{"hoist", "what does not change leaves the loop of a scan"},
    Rewrite{"body", "bodies of control ops run as plans; off: op by op"},
    Rewrite{"persist", "all steps of a scan are one kernel, on devices that have such kernels"},
    Rewrite{"carries", "carries and stacked results of a scan are left where they are wanted"},
    Rewrite{"share", "equal nodes become one"},
    Rewrite{"turn", "the transpose of a product is formed as a product"},
    Rewrite{"dead", "what nobody needs goes"},
    Rewrite{"fold", "exact identities go"},
    Rewrite{"chain", "sums of products become one segmented product"},
    Rewrite{"batch", "products with one right operand become one"},
    Rewrite{"homes", "what goes into a concat is made there"},
    Rewrite{"fuse", "ops of one iteration space share a kernel"},
    Rewrite{"map", "pointwise ops join maps"},
    Rewrite{"rows", "reductions of trailing axes share kernels"},
    Rewrite{"columns", "reductions of leading axes share kernels"},
    Rewrite{"epilogue", "ops join the matrix product before them"},
    Rewrite{"absorb", "the regions of several producers become one"},
    Rewrite{"group", "equal updates of different tensors become one launch"},
    Rewrite{"cell", "ops on equal parts of a product run on its columns while they are hot"},
    Rewrite{"memory", "buffers that are not alive together share memory"},
    Rewrite{"pack", "packed copies of right operands are kept"},
    Rewrite{"jit", "machine code; off: tile kernels"},
    Rewrite{"replay", "plans are replayed as CUDA graphs; off: launched kernel by kernel"},
};

constexpr std::array bit_changing_rewrites{
    Rewrite{"contract", "a product and the sum it goes into are rounded once"},
    Rewrite{"approximate", "tanh of f32 by a quotient of polynomials: within 6 ulp instead of 2"},
    Rewrite{"library",
            "large products, convolutions and attention on CUDA by cuBLASLt and cuDNN, which add up in other orders"},
    Rewrite{"tensor",
            "products of 16-bit floats in scans on CUDA by tensor cores, which add up in an order of their own"},
};

constinit thread_local const Without* innermost = nullptr;
constinit thread_local const Allow* allowed = nullptr;

/// Levenshtein's distance: insertions, deletions and replacements that turn `a` into `b`.
size_t edits(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

bool known(std::string_view name) { return std::ranges::find(table, name, &Switch::name) != table.end(); }

std::string_view nearest(std::string_view name) {
  return std::ranges::min(table, {}, [&](const Switch& s) { return edits(name, s.name); }).name;
}

void check_environment() {
  for (char** entry = environ; entry && *entry; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with(prefix)) continue;
    const std::string_view name = text.substr(0, text.find('='));
    if (!known(name)) fail("{}: there is no such switch; did you mean {}?", name, nearest(name));
  }
}

}  // namespace

std::span<const Switch> switches() { return table; }

std::string switch_value(std::string_view name) {
  if (!known(name)) fail("switch_value: expected the name of a switch, got \"{}\"", name);
  check_environment();
  const char* value = std::getenv(std::string(name).c_str());
  return value ? value : "";
}

std::span<const Rewrite> rewrites() { return all_rewrites; }
std::span<const Rewrite> inexact_rewrites() { return bit_changing_rewrites; }

namespace {

bool contains(std::span<const Rewrite> list, std::string_view name) {
  return std::ranges::find(list, name, &Rewrite::name) != list.end();
}

std::vector<std::string> environment_list() {
  std::vector<std::string> names;
  std::string rest = switch_value("REPRISE_DISABLE");
  while (!rest.empty()) {
    const size_t comma = rest.find(',');
    std::string name = rest.substr(0, comma);
    rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    if (name.empty()) continue;
    if (!contains(all_rewrites, name) && !contains(bit_changing_rewrites, name))
      fail("REPRISE_DISABLE: there is no rewrite \"{}\"", name);
    names.push_back(std::move(name));
  }
  return names;
}

}  // namespace

bool disabled(std::string_view rewrite) {
  static const std::vector<std::string> always = environment_list();
  if (std::ranges::find(always, rewrite) != always.end()) return true;
  for (const Without* w = innermost; w; w = w->outer_)
    if (std::ranges::find(w->names_, rewrite) != w->names_.end()) return true;
  if (!contains(bit_changing_rewrites, rewrite)) return false;
  return !allowed || std::ranges::find(allowed->names_, rewrite) == allowed->names_.end();
}

std::vector<std::string_view> left_out() {
  std::vector<std::string_view> names;
  for (const Without* w = innermost; w; w = w->outer_) names.insert(names.end(), w->names_.begin(), w->names_.end());
  return names;
}

Without::Without(std::vector<std::string_view> names)
    : names_(std::move(names)), outer_(std::exchange(innermost, this)) {}
Without::~Without() { innermost = outer_; }

Allow::Allow(std::vector<std::string_view> names) : names_(std::move(names)), outer_(std::exchange(allowed, this)) {}
Allow::~Allow() { allowed = outer_; }

}  // namespace rp
