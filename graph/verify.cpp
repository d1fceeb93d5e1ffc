#include "reprise/graph/verify.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "reprise/core/fail.h"
#include "reprise/core/hash.h"
#include "reprise/core/ops.h"
#include "reprise/core/switches.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/capture.h"
#include "reprise/graph/private_inputs.h"
#include "reprise/graph/recorder.h"
#include "reprise/graph/unroll.h"
#include "reprise/graph/world.h"

namespace rp {
namespace {

constexpr double rounding = 1e-3;  // what other orders of addition may make of a gradient

// What one call returns.
struct Outcome {
  Tensors results, leaves, gradients;
  std::string error;
};
using Function = std::function<Outcome(const Tensors&)>;
using Recorded = Captured<Function>;
using Observations = std::vector<Observation>;

void add_gradients(Outcome& o) {
  Tensors outputs, seeds;
  for (const Tensor& t : o.results) {
    if (!is_floating(t.dtype()) || !t.requires_grad()) continue;
    outputs.push_back(t);
    for_each_leaf(t, [&](const Tensor& leaf) {
      if (std::none_of(o.leaves.begin(), o.leaves.end(), [&](const Tensor& l) { return l.is(leaf); }))
        o.leaves.push_back(leaf);
    });
  }
  if (o.leaves.empty()) return;
  for (const Tensor& t : outputs) seeds.push_back(ones_like(t));
  try {
    o.gradients = grad(outputs, o.leaves, {.allow_unused = true, .seeds = seeds});
  } catch (const Error&) {  // the function has walked this tape itself
    o.gradients.assign(o.leaves.size(), Tensor());
  }
}

// What an op has computed.
struct Step {
  const Op* op;
  Loc loc;
  size_t hash;
};

class Verifier {
 public:
  Verifier(const detail::VerifiedFunction& f, const Tensors& arguments, const VerifyOptions& options)
      : f_(f), arguments_(arguments), options_(options) {
    for (const Tensor& t : arguments) world_.see(t);
  }

  VerifyReport run() {
    Observations captured = captured_sequence(Mode::graph);
    const std::vector<const void*> temporary = world_.leave_out_temporaries();
    std::erase_if(captured, [&](const Observation& o) {
      return o.owner && std::find(temporary.begin(), temporary.end(), o.owner) != temporary.end();
    });
    const Observations eager = eager_sequence({"pack"});
    report_.difference = first_difference(eager, captured, "captured", 0);
    if (!report_.difference.empty())
      blame_capture();
    else if (options_.loops)
      check_loops(eager);
    world_.restore();
    report_.ok = report_.difference.empty();
    if (report_.ok)
      report_.text = fmt::format("verify: {} calls agree: {} tensors compared", options_.calls, eager.size());
    return report_;
  }

 private:
  // ---- runs ----

  Outcome once(const Tensors& in) const {
    Outcome o;
    o.results = f_.call(in);
    if (options_.gradients) add_gradients(o);
    return o;
  }

  Recorded make_capture(bool plans = true) {
    Recorded captured =
        capture(Function([this](const Tensors& in) { return once(in); }), {.name = "verify", .level = Level::exact});
    Trie& trie = trie_of(*detail::recording_of(captured));
    trie.watch = std::make_unique<Trie::Watch>();
    trie.watch->plans = plans;
    if (!seen_) trie.watch->uses = [this](const Tensor& t) { world_.see(t); };
    return captured;
  }

  // Moves the elements of the arguments along by one: other values of the same kind.
  void turn_arguments() const {
    std::vector<Storage*> done;
    for (const Tensor& t : arguments_) {
      Storage* s = t.impl()->storage;
      if (!s->data || s->bytes <= size_of(t.dtype()) || std::find(done.begin(), done.end(), s) != done.end()) continue;
      done.push_back(s);
      std::vector<std::byte> bytes = bytes_of(*s);
      std::rotate(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size_of(t.dtype())), bytes.end());
      set_bytes(*s, bytes);
    }
  }

