// Random cells as data: making them, printing them, making them smaller.
#include <fmt/format.h>

#include "reprise/test/cells.h"
#include "reprise/test/op_cases.h"

namespace cells {
namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : draw_(seed) {}
  int below(int n) { return std::min(static_cast<int>(draw_.next() * n), n - 1); }
  bool one_in(int n) { return below(n) == 0; }

 private:
  rp::test::Draw draw_;
};

constexpr std::string_view names[] = {"unary",  "binary",  "mul",    "mix",     "product", "peep", "norm",
                                      "bias",   "scale",   "centre", "softmax", "roll",    "tied", "input",
                                      "choose", "dropout", "detach", "quiet",   "branch",  "inner"};
constexpr int kinds = static_cast<int>(std::size(names));

std::string meaning(const Instruction& i, size_t registers) {
  const auto a = wrap(i.a, registers), b = wrap(i.b, registers), c = wrap(i.c, registers);
  switch (i.what) {
    case Do::unary:
      return fmt::format("{}(r{})", smooth_ops(1)[wrap(i.op, smooth_ops(1).size())]->name, a);
    case Do::binary:
      return fmt::format("{}(r{}, r{})", smooth_ops(2)[wrap(i.op, smooth_ops(2).size())]->name, a, b);
    case Do::mul:
    case Do::quiet:
    case Do::inner:
    case Do::peep:
      return fmt::format("{}(r{}, r{})", names[static_cast<size_t>(i.what)], a, b);
    case Do::choose:
    case Do::branch:
    case Do::mix:
      return fmt::format("{}(r{}, r{}, r{})", names[static_cast<size_t>(i.what)], a, b, c);
    default:
      return fmt::format("{}(r{})", names[static_cast<size_t>(i.what)], a);
  }
}

// ---- shrinking ----

// Without instruction k: its first operand stands for it.
Cell without(const Cell& cell, size_t k) {
  Cell small = cell;
  const auto first = static_cast<size_t>(cell.states + cell.gates), gone = first + k;
  const auto stands = wrap(cell.body[k].a, gone);
  const auto renamed = [&](int r, size_t count) {
    const size_t at = wrap(r, count);
    return static_cast<int>(at == gone ? stands : at > gone ? at - 1 : at);
  };
  for (size_t i = k + 1; i < small.body.size(); ++i)
    for (int* r : {&small.body[i].a, &small.body[i].b, &small.body[i].c}) *r = renamed(*r, first + i);
  const size_t all = first + cell.body.size();
  for (auto* list : {&small.next, &small.outputs})
    for (int& r : *list) r = renamed(r, all);
  small.body.erase(small.body.begin() + static_cast<std::ptrdiff_t>(k));
  return small;
}

std::vector<Cell> smaller(const Cell& cell) {
  std::vector<Cell> all;
  for (size_t k = cell.body.size(); k-- > 0;) all.push_back(without(cell, k));
  const auto with = [&](auto change) {
    Cell c = cell;
    change(c);
    all.push_back(std::move(c));
  };
  for (int Cell::* n : {&Cell::hidden, &Cell::inputs, &Cell::batch, &Cell::gates, &Cell::states})
    for (int value : {1, cell.*n / 2, cell.*n - 1})
      if (value >= 1 && value < cell.*n) with([&](Cell& c) { c.*n = value; });
  for (int Cell::* n : {&Cell::steps, &Cell::other_steps})
    for (int value : {0, 1, cell.*n - 1})
      if (value >= 0 && value < cell.*n) with([&](Cell& c) { c.*n = value; });
  for (bool Cell::* flag :
       {&Cell::merged, &Cell::bias, &Cell::transposed, &Cell::doubled, &Cell::masked, &Cell::by_product,
        &Cell::residual, &Cell::reverse, &Cell::input_leaf, &Cell::state_leaf, &Cell::batch_first})
    if (cell.*flag) with([&](Cell& c) { c.*flag = false; });
  if (cell.loss) with([](Cell& c) { c.loss = 0; });
  if (cell.next.size() > 1) with([](Cell& c) { c.next.pop_back(); });
  if (!cell.outputs.empty()) with([](Cell& c) { c.outputs.pop_back(); });
  return all;
}

}  // namespace

