#include "reprise/bench/compare.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "reprise/bench/cuda_machine.h"
#include "reprise/reprise.h"

namespace bench {
namespace {

using rp::Mode;
using rp::Tensor;
using rp::Tensors;

bool equal_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) return false;
  const std::vector<float> left = a.to_vector<float>(), right = b.to_vector<float>();
  return !std::memcmp(left.data(), right.data(), left.size() * sizeof(float));
}

void require_equal(const Tensors& eager, const Tensors& graph, const std::string& what) {
  for (size_t i = 0; i < eager.size(); ++i)
    if (!equal_bits(eager[i], graph[i]))
      throw std::runtime_error(fmt::format("{} has other bits captured than eager in result {}", what, i));
}

std::vector<Digest> digests_of(const Tensors& all) {
  std::vector<Digest> digests;
  for (const Tensor& t : all) digests.push_back(digest_of(t));
  return digests;
}

void append(Tensors& all, const Tensors& more) { all.insert(all.end(), more.begin(), more.end()); }

/// What they differ in; empty if they agree.
std::string mismatch(const std::vector<Digest>& ours, const std::vector<Digest>& theirs, const Comparison& c) {
  if (ours.size() != theirs.size()) return fmt::format("{} results instead of {}", theirs.size(), ours.size());
  for (size_t i = 0; i < std::min(ours.size(), c.compared_results); ++i)
    if (!agree(ours[i], theirs[i], c.tolerance))
      return fmt::format("computes another result {}: norm {:.6g} for {:.6g}, dot {:.6g} for {:.6g}", i, theirs[i].norm,
                         ours[i].norm, theirs[i].dot, ours[i].dot);
  return {};
}

void require_near(const std::vector<Digest>& eager, const std::vector<Digest>& fast, const Comparison& c) {
  if (const std::string difference = mismatch(eager, fast, c); !difference.empty())
    throw std::runtime_error("captured at fast " + difference);
}

Tensors call_in(Mode mode, const std::function<Tensors()>& call) {
  const rp::ModeGuard guard(mode);
  return call();
}

/// The copies of both modes, checked against each other.
class Copies {
 public:
  explicit Copies(const Comparison& c) : eager_(make(c, Mode::eager)) {
    if (c.captured) {
      graph_ = make(c, Mode::graph);
      fast_ = make(c, Mode::graph);
    }
    for (int call = 1; call <= c.checked_calls; ++call) {
      Tensors results = call_in(Mode::eager, eager_.call), fast;
      if (c.captured) {
        require_equal(results, call_in(Mode::graph, graph_.call), fmt::format("call {}", call));
        fast = call_in(Mode::graph, [this] { return at_fast(fast_.call); });
      }
      if (eager_.state) {
        const Tensors state = eager_.state();
        if (c.captured) require_equal(state, graph_.state(), fmt::format("what call {} changed", call));
        if (c.captured) append(fast, fast_.state());
        append(results, state);
      }
      if (call == c.compared_calls) digests_ = digests_of(results);
      if (c.captured && call == c.checked_calls) require_near(digests_of(results), digests_of(fast), c);
    }
    for (const Copy* copy : {&eager_, &graph_, &fast_})
      if (copy->checked) copy->checked();
  }

  const std::vector<Digest>& digests() const { return digests_; }

  /// What the report of the capture says of its last plan.
  nlohmann::json facts() const {
    if (!graph_.report) return nlohmann::json::object();
    const nlohmann::json report = nlohmann::json::parse(graph_.report());
    const nlohmann::json& plan = report.at("paths").back().at("plan");
    nlohmann::json facts = {{"kernels", plan.at("kernels").size()}, {"arena_bytes", plan.at("arena_bytes")}};
    if (plan.contains("reorders")) facts["reorders"] = plan["reorders"];
    return facts;
  }