  void observe(const std::string& label, const Outcome& o, Observations& list) const {
    Observation error{.label = label + ": error " + o.error, .shape = {static_cast<int64_t>(o.error.size())}};
    list.push_back(error);
    for (size_t k = 0; k < o.results.size(); ++k) {
      list.push_back(observed(label + ": result" + f_.result_name(k), o.results[k]));
      list.back().result = static_cast<int>(k);
    }
    for (size_t k = 0; k < o.gradients.size(); ++k)
      list.push_back(observed(fmt::format("{}: gradient of leaf {}, {}", label, k, to_string(o.leaves[k].spec())),
                              o.gradients[k]));
  }

  Observations sequence(const Function& call) {
    world_.restore();
    Observations list;
    std::vector<Outcome> outcomes;
    for (int k = 0; k < options_.calls; ++k) {
      if (k % 2) turn_arguments();
      world_.begin_call();
      Outcome o;
      try {
        o = call(arguments_);
      } catch (const std::exception& e) {
        o.error = e.what();
      }
      const std::string label = fmt::format("call {}", k + 1);
      observe(label, o, list);
      world_.observe(label, list);
      outcomes.push_back(std::move(o));
    }
    for (size_t k = 0; k < outcomes.size(); ++k)  // nothing later may have changed them
      observe(fmt::format("call {}, looked at in the end", k + 1), outcomes[k], list);
    if (!outcomes.empty() && !outcomes.back().results.empty()) last_ = outcomes.back().results;
    return list;
  }

  Observations eager_sequence(std::vector<std::string_view> off) {
    const ModeGuard guard(Mode::eager);
    const Without without(std::move(off));
    return sequence([this](const Tensors& in) { return once(in); });
  }

  Observations captured_sequence(Mode mode) {
    const ModeGuard guard(mode);
    Recorded captured = make_capture();
    Observations list = sequence(captured);
    culprit_ = trie_of(*detail::recording_of(captured)).culprit;
    if (!seen_) last_.clear();
    seen_ = true;
    captured_ = std::make_unique<Recorded>(std::move(captured));
    return list;
  }

  // ---- comparison ----

  std::string first_difference(const Observations& eager, const Observations& other, const char* how,
                               double tolerance) {
    auto at = other.begin();
    for (const Observation& o : eager) {
      const auto same = std::find_if(at, other.end(), [&](const Observation& x) {
        return x.label == o.label && (!o.owner || x.owner == o.owner);
      });
      if (same == other.end() && o.owner) continue;  // state that was first seen later
      if (same == other.end()) return fmt::format("{}: eagerly, not {}", o.label, how);
      if (tolerance > 0 && !is_floating(o.dtype)) continue;
      if (const std::string d = difference(o, *same, how, tolerance); !d.empty()) {
        wrong_result_ = o.result;
        return o.label + ": " + d;
      }
      at = o.owner ? at : same + 1;
    }
    return {};
  }

  // ---- blame ----

  void finish(const Culprit& c) {
    report_.rewrite = c.rewrite;
    report_.op = c.op;
    report_.line = c.line;
    report_.text = fmt::format("verify: {}\n  {}", report_.difference, c.text);
  }

  void blame_capture() {
    captured_sequence(Mode::verify);
    if (!culprit_.text.empty()) return finish(culprit_);
    // No plan is wrong: the ops that ran, or what they were bound to, are not those of the program.
    Culprit c{"record", {}, {}, {}};
    if (const std::optional<Step> step = first_other_step()) {
      c.op = step->op->name;
      c.line = source_line(step->loc);
      c.text = fmt::format("first op that runs on other values than eager: {}{}", c.op, c.line);
    } else {
      captured_sequence(Mode::graph);
      name_maker(c);
      c.text = fmt::format("its plan is right; what the plan was bound to, or has kept, is not{}{}{}",
                           c.op.empty() ? "" : ": the result of ", c.op, c.line);
    }
    c.text += "; goes wrong with \"record\", the matching of ops with their recording";
    finish(c);
  }

