#include "reprise/graph/mismatch.h"

#include <algorithm>

#include "reprise/core/fail.h"
#include "reprise/graph/facts.h"

namespace rp {
namespace {

std::string here() {
  const std::string line = line_text(At::where());
  return line.empty() ? "" : " at " + line;
}

std::string after_text(const TraceOp& t) {
  return t.op ? fmt::format("after op {} ({})", t.depth, op_text(t)) : "at the start";
}

// The op that made a slot, on the path that ends at `end`.
const TraceOp* maker_of(const TraceOp& end, int32_t slot) {
  const TraceOp* t = &end;
  while (t->op && t->slot != slot) t = t->parent;
  return t->op ? t : nullptr;
}

std::string origin(const TraceOp& before, const OperandRef& r) {
  if (r.ref < 0) return fmt::format("tensor #{} from outside", ~r.ref);
  const TraceOp* maker = maker_of(before, r.ref);
  return maker ? fmt::format("the result of op {} ({})", maker->depth, op_text(*maker)) : "an earlier result";
}

std::string_view tensor_or_number(uint8_t mask, int k) { return mask >> k & 1 ? "a number" : "a tensor"; }

void add(std::string& text, const std::string& difference) { text += (text.empty() ? "" : "; ") + difference; }

std::string operand_difference(const TraceOp& before, size_t k, const OperandRef& was, const OperandRef& is) {
  std::string text;
  if (was.layout != is.layout)
    add(text, fmt::format("operand {}: layout {} -> {}", k, layout_text(was.layout), layout_text(is.layout)));
  if (was.ref != is.ref)
    add(text, fmt::format("operand {} comes from elsewhere: {} -> {}", k, origin(before, was), origin(before, is)));
  else if (was.storage != is.storage)
    add(text, fmt::format("operand {}: storage aliasing changed: tensor #{} lay in storage #{} -> now in #{}", k,
                          ~was.ref, was.storage, is.storage));
  return text;
}

// What differs, if both are the same op.
std::string differences(const TraceOp& before, const TraceOp& t, const Call& call,
                        const std::vector<OperandRef>& refs) {
  std::string text;
  for (const Field& f : t.op->fields) {
    const std::string was = field_text(f, t.attrs.data()), is = field_text(f, call.attrs.data());
    if (was != is) add(text, fmt::format("attrs: {} {} -> {}", f.name, was, is));
  }
  for (int k = 0; k < 8; ++k)
    if ((t.scalar_mask ^ call.scalar_mask) >> k & 1)
      add(text, fmt::format("scalar mask: operand {} {} -> {}", k, tensor_or_number(t.scalar_mask, k),
                            tensor_or_number(call.scalar_mask, k)));
  if (t.scalar_mask != call.scalar_mask) return text;  // the tensors are not the same operands
  if (t.scalar_count != call.scalars.size())
    add(text, fmt::format("numbers: {} -> {}", t.scalar_count, call.scalars.size()));
  if (t.inputs.size() != refs.size()) add(text, fmt::format("operands: {} -> {}", t.inputs.size(), refs.size()));
  for (size_t k = 0; k < std::min(t.inputs.size(), refs.size()); ++k)
    if (!(t.inputs[k] == refs[k])) add(text, operand_difference(before, k, t.inputs[k], refs[k]));
  return text;
}

// The recorded op that is most like the call: the same op at the same line, else the same op, else the first one.
const TraceOp* nearest(const TraceOp& before, const Call& call) {
  const auto score = [&](const TraceOp& t) {
    return (t.op == call.op ? 2 : 0) + (line_text(t.loc) == line_text(At::where()) ? 1 : 0);
  };
  const TraceOp* best = nullptr;
  for (const auto& child : before.children)
    if (!best || score(*child) > score(*best)) best = child.get();
  return best;
}

}  // namespace

std::string divergence(const TraceOp& before, const Call& call, const std::vector<OperandRef>& refs) {
  const TraceOp* expected = nearest(before, call);
  if (!expected)
    return fmt::format("diverged {}: expected the end, got {}{}", after_text(before), call.op->name, here());
  const std::string what = expected->op != call.op ? fmt::format("op: {} -> {}", expected->op->name, call.op->name)
                                                   : differences(before, *expected, call, refs);
  return fmt::format("diverged {}: expected {}, got {}{}: {}", after_text(before), op_text(*expected), call.op->name,
                     here(), what);
}

std::string early_end(const TraceOp& last, std::string_view reason) {
  if (last.children.empty()) return fmt::format("new end {}: by {}", after_text(last), reason);
  return fmt::format("new end {}: by {}, where recorded segments go on with {}; it runs op by op this once",
                     after_text(last), reason, op_text(*last.children[0]));
}

std::string rebuilt(const TraceOp& end, const std::vector<int32_t>& before, const std::vector<int32_t>& now) {
  constexpr int most = 8;
  std::string fresh;
  int count = 0;
  for (int32_t slot : now) {
    if (std::binary_search(before.begin(), before.end(), slot) || ++count > most) continue;
    const TraceOp* maker = maker_of(end, slot);
    if (maker) add(fresh, fmt::format("op {} ({}, {})", maker->depth, op_text(*maker), layout_text(maker->out)));
  }
  if (count > most) fresh += fmt::format(" and {} more", count - most);
  return fmt::format("plan rebuilt for {} ops: values kept {} -> {}, now also those of {}", end.depth, before.size(),
                     now.size(), fresh);
}

}  // namespace rp