  std::vector<Timed> entrants() const {
    std::vector<Timed> all{timed({Mode::eager, [this] { eager_.call(); }, eager_.before})};
    if (!graph_.call) return all;
    all.push_back(timed({Mode::graph, [this] { graph_.call(); }, graph_.before}));
    all.push_back(timed({Mode::graph, [this] { at_fast(fast_.call); }, fast_.before}));
    return all;
  }

 private:
  static Copy make(const Comparison& c, Mode mode) {
    const rp::ModeGuard guard(mode);
    rp::manual_seed(1);
    return c.make();
  }

  static Tensors at_fast(const std::function<Tensors()>& call) {
    const rp::LevelGuard guard(rp::Level::fast);
    return call();
  }

  Copy eager_, graph_, fast_;
  std::vector<Digest> digests_;
};

/// A peer that computes what we do, or the reason why there is none.
struct Rival {
  Entry entry;
  Peer* peer = nullptr;
  std::string key, error;
  bool disagrees = false;
};

std::vector<Rival> prepare(const Comparison& c, const Copies& copies, const Surroundings& around) {
  std::vector<Rival> rivals;
  for (const Entry& entry : c.entries)
    for (const auto& peer : around.peers) {
      if (peer->name() != entry.peer) continue;
      Rival r{entry, peer.get(), entry.peer + entry.form, {}};
      try {
        r.error = mismatch(copies.digests(), peer->prepare(r.key, c.spec, entry.form, c.compared_calls), c);
        r.disagrees = !r.error.empty();
      } catch (const std::exception& e) {
        r.error = e.what();
      }
      rivals.push_back(std::move(r));
    }
  return rivals;
}

/// The peers keep nothing from row to row, however the row ends.
class Room {
 public:
  explicit Room(const Surroundings& around) : around_(around) {}
  ~Room() {
    for (const auto& peer : around_.peers) try {
        peer->drop();
      } catch (const std::exception&) {  // it has been stopped and starts anew when it is next needed
      }
  }
  Room(const Room&) = delete;

 private:
  const Surroundings& around_;
};

void set_own_times(const Timing& timing, const Comparison& c, Result& r) {
  for (size_t i = 0; i < (c.captured ? 3 : 1); ++i)
    if (!timing.failed[i].empty()) throw std::runtime_error(timing.failed[i]);
  const Times& eager = timing.of[0];
  r.eager_ns = median(eager) / c.parts;
  r.spread = spread(eager);
  r.system_calls = timing.system_calls;
  if (!c.captured) return;
  const Times &captured = timing.of[1], loss = difference(captured, eager);
  r.captured_ns = median(captured) / c.parts;
  r.fast_ns = median(timing.of[2]) / c.parts;
  r.spread = std::max(r.spread, spread(captured));
  r.loss_low_ns = quantile(loss, 0.25);
  r.loss_high_ns = quantile(loss, 0.75);
}

void set_peers(const Timing& timing, size_t first, std::vector<Rival>& rivals, double parts, Result& r) {
  for (Rival& rival : rivals) {
    Figure f{rival.entry.peer, rival.entry.form, {}, 0, rival.error};
    if (rival.disagrees) r.disagreeing.push_back(f.name());
    if (rival.error.empty()) {
      f.error = timing.failed[first];
      if (const Times& times = timing.of[first++]; !times.empty()) {
        f.ns = median(times) / parts;
        f.spread = spread(times);
      }
    }
    r.peers.push_back(std::move(f));
  }
}

}  // namespace

std::vector<Entry> learning_peers() { return {{"libtorch"}, {"torch"}, {"torch-graph"}, {"torch-compile"}, {"jax"}}; }

std::vector<Entry> all_peers() {
  std::vector<Entry> all = learning_peers();
  all.push_back({"onnxruntime"});
  return all;
}