  std::vector<Step> steps_of(bool fresh) {
    std::vector<Step> steps;
    const ModeGuard guard(Mode::graph);
    std::optional<Recorded> captured;
    sequence([&](const Tensors& in) {
      if (fresh || !captured) {
        captured.emplace(make_capture(false));
        trie_of(*detail::recording_of(*captured)).watch->makes = [&](const TraceOp& t, const Tensor& y) {
          if (t.op->kind == Kind::control) return;
          const Unarmed unarmed;
          const Observation o = observed("", y);
          steps.push_back({t.op, t.loc, hash_bytes(o.bytes.size(), o.bytes.data(), o.bytes.size())});
        };
      }
      return (*captured)(in);
    });
    return steps;
  }

  // The first op whose value is another one when it is matched than when it is recorded.
  std::optional<Step> first_other_step() {
    const std::vector<Step> recorded = steps_of(true), matched = steps_of(false);
    for (size_t i = 0; i < recorded.size(); ++i)
      if (i >= matched.size() || matched[i].op != recorded[i].op || matched[i].hash != recorded[i].hash)
        return recorded[i];
    return {};
  }

  // The op that made the wrong result, as it was recorded last.
  void name_maker(Culprit& c) const {
    if (last_.empty()) return;
    const TensorImpl* made = last_[wrong_result_ < 0 ? 0 : static_cast<size_t>(wrong_result_)].impl();
    std::vector<const TraceOp*> todo{&trie_of(*detail::recording_of(*captured_)).root};
    while (!todo.empty()) {
      const TraceOp* t = todo.back();
      todo.pop_back();
      for (auto it = t->children.rbegin(); it != t->children.rend(); ++it) todo.push_back(it->get());
      if (!t->op || t->slot < 0 || static_cast<uint32_t>(t->slot) != made->slot || t->out != made->layout) continue;
      c.op = t->op->name;
      c.line = source_line(t->loc);
    }
  }

  // ---- loops ----

  // Scans change alike in both modes, so that a third way is needed: their bodies called step by step.
  void check_loops(const Observations& eager) {
    LoopCheck check;
    Observations unrolled;
    {
      const LoopWatch watch(check);
      unrolled = eager_sequence({"pack", "loops"});
    }
    if (check.scans.empty()) return;
    report_.difference = first_difference(unrolled, eager, "as one op", rounding);
    if (report_.difference.empty()) return;
    Culprit c{"derive", "scan", check.wrong.empty() ? check.scans[0] : check.wrong, {}};
    const Observations plain = eager_sequence({"pack", "hoist"});
    if (first_difference(unrolled, plain, "without hoisting", rounding).empty()) c.rewrite = "hoist";
    c.text = fmt::format("the scan{} differs from its body called step by step; {}", c.line,
                         c.rewrite == "hoist"  ? "goes wrong with the rewrite \"hoist\""
                         : check.wrong.empty() ? "\"derive\", the derivation of its gradient, is at fault"
                                               : "not because of what left the loop");
    if (c.rewrite != "hoist" && !check.wrong.empty()) c.rewrite = "loops";
    finish(c);
  }

  const detail::VerifiedFunction& f_;
  const Tensors arguments_;
  const VerifyOptions options_;
  World world_;
  bool seen_ = false;
  Culprit culprit_;
  Tensors last_;  // results of the last call
  int wrong_result_ = -1;
  std::unique_ptr<Recorded> captured_;
  VerifyReport report_;
};

}  // namespace

VerifyReport detail::verify(const VerifiedFunction& f, const Tensors& arguments, const VerifyOptions& options) {
  if (thread_state.recorder) fail("verify: expected to be called outside of captured functions");
  if (options.calls < 2) fail("verify: expected at least 2 calls, got {}", options.calls);
  VerifyReport report = Verifier(f, arguments, options).run();
  if (!report.ok && options.throws) fail("{}", report.text);
  return report;
}

}  // namespace rp