Cell generate(uint64_t seed) {
  Dice dice(seed * 2654435761u + 17);
  Cell c;
  c.seed = seed;
  c.hidden = dice.one_in(3) ? 1 + dice.below(40) : 1 + dice.below(9);
  c.inputs = 1 + dice.below(6);
  c.batch = 1 + dice.below(5);
  c.steps = dice.below(8);
  c.other_steps = dice.below(8);
  c.gates = 1 + dice.below(6);
  c.states = 1 + dice.below(3);
  for (bool Cell::* flag : {&Cell::merged, &Cell::bias, &Cell::f32, &Cell::input_leaf, &Cell::state_leaf})
    c.*flag = dice.one_in(2);
  for (bool Cell::* flag : {&Cell::transposed, &Cell::doubled, &Cell::masked, &Cell::by_product, &Cell::residual,
                            &Cell::reverse, &Cell::batch_first})
    c.*flag = dice.one_in(3);
  const int registers = c.states + c.gates;
  for (int i = dice.below(9); i > 0; --i) {
    const int count = registers + static_cast<int>(c.body.size());
    const auto what = static_cast<Do>(dice.one_in(2) ? dice.below(4) : dice.below(kinds));
    // Operands are rather the newer registers, so that chains form.
    const auto any = [&] { return dice.one_in(2) ? dice.below(count) : count - 1 - dice.below(std::min(count, 3)); };
    const int op = dice.below(1000), a = any(), b = any(), k = any();
    c.body.push_back({what, op, a, b, k});
  }
  const int count = registers + static_cast<int>(c.body.size());
  c.next.clear();
  for (int s = 0; s < c.states; ++s)
    c.next.push_back(dice.one_in(4) ? dice.below(count) : count - 1 - dice.below(std::min(count - c.states, 3)));
  c.loss = dice.below(4);
  for (int i = dice.below(3); i > 0; --i) c.outputs.push_back(dice.below(count));
  return c;
}

std::string to_text(const Cell& c) {
  std::string text = fmt::format(
      "Cell{{.seed = {}, .hidden = {}, .inputs = {}, .batch = {}, .steps = {}, .other_steps = {}, "
      ".gates = {}, .states = {}",
      c.seed, c.hidden, c.inputs, c.batch, c.steps, c.other_steps, c.gates, c.states);
  const std::pair<const char*, bool> flags[] = {{"merged", c.merged},
                                                {"bias", c.bias},
                                                {"transposed", c.transposed},
                                                {"doubled", c.doubled},
                                                {"masked", c.masked},
                                                {"by_product", c.by_product},
                                                {"residual", c.residual},
                                                {"reverse", c.reverse},
                                                {"f32", c.f32},
                                                {"input_leaf", c.input_leaf},
                                                {"state_leaf", c.state_leaf},
                                                {"batch_first", c.batch_first}};
  for (const auto& [name, on] : flags)
    if (on) text += fmt::format(", .{} = true", name);
  if (c.loss) text += fmt::format(", .loss = {}", c.loss);
  text += ",\n     .body = {";
  auto r = static_cast<size_t>(c.states + c.gates);
  for (const Instruction& i : c.body) {
    text += fmt::format("\n       {{Do::{}, {}, {}, {}, {}}},  // r{} = {}", names[static_cast<size_t>(i.what)], i.op,
                        i.a, i.b, i.c, r, meaning(i, r));
    ++r;
  }
  if (!c.body.empty()) text += "\n     ";
  return text + fmt::format("}},\n     .next = {{{}}}, .outputs = {{{}}}}}", fmt::join(c.next, ", "),
                            fmt::join(c.outputs, ", "));
}

Cell shrink(Cell cell, const std::function<bool(const Cell&)>& fails) {
  for (bool changed = true; changed;) {
    changed = false;
    for (Cell& c : smaller(cell))
      if (fails(c)) {
        cell = std::move(c);
        changed = true;
        break;
      }
  }
  return cell;
}

}  // namespace cells