Result compare(const Comparison& c, const Surroundings& around) {
  const Copies copies(c);
  const Room room(around);
  std::vector<Rival> rivals = prepare(c, copies, around);
  std::vector<Timed> entrants = copies.entrants();
  const size_t own = entrants.size();
  for (const Rival& r : rivals)
    if (r.error.empty()) entrants.push_back([&r](int64_t calls) { return r.peer->run(r.key, calls); });
  const Timing timing = take_turns(entrants);
  Result r;
  set_own_times(timing, c, r);
  set_peers(timing, own, rivals, c.parts, r);
  const double arithmetic = c.tensor_cores ? cuda_product_ns(c.flops) : around.machine.arithmetic_ns(c.flops);
  const double limit =
      std::max({arithmetic, c.arithmetic_ns / around.threads, c.bytes > 0 ? around.machine.moving_ns(c.bytes) : 0});
  if (limit > 0) r.limit_ns = limit / c.parts;
  r.flops = c.flops;
  r.counts_fast = c.tensor_cores;
  r.more = copies.facts();
  r.more["rounds"] = timing.of[0].size();
  return r;
}

Case compared(const Surroundings& around, std::string id, Goal goal, std::function<Comparison()> make) {
  return {std::move(id), std::move(goal), [&around, make = std::move(make)] { return compare(make(), around); }};
}

Tensor tensor_of(const Part& part) {
  const rp::Shape shape{std::span(part.shape)};
  if (part.classes) return rp::tensor(integer_values(part), shape);
  return rp::tensor(float_values(part), shape).to(dtype_of(part));
}

Tensors tensors_of(const Spec& spec) {
  Tensors all;
  for (const Part& p : spec.parts) all.push_back(tensor_of(p));
  return all;
}

rp::DType dtype_of(const Part& part) {
  if (part.classes) return rp::DType::i64;
  for (int i = 0; i < rp::dtype_count; ++i)
    if (const auto dtype = static_cast<rp::DType>(i); rp::name_of(dtype) == part.dtype) return dtype;
  throw std::runtime_error("no dtype is called " + part.dtype);
}

double bytes_of(const Part& part) {
  return static_cast<double>(part.numel()) * static_cast<double>(rp::size_of(dtype_of(part)));
}

Spec stored_as(rp::DType dtype, Spec spec) {
  for (Part& p : spec.parts)
    if (!p.classes) p.dtype = rp::name_of(dtype);
  return spec;
}

std::string goal_id(std::string_view goal, std::string_view what, rp::DType dtype) {
  return fmt::format("{}.{}.{}", rp::is_short(dtype) ? goal : "beside", what, rp::name_of(dtype));
}

double tolerance_of(rp::DType dtype) { return rp::is_short(dtype) ? 2e-2 : 1e-3; }

Digest digest_of(const Tensor& t) {
  const std::vector<float> values = t.to_vector<float>();
  return digest(values.data(), static_cast<int64_t>(values.size()));
}

/// Sums in another order and other versions of tanh differ by less.
bool agree(const Digest& a, const Digest& b, double tolerance) {
  const double allowed = tolerance * std::max(a.norm, b.norm) + 1e-12;
  return std::abs(a.norm - b.norm) <= allowed && std::abs(a.dot - b.dot) <= allowed;
}

Tensors same_bits(const std::string& name, const std::function<Tensors()>& captured) {
  Tensors eager = call_in(Mode::eager, captured);
  for (int call = 1; call <= 3; ++call)  // recorded, planned, planned before
    require_equal(eager, call_in(Mode::graph, captured), fmt::format("{}: call {}", name, call));
  return eager;
}

double element_ns(const std::function<Tensors(const Tensors&)>& body, int inputs) {
  if (rp::default_device() != rp::Device::cpu()) return 0;  // short calls there say nothing about elements
  constexpr int64_t few = 8, many = 512;
  const auto variant = [&](int64_t numel) {
    Tensors in;
    for (int i = 0; i < inputs; ++i) in.push_back(rp::uniform({numel}, -1, 1));
    return Variant{Mode::graph, [in, step = rp::capture(body)]() mutable { step(in); }};
  };
  const Timing timing = interleave({variant(few), variant(many)});
  return median(difference(timing.of[1], timing.of[0])) / (many - few);
}

}  // namespace bench
